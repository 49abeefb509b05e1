//! The arguments of each instruction, typed. One function an instruction; flags are read before them.

use crate::ast::{Command, Copy, Flag, Health, Heredoc, Instruction, Kind, Run, Spanned, Word};
use crate::diagnostic::{Diagnostic, Span, nearest};

use super::lines::Logical;

/// The text after a keyword, with its place.
pub struct Body<'a> {
    line: &'a Logical,
    at: usize,
    end: usize,
    escape: char,
}

type Result<T> = std::result::Result<T, Diagnostic>;

impl<'a> Body<'a> {
    pub fn new(line: &'a Logical, at: usize, end: usize, escape: char) -> Body<'a> {
        let mut body = Body { line, at, end, escape };
        body.skip_blanks();
        body
    }

    fn rest(&self) -> &'a str {
        &self.line.text[self.at..self.end]
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn span(&self) -> Span {
        self.line.span(self.at, self.end)
    }

    fn word(&self, start: usize, end: usize) -> Word {
        Word { value: self.line.text[start..end].to_owned(), span: self.line.span(start, end) }
    }

    fn whole(&self) -> Word {
        self.word(self.at, self.end)
    }

    fn error(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(self.span(), message)
    }

    /// Leading `--name=value` words.
    fn flags(&mut self, allowed: &[&str], keyword: &str) -> Result<Vec<Flag>> {
        let mut flags = Vec::new();
        while self.rest().starts_with("--") {
            let start = self.at;
            let end = self.word_end(start);
            if end - start == 2 {
                self.at = end;
                self.skip_blanks();
                break;
            }
            let text = self.unquote(start + 2, end);
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (text, None),
            };
            let span = self.line.span(start, end);
            if !allowed.contains(&name.as_str()) {
                let mut error = Diagnostic::error(span, format!("unknown flag: --{name} of {keyword}"));
                error = match nearest(&name, allowed.iter().copied()) {
                    Some(near) => error.help(format!("did you mean {near}?")),
                    None if allowed.is_empty() => error.help(format!("{keyword} takes no flags")),
                    None => error.help(format!("{keyword} takes --{}", allowed.join(", --"))),
                };
                return Err(error);
            }
            flags.push(Flag { name, value, span });
            self.at = end;
            self.skip_blanks();
        }
        Ok(flags)
    }

    /// End of the word at `start`: blanks inside quotes belong to it.
    fn word_end(&self, start: usize) -> usize {
        let mut quote = None;
        let mut escaped = false;
        for (i, c) in self.line.text[start..self.end].char_indices() {
            if escaped {
                escaped = false;
            } else if c == self.escape && quote != Some('\'') {
                escaped = true;
            } else if quote == Some(c) {
                quote = None;
            } else if quote.is_none() && (c == '"' || c == '\'') {
                quote = Some(c);
            } else if quote.is_none() && c.is_whitespace() {
                return start + i;
            }
        }
        self.end
    }

    /// A flag's text without the quotes around parts of it.
    fn unquote(&self, start: usize, end: usize) -> String {
        let (mut out, mut quote) = (String::new(), None);
        let mut chars = self.line.text[start..end].chars();
        while let Some(c) = chars.next() {
            match c {
                c if c == self.escape && quote != Some('\'') => out.extend(chars.next()),
                c if quote == Some(c) => quote = None,
                '"' | '\'' if quote.is_none() => quote = Some(c),
                c => out.push(c),
            }
        }
        out
    }

    /// Words split at blanks, without regard to quotes.
    fn plain_words(&self) -> Vec<Word> {
        let mut words = Vec::new();
        let mut at = self.at;
        for piece in self.rest().split_whitespace() {
            let start = at + self.line.text[at..self.end].find(piece).unwrap_or(0);
            at = start + piece.len();
            words.push(self.word(start, at));
        }
        words
    }

    /// Words split at blanks that no quote covers; quotes stay.
    fn quoted_words(&self) -> Vec<Word> {
        let mut words = Vec::new();
        let mut at = self.at;
        while at < self.end {
            let rest = &self.line.text[at..self.end];
            at += rest.len() - rest.trim_start().len();
            if at < self.end {
                let end = self.word_end(at);
                words.push(self.word(at, end));
                at = end;
            }
        }
        words
    }

