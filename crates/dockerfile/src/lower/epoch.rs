//! SOURCE_DATE_EPOCH: the time of everything in an image, as seconds, or as the name of a source whose own time it is.
//! Which source that is is found out here; when it was made is for others to learn.

use std::borrow::Cow;
use std::collections::BTreeMap;

use graph::Graph;
use graph::wire::{SourceOp, op};

use super::copy::from_web;
use super::sources::remote;
use super::stages::{self, Globals};
use super::{Fact, Lines, NamedContext, Need, Options};
use crate::ast::{Copy, File, Instruction, Kind, Word};
use crate::diagnostic::{Diagnostic, Span};

type Result<T> = std::result::Result<T, Diagnostic>;

const NAME: &str = "SOURCE_DATE_EPOCH";

/// What a build is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epoch {
    /// Nothing.
    Unsaid,
    /// A time in seconds, or that there is none.
    Said(Option<i64>),
}

impl Epoch {
    /// Finds out what is said: by the client, else by the file. Inside, what must be known first.
    pub fn of(
        file: &File,
        globals: &Globals<'_>,
        options: &Options,
        facts: &BTreeMap<Need, Fact>,
    ) -> Result<std::result::Result<Epoch, (Need, Lines)>> {
        let own = || globals.values.get(NAME).filter(|value| !value.is_empty());
        let Some(value) = options.build_args.get(NAME).or_else(own) else { return Ok(Ok(Epoch::Unsaid)) };
        if value.is_empty() {
            return Ok(Ok(Epoch::Said(None)));
        }
        if let Ok(seconds) = value.parse() {
            return Ok(Ok(Epoch::Said(Some(seconds))));
        }
        let Some(source) = source(value, file, globals, options)? else { return Ok(Ok(Epoch::Said(None))) };
        let need = Need::Time { identifier: source.identifier, attributes: source.attrs };
        Ok(match facts.get(&need) {
            Some(Fact::Time(time)) => Ok(Epoch::Said(*time)),
            Some(_) => Ok(Epoch::Said(None)),
            None => Err((need, place(file, globals).lines)),
        })
    }

    /// Seconds, if there is a time.
    pub fn time(self) -> Option<i64> {
        match self {
            Epoch::Unsaid => None,
            Epoch::Said(time) => time,
        }
    }

    /// The argument becomes the time that it stands for, or is gone where there is none.
    pub fn settle<'a>(self, options: &'a Options, globals: &mut Globals<'_>) -> Cow<'a, Options> {
        let Epoch::Said(time) = self else { return Cow::Borrowed(options) };
        let mut options = Cow::Borrowed(options);
        if options.build_args.contains_key(NAME) {
            put(&mut options.to_mut().build_args, time);
        }
        if globals.values.contains_key(NAME) {
            put(&mut globals.values, time);
        }
        options
    }
}

fn put(arguments: &mut BTreeMap<String, String>, time: Option<i64>) {
    match time {
        Some(seconds) => arguments.insert(NAME.to_owned(), seconds.to_string()),
        None => arguments.remove(NAME),
    };
}

/// The file's own ARG, or its first instruction where the client says it.
fn place<'a>(file: &'a File, globals: &Globals<'_>) -> &'a Instruction {
    let is_it =
        |i: &&Instruction| matches!(&i.kind, Kind::Arg(list) if list.iter().any(|(name, _)| name.value == NAME));
    file.instructions[..globals.first].iter().find(is_it).unwrap_or(&file.instructions[0])
}

/// The source that a name means; `None` for one that has no time of its own.
fn source(name: &str, file: &File, globals: &Globals<'_>, options: &Options) -> Result<Option<SourceOp>> {
    if name == "context" {
        return Ok(options.context.as_deref().and_then(only_source));
    }
    if let Some(context) = stages::context(name, options) {
        return Ok(match context {
            NamedContext::Remote(url) => {
                let (identifier, attrs) = remote(&url).map_err(|e| Diagnostic::error(place(file, globals).span, e))?;
                Some(SourceOp { identifier, attrs })
            }
            NamedContext::Input(input) => options.inputs.get(&input).and_then(|input| only_source(&input.graph)),
            NamedContext::Local(_) | NamedContext::Image(_) | NamedContext::Layout { .. } => None,
        });
    }
    let Some((from, instructions)) = globals.stage(file, name) else {
        let given = options.build_args.contains_key(NAME);
        let span = if given { Span::default() } else { place(file, globals).span };
        let error = Diagnostic::error(span, format!("invalid {NAME}: {name}"));
        return Err(error.help("expected seconds, `context`, a named context, or a stage"));
    };
    stage_source(from, instructions, globals, options).map(Some)
}

/// The source of a graph that has one and no more.
fn only_source(graph: &Graph) -> Option<SourceOp> {
    let mut sources = graph.vertices().filter_map(|vertex| match &vertex.op.op {
        Some(op::Op::Source(source)) => Some(source.clone()),
        _ => None,
    });
    sources.next().filter(|_| sources.next().is_none())
}

/// What a stage adds from the web: it must do nothing else.
fn stage_source(
    from: &Instruction,
    instructions: &[Instruction],
    globals: &Globals<'_>,
    options: &Options,
) -> Result<SourceOp> {
    let bad = |text: &str| Diagnostic::error(from.span, format!("{NAME} stage {text}"));
    let mut values = globals.values.clone();
    values.remove(NAME);
    let word = |word: &Word, values: &BTreeMap<String, String>| {
        let expanded = globals.shell.word(&word.value, &|name| values.get(name).cloned());
        expanded.map_err(|e| Diagnostic::error(word.span, e))
    };
    let Kind::From { image, .. } = &from.kind else { return Err(bad("must begin with FROM")) };
    if word(image, &values)? != "scratch" {
        return Err(bad("must use FROM scratch"));
    }
    let mut found = None;
    for instruction in instructions {
        match &instruction.kind {
            Kind::Arg(list) => {
                for (name, default) in list {
                    let given = options.build_args.get(&name.value).cloned().map(Ok);
                    if let Some(value) = given.or_else(|| default.as_ref().map(|default| word(default, &values))) {
                        values.insert(name.value.clone(), value?);
                    }
                }
            }
            Kind::Copy(copy) if copy.add && found.is_none() => {
                let one = |w: &Word| word(w, &values);
                found = Some(added(copy, &one)?.ok_or_else(|| bad("source must be a single HTTP(S) or Git ADD"))?);
            }
            Kind::Copy(copy) if copy.add => return Err(bad("must contain exactly one remote ADD")),
            _ => {
                let keyword = instruction.keyword.value.to_ascii_lowercase();
                let text = format!("does not meet source-only requirements: unsupported {keyword} instruction");
                return Err(bad(&text));
            }
        }
    }
    found.ok_or_else(|| bad("must contain exactly one remote ADD"))
}

fn added(copy: &Copy, word: &dyn Fn(&Word) -> Result<String>) -> Result<Option<SourceOp>> {
    let ([source], true) = (copy.sources.as_slice(), copy.heredocs.is_empty()) else { return Ok(None) };
    let checksum = copy.checksum.as_ref().map(word).transpose()?;
    let found = from_web(&word(source)?, checksum, copy.keep_git_dir);
    let found = found.map_err(|e| Diagnostic::error(source.span, e))?;
    Ok(found.map(|web| SourceOp { identifier: web.identifier, attrs: web.attributes }))
}
