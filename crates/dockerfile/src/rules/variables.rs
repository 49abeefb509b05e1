//! The check `UndefinedVar`: every variable that an instruction's words name is defined where it stands.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::Found;
use crate::ast::{Heredoc, Instruction, Kind, Word};
use crate::diagnostic::{Span, suggestion};
use crate::parse;
use crate::words::Shell;

/// Arguments that steer tools and are no part of an environment.
const NO_VARIABLES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// The variables where an instruction stands.
pub struct Scope<'a> {
    /// Name and value of each.
    pub env: &'a [(String, String)],
    /// Names of declared arguments, also those without a value.
    pub args: Vec<&'a str>,
    /// Whether an argument's default counts: nothing else gives it a value.
    pub has_default: &'a dyn Fn(&str) -> bool,
    /// How words are read.
    pub shell: Shell,
}

/// Looks at one instruction.
pub fn undefined(found: &mut Found, instruction: &Instruction, scope: &Scope<'_>) {
    let mut look = Look { found, scope, span: instruction.span, defined: BTreeSet::new() };
    match &instruction.kind {
        Kind::Env { pairs, .. } | Kind::Label { pairs, .. } => {
            pairs.iter().flat_map(|(name, value)| [name, value]).for_each(|word| look.word(word));
        }
        Kind::Copy(copy) => {
            let flags = [&copy.chown, &copy.chmod, &copy.checksum].into_iter().flatten();
            let is_document = |word: &&Word| parse::heredoc_word(&word.value, scope.shell.escape).is_some();
            let sources = copy.sources.iter().filter(|word| !is_document(word));
            flags.chain(sources).chain([&copy.dest]).for_each(|word| look.word(word));
            copy.heredocs.iter().for_each(|document| look.document(document));
        }
        Kind::Run(run) => run.mounts.iter().for_each(|word| look.mount(word)),
        Kind::Workdir(word) | Kind::User(word) | Kind::StopSignal(word) => look.word(word),
        Kind::Volume(words) => words.iter().for_each(|word| look.word(word)),
        Kind::Arg(list) => {
            for (name, default) in list {
                if let Some(default) = default.as_ref().filter(|_| (scope.has_default)(&name.value)) {
                    look.word(default);
                }
                look.defined.insert(name.value.clone());
            }
        }
        _ => {}
    }
}

struct Look<'a, 'f> {
    found: &'f mut Found,
    scope: &'a Scope<'a>,
    span: Span,
    /// Names that the instruction itself has defined so far.
    defined: BTreeSet<String>,
}

impl Look<'_, '_> {
    fn word(&mut self, word: &Word) {
        self.text(&word.value, self.scope.shell);
    }

    fn document(&mut self, document: &Heredoc) {
        if document.expand {
            self.text(&document.content, Shell { plain_quotes: true, ..self.scope.shell });
        }
    }

    fn mount(&mut self, word: &Word) {
        let values = RefCell::new(Vec::new());
        let keep = |text: &str| {
            values.borrow_mut().push(text.to_owned());
            Ok(text.to_owned())
        };
        // A mount that can't be read is an error of its own.
        drop(parse::mount(&word.value, &keep));
        values.into_inner().iter().for_each(|value| self.text(value, self.scope.shell));
    }

    fn text(&mut self, text: &str, shell: Shell) {
        let value = |name: &str| self.scope.env.iter().find(|(known, _)| known == name).map(|(_, v)| v.clone());
        let Ok((_, named)) = shell.expand(text, &value) else { return };
        for name in &named.unset {
            let is_declared = self.scope.args.contains(&name.as_str()) || self.defined.contains(name);
            if is_declared || NO_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            let near = suggestion(name, self.scope.env.iter().map(|(known, _)| known.as_str()));
            let hint = near.map(|near| format!(" (did you mean ${near}?)")).unwrap_or_default();
            self.found.find("UndefinedVar", self.span, format!("Usage of undefined variable '${name}'{hint}"));
        }
    }
}
