//! The syntax tree of a Dockerfile: instructions with typed arguments, every node with its place in the text.
//! Values are as written: variables are expanded when a build lowers the tree, not here.

use crate::diagnostic::{Span, nearest};

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub span: Span,
}

/// A word or line of text with its place.
pub type Word = Spanned<String>;

/// A whole file.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// The text, without a byte order mark.
    pub text: String,
    /// `# syntax=`, `# escape=`, `# check=`.
    pub directives: Vec<Directive>,
    /// `\` or a backtick.
    pub escape: char,
    /// Instructions in order.
    pub instructions: Vec<Instruction>,
    /// Empty lines inside continued instructions.
    pub empty_continuations: Vec<Span>,
}

impl File {
    /// The instruction that a place lies in; an empty span at the very start is no place.
    pub fn at(&self, place: Span) -> Option<&Instruction> {
        if place == Span::default() {
            return None;
        }
        self.instructions.iter().find(|i| i.span.start <= place.start && place.start <= i.span.end)
    }

    /// The stage whose name is nearest to `name`, if that may have been meant.
    pub fn near_stage(&self, name: &str) -> Option<&str> {
        let stages = self.instructions.iter().filter_map(|instruction| match &instruction.kind {
            Kind::From { name: Some(stage), .. } => Some(stage.value.as_str()),
            _ => None,
        });
        nearest(name, stages)
    }

    /// First and last line, from 1, that BuildKit tells of a place: those of the whole instruction.
    pub fn lines(&self, place: Span) -> Option<(u32, u32)> {
        self.at(place).map(|instruction| instruction.lines)
    }
}

/// A parser directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// Lower-case name.
    pub name: String,
    /// Its value.
    pub value: Word,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// From the keyword to the end of the last line (heredocs too).
    pub span: Span,
    /// First and last line, from 1.
    pub lines: (u32, u32),
    /// The keyword as written.
    pub keyword: Word,
    /// The logical line: continuations joined, comments between them dropped, trimmed.
    pub original: String,
    /// Comment lines above, without `#`; an empty comment forgets those before it.
    pub comments: Vec<Word>,
    /// Flags as written, for checks.
    pub flags: Vec<Flag>,
    /// What it says.
    pub kind: Kind,
}

/// `--name=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Without dashes.
    pub name: String,
    /// After `=`.
    pub value: Option<String>,
    /// The whole flag.
    pub span: Span,
}

/// A here-document.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Heredoc {
    /// Its word without quotes.
    pub name: String,
    /// File descriptor as written before `<<`.
    pub fd: String,
    /// The lines, tabs stripped when `<<-`.
    pub content: String,
    /// Lines as they stand in the file.
    pub raw: String,
    /// Not quoted: variables are expanded.
    pub expand: bool,
    /// `<<-`.
    pub chomp: bool,
    /// Place of the lines.
    pub span: Span,
}

/// A command in shell or exec form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// One text for the shell.
    Shell(Word),
    /// Words of a JSON array.
    Exec(Vec<String>),
}

/// `COPY` or `ADD`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Copy {
    /// It is `ADD`.
    pub add: bool,
    /// Sources as written; heredocs are among them by their words.
    pub sources: Vec<Word>,
    /// Destination as written.
    pub dest: Word,
    /// `--from`.
    pub from: Option<Word>,
    /// `--chown`.
    pub chown: Option<Word>,
    /// `--chmod`.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`.
    pub exclude: Vec<Word>,
    /// `--checksum`.
    pub checksum: Option<Word>,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`.
    pub unpack: Option<bool>,
    /// Inline files.
    pub heredocs: Vec<Heredoc>,
}

/// `RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What runs.
    pub command: Command,
    /// `--mount` values as written.
    pub mounts: Vec<Word>,
    /// `--network`.
    pub network: Option<Word>,
    /// `--security`.
    pub security: Option<Word>,
    /// `--device` values.
    pub devices: Vec<Word>,
    /// Inline scripts.
    pub heredocs: Vec<Heredoc>,
}

/// `HEALTHCHECK`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// `NONE`.
    None,
    /// A command with its flags (name, value).
    Command {
        /// What runs.
        command: Command,
        /// `--interval` and the others.
        flags: Vec<(String, Word)>,
    },
}

/// What an instruction says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    From {
        image: Word,
        name: Option<Word>,
        platform: Option<Word>,
    },
    Run(Run),
    Copy(Copy),
    /// Pairs; `legacy` when written `ENV name value`.
    Env {
        pairs: Vec<(Word, Word)>,
        legacy: bool,
    },
    Label {
        pairs: Vec<(Word, Word)>,
        legacy: bool,
    },
    Arg(Vec<(Word, Option<Word>)>),
    Workdir(Word),
    User(Word),
    Cmd(Command),
    Entrypoint(Command),
    Shell(Vec<String>),
    Expose(Vec<Word>),
    Volume(Vec<Word>),
    StopSignal(Word),
    Healthcheck(Health),
    /// The trigger's text.
    Onbuild(Word, Box<Instruction>),
    Maintainer(Word),
    /// Not understood; a diagnostic says why.
    Broken,
}
