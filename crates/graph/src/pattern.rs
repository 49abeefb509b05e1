//! Path patterns: lists of them as ignore files and LLB filters use them (moby's `patternmatcher`), and single globs as
//! `COPY` sources use them (Go's `filepath.Match`). Paths are relative, with `/` between parts.
//! Only texts are compared; no file is looked at.

/// A pattern that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad pattern `{pattern}`: {reason}")]
pub struct BadPattern {
    /// As it was given.
    pub pattern: String,
    /// What is wrong.
    pub reason: &'static str,
}

/// One piece of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Text(char),
    /// `?`: one character of a name.
    One,
    /// `*`: any characters of a name.
    Star,
    /// `**`: anything at all.
    Any,
    /// `**/`, and `**` before more: nothing, or anything up to a `/`.
    Dirs,
    Class {
        not: bool,
        ranges: Vec<(char, char)>,
    },
}

/// How a pattern is compared; most need no search.
#[derive(Clone, Debug, PartialEq, Eq)]
enum How {
    Exact,
    /// `text/**`
    Below,
    /// `**/text`
    Ends,
    Tokens(Vec<Token>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// Cleaned; for `Below` and `Ends` without the stars.
    text: String,
    how: How,
    /// It began with `!`.
    exception: bool,
    /// Parts before the first wildcard.
    head: Vec<String>,
    /// Every part is literal.
    literal: bool,
}

/// A list of patterns; the last that matches decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns {
    list: Vec<Pattern>,
    exceptions: bool,
}

impl Patterns {
    /// Reads patterns; empty ones are skipped.
    pub fn new<T: AsRef<str>>(patterns: &[T]) -> Result<Patterns, BadPattern> {
        let mut list = Vec::new();
        for pattern in patterns {
            let text = pattern.as_ref().trim();
            if !text.is_empty() {
                list.push(Pattern::read(text)?);
            }
        }
        let exceptions = list.iter().any(|p| p.exception);
        Ok(Patterns { list, exceptions })
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether a `!` takes something back.
    pub fn has_exclusions(&self) -> bool {
        self.exceptions
    }

    /// Whether one pattern alone stands for everything that there is.
    pub fn cover_everything(&self) -> bool {
        self.list.iter().any(|p| !p.exception && matches!(p.text.as_str(), "*" | "**" | "**/*"))
    }

    /// Whether `path`, or a directory that it lies in, matches.
    pub fn matches(&self, path: &str) -> bool {
        let mut matched = false;
        for pattern in &self.list {
            // Only what would change the answer is worth a look.
            if pattern.exception == matched && pattern.matches_or_parent(path) {
                matched = !pattern.exception;
            }
        }
        matched
    }

    /// Whether something below the directory `dir` may match although `dir` does not. Sure only when it says no.
    pub fn may_match_below(&self, dir: &str) -> bool {
        self.list.iter().any(|p| !p.exception && p.may_reach(dir))
    }

    /// Whether a `!` may take back something below the directory `dir`. Sure only when it says no.
    pub fn may_except_below(&self, dir: &str) -> bool {
        self.list.iter().any(|p| p.exception && p.may_reach(dir))
    }
}

impl Pattern {
    fn read(text: &str) -> Result<Pattern, BadPattern> {
        let bad = |reason| BadPattern { pattern: text.to_owned(), reason };
        let (exception, body) = match text.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, text),
        };
        if body.is_empty() {
            return Err(bad("there is nothing after `!`"));
        }
        let text = clean(body);
        let text = text.strip_prefix('/').unwrap_or(&text).to_owned();
        let is_plain = |t: &str| !t.contains(['*', '?', '[', '\\']);
        let parts: Vec<&str> = text.split('/').collect();
        let head: Vec<String> = parts.iter().take_while(|p| is_plain(p)).map(|p| (*p).to_owned()).collect();
        let literal = head.len() == parts.len();
        let (text, how) = if literal {
            (text, How::Exact)
        } else if let Some(stem) = text.strip_suffix("/**").filter(|s| is_plain(s)) {
            (stem.to_owned(), How::Below)
        } else if let Some(end) = text.strip_prefix("**/").filter(|s| is_plain(s)) {
            (end.to_owned(), How::Ends)
        } else {
            let tokens = tokens(&text, true).map_err(bad)?;
            (text, How::Tokens(tokens))
        };
        Ok(Pattern { text, how, exception, head, literal })
    }

    fn is_match(&self, path: &str) -> bool {
        match &self.how {
            How::Exact => path == self.text,
            How::Below => path.strip_prefix(self.text.as_str()).is_some_and(|rest| rest.starts_with('/')),
            How::Ends => path.strip_suffix(self.text.as_str()).is_some_and(|r| r.is_empty() || r.ends_with('/')),
            How::Tokens(tokens) => run(tokens, path),
        }
    }

    fn matches_or_parent(&self, path: &str) -> bool {
        if self.literal {
            // The common case, without a look at each parent.
            return path.strip_prefix(self.text.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('/'));
        }
        self.is_match(path) || path.match_indices('/').any(|(at, _)| self.is_match(&path[..at]))
    }

    /// Whether it may match something below `dir`.
    fn may_reach(&self, dir: &str) -> bool {
        if dir.is_empty() {
            return true;
        }
        let mut parts = dir.split('/');
        self.head.iter().all(|h| parts.next().is_none_or(|p| p == h))
    }
}

