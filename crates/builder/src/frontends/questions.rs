//! Questions that a frontend answers instead of building (`docker buildx build --call`): which checks fail, which
//! targets there are. Answers are BuildKit's `result.json`, with a text for people beside it.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use dockerfile::LineIndex;
use dockerfile::ast::{File, Kind};
use dockerfile::lower::outline::{Mounted, Outline, described};
use dockerfile::rules;
use graph::{Graph, wire};
use serde_json::{Map, Value, json};

use super::Elsewhere;
use super::dockerfile::{Checked, Definition, Frontend};
use crate::Error;
use crate::build::Build;

/// Which questions there are.
pub const DESCRIBE: &str = "frontend.subrequests.describe";
/// What the build checks say.
pub const LINT: &str = "frontend.lint";
/// What a user may give to a target.
pub const OUTLINE: &str = "frontend.outline";
/// Which targets there are.
pub const TARGETS: &str = "frontend.targets";

/// Values by the names that clients read: `result.json`, `result.txt`, `result.statuscode`, `version`.
pub type Answer = BTreeMap<String, Vec<u8>>;

/// What became of a question.
pub enum Answered {
    /// The answer.
    Told(Answer),
    /// Nobody knows this question.
    Unknown,
    /// The Dockerfile is for a frontend in an image, which is to be asked.
    Elsewhere(Elsewhere),
}

