//! `--format`: the part of Go's text/template that people write for buildctl: fields, `json`, `range`, `if`.
//! What it can't do it refuses, rather than print something else. Fields are found whatever the case of their letters.

use serde_json::Value;

/// A template.
#[derive(Debug)]
pub struct Template(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(String),
    Shown(Expression),
    Each(Expression, Vec<Part>),
    If(Expression, Vec<Part>, Vec<Part>),
}

#[derive(Debug)]
struct Expression {
    json: bool,
    fields: Vec<String>,
}

impl Template {
    /// Reads `{{json .}}`, `{{.Field}}`, `{{range .}}…{{end}}`, `{{if .Field}}…{{else}}…{{end}}`; `json` alone is the first.
    pub fn parse(text: &str) -> Result<Template, String> {
        let text = if text == "json" { "{{json .}}" } else { text };
        let mut tokens = tokens(text)?.into_iter();
        let (parts, end) = parts(&mut tokens)?;
        if let Some(end) = end {
            return Err(format!("--format: unexpected {{{{{end}}}}}"));
        }
        Ok(Template(parts))
    }

    /// The text for a value.
    pub fn render(&self, value: &Value) -> Result<String, String> {
        let mut out = String::new();
        render(&self.0, value, &mut out)?;
        Ok(out)
    }
}

enum Token {
    Text(String),
    Action(String),
}

/// Text and actions; `{{-` and `-}}` take the white space beside them away.
fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let (mut tokens, mut rest, mut trims) = (Vec::new(), text, false);
    loop {
        let (before, after) = rest.split_once("{{").map_or((rest, None), |(before, after)| (before, Some(after)));
        let mut literal = if trims { before.trim_start() } else { before };
        let trims_before = after.is_some_and(|after| after.starts_with("- "));
        if trims_before {
            literal = literal.trim_end();
        }
        if !literal.is_empty() {
            tokens.push(Token::Text(literal.to_owned()));
        }
        let Some(after) = after else { return Ok(tokens) };
        let (action, next) = after.split_once("}}").ok_or("--format: a {{ without its }}")?;
        let action = if trims_before { &action[2..] } else { action };
        trims = action.ends_with(" -");
        let action = action.strip_suffix(" -").unwrap_or(action);
        tokens.push(Token::Action(action.trim().to_owned()));
        rest = next;
    }
}

/// Parts up to the end of the block they are in, and the word that ended it.
fn parts(tokens: &mut std::vec::IntoIter<Token>) -> Result<(Vec<Part>, Option<String>), String> {
    let mut found = Vec::new();
    while let Some(token) = tokens.next() {
        let action = match token {
            Token::Text(text) => {
                found.push(Part::Text(text));
                continue;
            }
            Token::Action(action) => action,
        };
        let (word, rest) = action.split_once(' ').unwrap_or((&action, ""));
        match word {
            "end" | "else" => return Ok((found, Some(action))),
            "range" => {
                let (body, _) = block(tokens, &action, &["end"])?;
                found.push(Part::Each(expression(rest)?, body));
            }
            "if" => {
                let (then, end) = block(tokens, &action, &["end", "else"])?;
                let other = if end == "else" { block(tokens, &action, &["end"])?.0 } else { Vec::new() };
                found.push(Part::If(expression(rest)?, then, other));
            }
            _ => found.push(Part::Shown(expression(&action)?)),
        }
    }
    Ok((found, None))
}

fn block(tokens: &mut std::vec::IntoIter<Token>, action: &str, ends: &[&str]) -> Result<(Vec<Part>, String), String> {
    let (body, end) = parts(tokens)?;
    match end {
        Some(end) if ends.contains(&end.as_str()) => Ok((body, end)),
        _ => Err(format!("--format: {{{{{action}}}}} has no {{{{end}}}}")),
    }
}

fn expression(text: &str) -> Result<Expression, String> {
    let (json, path) = match text.strip_prefix("json ") {
        Some(path) => (true, path.trim()),
        None => (false, text),
    };
    let unknown =
        || format!("--format: `{text}` is not understood; expected .Field, json .Field, range, if, else or end");
    let fields = path.strip_prefix('.').ok_or_else(unknown)?;
    let fields: Vec<String> = fields.split('.').filter(|f| !f.is_empty()).map(str::to_owned).collect();
    let is_name = |field: &String| field.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if fields.iter().all(is_name) { Ok(Expression { json, fields }) } else { Err(unknown()) }
}

fn find<'a>(expression: &Expression, mut value: &'a Value) -> Result<&'a Value, String> {
    for field in &expression.fields {
        let Value::Object(object) = value else { return Err(format!("--format: there is no field {field}")) };
        let found = object.iter().find(|(key, _)| key.eq_ignore_ascii_case(field));
        // Fields that are empty are left out of some objects.
        value = found.map_or(&Value::Null, |(_, value)| value);
    }
    Ok(value)
}

fn render(parts: &[Part], value: &Value, out: &mut String) -> Result<(), String> {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Shown(expression) => {
                let found = find(expression, value)?;
                out.push_str(&if expression.json { found.to_string() } else { plain(found) });
            }
            Part::Each(expression, body) => match find(expression, value)? {
                Value::Array(items) => items.iter().try_for_each(|item| render(body, item, out))?,
                Value::Object(items) => items.values().try_for_each(|item| render(body, item, out))?,
                Value::Null => {}
                other => return Err(format!("--format: range over {other}")),
            },
            Part::If(expression, then, other) => {
                let found = find(expression, value)?;
                let is_empty = match found {
                    Value::Null | Value::Bool(false) => true,
                    Value::Number(number) => number.as_f64() == Some(0.0),
                    Value::String(text) => text.is_empty(),
                    Value::Array(items) => items.is_empty(),
                    Value::Object(items) => items.is_empty(),
                    Value::Bool(true) => false,
                };
                render(if is_empty { other } else { then }, value, out)?;
            }
        }
    }
    Ok(())
}

/// A value as Go prints it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(items) => {
            let pairs = items.iter().map(|(key, value)| format!("{key}:{}", plain(value)));
            format!("map[{}]", pairs.collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        let value =
            serde_json::json!([{ "id": "a", "size": 3, "inUse": false }, { "id": "b", "size": 0, "inUse": true }]);
        let render = |text: &str| Template::parse(text).and_then(|t| t.render(&value));
        assert_eq!(render("json").unwrap(), value.to_string());
        assert_eq!(render("{{range .}}{{.ID}}={{.Size}} {{end}}").unwrap(), "a=3 b=0 ");
        assert_eq!(render("{{range .}}{{if .InUse}}{{.ID}}{{else}}-{{end}}{{end}}").unwrap(), "-b");
        assert_eq!(render("{{ range . -}}  {{json .Size}}  {{- end }}").unwrap(), "30");
        for wrong in ["{{", "{{.A | printf}}", "{{end}}", "{{range .}}", "{{template \"x\"}}", "{{.A.B}}"] {
            assert!(render(wrong).is_err(), "{wrong}");
        }
    }
}
