//! Findings in a Dockerfile as people read them: the lines, carets under what is wrong, and what would be right.
//! Text only; where it is printed is the caller's.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use dockerfile::{Diagnostic, Severity};

/// All findings in one text.
pub fn dockerfile(name: &str, text: &str, diagnostics: &[Diagnostic]) -> String {
    let reports = diagnostics.iter().map(|d| one(name, text, d));
    reports.collect::<Vec<_>>().join("\n\n")
}

/// How many findings a check has, in buildx's words.
pub fn conclusion(findings: usize) -> String {
    match findings {
        0 => "Check complete, no warnings found.".to_owned(),
        1 => "Check complete, 1 warning has been found!".to_owned(),
        count => format!("Check complete, {count} warnings have been found!"),
    }
}

/// An error, and the lines that it stands for.
pub fn at(error: &str, place: &graph::Place) -> String {
    let text = String::from_utf8_lossy(&place.file.data);
    let Some((first, last)) = place.lines() else { return format!("error: {error}") };
    let before = |line: u32| text.split_inclusive('\n').take(line as usize).map(str::len).sum();
    let (start, end): (usize, usize) = (before(first - 1), before(last));
    let end = start + text[start..end.max(start)].trim_end().len();
    one(&place.file.filename, &text, &Diagnostic::error(dockerfile::Span::new(start, end), error))
}

fn one(name: &str, text: &str, found: &Diagnostic) -> String {
    let level = match found.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = match &found.rule {
        Some(rule) => format!("{rule}: {}", found.message),
        None => found.message.clone(),
    };
    let length = text.len();
    let start = floor(text, (found.span.start as usize).min(length));
    let end = floor(text, (found.span.end as usize).clamp(start, length));
    let snippet = Snippet::source(text).path(name).annotation(AnnotationKind::Primary.span(start..end));
    let mut group = level.primary_title(title).element(snippet);
    if let Some(help) = &found.help {
        group = group.element(Level::HELP.message(help.clone()));
    }
    if let Some(url) = &found.url {
        group = group.element(Level::NOTE.message(url.clone()));
    }
    Renderer::plain().render(&[group])
}

/// The start of the character that a byte belongs to.
fn floor(text: &str, mut at: usize) -> usize {
    while at > 0 && !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
