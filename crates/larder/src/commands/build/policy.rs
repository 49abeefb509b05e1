//! Files of source policies in BuildKit's JSON form, as messages. Who applies them is not known here.

use std::path::Path;

use proto::policy::{AttrConstraint, Policy, Rule, Selector, Update};
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    version: i64,
    #[serde(default)]
    rules: Vec<FileRule>,
}

#[derive(Deserialize)]
struct FileRule {
    #[serde(default)]
    action: Word,
    selector: Option<FileSelector>,
    updates: Option<FileUpdate>,
}

#[derive(Deserialize)]
struct FileSelector {
    #[serde(default)]
    identifier: String,
    #[serde(default, alias = "matchType")]
    match_type: Word,
    #[serde(default)]
    constraints: Vec<FileConstraint>,
}

#[derive(Deserialize)]
struct FileConstraint {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    condition: Word,
}

#[derive(Deserialize)]
struct FileUpdate {
    #[serde(default)]
    identifier: String,
    #[serde(default)]
    attrs: std::collections::HashMap<String, String>,
}

/// A member of an enumeration, by name or by number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Word {
    Number(i32),
    Name(String),
}

impl Default for Word {
    fn default() -> Word {
        Word::Number(0)
    }
}

impl Word {
    fn number(&self, names: &[&str]) -> Result<i32, String> {
        match self {
            Word::Number(number) => Ok(*number),
            Word::Name(name) => {
                let found = names.iter().position(|n| n.eq_ignore_ascii_case(name));
                let found = found.and_then(|n| i32::try_from(n).ok());
                found.ok_or_else(|| format!("`{name}` is none of {}", names.join(", ")))
            }
        }
    }
}

/// Reads a file.
pub fn read(path: &Path) -> Result<Policy, String> {
    let text = std::fs::read(path).map_err(|e| format!("can't read {}: {e}", path.display()))?;
    parse(&text).map_err(|e| format!("failed to unmarshal source-policy-file {}: {e}", path.display()))
}

fn parse(text: &[u8]) -> Result<Policy, String> {
    let file: File = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let rules = file.rules.into_iter().map(rule).collect::<Result<_, _>>()?;
    Ok(Policy { version: file.version, rules })
}

fn rule(rule: FileRule) -> Result<Rule, String> {
    let constraint = |c: FileConstraint| {
        let condition = c.condition.number(&["EQUAL", "NOTEQUAL", "MATCHES"])?;
        Ok(AttrConstraint { key: c.key, value: c.value, condition })
    };
    let selector = |s: FileSelector| {
        let constraints = s.constraints.into_iter().map(constraint).collect::<Result<_, String>>()?;
        let match_type = s.match_type.number(&["WILDCARD", "EXACT", "REGEX"])?;
        Ok::<_, String>(Selector { identifier: s.identifier, match_type, constraints })
    };
    Ok(Rule {
        action: rule.action.number(&["ALLOW", "DENY", "CONVERT"])?,
        selector: rule.selector.map(selector).transpose()?,
        updates: rule.updates.map(|u| Update { identifier: u.identifier, attrs: u.attrs }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let text =
            br#"{"rules":[{"action":"DENY","selector":{"identifier":"docker-image://*","match_type":"WILDCARD"}},
            {"action":2,"selector":{"identifier":"a","constraints":[{"key":"k","value":"v","condition":"NOTEQUAL"}]},
             "updates":{"identifier":"b","attrs":{"x":"y"}}}]}"#;
        let policy = parse(text).unwrap();
        assert_eq!(policy.rules.iter().map(|r| r.action).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(policy.rules[1].selector.as_ref().unwrap().constraints[0].condition, 1);
        assert_eq!(policy.rules[1].updates.as_ref().unwrap().identifier, "b");
        assert!(parse(br#"{"rules":[{"action":"FORBID"}]}"#).unwrap_err().contains("ALLOW, DENY, CONVERT"));
    }
}
