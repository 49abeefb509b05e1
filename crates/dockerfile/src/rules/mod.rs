//! Build checks, with BuildKit's names, messages and pages. They read the tree and know nothing of the outside; those that
//! need a base image's configuration are named in [`NOT_BUILT`].

mod instructions;
mod stages;

use graph::pattern::Patterns;

use crate::ast::{File, Instruction};
use crate::diagnostic::{Diagnostic, Severity, Span};
use crate::parse::{Notes, parse_with_notes};

/// Checks of BuildKit's that are not built: they need what is not in the file, or are experimental.
pub const NOT_BUILT: [&str; 3] = ["UndefinedVar", "InvalidBaseImagePlatform", "InvalidDefinitionDescription"];

/// What the checks of one file look at.
pub(crate) struct Look<'a> {
    pub file: &'a File,
    pub notes: &'a Notes,
    /// Patterns of the context's ignore file.
    pub ignore: &'a Patterns,
    found: Vec<Diagnostic>,
}

impl Look<'_> {
    /// Notes a finding.
    pub fn find(&mut self, rule: &str, span: Span, message: impl Into<String>) {
        let url = format!("https://docs.docker.com/go/dockerfile/rule/{}/", kebab(rule));
        self.found.push(Diagnostic {
            severity: Severity::Warning,
            rule: Some(rule.to_owned()),
            message: message.into(),
            span,
            help: description(rule).map(str::to_owned),
            url: Some(url),
        });
    }
}

/// What a rule is about, in BuildKit's words (`linter/ruleset.go`): clients show them.
fn description(rule: &str) -> Option<&'static str> {
    DESCRIPTIONS.iter().find(|(name, _)| *name == rule).map(|(_, text)| *text)
}

