//! Checks a Dockerfile without asking anybody: what a base image brings is not known, so that its variables count as defined.
//! The checks themselves are in `rules`.

use std::collections::BTreeMap;

use oci::Platform;

use crate::diagnostic::Diagnostic;
use crate::lower::{Fact, Need, Options, Outcome, lower};
use crate::{parse, rules};

/// Errors and findings of a Dockerfile, all stages, in the order of the file. `ignore`: patterns of the context's ignore
/// file.
pub fn check(bytes: &[u8], ignore: &[String]) -> Vec<Diagnostic> {
    let (file, errors) = parse(bytes);
    let mut found = if errors.is_empty() { lowered(&file, ignore) } else { rules::of_broken(&file, None) };
    found.extend(errors);
    found.sort_by_key(|d| d.span);
    found
}

fn lowered(file: &crate::ast::File, ignore: &[String]) -> Vec<Diagnostic> {
    let platform = Platform::new("linux", "amd64", "");
    let mut options = Options::new(platform.clone(), platform);
    options.ignore = ignore.to_vec();
    options.all_stages = true;
    let mut facts = BTreeMap::new();
    loop {
        match lower(file, &options, &facts) {
            Err(found) => return found,
            Ok(Outcome::Done(lowered)) => return lowered.findings,
            Ok(Outcome::Needs { needs, .. }) => facts.extend(needs.into_keys().map(|need| {
                let fact = match need {
                    Need::Ignore { .. } => Fact::Patterns(Vec::new()),
                    _ => Fact::Unknown,
                };
                (need, fact)
            })),
        }
    }
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
            ("FROM a${NOPE}\n", "UndefinedArgInFrom"),
            ("FROM a\nWORKDIR app\n", "WorkdirRelativePath"),
            ("FROM a\nCMD [\"a\"]\nCMD [\"b\"]\n", "MultipleInstructionsDisallowed"),
            ("FROM a\nENV kind value\n", "LegacyKeyValueFormat"),
            ("FROM --platform=$TARGETPLATFORM a\n", "RedundantTargetPlatform"),
            ("FROM a\nENV API_TOKEN=x\n", "SecretsUsedInArgOrEnv"),
            ("ARG TAG=-\nFROM a:$TAG AS b\nFROM b\n", "InvalidDefaultArgInFrom"),
            ("FROM --platform=linux/amd64 a\n", "FromPlatformFlagConstDisallowed"),
            ("FROM a\nCOPY secret.txt /\n", "CopyIgnoredFile"),
            ("FROM a\nEXPOSE 80/TCP\n", "ExposeProtoCasing"),
            ("FROM a\nEXPOSE 127.0.0.1:80:80\n", "ExposeInvalidFormat"),
            ("FROM scratch\nCOPY $nope /\n", "UndefinedVar"),
            ("# check=experimental=all\n# it is a\nFROM a AS b\n", "InvalidDefinitionDescription"),
        ] {
            assert_eq!(rules(text), [rule], "{text}");
        }
        assert!(rules("FROM a AS b\nWORKDIR /w\nWORKDIR x\nCOPY ok /\nCMD [\"a\"]\n").is_empty());
        // A base image of which nothing is known may bring any variable.
        assert!(rules("FROM a\nCOPY $nope /\nWORKDIR $home\n").is_empty());
    }

    #[test]
    fn wishes() {
        assert!(rules("# check=skip=MaintainerDeprecated\nFROM a\nMAINTAINER me\n").is_empty());
        assert!(rules("FROM a\n# check=skip=all\nMAINTAINER me\n").is_empty());
        let found = check(b"# check=error=true\nFROM a\nMAINTAINER me\n", &[]);
        assert_eq!(found[0].message, "lint violation found for rules: MaintainerDeprecated");
        assert!(found[0].is_error() && !found[1].is_error());
    }
}