    /// A JSON array of strings, if the whole body is one.
    fn json(&self) -> Option<Vec<String>> {
        let text = self.rest().trim();
        text.starts_with('[').then(|| serde_json::from_str::<Vec<String>>(text).ok()).flatten()
    }

    fn command(&self) -> Command {
        self.json().map_or_else(|| Command::Shell(self.whole()), Command::Exec)
    }
}

/// Reads the arguments of `keyword` (upper case).
pub fn read(keyword: &str, mut body: Body<'_>, heredocs: Vec<Heredoc>) -> Result<(Kind, Vec<Flag>)> {
    const COPY: &[&str] = &["from", "chown", "chmod", "link", "parents", "exclude"];
    const ADD: &[&str] = &["chown", "chmod", "link", "exclude", "checksum", "keep-git-dir", "unpack"];
    const HEALTH: &[&str] = &["interval", "timeout", "start-period", "start-interval", "retries"];
    let allowed: &[&str] = match keyword {
        "FROM" => &["platform"],
        "RUN" => &["mount", "network", "security", "device"],
        "COPY" => COPY,
        "ADD" => ADD,
        "HEALTHCHECK" => HEALTH,
        _ => &[],
    };
    let flags = body.flags(allowed, keyword)?;
    if body.rest().is_empty() && keyword != "CMD" && keyword != "ENTRYPOINT" {
        return Err(Diagnostic::error(body.line.span(0, body.end), format!("{keyword} requires arguments"))
            .help(usage(keyword)));
    }
    let one = |body: &Body<'_>| -> Result<Word> { Ok(body.whole()) };
    let kind = match keyword {
        "FROM" => from(&body, &flags)?,
        "RUN" => run(&body, &flags, heredocs),
        "COPY" | "ADD" => copy(&body, &flags, heredocs, keyword == "ADD")?,
        "ENV" => pairs(&body, keyword).map(|(pairs, legacy)| Kind::Env { pairs, legacy })?,
        "LABEL" => pairs(&body, keyword).map(|(pairs, legacy)| Kind::Label { pairs, legacy })?,
        "ARG" => Kind::Arg(body.quoted_words().iter().map(split_pair).collect()),
        "WORKDIR" => Kind::Workdir(one(&body)?),
        "USER" => Kind::User(one(&body)?),
        "STOPSIGNAL" => Kind::StopSignal(single(&body, keyword)?),
        "MAINTAINER" => Kind::Maintainer(one(&body)?),
        "CMD" => Kind::Cmd(body.command()),
        "ENTRYPOINT" => Kind::Entrypoint(body.command()),
        "SHELL" => match body.json() {
            Some(words) if !words.is_empty() => Kind::Shell(words),
            _ => return Err(body.error("SHELL requires its arguments in JSON form").help(usage(keyword))),
        },
        "EXPOSE" => Kind::Expose(body.plain_words()),
        "VOLUME" => match list(&body) {
            paths if paths.is_empty() => {
                return Err(body.error("VOLUME requires at least one argument").help(usage(keyword)));
            }
            paths => Kind::Volume(paths),
        },
        "HEALTHCHECK" => health(&mut body, &flags)?,
        "ONBUILD" => onbuild(&body, heredocs)?,
        other => return Err(body.error(format!("unknown instruction: {other}"))),
    };
    Ok((kind, flags))
}

fn usage(keyword: &str) -> String {
    let form = match keyword {
        "FROM" => "FROM [--platform=<platform>] <image> [AS <name>]",
        "RUN" => "RUN <command> or RUN [\"program\", \"argument\"]",
        "COPY" => "COPY [--from=<stage>] <source>… <destination>",
        "ADD" => "ADD <source>… <destination>",
        "ENV" => "ENV <name>=<value> …",
        "LABEL" => "LABEL <name>=<value> …",
        "ARG" => "ARG <name>[=<default>] …",
        "SHELL" => "SHELL [\"/bin/sh\", \"-c\"]",
        "HEALTHCHECK" => "HEALTHCHECK [--interval=30s] CMD <command>, or HEALTHCHECK NONE",
        "ONBUILD" => "ONBUILD <instruction>",
        "EXPOSE" => "EXPOSE <port>[/<protocol>] …",
        "VOLUME" => "VOLUME <path> …",
        other => return format!("{other} <argument>"),
    };
    form.to_owned()
}

