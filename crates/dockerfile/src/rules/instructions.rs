//! Checks of single instructions inside a stage, and of how often they stand there.

use std::collections::BTreeMap;

use graph::pattern::Patterns;

use super::Found;
use crate::ast::{Command, Instruction, Kind, Word};
use crate::diagnostic::Span;

/// What stood in the stage before.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    workdir: bool,
    once: BTreeMap<&'static str, Span>,
}

impl Seen {
    /// What a stage that is built on this one goes on with.
    pub fn inherited(&self) -> Seen {
        Seen { workdir: self.workdir, once: BTreeMap::new() }
    }
}

/// What is known where an instruction stands.
pub struct Place<'a> {
    /// Words with their variables expanded; `None` where a variable's value is not known.
    pub expand: &'a dyn Fn(&Word) -> Option<Vec<String>>,
    /// The image has a SHELL of its own.
    pub has_shell: bool,
}

/// Looks at one instruction.
pub fn look(found: &mut Found, instruction: &Instruction, seen: &mut Seen, place: &Place<'_>) {
    match &instruction.kind {
        Kind::Cmd(command) => {
            only_once(found, seen, instruction, "CMD");
            shell_form(found, instruction, command, place);
        }
        Kind::Entrypoint(command) => {
            only_once(found, seen, instruction, "ENTRYPOINT");
            shell_form(found, instruction, command, place);
        }
        Kind::Healthcheck(_) => only_once(found, seen, instruction, "HEALTHCHECK"),
        Kind::Workdir(word) => {
            let path = (place.expand)(word).map(|words| words.concat());
            if let Some(path) = path.filter(|path| !seen.workdir && !path.starts_with('/')) {
                let text = format!("Relative workdir \"{path}\" can have unexpected results if the base image changes");
                found.find("WorkdirRelativePath", instruction.span, text);
            }
            seen.workdir = true;
        }
        Kind::Env { pairs, legacy } => {
            old_form(found, instruction, *legacy);
            pairs.iter().for_each(|(name, _)| secret(found, instruction, "ENV", &name.value));
        }
        Kind::Label { legacy, .. } => old_form(found, instruction, *legacy),
        Kind::Arg(list) => list.iter().for_each(|(name, _)| secret(found, instruction, "ARG", &name.value)),
        Kind::Expose(ports) => {
            let expanded = ports.iter().map(|port| (port, (place.expand)(port).unwrap_or_default()));
            expanded.for_each(|(word, ports)| ports.iter().for_each(|port| expose(found, word, port)));
        }
        _ => {}
    }
}

fn shell_form(found: &mut Found, instruction: &Instruction, command: &Command, place: &Place<'_>) {
    // With a SHELL of its own the shell form is meant.
    if matches!(command, Command::Shell(_)) && !place.has_shell {
        let name = &instruction.keyword.value;
        let text =
            format!("JSON arguments recommended for {name} to prevent unintended behavior related to OS signals");
        found.find("JSONArgsRecommended", instruction.span, text);
    }
}

/// The earlier one is what is wrong.
fn only_once(found: &mut Found, seen: &mut Seen, instruction: &Instruction, keyword: &'static str) {
    if let Some(earlier) = seen.once.insert(keyword, instruction.span) {
        let name = &instruction.keyword.value;
        let text = format!(
            "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
        );
        found.find("MultipleInstructionsDisallowed", earlier, text);
    }
}

fn old_form(found: &mut Found, instruction: &Instruction, legacy: bool) {
    if legacy {
        let name = &instruction.keyword.value;
        let text = format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format");
        found.find("LegacyKeyValueFormat", instruction.span, text);
    }
}

/// Words of a name that say that its value is a secret, and those that take it back.
fn secret(found: &mut Found, instruction: &Instruction, keyword: &str, name: &str) {
    const SECRET: [&str; 10] =
        ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
    const OPEN: [&str; 3] = ["public", "file", "version"];
    let lower = name.to_ascii_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    if has(&SECRET) && !has(&OPEN) {
        let text = format!("Do not use ARG or ENV instructions for sensitive data ({keyword} \"{name}\")");
        found.find("SecretsUsedInArgOrEnv", instruction.span, text);
    }
}

/// A source of the context that its ignore file leaves out. What patterns with `!` leave out nobody can tell from them.
pub fn ignored(found: &mut Found, ignore: &Patterns, add: bool, source: &str, span: Span) {
    if ignore.is_empty() || ignore.has_exclusions() {
        return;
    }
    let clean = graph::pattern::clean(source);
    let path = clean.trim_start_matches('/');
    let is_left_out = match path {
        "" | "." => ignore.cover_everything(),
        path => ignore.matches(path),
    };
    if is_left_out {
        let verb = if add { "Add" } else { "Copy" };
        let text = format!("Attempting to {verb} file \"{clean}\" that is excluded by .dockerignore");
        found.find("CopyIgnoredFile", span, text);
    }
}

fn expose(found: &mut Found, word: &Word, port: &str) {
    let (range, protocol) = port.split_once('/').unwrap_or((port, ""));
    if protocol.chars().any(|c| c.is_ascii_uppercase()) {
        let text = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
        found.find("ExposeProtoCasing", word.span, text);
    }
    if range.contains(':') {
        let text = format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'");
        found.find("ExposeInvalidFormat", word.span, text);
    }
}
