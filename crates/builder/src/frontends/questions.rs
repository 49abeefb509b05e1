//! Questions that a frontend answers instead of building (`docker buildx build --call`): which checks fail, which
//! targets there are. Answers are BuildKit's `result.json`, with a text for people beside it.

use std::collections::BTreeMap;

use base64::Engine;
use dockerfile::ast::Kind;
use dockerfile::{Diagnostic, LineIndex};
use serde_json::{Map, Value, json};

/// Which questions there are.
pub const DESCRIBE: &str = "frontend.subrequests.describe";
const LINT: &str = "frontend.lint";
const TARGETS: &str = "frontend.targets";

/// Values by the names that clients read: `result.json`, `result.txt`, `result.statuscode`, `version`.
pub type Answer = BTreeMap<String, Vec<u8>>;

/// Whether there is an answer to a question: known before any file of the client's is asked for.
pub fn is_known(name: &str) -> bool {
    [DESCRIBE, LINT, TARGETS].contains(&name)
}

/// Answers; `None` for an unknown question.
pub fn answer(name: &str, filename: &str, text: &[u8], ignore: &[String]) -> Option<Answer> {
    match name {
        LINT => Some(lint(filename, text, ignore)),
        TARGETS => Some(targets(text)),
        _ => None,
    }
}

fn made(value: &Value, text: String) -> Answer {
    // Go's indentation: two blanks, as serde_json's.
    let json = serde_json::to_vec_pretty(value).unwrap_or_default();
    Answer::from([
        ("result.json".to_owned(), json),
        ("result.txt".to_owned(), text.into_bytes()),
        ("version".to_owned(), b"1.0.0".to_vec()),
    ])
}

/// The questions themselves.
pub fn describe() -> Answer {
    let one = |name: &str, about: &str| {
        json!({
            "name": name, "version": "1.0.0", "type": "rpc", "description": about, "opts": [], "inputs": null,
            "metadata": [{ "name": "result.json", "description": "" }, { "name": "result.txt", "description": "" }],
            "refs": null,
        })
    };
    let list = [
        (LINT, "Lint a Dockerfile"),
        (TARGETS, "List all targets current build supports"),
        (DESCRIBE, "List available subrequest types"),
    ];
    let text = list.iter().map(|(name, about)| format!("{name:<30} 1.0.0   {about}\n"));
    let text = format!("{:<30} VERSION DESCRIPTION\n{}", "NAME", text.collect::<String>());
    made(&Value::Array(list.iter().map(|(name, about)| one(name, about)).collect()), text)
}

/// Zero positions are left out, as Go does.
fn range(first: u32, last: u32) -> Value {
    json!({ "start": { "line": first }, "end": { "line": last } })
}

fn lint(filename: &str, text: &[u8], ignore: &[String]) -> Answer {
    let (_, parsed) = dockerfile::parse(text);
    let found = dockerfile::rules::check(text, ignore);
    let whole = String::from_utf8_lossy(text);
    let index = LineIndex::new(&whole);
    let lines = |d: &Diagnostic| (index.line(d.span.start), index.line(d.span.end.max(d.span.start + 1) - 1));
    let mut warnings = Vec::new();
    let mut shown = String::new();
    for warning in found.iter().filter(|d| d.rule.is_some()) {
        let (first, last) = lines(warning);
        let rule = warning.rule.clone().unwrap_or_default();
        let mut object = Map::new();
        let mut put = |key: &str, value: &str| {
            if !value.is_empty() {
                object.insert(key.to_owned(), value.into());
            }
        };
        put("ruleName", &rule);
        put("description", warning.help.as_deref().unwrap_or_default());
        put("url", warning.url.as_deref().unwrap_or_default());
        put("detail", &warning.message);
        object.insert("location".to_owned(), json!({ "ranges": [range(first, last)] }));
        warnings.push(Value::Object(object));
        let url = warning.url.as_ref().map(|url| format!(" - {url}")).unwrap_or_default();
        shown.push_str(&format!("\nWARNING: {rule}{url}\n{}\n", warning.message));
        shown.push_str(&excerpt(filename, &whole, first, last));
    }
    let mut result = Map::new();
    result.insert("warnings".to_owned(), Value::Array(warnings.clone()));
    let data = base64::engine::general_purpose::STANDARD.encode(text);
    let source = json!({ "filename": filename, "language": "Dockerfile", "data": data });
    result.insert("sources".to_owned(), json!([source]));
    let error = parsed.iter().find(|d| d.is_error());
    if let Some(error) = error {
        let (first, last) = lines(error);
        let message = format!("dockerfile parse error on line {first}: {}", error.message);
        shown.push_str(&format!("\nERROR: {message}\n{}", excerpt(filename, &whole, first, last)));
        let location = json!({ "ranges": [range(first, last)] });
        result.insert("buildError".to_owned(), json!({ "message": message, "location": location }));
    }
    let bad = error.is_some() || !warnings.is_empty();
    let mut answer = made(&Value::Object(result), shown);
    answer.insert("result.statuscode".to_owned(), if bad { b"1".to_vec() } else { b"0".to_vec() });
    answer
}

/// Lines of a file with marks, as BuildKit's clients show them.
fn excerpt(filename: &str, text: &str, first: u32, last: u32) -> String {
    const AROUND: u32 = 2;
    let rule = "--------------------\n";
    let mut out = format!("{filename}:{first}\n{rule}");
    for (i, line) in text.lines().enumerate() {
        let number = i as u32 + 1;
        if number + AROUND >= first && number <= last + AROUND {
            let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
            out.push_str(&format!(" {number:3} | {mark} {line}\n"));
        }
    }
    out + rule
}

fn targets(text: &[u8]) -> Answer {
    let (file, _) = dockerfile::parse(text);
    let froms: Vec<_> = file.instructions.iter().filter(|i| matches!(i.kind, Kind::From { .. })).collect();
    let mut list = Vec::new();
    let mut shown = vec![("TARGET".to_owned(), "DESCRIPTION".to_owned())];
    for (i, from) in froms.iter().enumerate() {
        let Kind::From { image, name, platform } = &from.kind else { continue };
        let name = name.as_ref().map(|n| n.value.to_lowercase()).unwrap_or_default();
        let is_default = i + 1 == froms.len();
        let about = from.comments.iter().find_map(|c| c.value.trim().strip_prefix(&format!("{name} ")));
        let about = about.filter(|_| !name.is_empty()).unwrap_or_default().to_owned();
        let mut object = Map::new();
        let mut put = |key: &str, value: &str| {
            if !value.is_empty() {
                object.insert(key.to_owned(), value.into());
            }
        };
        put("name", &name);
        put("description", &about);
        put("base", &image.value);
        put("platform", platform.as_ref().map(|p| p.value.as_str()).unwrap_or_default());
        if is_default {
            object.insert("default".to_owned(), true.into());
        }
        let (first, last) = from.lines;
        object.insert("location".to_owned(), json!({ "ranges": [range(first, last)] }));
        list.push(Value::Object(object));
        let name = match (name.is_empty(), is_default) {
            (true, true) => "(default)".to_owned(),
            (false, true) => format!("{name} (default)"),
            _ => name,
        };
        shown.push((name, about));
    }
    let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let text = shown.iter().map(|(name, about)| format!("{name:width$}{about}\n")).collect();
    let data = base64::engine::general_purpose::STANDARD.encode(file.text.as_bytes());
    made(&json!({ "targets": list, "sources": [data] }), text)
}
