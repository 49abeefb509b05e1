//! Text to tree. It never fails: what can't be read becomes a diagnostic and a `Broken` instruction, and reading goes on.
//! No variable is expanded and nothing outside the text is known.

mod instruction;
mod lines;
mod mount;

use crate::ast::{Directive, File, Instruction, Kind, Spanned, Word};
use crate::diagnostic::{Diagnostic, LineIndex, Span, nearest};
use lines::{Lines, Logical};

pub use lines::heredoc_word;
pub use mount::{CacheSharing, Mount, MountKind, mount, mount_from};

/// Every instruction's keyword.
pub const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Parses a Dockerfile. Bytes that are no UTF-8 are replaced, and said.
pub fn parse(bytes: &[u8]) -> (File, Vec<Diagnostic>) {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut errors = Vec::new();
    let text = String::from_utf8_lossy(bytes).into_owned();
    if matches!(String::from_utf8_lossy(bytes), std::borrow::Cow::Owned(_)) {
        let at = text.find('\u{fffd}').unwrap_or(0);
        errors.push(Diagnostic::error(Span::new(at, at + 3), "the Dockerfile is not valid UTF-8 here"));
    }
    let directives = directives(&text, &mut errors);
    let escape = match directives.iter().find(|d| d.name == "escape").map(|d| d.value.value.as_str()) {
        Some("`") => '`',
        _ => '\\',
    };
    let index = LineIndex::new(&text);
    let mut file = File { directives, escape, ..File::default() };
    let mut lines = Lines::new(&text, escape);
    let mut comments: Vec<Word> = Vec::new();
    while let Some(line) = lines.logical(&mut comments, &mut file.empty_continuations) {
        let mut comments = std::mem::take(&mut comments);
        // Directives look like comments and are none.
        comments.retain(|comment| !file.directives.iter().any(|d| comment.span.holds(d.value.span)));
        let mut parsed = instruction(&line, &mut lines, comments, &mut errors);
        let end = text[..lines.at().min(text.len())].trim_end().len();
        parsed.span.end = parsed.span.end.max(u32::try_from(end).unwrap_or(u32::MAX));
        parsed.lines = (index.line(parsed.span.start), index.line(parsed.span.end.saturating_sub(1)));
        file.instructions.push(parsed);
    }
    if file.instructions.is_empty() && errors.is_empty() {
        errors.push(
            Diagnostic::error(Span::new(0, text.len()), "the file has no instructions")
                .help("begin with `FROM <image>`"),
        );
    }
    file.text = text;
    (file, errors)
}

/// Parses the trigger of an ONBUILD that is stored in an image.
pub fn trigger(text: &str) -> (Option<Instruction>, Vec<Diagnostic>) {
    let (file, errors) = parse(text.as_bytes());
    (file.instructions.into_iter().next(), errors)
}

/// One instruction from its logical line; heredocs are read from `lines`.
fn instruction(
    line: &Logical,
    lines: &mut Lines<'_>,
    comments: Vec<Word>,
    errors: &mut Vec<Diagnostic>,
) -> Instruction {
    let text = line.text.trim_end();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let keyword = Word { value: text[..end].to_owned(), span: line.span(0, end) };
    let mut made = Instruction {
        span: line.span(0, text.len()),
        lines: (0, 0),
        keyword: keyword.clone(),
        original: text.to_owned(),
        comments,
        flags: Vec::new(),
        kind: Kind::Broken,
    };
    let upper = keyword.value.to_ascii_uppercase();
    if !KEYWORDS.contains(&upper.as_str()) {
        let mut error = Diagnostic::error(keyword.span, format!("unknown instruction: {}", keyword.value));
        if let Some(near) = nearest(&upper, KEYWORDS) {
            error = error.help(format!("did you mean {near}?"));
        }
        errors.push(error);
        return made;
    }
    let takes_heredocs = |word: &str| matches!(word, "ADD" | "COPY" | "RUN");
    let inner = text[end..].split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    let heredocs = if takes_heredocs(&upper) || (upper == "ONBUILD" && takes_heredocs(&inner)) {
        lines.heredocs(line, errors)
    } else {
        Vec::new()
    };
    if let Some(last) = heredocs.last() {
        made.span.end = last.span.end;
    }
    let body = instruction::Body::new(line, end, text.len(), lines.escape);
    match instruction::read(&upper, body, heredocs) {
        Ok((kind, flags)) => (made.kind, made.flags) = (kind, flags),
        Err(error) => errors.push(error),
    }
    made
}

/// The block of `# name=value` lines at the top; the first line that is none ends it.
fn directives(text: &str, errors: &mut Vec<Diagnostic>) -> Vec<Directive> {
    let mut found: Vec<Directive> = Vec::new();
    let mut lines = Lines::new(text, '\\');
    while let Some((line, start)) = lines.physical() {
        if start == 0 && line.starts_with("#!") {
            continue;
        }
        let trimmed = line.trim_start();
        let Some(rest) = trimmed.strip_prefix('#') else { break };
        let Some((name, value)) = rest.split_once('=') else { break };
        let name = name.trim().to_ascii_lowercase();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-') {
            break;
        }
        let at = start + line.len() - value.len() + (value.len() - value.trim_start().len());
        let value = Spanned { value: value.trim().to_owned(), span: Span::new(at, at + value.trim().len()) };
        if !matches!(name.as_str(), "syntax" | "escape" | "check") {
            break;
        }
        if found.iter().any(|d| d.name == name) {
            errors.push(Diagnostic::error(value.span, format!("only one `{name}` directive may be given")));
        }
        if name == "escape" && value.value != "\\" && value.value != "`" {
            let message = format!("invalid escape `{}`: expected `\\` or a backtick", value.value);
            errors.push(Diagnostic::error(value.span, message));
        }
        found.push(Directive { name, value });
    }
    if found.is_empty() {
        found.extend(other_syntax(text));
    }
    found
}

/// `syntax` as `//syntax=…` or as a key of a JSON file, for frontends of other languages.
fn other_syntax(text: &str) -> Option<Directive> {
    let first = text.lines().find(|l| !l.starts_with("#!"))?;
    let at = text.find(first)?;
    let (value, offset) = match first.trim_start().strip_prefix("//") {
        Some(rest) => {
            let (name, value) = rest.split_once('=')?;
            (name.trim() == "syntax").then(|| (value.trim().to_owned(), at + first.len() - value.len()))?
        }
        None => {
            let value: serde_json::Value = text.starts_with('{').then(|| serde_json::from_str(text).ok())??;
            (value.get("syntax")?.as_str()?.to_owned(), 0)
        }
    };
    let span = Span::new(offset, offset + value.len());
    Some(Directive { name: "syntax".into(), value: Spanned { value, span } })
}
