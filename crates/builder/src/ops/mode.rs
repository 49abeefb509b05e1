//! Changes of permission bits: octal, or symbolic terms as `chmod` takes them (`u+x,go=rX`), without a umask.
//! Pure arithmetic on mode bits.

use super::Error;

/// What becomes of a mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModeChange {
    /// It stays.
    Keep,
    /// It becomes this.
    Set(u32),
    /// Terms are applied in order.
    Terms(Vec<Term>),
}

/// One term: bits of `who` by `op`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    who: u32,
    op: char,
    bits: u32,
    /// `X`: execute only for directories and what somebody may execute already.
    execute_if: bool,
}

impl ModeChange {
    /// Reads terms.
    pub fn parse(text: &str) -> Result<ModeChange, Error> {
        let error = || Error::Mode { mode: text.to_owned() };
        if let Ok(mode) = u32::from_str_radix(text, 8) {
            return Ok(ModeChange::Set(mode & 0o7777));
        }
        let mut terms = Vec::new();
        for clause in text.split(',') {
            let at = clause.find(['+', '-', '=']).ok_or_else(error)?;
            let who = who(&clause[..at]).ok_or_else(error)?;
            let mut rest = &clause[at..];
            while let Some(op) = rest.chars().next() {
                let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |i| i + 1);
                terms.push(term(who, op, &rest[1..end]).ok_or_else(error)?);
                rest = &rest[end..];
            }
        }
        Ok(ModeChange::Terms(terms))
    }

    /// The new bits.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            ModeChange::Keep => mode,
            ModeChange::Set(mode) => *mode,
            ModeChange::Terms(terms) => terms.iter().fold(mode, |mode, term| term.apply(mode, is_dir)),
        }
    }

    /// The mode of directories that are made on the way.
    pub fn of_new_dir(&self) -> u32 {
        if let ModeChange::Set(mode) = self { *mode } else { 0o755 }
    }
}

fn who(text: &str) -> Option<u32> {
    if text.is_empty() {
        return Some(0o7777);
    }
    text.chars().try_fold(0, |mask, c| {
        Some(
            mask | match c {
                'u' => 0o4700,
                'g' => 0o2070,
                'o' => 0o1007,
                'a' => 0o7777,
                _ => return None,
            },
        )
    })
}

fn term(who: u32, op: char, letters: &str) -> Option<Term> {
    let (mut bits, mut execute_if) = (0, false);
    for c in letters.chars() {
        match c {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= 0o111,
            's' => bits |= 0o6000,
            't' => bits |= 0o1000,
            'X' => execute_if = true,
            _ => return None,
        }
    }
    Some(Term { who, op, bits, execute_if })
}

impl Term {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let execute = if self.execute_if && (is_dir || mode & 0o111 != 0) { 0o111 } else { 0 };
        let bits = (self.bits | execute) & self.who;
        match self.op {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => (mode & !(self.who & 0o777)) | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_chmod_does() {
        let of = |text: &str, mode, dir| ModeChange::parse(text).unwrap().apply(mode, dir);
        assert_eq!(of("755", 0o600, false), 0o755);
        assert_eq!(of("u+x", 0o644, false), 0o744);
        assert_eq!(of("go=rX", 0o700, true), 0o755);
        assert_eq!(of("go=rX", 0o600, false), 0o644);
        assert_eq!(of("a-w,u+w", 0o666, false), 0o644);
        assert_eq!(of("g+s", 0o755, true), 0o2755);
        assert!(ModeChange::parse("u+q").is_err());
    }
}