/// Answers. What is unknown is said before any file of the client's is asked for.
pub async fn answer(
    build: &Build,
    name: &str,
    attributes: &BTreeMap<String, String>,
    inputs: &BTreeMap<String, Arc<Graph>>,
) -> Result<Answered, Error> {
    let frontend = match name {
        DESCRIBE => return Ok(Answered::Told(describe())),
        LINT | OUTLINE | TARGETS => Frontend::new(build, attributes, inputs).await?,
        _ => return Ok(Answered::Unknown),
    };
    let asked = frontend.asked().await?;
    if let Some(image) = asked.elsewhere {
        return Ok(Answered::Elsewhere(image));
    }
    Ok(Answered::Told(match name {
        LINT => lint(&frontend.check(asked.loaded, asked.errors).await?),
        OUTLINE => {
            let (definition, lowered) = frontend.outline(asked.loaded, asked.errors).await?;
            outline(&definition, &lowered.outline)
        }
        _ => targets(&asked.loaded.file),
    }))
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
fn describe() -> Answer {
    let named = |name: &str, about: &str| json!({ "name": name, "description": about });
    let one = |name: &str, about: &str, opts: &[Value]| {
        json!({
            "name": name, "version": "1.0.0", "type": "rpc", "description": about, "opts": opts, "inputs": null,
            "metadata": [named("result.json", ""), named("result.txt", "")],
            "refs": null,
        })
    };
    let target = [named("target", "Target build stage")];
    let list: [(&str, &str, &[Value]); 4] = [
        (OUTLINE, "List all parameters current build target supports", &target),
        (TARGETS, "List all targets current build supports", &[]),
        (LINT, "Lint a Dockerfile", &[]),
        (DESCRIBE, "List available subrequest types", &[]),
    ];
    let mut rows = vec![vec!["NAME".to_owned(), "VERSION".to_owned(), "DESCRIPTION".to_owned()]];
    for (name, about, _) in &list {
        rows.push(vec![name.trim_start_matches("frontend.").to_owned(), "1.0.0".to_owned(), (*about).to_owned()]);
    }
    made(&Value::Array(list.iter().map(|(name, about, opts)| one(name, about, opts)).collect()), table(&rows, 1))
}

/// Columns with `gap` blanks between; the last is as long as it is.
fn table(rows: &[Vec<String>], gap: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (i, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if i + 1 < row.len() {
                text.push_str(&" ".repeat(widths[i] + gap - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

/// An object without the values that are empty, as Go leaves them out.
fn object(fields: &[(&str, &str)]) -> Map<String, Value> {
    let filled = fields.iter().filter(|(_, value)| !value.is_empty());
    filled.map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect()
}

/// Ranges of lines, one a line, as BuildKit has them.
fn location(lines: Option<(u32, u32)>) -> Value {
    let ranges = lines
        .iter()
        .flat_map(|(first, last)| *first..=*last)
        .map(|line| json!({ "start": { "line": line }, "end": { "line": line } }));
    match ranges.collect::<Vec<_>>() {
        none if none.is_empty() => json!({}),
        ranges => json!({ "ranges": ranges }),
    }
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn lint(checked: &Checked) -> Answer {
    let Checked { definition, file, findings, error } = checked;
    let index = LineIndex::new(&file.text);
    let mut warnings = Vec::new();
    let mut shown = String::new();
    let mut sorted: Vec<_> = findings.iter().map(|finding| (rules::lines(file, &index, finding), finding)).collect();
    sorted.sort_by_key(|(lines, _)| *lines);
    for (lines, finding) in sorted {
        let rule = finding.rule.as_deref().unwrap_or_default();
        let url = finding.url.as_deref().unwrap_or_default();
        let mut warning = object(&[
            ("ruleName", rule),
            ("description", finding.help.as_deref().unwrap_or_default()),
            ("url", url),
            ("detail", &finding.message),
        ]);
        warning.insert("location".to_owned(), location(lines));
        warnings.push(Value::Object(warning));
        let url = if url.is_empty() { String::new() } else { format!(" - {url}") };
        shown.push_str(&format!("\nWARNING: {rule}{url}\n{}\n", finding.message));
        shown.push_str(&excerpt(&definition.filename, &file.text, lines));
    }
    let mut source = object(&[("filename", &definition.filename), ("data", &base64(&definition.text))]);
    source.insert("definition".to_owned(), operations(&definition.source));
    source.insert("language".to_owned(), "Dockerfile".into());
    let bad = error.is_some() || !warnings.is_empty();
    let mut result = Map::new();
    result.insert("warnings".to_owned(), if warnings.is_empty() { Value::Null } else { Value::Array(warnings) });
    result.insert("sources".to_owned(), json!([source]));
    if let Some((message, lines)) = error {
        result.insert("buildError".to_owned(), json!({ "message": message, "location": location(*lines) }));
    }
    let mut answer = made(&Value::Object(result), shown);
    answer.insert("result.statuscode".to_owned(), if bad { b"1".to_vec() } else { b"0".to_vec() });
    answer
}

/// A definition as Go's JSON has it, without what is said about its operations.
fn operations(definition: &wire::Definition) -> Value {
    json!({ "def": definition.def.iter().map(|bytes| base64(bytes)).collect::<Vec<_>>() })
}

/// Lines of a file with marks, as BuildKit's clients show them: more of what is around where the place is short.
pub fn excerpt(filename: &str, text: &str, lines: Option<(u32, u32)>) -> String {
    let Some((first, last)) = lines else { return String::new() };
    let around = if last == first { 2 } else { 1 };
    let rule = "--------------------\n";
    let mut out = format!("{filename}:{first}\n{rule}");
    // What follows the last line's end is a line to BuildKit.
    for (i, line) in text.split('\n').enumerate() {
        let number = i as u32 + 1;
        if number + around >= first && number <= last + around {
            let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
            out.push_str(&format!(" {number:3} | {mark} {line}\n"));
        }
    }
    out + rule
}

fn targets(file: &File) -> Answer {
    let froms: Vec<_> = file.instructions.iter().filter(|i| matches!(i.kind, Kind::From { .. })).collect();
    let mut list = Vec::new();
    let mut rows = vec![vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    for (i, from) in froms.iter().enumerate() {
        let Kind::From { image, name, platform } = &from.kind else { continue };
        let name = name.as_ref().map(|n| n.value.to_lowercase()).unwrap_or_default();
        let is_default = i + 1 == froms.len();
        let about = described(from, &name);
        let mut target = object(&[("name", &name), ("description", &about)]);
        if is_default {
            target.insert("default".to_owned(), true.into());
        }
        let platform = platform.as_ref().map(|p| p.value.as_str()).unwrap_or_default();
        target.extend(object(&[("base", &image.value), ("platform", platform)]));
        target.insert("location".to_owned(), location(Some(from.lines)));
        list.push(Value::Object(target));
        let name = match (name.is_empty(), is_default) {
            (true, true) => "(default)".to_owned(),
            (false, true) => format!("{name} (default)"),
            _ => name,
        };
        rows.push(vec![name, about]);
    }
    made(&json!({ "targets": list, "sources": [base64(file.text.as_bytes())] }), table(&rows, 1))
}

fn outline(definition: &Definition, outline: &Outline) -> Answer {
    let mut result = object(&[("name", &outline.name), ("description", &outline.description)]);
    let mut put = |name: &str, list: Vec<Value>| {
        if !list.is_empty() {
            result.insert(name.to_owned(), Value::Array(list));
        }
    };
    let args = outline.args.iter().map(|arg| {
        let mut one = object(&[("name", &arg.name), ("description", &arg.description), ("value", &arg.value)]);
        one.insert("location".to_owned(), location(Some(arg.lines)));
        Value::Object(one)
    });
    put("args", args.collect());
    let mounted = |list: &[Mounted]| -> Vec<Value> {
        let one = |mount: &Mounted| {
            let mut one = object(&[("name", &mount.name)]);
            if mount.required {
                one.insert("required".to_owned(), true.into());
            }
            one.insert("location".to_owned(), location(Some(mount.lines)));
            Value::Object(one)
        };
        list.iter().map(one).collect()
    };
    put("secrets", mounted(&outline.secrets));
    put("ssh", mounted(&outline.agents));
    put("sources", vec![base64(&definition.text).into()]);
    made(&Value::Object(result), outline_text(outline))
}

fn outline_text(outline: &Outline) -> String {
    let mut text = String::new();
    let mut add = |rows: Vec<Vec<String>>, gap: usize| {
        text.push_str(&table(&rows, gap));
        text.push('\n');
    };
    let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<String>>();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let name = if outline.name.is_empty() { "(default)" } else { &outline.name };
        let mut rows = vec![row(&["TARGET:", name])];
        if !outline.description.is_empty() {
            rows.push(row(&["DESCRIPTION:", &outline.description]));
        }
        add(rows, 1);
    }
    if !outline.args.is_empty() {
        let args = outline.args.iter().map(|arg| row(&[&arg.name, &arg.value, &arg.description]));
        add([row(&["BUILD ARG", "VALUE", "DESCRIPTION"])].into_iter().chain(args).collect(), 3);
    }
    for (title, list) in [("SECRET", &outline.secrets), ("SSH", &outline.agents)] {
        if !list.is_empty() {
            let mounts = list.iter().map(|one| row(&[&one.name, if one.required { "true" } else { "" }]));
            add([row(&[title, "REQUIRED"])].into_iter().chain(mounts).collect(), 3);
        }
    }
    text
}
