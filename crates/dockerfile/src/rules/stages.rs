//! Checks of FROM, with the arguments of a build.

use oci::Platform;

use super::Found;
use crate::ast::Word;
use crate::diagnostic::suggestion;
use crate::words;

/// Arguments that are there without being declared.
pub const PREDEFINED: [&str; 11] = [
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

/// Variables that a word of FROM names are declared. `declared`: all global arguments, the predefined among them.
pub fn arguments(found: &mut Found, word: &Word, named: &words::Found, declared: &[&str]) {
    for name in named.unset.iter().filter(|name| !declared.contains(&name.as_str())) {
        let hint = suggestion(name, declared.iter().copied());
        let hint = hint.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
        found.find("UndefinedArgInFrom", word.span, format!("FROM argument '{name}' is not declared{hint}"));
    }
}

/// What `--platform` says is neither the default nor always the same. `made`: its value; `target`: `$TARGETPLATFORM`.
pub fn platform(found: &mut Found, word: &Word, named: &words::Found, made: &str, target: &str, stage: &str) {
    let only_target = named.used.len() == 1 && named.used.contains("TARGETPLATFORM") && named.unset.is_empty();
    if only_target && made == target {
        let text = format!(
            "Setting platform to predefined {} in FROM is redundant as this is the default behavior",
            word.value
        );
        found.find("RedundantTargetPlatform", word.span, text);
    }
    if !named.used.is_empty() || !named.unset.is_empty() {
        return;
    }
    // One that can't be read is an error soon.
    let Ok(said) = Platform::parse(made, &Platform::new("linux", "amd64", "")) else { return };
    if !stage.contains(&said.os) && !stage.contains(&said.architecture) {
        let text = format!("FROM --platform flag should not use constant value \"{made}\"");
        found.find("FromPlatformFlagConstDisallowed", word.span, text);
    }
}

/// A base image is of the platform that was asked for.
pub fn image(found: &mut Found, word: &Word, name: &str, expected: &Platform, actual: &Platform) {
    if expected.os != actual.os || expected.architecture != actual.architecture {
        let text = format!(
            "Base image {name} was pulled with platform \"{actual}\", expected \"{expected}\" for current build"
        );
        found.find("InvalidBaseImagePlatform", word.span, text);
    }
}
