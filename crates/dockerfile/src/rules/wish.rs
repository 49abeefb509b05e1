//! What a Dockerfile or a client wishes of the checks: which are skipped, which are made beyond the usual, whether a finding
//! is an error. The text is that of `# check=…` and of the argument BUILDKIT_DOCKERFILE_CHECK.

use super::list;
use crate::ast::File;
use crate::diagnostic::{Diagnostic, Span};

/// `skip=A,B;experimental=C;error=true`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    skip: Names,
    experimental: Names,
    /// Findings fail the build.
    pub error: bool,
}

/// Names of checks, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names(Vec<String>);

impl Names {
    fn read(text: &str) -> Names {
        Names(text.split(',').map(|name| name.trim().to_owned()).collect())
    }

    fn has(&self, rule: &str) -> bool {
        self.0.iter().any(|name| name == "all" || name == rule)
    }
}

impl Wish {
    /// The client's wish if it has one, else the file's.
    pub fn of(file: &File, client: Option<&str>) -> Result<Wish, Diagnostic> {
        if let Some(text) = client {
            let error = |reason| Diagnostic::error(Span::default(), format!("BUILDKIT_DOCKERFILE_CHECK: {reason}"));
            return Wish::read(text).map_err(error);
        }
        match file.directives.iter().find(|d| d.name == "check") {
            Some(directive) => Wish::read(&directive.value.value).map_err(|reason| {
                Diagnostic::error(directive.value.span, format!("failed to parse check options: {reason}"))
            }),
            None => Ok(Wish::default()),
        }
    }

    fn read(text: &str) -> Result<Wish, String> {
        let mut wish = Wish::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
                Some(("skip", names)) => wish.skip = Names::read(names),
                Some(("experimental", names)) => wish.experimental = Names::read(names),
                Some(("error", "true" | "1")) => wish.error = true,
                Some(("error", "false" | "0")) => wish.error = false,
                _ => return Err(format!("invalid check option \"{part}\": expected skip=, experimental= or error=")),
            }
        }
        Ok(wish)
    }

    fn wants(&self, rule: &str) -> bool {
        if list::is_experimental(rule) { self.experimental.has(rule) } else { !self.skip.has(rule) }
    }

    /// The findings that are wanted, in the order of the file. A comment above an instruction has a say for it.
    pub fn settle(&self, file: &File, found: Vec<Diagnostic>) -> Vec<Diagnostic> {
        let is_wanted = |finding: &Diagnostic| {
            let rule = finding.rule.as_deref().unwrap_or_default();
            let above = above(file, finding.span);
            if list::is_experimental(rule) {
                return self.wants(rule) || above.is_some_and(|wish| wish.experimental.has(rule));
            }
            self.wants(rule) && above.is_none_or(|wish| wish.wants(rule))
        };
        let mut wanted: Vec<Diagnostic> = found.into_iter().filter(is_wanted).collect();
        wanted.sort_by_key(|finding| finding.span);
        wanted
    }

    /// The error that findings are, when they are to be one.
    pub fn violation(&self, findings: &[Diagnostic]) -> Option<Diagnostic> {
        let mut rules: Vec<&str> = findings.iter().filter_map(|f| f.rule.as_deref()).collect();
        rules.sort_unstable();
        rules.dedup();
        let text = format!("lint violation found for rules: {}", rules.join(", "));
        (self.error && !rules.is_empty()).then(|| Diagnostic::error(Span::default(), text))
    }
}

/// The wish in a comment above the instruction that a place lies in. One that can't be read is only a comment.
fn above(file: &File, place: Span) -> Option<Wish> {
    let comments = &file.at(place)?.comments;
    let text = comments.iter().find_map(|comment| comment.value.strip_prefix("check="))?;
    Wish::read(text.split(' ').next().unwrap_or_default()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_all_three() {
        let wish = Wish::read(" skip=A, B; experimental=all;error=true ").unwrap();
        assert!(!wish.wants("A") && !wish.wants("B") && wish.wants("C") && wish.error);
        assert!(wish.wants("InvalidDefinitionDescription"));
        assert!(Wish::read("skip").is_err() && Wish::read("error=perhaps").is_err());
        assert!(!Wish::read("skip=all").unwrap().wants("C"));
    }
}
