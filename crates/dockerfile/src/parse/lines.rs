//! Physical lines to logical ones: continuations joined, comments and empty lines between them dropped, heredocs taken.
//! Every byte of a logical line knows where it came from.

use crate::ast::{Heredoc, Word};
use crate::diagnostic::{Diagnostic, Span};
use crate::words::Shell;

/// A joined line.
#[derive(Clone, Debug, Default)]
pub struct Logical {
    /// Its text.
    pub text: String,
    /// (offset in `text`, offset in the file) at which runs of equal bytes begin.
    runs: Vec<(usize, usize)>,
    /// Offset in the file after its last byte.
    end: usize,
}

impl Logical {
    fn push(&mut self, text: &str, at: usize) {
        self.runs.push((self.text.len(), at));
        self.text.push_str(text);
        self.end = at + text.len();
    }

    /// Where a range of the logical line stands in the file.
    pub fn span(&self, start: usize, end: usize) -> Span {
        let last = if end > start { self.place(end - 1) + 1 } else { self.place(end) };
        Span::new(self.place(start), last)
    }

    fn place(&self, offset: usize) -> usize {
        let run = self.runs.partition_point(|(logical, _)| *logical <= offset).saturating_sub(1);
        self.runs.get(run).map_or(self.end, |(logical, place)| place + (offset - logical))
    }
}

/// Reads a file line by line.
pub struct Lines<'a> {
    text: &'a str,
    at: usize,
    pub escape: char,
}

impl<'a> Lines<'a> {
    pub fn new(text: &'a str, escape: char) -> Lines<'a> {
        Lines { text, at: 0, escape }
    }

    /// Offset of what comes next.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The next physical line without its end, and its offset.
    pub fn physical(&mut self) -> Option<(&'a str, usize)> {
        if self.at >= self.text.len() {
            return None;
        }
        let start = self.at;
        let rest = &self.text[start..];
        let length = rest.find('\n').map_or(rest.len(), |n| n + 1);
        self.at += length;
        Some((rest[..length].trim_end_matches(['\n', '\r']), start))
    }

    /// The next logical line, with comments collected on the way. An empty comment forgets those before it (empty lines
    /// don't: BuildKit's rule).
    pub fn logical(&mut self, comments: &mut Vec<Word>, empty_inside: &mut Vec<Span>) -> Option<Logical> {
        loop {
            let (line, start) = self.physical()?;
            let trimmed = line.trim_start();
            if let Some(comment) = trimmed.strip_prefix('#') {
                let at = start + line.len() - comment.len();
                let span = Span::new(at, at + comment.len());
                if comment.trim().is_empty() {
                    comments.clear();
                } else {
                    comments.push(Word { value: comment.trim().to_owned(), span });
                }
                continue;
            }
            let at = start + line.len() - trimmed.len();
            let (head, more) = self.continued(trimmed);
            if head.trim().is_empty() && !more {
                continue;
            }
            let mut logical = Logical::default();
            logical.push(head, at);
            if more {
                self.join(&mut logical, empty_inside);
            }
            return Some(logical);
        }
    }

    fn join(&mut self, logical: &mut Logical, empty_inside: &mut Vec<Span>) {
        while let Some((line, start)) = self.physical() {
            if line.trim_start().starts_with('#') {
                continue;
            }
            if line.trim().is_empty() {
                empty_inside.push(Span::new(start, start + line.len()));
                continue;
            }
            let (head, more) = self.continued(line);
            logical.push(head, start);
            if !more {
                return;
            }
        }
    }

    /// Splits off a continuation mark: an escape that no other escapes, with only blanks after it.
    fn continued<'l>(&self, line: &'l str) -> (&'l str, bool) {
        let bare = line.trim_end_matches([' ', '\t']);
        match bare.strip_suffix(self.escape) {
            Some(head) if !head.ends_with(self.escape) => (head, true),
            _ => (line, false),
        }
    }

    /// Reads the heredocs that `line` announces.
    pub fn heredocs(&mut self, line: &Logical, errors: &mut Vec<Diagnostic>) -> Vec<Heredoc> {
        let announced = announced(&line.text, self.escape);
        announced.into_iter().map(|doc| self.heredoc(doc, line, errors)).collect()
    }

    fn heredoc(&mut self, mut doc: Heredoc, line: &Logical, errors: &mut Vec<Diagnostic>) -> Heredoc {
        let begin = self.at;
        while let Some((_, start)) = self.physical() {
            let whole = &self.text[start..self.at];
            let bare = whole.trim_end_matches(['\n', '\r']);
            let bare = if doc.chomp { bare.trim_start_matches('\t') } else { bare };
            if bare == doc.name {
                doc.span = Span::new(begin, self.at);
                return doc;
            }
            doc.raw.push_str(whole);
            doc.content.push_str(if doc.chomp { whole.trim_start_matches('\t') } else { whole });
        }
        let at = line.text.find("<<").unwrap_or(0);
        let message = format!("the here-document `{}` never ends", doc.name);
        let help = format!("put a line with nothing but `{}` after its text", doc.name);
        errors.push(Diagnostic::error(line.span(at, line.text.len()), message).help(help));
        doc.span = Span::new(begin, self.at);
        doc
    }
}

/// Heredocs that a line announces, by its words.
pub fn announced(line: &str, escape: char) -> Vec<Heredoc> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let shell = Shell { raw_quotes: true, raw_escapes: true, keep_unset: true, ..Shell::new(escape) };
    // A line whose quotes don't match announces nothing; the shell that runs it will say so.
    let words = shell.words(line, &|_| None).unwrap_or_default();
    words.iter().filter_map(|word| heredoc_word(word, escape)).collect()
}

/// Reads `3<<-"EOF"`.
pub fn heredoc_word(word: &str, escape: char) -> Option<Heredoc> {
    let (fd, rest) = word.split_once("<<")?;
    if !fd.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let shell = Shell { raw_escapes: true, keep_unset: true, ..Shell::new(escape) };
    let names = shell.words(rest, &|_| None).ok()?;
    let [name] = names.as_slice() else { return None };
    let expand = *name == rest;
    Some(Heredoc { name: name.clone(), fd: fd.to_owned(), expand, chomp, ..Heredoc::default() })
}
