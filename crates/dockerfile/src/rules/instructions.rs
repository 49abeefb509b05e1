//! Checks of single instructions, and of how they are written.

use std::collections::BTreeMap;

use super::Look;
use crate::ast::{Command, Copy, Health, Instruction, Kind, Word};
use crate::diagnostic::Span;

/// All of them.
pub fn look(look: &mut Look<'_>) {
    let file = look.file;
    for span in &look.notes.empty_continuations {
        look.found_empty(*span);
    }
    casing(look, &file.instructions);
    let mut once: BTreeMap<&str, Span> = BTreeMap::new();
    let mut absolute = false;
    let mut based: BTreeMap<String, bool> = BTreeMap::new();
    let mut stage = String::new();
    for instruction in &file.instructions {
        match &instruction.kind {
            Kind::From { image, name, .. } => {
                once.clear();
                based.insert(std::mem::take(&mut stage), absolute);
                // A stage goes on where its base stage was.
                absolute = based.get(&image.value.to_ascii_lowercase()).copied().unwrap_or(false);
                stage = name.as_ref().map(|n| n.value.to_ascii_lowercase()).unwrap_or_default();
            }
            Kind::Cmd(command) => {
                shell_form(look, instruction, "CMD", command);
                only_once(look, &mut once, instruction, "CMD");
            }
            Kind::Entrypoint(command) => {
                shell_form(look, instruction, "ENTRYPOINT", command);
                only_once(look, &mut once, instruction, "ENTRYPOINT");
            }
            Kind::Healthcheck(Health::None | Health::Command { .. }) => {
                only_once(look, &mut once, instruction, "HEALTHCHECK");
            }
            Kind::Maintainer(_) => {
                let text = "Maintainer instruction is deprecated in favor of using label";
                look.find("MaintainerDeprecated", instruction.span, text);
            }
            Kind::Workdir(path) => {
                absolute |= path.value.starts_with(['/', '$', '"', '\'']);
                if !absolute {
                    let path = &path.value;
                    let text =
                        format!("Relative workdir \"{path}\" can have unexpected results if the base image changes");
                    look.find("WorkdirRelativePath", instruction.span, text);
                }
            }
            Kind::Env { pairs, legacy } => {
                old_form(look, instruction, "ENV", *legacy);
                pairs.iter().for_each(|(name, _)| secret(look, instruction, "ENV", &name.value));
            }
            Kind::Label { legacy, .. } => old_form(look, instruction, "LABEL", *legacy),
            Kind::Arg(list) => list.iter().for_each(|(name, _)| secret(look, instruction, "ARG", &name.value)),
            Kind::Copy(copy) => ignored(look, copy),
            Kind::Expose(ports) => ports.iter().for_each(|port| expose(look, port)),
            _ => {}
        }
    }
}

impl Look<'_> {
    fn found_empty(&mut self, span: Span) {
        self.find("NoEmptyContinuation", span, "Empty continuation line");
    }
}

/// Keywords are all upper-case or all lower-case; a mixed one is always wrong.
fn casing(look: &mut Look<'_>, instructions: &[Instruction]) {
    let is_upper = |i: &&Instruction| i.keyword.value.chars().all(|c| c.is_ascii_uppercase());
    let is_lower = |i: &&Instruction| i.keyword.value.chars().all(|c| c.is_ascii_lowercase());
    let (upper, lower) = (instructions.iter().filter(is_upper).count(), instructions.iter().filter(is_lower).count());
    let want_upper = upper >= lower;
    for instruction in instructions {
        if if want_upper { is_upper(&instruction) } else { is_lower(&instruction) } {
            continue;
        }
        let (keyword, case) = (&instruction.keyword, if want_upper { "uppercase" } else { "lowercase" });
        let text = format!("Command '{}' should match the case of the command majority ({case})", keyword.value);
        look.find("ConsistentInstructionCasing", keyword.span, text);
    }
}

fn shell_form(look: &mut Look<'_>, instruction: &Instruction, name: &str, command: &Command) {
    // With a SHELL of its own the shell form is meant.
    let has_shell = look.file.instructions.iter().any(|i| matches!(i.kind, Kind::Shell(_)));
    if matches!(command, Command::Shell(_)) && !has_shell {
        let text =
            format!("JSON arguments recommended for {name} to prevent unintended behavior related to OS signals");
        look.find("JSONArgsRecommended", instruction.span, text);
    }
}

/// The earlier one is what is wrong.
fn only_once<'a>(look: &mut Look<'_>, once: &mut BTreeMap<&'a str, Span>, instruction: &Instruction, name: &'a str) {
    if let Some(earlier) = once.insert(name, instruction.span) {
        let text = format!(
            "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
        );
        look.find("MultipleInstructionsDisallowed", earlier, text);
    }
}

fn old_form(look: &mut Look<'_>, instruction: &Instruction, name: &str, legacy: bool) {
    if legacy {
        let text = format!("\"{name} key=value\" should be used instead of legacy \"{name} key value\" format");
        look.find("LegacyKeyValueFormat", instruction.span, text);
    }
}

/// Words of a name that say that its value is a secret, and those that take it back.
fn secret(look: &mut Look<'_>, instruction: &Instruction, keyword: &str, name: &str) {
    const WORDS: [&str; 8] = ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd"];
    const MORE: [&str; 4] = ["secret", "token", "pass", "pwd"];
    let lower = name.to_ascii_lowercase();
    let parts: Vec<&str> = lower.split('_').collect();
    let is_secret = parts.iter().any(|p| WORDS.contains(p) || MORE.contains(p));
    let is_public = parts.contains(&"public");
    if is_secret && !is_public {
        let text = format!("Do not use ARG or ENV instructions for sensitive data ({keyword} \"{name}\")");
        look.find("SecretsUsedInArgOrEnv", instruction.span, text);
    }
}

fn ignored(look: &mut Look<'_>, copy: &Copy) {
    if copy.from.is_some() || look.ignore.is_empty() {
        return;
    }
    let keyword = if copy.add { "Add" } else { "Copy" };
    for source in &copy.sources {
        let path = graph::pattern::clean(&format!("/{}", source.value));
        let path = path.trim_start_matches('/');
        let is_plain = !source.value.contains(['$', '*', '?', '[', '<']) && !source.value.contains("://");
        if is_plain && !path.is_empty() && look.ignore.matches(path) {
            let text = format!("Attempting to {keyword} file \"{}\" that is excluded by .dockerignore", source.value);
            look.find("CopyIgnoredFile", source.span, text);
        }
    }
}

fn expose(look: &mut Look<'_>, port: &Word) {
    if port.value.contains('$') {
        return;
    }
    let (range, protocol) = port.value.split_once('/').unwrap_or((&port.value, ""));
    if protocol.chars().any(|c| c.is_ascii_uppercase()) {
        let text = format!("Defined protocol '{}' in EXPOSE instruction should be lowercase", port.value);
        look.find("ExposeProtoCasing", port.span, text);
    }
    if range.contains(':') {
        let text =
            format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{}'", port.value);
        look.find("ExposeInvalidFormat", port.span, text);
    }
}