fn single(body: &Body<'_>, keyword: &str) -> Result<Word> {
    let words = body.plain_words();
    match words.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err(body.error(format!("{keyword} requires exactly one argument"))),
    }
}

fn list(body: &Body<'_>) -> Vec<Word> {
    match body.json() {
        Some(words) => words.into_iter().map(|value| Word { value, span: body.span() }).collect(),
        None => body.plain_words(),
    }
}

fn value(flags: &[Flag], name: &str) -> Option<Word> {
    let flag = flags.iter().rev().find(|f| f.name == name)?;
    Some(Word { value: flag.value.clone().unwrap_or_default(), span: flag.span })
}

fn values(flags: &[Flag], name: &str) -> Vec<Word> {
    let of_name = flags.iter().filter(|f| f.name == name);
    of_name.map(|f| Word { value: f.value.clone().unwrap_or_default(), span: f.span }).collect()
}

fn boolean(flags: &[Flag], name: &str) -> Result<Option<bool>> {
    let Some(flag) = flags.iter().rev().find(|f| f.name == name) else { return Ok(None) };
    match flag.value.as_deref().unwrap_or("true").to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(Some(true)),
        "false" | "0" => Ok(Some(false)),
        other => Err(Diagnostic::error(flag.span, format!("--{name} is `true` or `false`, not `{other}`"))),
    }
}

fn from(body: &Body<'_>, flags: &[Flag]) -> Result<Kind> {
    let words = body.plain_words();
    let platform = value(flags, "platform");
    match words.as_slice() {
        [image] => Ok(Kind::From { image: image.clone(), name: None, platform }),
        [image, as_, name] if as_.value.eq_ignore_ascii_case("as") => {
            let lower = name.value.to_ascii_lowercase();
            let begins = lower.starts_with(|c: char| c.is_ascii_lowercase());
            let clean = lower.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
            if !begins || !clean {
                let message = format!(
                    "invalid name for build stage: \"{}\", name can't start with a number or contain symbols",
                    name.value
                );
                return Err(Diagnostic::error(name.span, message).help("use letters, digits, `-`, `_` and `.`"));
            }
            Ok(Kind::From { image: image.clone(), name: Some(name.clone()), platform })
        }
        _ => Err(body.error("FROM requires either one or three arguments").help(usage("FROM"))),
    }
}

fn run(body: &Body<'_>, flags: &[Flag], heredocs: Vec<Heredoc>) -> Kind {
    Kind::Run(Run {
        command: body.command(),
        mounts: values(flags, "mount"),
        network: value(flags, "network"),
        security: value(flags, "security"),
        devices: values(flags, "device"),
        heredocs,
    })
}

fn copy(body: &Body<'_>, flags: &[Flag], heredocs: Vec<Heredoc>, add: bool) -> Result<Kind> {
    let keyword = if add { "ADD" } else { "COPY" };
    let mut sources = list(body);
    let dest = if sources.len() >= 2 { sources.pop() } else { None };
    let Some(dest) = dest else {
        return Err(body.error(format!("{keyword} requires at least two arguments, but only one was provided. Destination could not be determined")).help(usage(keyword)));
    };
    if super::heredoc_word(&dest.value, body.escape).is_some() {
        return Err(Diagnostic::error(dest.span, format!("{keyword} can't write to a here-document")));
    }
    Ok(Kind::Copy(Copy {
        add,
        sources,
        dest,
        from: value(flags, "from"),
        chown: value(flags, "chown"),
        chmod: value(flags, "chmod"),
        link: boolean(flags, "link")?.unwrap_or(false),
        parents: boolean(flags, "parents")?.unwrap_or(false),
        exclude: values(flags, "exclude"),
        checksum: value(flags, "checksum"),
        keep_git_dir: boolean(flags, "keep-git-dir")?,
        unpack: boolean(flags, "unpack")?,
        heredocs,
    }))
}

