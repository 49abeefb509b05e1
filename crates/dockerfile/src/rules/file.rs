//! Checks of how a file is written: they need the tree and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use oci::Reference;

use super::Found;
use super::stages::PREDEFINED;
use crate::ast::{File, Instruction, Kind, Word};
use crate::words::Shell;

/// Checks that hold for each instruction, also in a file with errors.
pub fn parts(found: &mut Found, file: &File) {
    for span in &file.empty_continuations {
        found.find("NoEmptyContinuation", *span, "Empty continuation line");
    }
    for instruction in &file.instructions {
        match &instruction.kind {
            Kind::From { name: Some(name), .. } => {
                named(found, instruction, name);
                described(found, instruction, "FROM", &[name.value.to_lowercase()]);
            }
            Kind::Arg(list) => {
                let names: Vec<String> = list.iter().map(|(name, _)| name.value.clone()).collect();
                described(found, instruction, "ARG", &names);
            }
            Kind::Maintainer(_) => {
                let text = "Maintainer instruction is deprecated in favor of using label";
                found.find("MaintainerDeprecated", instruction.span, text);
            }
            _ => {}
        }
    }
}

/// Those, and the checks of the file as a whole.
pub fn whole(found: &mut Found, file: &File) {
    parts(found, file);
    let mut names: BTreeSet<String> = BTreeSet::new();
    for instruction in &file.instructions {
        let Kind::From { name: Some(name), .. } = &instruction.kind else { continue };
        let lower = name.value.to_ascii_lowercase();
        if matches!(lower.as_str(), "scratch" | "context") {
            let text = format!("Stage name should not use the same name as reserved stage \"{lower}\"");
            found.find("ReservedStageName", name.span, text);
        }
        if !names.insert(lower.clone()) {
            let text = format!("Duplicate stage name \"{lower}\", stage names should be unique");
            found.find("DuplicateStageName", name.span, text);
        }
    }
    casing(found, &file.instructions);
    bases(found, file);
}

fn named(found: &mut Found, from: &Instruction, name: &Word) {
    if name.value.to_lowercase() != name.value {
        found.find("StageNameCasing", name.span, format!("Stage name '{}' should be lowercase", name.value));
    }
    let keyword = &from.keyword.value;
    let word = from.original.split_whitespace().find(|w| w.eq_ignore_ascii_case("as"));
    // A keyword of mixed case is another check's.
    let is_wrong = |word: &&str| (is_upper(keyword) && !is_upper(word)) || (is_lower(keyword) && !is_lower(word));
    if let Some(word) = word.filter(is_wrong) {
        found.find("FromAsCasing", from.span, format!("'{word}' and '{keyword}' keywords' casing do not match"));
    }
}

fn is_upper(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_uppercase())
}

fn is_lower(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase())
}

/// The comment right above a stage or an argument is taken for its description, so it begins with its name.
fn described(found: &mut Found, instruction: &Instruction, keyword: &str, names: &[String]) {
    let (Some(comment), Some(name)) = (instruction.comments.last(), names.first()) else { return };
    let first = comment.value.split(' ').next().unwrap_or_default();
    if names.iter().any(|name| name == first) {
        return;
    }
    let example = if names.len() > 1 { "<arg_key>" } else { name };
    let text = format!("Comment for {keyword} should follow the format: `# {example} <description>`");
    found.find("InvalidDefinitionDescription", instruction.span, text);
}

/// Keywords are all upper-case or all lower-case; a mixed one is always wrong.
fn casing(found: &mut Found, instructions: &[Instruction]) {
    let count = |is: fn(&str) -> bool| instructions.iter().filter(|i| is(&i.keyword.value)).count();
    let (is, case): (fn(&str) -> bool, _) =
        if count(is_lower) > count(is_upper) { (is_lower, "lowercase") } else { (is_upper, "uppercase") };
    // Global arguments belong to no stage, and BuildKit looks at stages.
    let stages = instructions.iter().skip_while(|i| !matches!(i.kind, Kind::From { .. }));
    for keyword in stages.map(|i| &i.keyword).filter(|keyword| !is(&keyword.value)) {
        let text = format!("Command '{}' should match the case of the command majority ({case})", keyword.value);
        found.find("ConsistentInstructionCasing", keyword.span, text);
    }
}

/// Base images are valid with the defaults of the global arguments alone.
fn bases(found: &mut Found, file: &File) {
    let shell = Shell::new(file.escape);
    let mut globals: BTreeMap<String, String> =
        PREDEFINED.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
    let mut stages: BTreeSet<String> = BTreeSet::new();
    for instruction in &file.instructions {
        match &instruction.kind {
            Kind::Arg(list) if stages.is_empty() => {
                for (name, default) in list {
                    let lookup = |name: &str| globals.get(name).cloned();
                    let value = default.as_ref().and_then(|default| shell.word(&default.value, &lookup).ok());
                    globals.extend(value.map(|value| (name.value.clone(), value)));
                }
            }
            Kind::From { image, name, .. } => {
                let lookup = |name: &str| globals.get(name).cloned();
                let Ok(base) = shell.word(&image.value, &lookup) else { continue };
                if !stages.contains(&base.to_lowercase()) && Reference::parse(&base).is_err() {
                    let text =
                        format!("Default value for ARG {} results in empty or invalid base image name", image.value);
                    found.find("InvalidDefaultArgInFrom", image.span, text);
                }
                // One without a name ends the global arguments too.
                stages.insert(name.as_ref().map(|name| name.value.to_lowercase()).unwrap_or_default());
            }
            _ => {}
        }
    }
}