/// Whether `path` as a whole matches `pattern`: `*` and `?` never match `/`, and `**` is no more than `*`.
pub fn glob(pattern: &str, path: &str) -> bool {
    tokens(pattern, false).is_ok_and(|tokens| run(&tokens, path))
}

/// Whether a path has a character that makes it a pattern, and that no backslash takes back.
pub fn has_wildcard(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '*' | '?' | '[' => return true,
            _ => {}
        }
    }
    false
}

/// A path without empty parts, `.` and `..` where they can be resolved. The empty path is `.`.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|p| *p != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

fn tokens(text: &str, doubled: bool) -> Result<Vec<Token>, &'static str> {
    let chars: Vec<char> = text.chars().collect();
    let mut made = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        match chars[i] {
            '*' if doubled && chars.get(i + 1) == Some(&'*') => {
                let leads = i == 0;
                i += 1;
                let slash = chars.get(i + 1) == Some(&'/');
                i += usize::from(slash);
                let rest = &chars[i + 1..];
                // Between other things it stands for whole directories, with a `/` or without: `**file*` is not `xfile1`.
                // Only before a literal rest is it any text: `**file` is `xfile`.
                let literal_end = leads && !slash && !rest.iter().any(|c| matches!(c, '*' | '?' | '[' | ']' | '\\'));
                made.push(if rest.is_empty() || literal_end { Token::Any } else { Token::Dirs });
            }
            '*' => made.push(Token::Star),
            '?' => made.push(Token::One),
            '[' => {
                let (class, next) = class(&chars, i + 1)?;
                made.push(class);
                i = next;
            }
            '\\' => {
                i += 1;
                made.push(Token::Text(*chars.get(i).ok_or("it ends with a backslash")?));
            }
            c => made.push(Token::Text(c)),
        }
        i += 1;
    }
    Ok(made)
}

/// A `[…]` from behind its bracket; returns the index of the closing one.
fn class(chars: &[char], mut i: usize) -> Result<(Token, usize), &'static str> {
    let not = chars.get(i) == Some(&'^');
    i += usize::from(not);
    let mut ranges = Vec::new();
    let one = |i: &mut usize| -> Result<char, &'static str> {
        let mut c = *chars.get(*i).ok_or("a `[` is not closed")?;
        if c == '\\' {
            *i += 1;
            c = *chars.get(*i).ok_or("a `[` is not closed")?;
        }
        *i += 1;
        Ok(c)
    };
    loop {
        if chars.get(i) == Some(&']') && !ranges.is_empty() {
            return Ok((Token::Class { not, ranges }, i));
        }
        let low = one(&mut i)?;
        let mut high = low;
        if chars.get(i) == Some(&'-') && chars.get(i + 1).is_some_and(|c| *c != ']') {
            i += 1;
            high = one(&mut i)?;
        }
        ranges.push((low, high));
    }
}

