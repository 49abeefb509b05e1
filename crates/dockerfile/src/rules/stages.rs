//! Checks of FROM and of stages as a whole.

use std::collections::{BTreeMap, BTreeSet};

use oci::Reference;

use super::Look;
use crate::ast::{Instruction, Kind, Word};
use crate::words::Shell;

/// Arguments that are there without being declared.
const PREDEFINED: [&str; 11] = [
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDOSVERSION",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETOSVERSION",
    "TARGETARCH",
    "TARGETVARIANT",
    "TARGETSTAGE",
];

/// All of them.
pub fn look(look: &mut Look<'_>) {
    let file = look.file;
    let mut globals: BTreeMap<String, Option<String>> = BTreeMap::new();
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut in_stage = false;
    for instruction in &file.instructions {
        match &instruction.kind {
            Kind::Arg(list) if !in_stage => {
                for (name, value) in list {
                    let known = |name: &str| globals.get(name).cloned().flatten();
                    let shell = Shell::new(file.escape);
                    let value = value.as_ref().and_then(|v| shell.word(&v.value, &known).ok());
                    globals.insert(name.value.clone(), value);
                }
            }
            Kind::From { image, name, platform } => {
                in_stage = true;
                if let Some(name) = name {
                    named(look, instruction, name, &names);
                    names.insert(name.value.to_ascii_lowercase());
                }
                base(look, image, &globals, &names);
                if let Some(platform) = platform {
                    platform_of(look, platform, name.as_ref().map_or("", |n| &n.value));
                }
            }
            _ => {}
        }
    }
}

fn named(look: &mut Look<'_>, from: &Instruction, name: &Word, names: &BTreeSet<String>) {
    let lower = name.value.to_ascii_lowercase();
    if lower != name.value {
        look.find("StageNameCasing", name.span, format!("Stage name '{}' should be lowercase", name.value));
    }
    if names.contains(&lower) {
        let text = format!("Duplicate stage name \"{}\", stage names should be unique", name.value);
        look.find("DuplicateStageName", name.span, text);
    }
    if matches!(lower.as_str(), "scratch" | "context") {
        let text = format!("Stage name should not use the same name as reserved stage \"{lower}\"");
        look.find("ReservedStageName", name.span, text);
    }
    let word = from.original.split_whitespace().find(|w| w.eq_ignore_ascii_case("as"));
    if let Some(word) = word.filter(|w| is_upper(w) != is_upper(&from.keyword.value)) {
        let text = format!("'{word}' and '{}' keywords' casing do not match", from.keyword.value);
        look.find("FromAsCasing", from.span, text);
    }
}

fn is_upper(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_uppercase())
}

fn base(look: &mut Look<'_>, image: &Word, globals: &BTreeMap<String, Option<String>>, names: &BTreeSet<String>) {
    let shell = Shell::new(look.file.escape);
    let lookup = |name: &str| globals.get(name).cloned().flatten();
    let Ok((made, found)) = shell.expand(&image.value, &lookup) else { return };
    let known = |name: &str| globals.contains_key(name) || PREDEFINED.contains(&name);
    let undeclared: Vec<&String> = found.unset.iter().filter(|name| !known(name)).collect();
    for name in &undeclared {
        look.find("UndefinedArgInFrom", image.span, format!("FROM argument '{name}' is not declared"));
    }
    let declared = found.used.iter().chain(&found.unset).any(|name| globals.contains_key(name));
    let is_image = names.contains(&made.to_ascii_lowercase()) || Reference::parse(&made).is_ok();
    if undeclared.is_empty() && declared && !is_image {
        let text = format!("Default value for ARG {} results in empty or invalid base image name", image.value);
        look.find("InvalidDefaultArgInFrom", image.span, text);
    }
}

fn platform_of(look: &mut Look<'_>, platform: &Word, stage: &str) {
    let text = platform.value.trim_matches('"');
    if matches!(text, "$TARGETPLATFORM" | "${TARGETPLATFORM}") {
        let text =
            format!("Setting platform to predefined {text} in FROM is redundant as this is the default behavior");
        look.find("RedundantTargetPlatform", platform.span, text);
    } else if !text.contains('$') && !text.is_empty() && !text.split('/').any(|part| stage.contains(part)) {
        let text = format!("FROM --platform flag should not use constant value \"{text}\"");
        look.find("FromPlatformFlagConstDisallowed", platform.span, text);
    }
}
