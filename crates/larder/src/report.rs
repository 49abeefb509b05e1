//! Findings in a Dockerfile as people read them: the lines, carets under what is wrong, and what would be right.
//! Text only; where it is printed is the caller's.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use dockerfile::{Diagnostic, Severity};

/// All findings in one text.
pub fn dockerfile(name: &str, text: &str, diagnostics: &[Diagnostic]) -> String {
    let reports = diagnostics.iter().map(|d| one(name, text, d));
    reports.collect::<Vec<_>>().join("\n\n")
}

/// A step that failed, and the instruction it stands for.
pub fn step(name: &str, error: &str, place: &graph::Place) -> String {
    let text = String::from_utf8_lossy(&place.file.data);
    let lines = place.ranges.iter().filter_map(|r| Some((r.start.as_ref()?.line, r.end.as_ref()?.line)));
    let Some((first, last)) = lines.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) else {
        return format!("error: {name}: {error}");
    };
    let before = |line: i32| text.split_inclusive('\n').take(usize::try_from(line).unwrap_or(0)).map(str::len).sum();
    let (start, end): (usize, usize) = (before(first - 1), before(last));
    let end = start + text[start..end.max(start)].trim_end().len();
    let found = Diagnostic::error(dockerfile::Span::new(start, end), format!("{name}: {error}"));
    one(&place.file.filename, &text, &found)
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