const DESCRIPTIONS: [(&str, &str); 19] = [
    ("StageNameCasing", "Stage names should be lowercase"),
    ("FromAsCasing", "The 'as' keyword should match the case of the 'from' keyword"),
    ("NoEmptyContinuation", "Empty continuation lines will become errors in a future release"),
    (
        "ConsistentInstructionCasing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    ),
    ("DuplicateStageName", "Stage names should be unique"),
    ("ReservedStageName", "Reserved words should not be used as stage names"),
    (
        "JSONArgsRecommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    ),
    ("MaintainerDeprecated", "The MAINTAINER instruction is deprecated, use a label instead to define an image author"),
    ("UndefinedArgInFrom", "FROM command must use declared ARGs"),
    (
        "WorkdirRelativePath",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the \
         base image changes",
    ),
    ("MultipleInstructionsDisallowed", "Multiple instructions of the same type should not be used in the same stage"),
    ("LegacyKeyValueFormat", "Legacy key/value format with whitespace separator should not be used"),
    (
        "RedundantTargetPlatform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    ("SecretsUsedInArgOrEnv", "Sensitive data should not be used in the ARG or ENV commands"),
    ("InvalidDefaultArgInFrom", "Default value for global ARG results in an empty or invalid base image name"),
    ("FromPlatformFlagConstDisallowed", "FROM --platform flag should not use a constant value"),
    ("CopyIgnoredFile", "Attempting to Copy file that is excluded by .dockerignore"),
    ("ExposeProtoCasing", "Protocol in EXPOSE instruction should be lowercase"),
    (
        "ExposeInvalidFormat",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a \
         future release",
    ),
];

/// `StageNameCasing` as `stage-name-casing`, `JSONArgs` as `json-args`.
fn kebab(rule: &str) -> String {
    let chars: Vec<char> = rule.chars().collect();
    let mut text = String::new();
    for (i, c) in chars.iter().enumerate() {
        let after_lower = i > 0 && chars[i - 1].is_ascii_lowercase();
        let before_lower = i > 0 && chars.get(i + 1).is_some_and(char::is_ascii_lowercase);
        if c.is_ascii_uppercase() && (after_lower || before_lower) {
            text.push('-');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

/// Errors and findings of a Dockerfile, all stages. `ignore`: patterns of the context's ignore file.
pub fn check(bytes: &[u8], ignore: &[String]) -> Vec<Diagnostic> {
    let (file, notes, mut found) = parse_with_notes(bytes);
    // An ignore file that can't be read is the build's to complain of.
    let ignore = Patterns::new(ignore).unwrap_or_default();
    let mut look = Look { file: &file, notes: &notes, ignore: &ignore, found: Vec::new() };
    stages::look(&mut look);
    instructions::look(&mut look);
    let Look { found: findings, .. } = look;
    let wish = Wish::of(&file);
    for mut finding in findings {
        let rule = finding.rule.clone().unwrap_or_default();
        if wish.skips(&rule) || above(&file, finding.span).is_some_and(|w| w.skips(&rule)) {
            continue;
        }
        if wish.error {
            finding.severity = Severity::Error;
        }
        found.push(finding);
    }
    found.sort_by_key(|d| d.span);
    found
}

/// `# check=skip=A,B;error=true`.
#[derive(Default)]
struct Wish {
    skip: Vec<String>,
    error: bool,
}

impl Wish {
    fn of(file: &File) -> Wish {
        let directive = file.directives.iter().find(|d| d.name == "check");
        directive.map(|d| Wish::read(&d.value.value)).unwrap_or_default()
    }

    fn read(text: &str) -> Wish {
        let mut wish = Wish::default();
        for part in text.split(';') {
            match part.trim().split_once('=') {
                Some(("skip", rules)) => wish.skip.extend(rules.split(',').map(|r| r.trim().to_owned())),
                Some(("error", value)) => wish.error = value.trim() == "true",
                _ => {}
            }
        }
        wish
    }

    fn skips(&self, rule: &str) -> bool {
        self.skip.iter().any(|s| s == "all" || s.eq_ignore_ascii_case(rule))
    }
}

/// The wish in a comment right above the instruction that a span lies in.
fn above(file: &File, span: Span) -> Option<Wish> {
    let inside = |i: &&Instruction| i.span.start <= span.start && span.start <= i.span.end;
    let instruction = file.instructions.iter().find(inside)?;
    let comment = instruction.comments.iter().find_map(|c| c.value.trim().strip_prefix("check="))?;
    Some(Wish::read(comment))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<String> {
        check(text.as_bytes(), &["secret*".to_owned()]).into_iter().filter_map(|d| d.rule).collect()
    }

    #[test]
    fn each_rule_by_an_example() {
        for (text, rule) in [
            ("FROM a AS Build\nRUN true\n", "StageNameCasing"),
            ("FROM a as build\nRUN true\n", "FromAsCasing"),
            ("FROM a\nRUN true && \\\n\n  true\n", "NoEmptyContinuation"),
            ("FROM a\nRUN true\nrun true\n", "ConsistentInstructionCasing"),
            ("FROM a AS x\nFROM b AS x\n", "DuplicateStageName"),
            ("FROM a AS scratch\n", "ReservedStageName"),
            ("FROM a\nCMD echo hi\n", "JSONArgsRecommended"),
            ("FROM a\nMAINTAINER me\n", "MaintainerDeprecated"),
            ("FROM a:${NOPE}\n", "UndefinedArgInFrom"),
            ("FROM a\nWORKDIR app\n", "WorkdirRelativePath"),
            ("FROM a\nCMD [\"a\"]\nCMD [\"b\"]\n", "MultipleInstructionsDisallowed"),
            ("FROM a\nENV kind value\n", "LegacyKeyValueFormat"),
            ("FROM --platform=$TARGETPLATFORM a\n", "RedundantTargetPlatform"),
            ("FROM a\nENV API_TOKEN=x\n", "SecretsUsedInArgOrEnv"),
            ("ARG TAG\nFROM a:$TAG\n", "InvalidDefaultArgInFrom"),
            ("FROM --platform=linux/amd64 a\n", "FromPlatformFlagConstDisallowed"),
            ("FROM a\nCOPY secret.txt /\n", "CopyIgnoredFile"),
            ("FROM a\nEXPOSE 80/TCP\n", "ExposeProtoCasing"),
            ("FROM a\nEXPOSE 127.0.0.1:80:80\n", "ExposeInvalidFormat"),
        ] {
            assert_eq!(rules(text), [rule], "{text}");
        }
        assert!(rules("FROM a AS b\nWORKDIR /w\nWORKDIR x\nCOPY ok /\nCMD [\"a\"]\n").is_empty());
    }

    #[test]
    fn wishes() {
        assert!(rules("# check=skip=MaintainerDeprecated\nFROM a\nMAINTAINER me\n").is_empty());
        assert!(rules("FROM a\n# check=skip=all\nMAINTAINER me\n").is_empty());
        let found = check(b"# check=error=true\nFROM a\nMAINTAINER me\n", &[]);
        assert!(found[0].is_error());
        assert_eq!(kebab("JSONArgsRecommended"), "json-args-recommended");
    }
}
