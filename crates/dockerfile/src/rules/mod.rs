//! Build checks, with BuildKit's names, messages and pages. What a check needs beyond the tree (values of variables, the
//! configuration of a base image) lowering gives it; nothing here decides what is built.

pub mod file;
pub mod instructions;
mod list;
pub mod stages;
pub mod variables;
mod wish;

use crate::ast::File;
use crate::diagnostic::{Diagnostic, LineIndex, Severity, Span};

pub use wish::Wish;

/// Findings, as they are made.
#[derive(Debug, Default)]
pub struct Found(Vec<Diagnostic>);

impl Found {
    /// Notes one.
    pub fn find(&mut self, rule: &str, span: Span, message: impl Into<String>) {
        self.0.push(Diagnostic {
            severity: Severity::Warning,
            rule: Some(rule.to_owned()),
            message: message.into(),
            span,
            help: list::description(rule).map(str::to_owned),
            url: list::page(rule),
        });
    }

    /// Takes one over.
    pub fn add(&mut self, finding: Diagnostic) {
        self.0.push(finding);
    }

    /// All of them.
    pub fn into_list(self) -> Vec<Diagnostic> {
        self.0
    }
}

/// First and last line, from 1, that BuildKit tells of a finding or an error: mostly those of the whole instruction.
pub fn lines(file: &File, index: &LineIndex, finding: &Diagnostic) -> Option<(u32, u32)> {
    let (first, last) = file.lines(finding.span).or_else(|| {
        let span = finding.span;
        (span.end > span.start).then(|| (index.line(span.start), index.line(span.end - 1)))
    })?;
    Some(if finding.rule.as_deref() == Some("NoEmptyContinuation") { (last, last) } else { (first, last) })
}

/// What the checks say of a file that can't be read whole; `client` is the client's wish.
pub fn of_broken(file: &File, client: Option<&str>) -> Vec<Diagnostic> {
    let mut found = Found::default();
    file::parts(&mut found, file);
    // A wish that can't be read is one error too many here: the file has its own.
    Wish::of(file, client).unwrap_or_default().settle(file, found.into_list())
}