fn split_pair(word: &Word) -> (Word, Option<Word>) {
    match word.value.split_once('=') {
        None => (word.clone(), None),
        Some((name, value)) => {
            let at = word.span.start as usize;
            let name_span = Span::new(at, at + name.len());
            let value_span = Span { start: (at + name.len() + 1) as u32, end: word.span.end };
            let name = Word { value: name.to_owned(), span: name_span };
            (name, Some(Word { value: value.to_owned(), span: value_span }))
        }
    }
}

type Pairs = (Vec<(Word, Word)>, bool);

/// `name=value …`, or the old `name rest of the line`.
fn pairs(body: &Body<'_>, keyword: &str) -> Result<Pairs> {
    let words = body.quoted_words();
    let Some(first) = words.first() else { return Err(body.error(format!("{keyword} requires arguments"))) };
    if !first.value.contains('=') {
        let rest = body.rest();
        let Some(blank) = rest.find(char::is_whitespace) else {
            return Err(body.error(format!("{keyword} must have two arguments")).help(usage(keyword)));
        };
        let at = body.at + blank;
        let skip = rest[blank..].len() - rest[blank..].trim_start().len();
        return Ok((vec![(body.word(body.at, at), body.word(at + skip, body.end))], true));
    }
    let mut pairs = Vec::with_capacity(words.len());
    for word in &words {
        match split_pair(word) {
            (name, _) if name.value.is_empty() => {
                return Err(Diagnostic::error(word.span, format!("{keyword} names can not be blank")));
            }
            (name, Some(value)) => pairs.push((name, value)),
            (_, None) => {
                let message =
                    format!("Syntax error - can't find = in \"{}\". Must be of the form: name=value", word.value);
                return Err(Diagnostic::error(word.span, message));
            }
        }
    }
    Ok((pairs, false))
}

fn health(body: &mut Body<'_>, flags: &[Flag]) -> Result<Kind> {
    let start = body.at;
    let end = body.word_end(start);
    let kind = body.line.text[start..end].to_ascii_uppercase();
    body.at = end;
    body.skip_blanks();
    match kind.as_str() {
        "NONE" if body.rest().is_empty() => Ok(Kind::Healthcheck(Health::None)),
        "NONE" => Err(body.error("HEALTHCHECK NONE takes no arguments")),
        "CMD" if body.rest().is_empty() => Err(body.error("Missing command after HEALTHCHECK CMD")),
        "CMD" => {
            let flags = flags.iter().map(|f| {
                let value = Spanned { value: f.value.clone().unwrap_or_default(), span: f.span };
                (f.name.clone(), value)
            });
            Ok(Kind::Healthcheck(Health::Command { command: body.command(), flags: flags.collect() }))
        }
        other => {
            let span = body.line.span(start, end);
            Err(Diagnostic::error(span, format!("Unknown type \"{other}\" in HEALTHCHECK (try CMD)"))
                .help(usage("HEALTHCHECK")))
        }
    }
}

fn onbuild(body: &Body<'_>, heredocs: Vec<Heredoc>) -> Result<Kind> {
    let text = body.whole();
    let end = body.word_end(body.at);
    let keyword = body.line.text[body.at..end].to_ascii_uppercase();
    match keyword.as_str() {
        "ONBUILD" => return Err(body.error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
        "FROM" | "MAINTAINER" => return Err(body.error(format!("{keyword} isn't allowed as an ONBUILD trigger"))),
        word if !super::KEYWORDS.contains(&word) => {
            let mut error = Diagnostic::error(body.line.span(body.at, end), format!("unknown instruction: {word}"));
            if let Some(near) = nearest(word, super::KEYWORDS) {
                error = error.help(format!("did you mean {near}?"));
            }
            return Err(error);
        }
        _ => {}
    }
    let mut stored = text.clone();
    for doc in &heredocs {
        stored.value.push('\n');
        stored.value.push_str(&doc.raw);
        stored.value.push_str(&doc.name);
        stored.value.push('\n');
    }
    let inner = Body::new(body.line, end, body.end, body.escape);
    let (kind, flags) = read(&keyword, inner, heredocs)?;
    let inner = Instruction {
        span: text.span,
        lines: (0, 0),
        keyword: body.word(body.at, end),
        original: text.value.clone(),
        comments: Vec::new(),
        flags,
        kind,
    };
    Ok(Kind::Onbuild(stored, Box::new(inner)))
}