/// Matches in one pass over the path with all places in the pattern that it may have come to: time grows with the length
/// of the one times the length of the other, whatever the stars.
fn run(tokens: &[Token], path: &str) -> bool {
    let mut now = vec![false; tokens.len() + 1];
    let mut next = now.clone();
    enter(&mut now, tokens, 0);
    for c in path.chars() {
        next.fill(false);
        for (i, token) in tokens.iter().enumerate().filter(|(i, _)| now[*i]) {
            match token {
                Token::Text(wanted) if *wanted == c => enter(&mut next, tokens, i + 1),
                Token::One if c != '/' => enter(&mut next, tokens, i + 1),
                Token::Class { not, ranges }
                    if c != '/' && ranges.iter().any(|(low, high)| (low..=high).contains(&&c)) != *not =>
                {
                    enter(&mut next, tokens, i + 1)
                }
                Token::Star if c != '/' => enter(&mut next, tokens, i),
                Token::Any => enter(&mut next, tokens, i),
                Token::Dirs => {
                    // Inside a directory's name nothing of what follows may begin.
                    next[i] = true;
                    if c == '/' {
                        enter(&mut next, tokens, i + 1);
                    }
                }
                _ => {}
            }
        }
        if !next.contains(&true) {
            return false;
        }
        std::mem::swap(&mut now, &mut next);
    }
    now[tokens.len()]
}

/// Comes to a place, and past stars that may stand for nothing.
fn enter(places: &mut [bool], tokens: &[Token], mut place: usize) {
    places[place] = true;
    while matches!(tokens.get(place), Some(Token::Star | Token::Any | Token::Dirs)) {
        place += 1;
        places[place] = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(patterns: &[&str], path: &str) -> bool {
        Patterns::new(patterns).unwrap().matches(path)
    }

    #[test]
    fn single_patterns() {
        for (pattern, path, expected) in [
            ("**", "file", true),
            ("**", "dir/file", true),
            ("**/", "file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir", false),
            ("**/dir", "a/dir", true),
            ("**/dir", "xdir", false),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir2/file", true),
            ("*.go", "a/b.go", false),
            ("**/*.go", "b.go", true),
            ("**file", "dir/file", true),
            ("**file", "xfile", true),
            ("**file*", "dir/file1", true),
            ("**file*", "xfile1", false),
            ("a**b", "ax/b", true),
            ("a**b", "ab", true),
            ("a**b", "axb", false),
            ("a**", "axb/c", true),
            ("a*/**", "ab/c/d", true),
            ("a[b-d]e", "ace", true),
            ("a[b-d]e", "aae", false),
            ("a[^b-d]e", "aze", true),
            ("abc.def", "abcZdef", false),
            ("abc?def", "abcZdef", true),
            ("a\\*b", "a*b", true),
            ("dir", "dir/below/file", true),
            ("*/dir", "x/dir/file", true),
            ("/leading", "leading", true),
            ("./dot/", "dot/x", true),
            ("a/../b", "b", true),
        ] {
            assert_eq!(matches(&[pattern], path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn exceptions_come_in_order() {
        assert!(!matches(&["*", "!keep"], "keep"));
        assert!(matches(&["!keep", "*"], "keep"));
        assert!(!matches(&["docs", "!docs/README.md"], "docs/README.md"));
        assert!(matches(&["docs", "!docs/README.md", "docs/R*"], "docs/README.md"));
        assert!(Patterns::new(&["!"]).is_err());
        assert!(Patterns::new(&["[ab"]).is_err());
    }

    #[test]
    fn reach_is_never_denied_wrongly() {
        let list = Patterns::new(&["*", "!src/**/*.rs"]).unwrap();
        assert!(list.may_except_below("src"));
        assert!(list.may_except_below("src/deep/er"));
        assert!(!list.may_except_below("target"));
    }

    #[test]
    fn many_stars_take_no_longer() {
        let name = "a".repeat(2_000);
        assert!(!glob(&format!("{}b", "*a".repeat(40)), &name));
        assert!(!matches(&[&format!("{}b", "**/*a".repeat(40))], &name));
        assert!(glob(&"*a".repeat(40), &name));
    }

    #[test]
    fn globs_are_whole_paths() {
        assert!(glob("*.txt", "a.txt"));
        assert!(!glob("*.txt", "d/a.txt"));
        assert!(glob("d/*/x", "d/y/x"));
        assert!(!glob("**", "a/b"));
    }

    proptest::proptest! {
        #[test]
        fn a_path_matches_itself(path in "[a-z]{1,4}(/[a-z]{1,4}){0,3}") {
            proptest::prop_assert!(matches(&[&path], &path));
            proptest::prop_assert!(glob(&path, &path));
            proptest::prop_assert!(matches(&["**"], &path));
        }

        #[test]
        fn nothing_panics(pattern in "\\PC{0,12}", path in "\\PC{0,12}") {
            if let Ok(list) = Patterns::new(&[&pattern]) {
                list.matches(&path);
            }
            glob(&pattern, &path);
        }
    }
}
