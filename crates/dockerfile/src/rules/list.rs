//! Every build check by its name: what it is about, its page, whether it is only made when asked for. Names and texts are
//! BuildKit's (`linter/ruleset.go`), because clients show them and people skip checks by name.
//! How a check is made is in the files beside this one.

/// Checks that are made only when they are asked for by name (`# check=experimental=…`).
pub fn is_experimental(rule: &str) -> bool {
    rule == "InvalidDefinitionDescription"
}

/// The page about a rule; one has none.
pub fn page(rule: &str) -> Option<String> {
    (rule != "InvalidBaseImagePlatform").then(|| format!("https://docs.docker.com/go/dockerfile/rule/{}/", kebab(rule)))
}

/// What a rule is about, in BuildKit's words (`linter/ruleset.go`): clients show them.
pub fn description(rule: &str) -> Option<&'static str> {
    DESCRIPTIONS.iter().find(|(name, _)| *name == rule).map(|(_, text)| *text)
}

const DESCRIPTIONS: [(&str, &str); 22] = [
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
    ("UndefinedVar", "Variables should be defined before their use"),
    ("InvalidBaseImagePlatform", "Base image platform does not match expected target platform"),
    (
        "InvalidDefinitionDescription",
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not \
         intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    ),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_named_by_words() {
        assert_eq!(kebab("JSONArgsRecommended"), "json-args-recommended");
        assert_eq!(kebab("StageNameCasing"), "stage-name-casing");
    }
}
