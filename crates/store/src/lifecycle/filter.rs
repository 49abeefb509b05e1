//! Filters as BuildKit's clients write them (containerd's expressions): `type==regular,inuse` holds when both do, `!=`
//! and `~=` (a regular expression) compare too, a bare name asks whether the field is set. Several filters: any of them.

use std::time::Duration;

use regex_lite::Regex;

use super::UsageRecord;
use crate::error::{Error, Result};

/// Which usage records are meant.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Any of these; no entry means all records.
    any: Vec<Vec<Test>>,
}

#[derive(Clone, Debug)]
struct Test {
    field: String,
    ask: Question,
}

#[derive(Clone, Debug)]
enum Question {
    Present,
    Is(String),
    IsNot(String),
    Matches(Regex),
}

impl Filter {
    /// Reads filters. Empty ones are ignored, as BuildKit does.
    ///
    /// # Errors
    /// [`Error::Filter`] says where reading stopped.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Filter> {
        let texts = texts.iter().map(AsRef::as_ref).filter(|text| !text.trim().is_empty());
        Ok(Filter { any: texts.map(|text| Reader { text, at: 0 }.tests()).collect::<Result<_>>()? })
    }

    /// Whether `record` is meant.
    pub fn matches(&self, record: &UsageRecord) -> bool {
        self.matches_by(&|name| field(record, name))
    }

    /// Whether something else is meant: `field` gives the text of each of its fields, and whether it is set.
    pub fn matches_by(&self, field: &dyn Fn(&str) -> (String, bool)) -> bool {
        self.any.is_empty() || self.any.iter().any(|tests| tests.iter().all(|test| test.holds(field)))
    }

    /// Whether it means every record.
    pub fn is_all(&self) -> bool {
        self.any.is_empty()
    }
}

impl Test {
    fn holds(&self, field: &dyn Fn(&str) -> (String, bool)) -> bool {
        let (value, present) = field(&self.field);
        match &self.ask {
            Question::Present => present,
            Question::Is(wanted) => present && value == *wanted || is_flag(&self.field) && wanted == flag(present),
            Question::IsNot(other) if is_flag(&self.field) => other != flag(present),
            Question::IsNot(other) => value != *other,
            Question::Matches(pattern) => pattern.is_match(&value),
        }
    }
}

fn is_flag(name: &str) -> bool {
    matches!(name, "inuse" | "mutable" | "immutable" | "shared" | "private")
}

fn flag(set: bool) -> &'static str {
    if set { "true" } else { "false" }
}

/// A field's text, and whether it is set.
fn field(record: &UsageRecord, name: &str) -> (String, bool) {
    let text = |text: &str| (text.to_owned(), !text.is_empty());
    let flag = |set: bool| (String::new(), set);
    match name {
        "id" => text(&record.id),
        "parents" => text(&record.parents.join(";")),
        "description" => text(&record.description),
        "type" => text(record.kind.name()),
        "inuse" => flag(record.in_use),
        "mutable" => flag(record.mutable),
        "immutable" => flag(!record.mutable),
        "shared" => flag(record.shared),
        "private" => flag(!record.shared),
        _ => flag(false),
    }
}

/// Reads one expression.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn tests(mut self) -> Result<Vec<Test>> {
        let mut tests = vec![self.test()?];
        while !self.rest().is_empty() {
            if !self.take(",") {
                return Err(self.error("expected `,`, `==`, `!=` or `~=`"));
            }
            tests.push(self.test()?);
        }
        Ok(tests)
    }

    fn test(&mut self) -> Result<Test> {
        let field = self.while_is(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/'));
        if field.is_empty() {
            return Err(self.error("expected a field such as `type` or `inuse`"));
        }
        let field = field.to_owned();
        let ask = if self.take("==") {
            Question::Is(self.value()?)
        } else if self.take("!=") {
            Question::IsNot(self.value()?)
        } else if self.take("~=") {
            let start = self.at;
            let pattern = self.value()?;
            Question::Matches(Regex::new(&pattern).map_err(|error| {
                self.at = start;
                self.error(&format!("`{pattern}` is no regular expression ({error})"))
            })?)
        } else {
            Question::Present
        };
        Ok(Test { field, ask })
    }

    /// A bare value up to the next comma, or one in quotes: `"a,b"`, `/a,b/`, `|a,b|`, with `\` before a quote within.
    fn value(&mut self) -> Result<String> {
        let quote = match self.rest().chars().next() {
            Some(quote @ ('"' | '/' | '|')) => quote,
            _ => {
                let bare = self.while_is(|c| c != ',' && !c.is_whitespace());
                return if bare.is_empty() { Err(self.error("expected a value")) } else { Ok(bare.to_owned()) };
            }
        };
        let mut value = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, char)) = chars.next() {
            match char {
                '\\' => match chars.next() {
                    Some((_, next)) if next == quote || (next == '\\' && quote == '"') => value.push(next),
                    Some((_, next)) => value.extend(['\\', next]),
                    None => break,
                },
                _ if char == quote => {
                    self.at += at + char.len_utf8();
                    return Ok(value);
                }
                _ => value.push(char),
            }
        }
        Err(self.error(&format!("expected a closing `{quote}`")))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn while_is(&mut self, is: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !is(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn error(&self, why: &str) -> Error {
        let at = self.text[..self.at].chars().count() + 1;
        Error::Filter { text: self.text.to_owned(), at, why: why.to_owned() }
    }
}

/// Reads a duration as Go writes it: `24h`, `1h30m`, `1.5s`, `300ms`. Days (`7d`) are understood too.
///
/// # Errors
/// [`Error::Filter`] with the text.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let error = |at: usize, why: &str| Error::Filter { text: text.to_owned(), at: at + 1, why: why.to_owned() };
    let mut seconds = 0.0;
    let mut rest = text;
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    while !rest.is_empty() || text.is_empty() {
        let at = text.len() - rest.len();
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| error(at, "expected a duration such as `24h`"))?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(error(at + digits, "expected a unit: ns, us, ms, s, m, h or d")),
        };
        seconds += number * unit;
        rest = &rest[letters..];
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| error(0, "the duration is too long"))
}
