//! The stages of a Dockerfile and what each is built on; which of them a target needs; global arguments.
//! Nothing is made into operations here.

use std::collections::{BTreeMap, BTreeSet};

use oci::{Platform, Reference};

use super::{NamedContext, Options};
use crate::ast::{File, Instruction, Kind, Word};
use crate::diagnostic::{Diagnostic, nearest, suggestion};
use crate::parse;
use crate::rules::{self, Found};
use crate::words::{self, Shell};

/// What a stage begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image, by its normal reference.
    Image(String),
    /// A named context.
    Context(String, NamedContext),
}

/// One stage.
#[derive(Clone, Debug)]
pub struct Stage<'a> {
    /// Lower-case name; empty when it has none.
    pub name: String,
    pub base: Base,
    /// The base as FROM says it, expanded.
    pub base_name: String,
    pub platform: Platform,
    /// Global arguments that FROM names.
    pub used: BTreeSet<String>,
    pub from: &'a Instruction,
    pub instructions: &'a [Instruction],
    /// Stages that COPY and mounts of it read, and its base.
    pub reads: BTreeSet<usize>,
}

impl Stage<'_> {
    /// The name that people see.
    pub fn shown(&self, index: usize, alone: bool) -> String {
        match (self.name.is_empty(), alone) {
            (_, true) => String::new(),
            (false, false) => self.name.clone(),
            (true, false) => format!("stage-{index}"),
        }
    }
}

/// A read file: stages, global arguments.
pub struct Stages<'a> {
    pub list: Vec<Stage<'a>>,
    /// Values of global arguments, also the predefined ones.
    pub globals: BTreeMap<String, String>,
    /// Global arguments as declared, in order.
    pub arguments: Vec<Argument<'a>>,
    pub shell: Shell,
}

/// What stands above the first stage.
pub struct Globals<'a> {
    /// Values of global arguments, also the predefined ones.
    pub values: BTreeMap<String, String>,
    arguments: Vec<Argument<'a>>,
    pub shell: Shell,
    /// Position of the first FROM.
    pub first: usize,
}

impl<'a> Globals<'a> {
    /// Reads the global arguments of a file.
    pub fn read(file: &'a File, options: &Options) -> Result<Globals<'a>, Vec<Diagnostic>> {
        let shell = Shell::new(file.escape);
        let first = file.instructions.iter().position(|i| matches!(i.kind, Kind::From { .. }));
        let Some(first) = first else {
            let span = file.instructions.first().map(|i| i.span).unwrap_or_default();
            return Err(vec![
                Diagnostic::error(span, "dockerfile contains no stages to build").help("begin with FROM <image>"),
            ]);
        };
        let mut values = predefined(options);
        if options.target.is_empty()
            && let Some(name) = last_name(file)
        {
            values.insert("TARGETSTAGE".to_owned(), name);
        }
        let mut arguments = Vec::new();
        globals_of(&file.instructions[..first], options, &shell, &mut values, &mut arguments)?;
        Ok(Globals { values, arguments, shell, first })
    }

    /// A stage's FROM and its instructions, by the stage's name.
    pub fn stage(&self, file: &'a File, wanted: &str) -> Option<(&'a Instruction, &'a [Instruction])> {
        let is_it = |i: &Instruction| {
            let Kind::From { name: Some(name), .. } = &i.kind else { return false };
            name.value.eq_ignore_ascii_case(wanted)
        };
        let at = file.instructions.iter().position(is_it)?;
        let rest = &file.instructions[at + 1..];
        let end = rest.iter().position(|i| matches!(i.kind, Kind::From { .. })).unwrap_or(rest.len());
        Some((&file.instructions[at], &rest[..end]))
    }
}

/// A global argument.
pub struct Argument<'a> {
    pub name: &'a str,
    pub value: Option<String>,
    pub from: &'a Instruction,
    /// Arguments that its default names.
    pub reads: BTreeSet<String>,
}

impl<'a> Stages<'a> {
    /// Reads the stages of a file, whose global arguments are read already.
    pub fn read(
        file: &'a File,
        globals: Globals<'a>,
        options: &Options,
        found: &mut Found,
    ) -> Result<Stages<'a>, Vec<Diagnostic>> {
        let Globals { values, arguments, shell, first } = globals;
        let mut stages = Stages { list: Vec::new(), globals: values, arguments, shell };
        let starts: Vec<usize> = (first..file.instructions.len())
            .filter(|i| matches!(file.instructions[*i].kind, Kind::From { .. }))
            .collect();
        for (n, start) in starts.iter().enumerate() {
            let end = starts.get(n + 1).copied().unwrap_or(file.instructions.len());
            let (from, body) = (&file.instructions[*start], &file.instructions[start + 1..end]);
            let stage = stages.stage(from, body, options, found).map_err(|d| vec![d])?;
            stages.list.push(stage);
        }
        for i in 0..stages.list.len() {
            stages.check_itself(i).map_err(|d| vec![d])?;
            let reads = stages.reads(i);
            stages.list[i].reads = reads;
        }
        Ok(stages)
    }

    fn stage(
        &self,
        from: &'a Instruction,
        body: &'a [Instruction],
        options: &Options,
        found: &mut Found,
    ) -> Result<Stage<'a>, Diagnostic> {
        let Kind::From { image, name, platform } = &from.kind else {
            return Err(Diagnostic::error(from.span, "expected FROM"));
        };
        let (base, named) = self.expand(image, found)?;
        let mut used = named.used;
        if base.is_empty() {
            let text = format!("base name ({}) should not be blank", image.value);
            return Err(Diagnostic::error(image.span, text).help("give the argument a default, or pass --build-arg"));
        }
        let name = name.as_ref().map(|n| n.value.to_ascii_lowercase()).unwrap_or_default();
        let platform = match platform {
            Some(word) => self.platform(word, &name, options, found, &mut used)?,
            None => options.platform.clone(),
        };
        let made = self.base(&base, image, options)?;
        // A named context goes before the stage that has its name.
        let (made, instructions) = match context(&name, options).filter(|_| !name.is_empty()) {
            Some(context) => (Base::Context(name.clone(), context), &body[..0]),
            None => (made, body),
        };
        Ok(Stage { name, base: made, base_name: base, platform, used, from, instructions, reads: BTreeSet::new() })
    }

    /// A word of FROM, and the variables that it names.
    fn expand(&self, word: &Word, found: &mut Found) -> Result<(String, words::Found), Diagnostic> {
        let lookup = |name: &str| self.globals.get(name).cloned();
        let expanded = self.shell.expand(&word.value, &lookup);
        let (text, named) = expanded.map_err(|e| Diagnostic::error(word.span, e))?;
        rules::stages::arguments(found, word, &named, &self.declared());
        Ok((text, named))
    }

    /// Names of all global arguments.
    fn declared(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.globals.keys().map(String::as_str).collect();
        names.extend(self.arguments.iter().map(|argument| argument.name));
        names
    }

    fn platform(
        &self,
        word: &Word,
        stage: &str,
        options: &Options,
        found: &mut Found,
        used: &mut BTreeSet<String>,
    ) -> Result<Platform, Diagnostic> {
        let (text, named) = self.expand(word, found)?;
        let target = self.globals.get("TARGETPLATFORM").map(String::as_str).unwrap_or_default();
        rules::stages::platform(found, word, &named, &text, target, stage);
        let bad = |message: String| {
            let declared = self.declared();
            let near = named.unset.iter().find_map(|name| suggestion(name, declared.iter().copied()));
            let hint = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
            Diagnostic::error(word.span, format!("{message}{hint}"))
        };
        if text.is_empty() {
            return Err(bad(format!("empty platform value from expression {}", word.value)));
        }
        let parsed = Platform::parse(&text, &options.platform);
        let platform = parsed.map_err(|e| bad(format!("failed to parse platform {}: {e}", word.value)))?;
        used.extend(named.used);
        Ok(platform)
    }

    /// What a name after FROM means.
    fn base(&self, name: &str, word: &Word, options: &Options) -> Result<Base, Diagnostic> {
        if let Some(i) = self.named(name) {
            return Ok(Base::Stage(i));
        }
        if let Some(context) = context(name, options) {
            return Ok(Base::Context(name.to_owned(), context));
        }
        if name == "scratch" {
            return Ok(Base::Scratch);
        }
        let parsed = Reference::parse(name).map_err(|e| Diagnostic::error(word.span, e.to_string()))?;
        Ok(Base::Image(parsed.or_latest().to_string()))
    }

    /// Whether there is no other stage, nor anything that BuildKit takes for one: the image of a `--from`, and a mount.
    pub fn is_alone(&self) -> bool {
        let [stage] = self.list.as_slice() else { return false };
        !stage.instructions.iter().any(|instruction| match &instruction.kind {
            Kind::Copy(copy) => copy.from.is_some(),
            Kind::Run(run) => !run.mounts.is_empty(),
            _ => false,
        })
    }

    /// The newest stage of that name.
    pub fn named(&self, name: &str) -> Option<usize> {
        let name = name.to_ascii_lowercase();
        self.list.iter().rposition(|s| !s.name.is_empty() && s.name == name)
    }

    /// The stage that `--from` means in stage `of`, by name or number.
    pub fn earlier(&self, of: usize, name: &str) -> Option<usize> {
        let lower = name.to_ascii_lowercase();
        let named = self.list[..of.min(self.list.len())].iter().rposition(|s| !s.name.is_empty() && s.name == lower);
        named.or_else(|| name.parse().ok().filter(|i| *i < of))
    }

    /// Refuses a stage that reads itself.
    fn check_itself(&self, i: usize) -> Result<(), Diagnostic> {
        let stage = &self.list[i];
        for instruction in stage.instructions {
            let itself = |from: &String| self.named(from).is_some_and(|named| named == i) || *from == i.to_string();
            if froms(instruction).iter().any(itself) {
                let text = format!("circular dependency detected on stage: {}", stage.shown(i, false));
                return Err(Diagnostic::error(instruction.span, text).help("a stage can read only stages before it"));
            }
        }
        Ok(())
    }

    fn reads(&self, i: usize) -> BTreeSet<usize> {
        let stage = &self.list[i];
        let mut reads = BTreeSet::new();
        if let Base::Stage(base) = stage.base {
            reads.insert(base);
        }
        for instruction in stage.instructions {
            reads.extend(froms(instruction).iter().filter_map(|from| self.earlier(i, from)));
        }
        reads
    }

    /// The index of the wanted stage.
    pub fn target(&self, options: &Options) -> Result<usize, Diagnostic> {
        if options.target.is_empty() {
            return Ok(self.list.len().saturating_sub(1));
        }
        let by_number = options.target.parse().ok().filter(|i| *i < self.list.len());
        self.named(&options.target).or(by_number).ok_or_else(|| {
            let span = self.list.first().map(|s| s.from.span).unwrap_or_default();
            let error = Diagnostic::error(span, format!("target stage \"{}\" could not be found", options.target));
            match nearest(&options.target, self.list.iter().map(|s| s.name.as_str()).filter(|n| !n.is_empty())) {
                Some(near) => error.help(format!("did you mean {near}?")),
                None => {
                    let names = self.list.iter().enumerate();
                    let names = names.map(|(i, s)| if s.name.is_empty() { i.to_string() } else { s.name.clone() });
                    error.help(format!("there are {}", names.collect::<Vec<_>>().join(", ")))
                }
            }
        })
    }

    /// The stages that `target` needs, in order, itself last.
    pub fn needed(&self, target: usize) -> BTreeSet<usize> {
        let mut needed = BTreeSet::new();
        let mut open = vec![target];
        while let Some(i) = open.pop() {
            if needed.insert(i) {
                open.extend(&self.list[i].reads);
            }
        }
        needed
    }
}

/// Names after `--from` and `from=` of an instruction.
pub fn froms(instruction: &Instruction) -> Vec<String> {
    match &instruction.kind {
        Kind::Copy(copy) => copy.from.iter().map(|w| w.value.clone()).collect(),
        Kind::Run(run) => run.mounts.iter().filter_map(|m| parse::mount_from(&m.value)).collect(),
        _ => Vec::new(),
    }
}

/// The named context for a name, also when it is written as a whole reference.
pub fn context(name: &str, options: &Options) -> Option<NamedContext> {
    let found = options.contexts.get(name).or_else(|| {
        let familiar = Reference::parse(name).ok()?.or_latest().familiar();
        let short = familiar.strip_suffix(":latest").unwrap_or(&familiar);
        options.contexts.get(short).or_else(|| options.contexts.get(&familiar))
    });
    found.cloned()
}

/// The name of the last stage, if it has one.
fn last_name(file: &File) -> Option<String> {
    let name = |i: &Instruction| match &i.kind {
        Kind::From { name, .. } => Some(name.as_ref().map(|n| n.value.to_ascii_lowercase())),
        _ => None,
    };
    file.instructions.iter().rev().find_map(name).flatten()
}

/// Arguments that every Dockerfile has.
fn predefined(options: &Options) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    for (prefix, platform) in [("BUILD", &options.build_platform), ("TARGET", &options.platform)] {
        args.insert(format!("{prefix}PLATFORM"), platform.to_string());
        args.insert(format!("{prefix}OS"), platform.os.clone());
        args.insert(format!("{prefix}OSVERSION"), platform.os_version.clone());
        args.insert(format!("{prefix}ARCH"), platform.architecture.clone());
        args.insert(format!("{prefix}VARIANT"), platform.variant.clone());
    }
    let target = if options.target.is_empty() { "default" } else { &options.target };
    args.insert("TARGETSTAGE".to_owned(), target.to_owned());
    args
}

fn globals_of<'a>(
    instructions: &'a [Instruction],
    options: &Options,
    shell: &Shell,
    globals: &mut BTreeMap<String, String>,
    arguments: &mut Vec<Argument<'a>>,
) -> Result<(), Vec<Diagnostic>> {
    let all =
        instructions.iter().flat_map(|from| args_of(from).iter().map(move |(name, default)| (from, name, default)));
    for (from, name, default) in all {
        let (value, reads) = match (options.build_args.get(&name.value), default) {
            (Some(value), _) => (Some(value.clone()), BTreeSet::new()),
            (None, Some(default)) => {
                let lookup = |name: &str| globals.get(name).cloned();
                let made = shell.expand(&default.value, &lookup);
                let (value, named) = made.map_err(|e| vec![Diagnostic::error(default.span, e)])?;
                (Some(value), named.used)
            }
            (None, None) => (None, BTreeSet::new()),
        };
        if let Some(value) = &value {
            globals.insert(name.value.clone(), value.clone());
        }
        arguments.push(Argument { name: &name.value, value, from, reads });
    }
    // The platforms can be said by the client too.
    for name in globals.keys().cloned().collect::<Vec<_>>() {
        if let Some(value) = options.build_args.get(&name) {
            globals.insert(name, value.clone());
        }
    }
    Ok(())
}

fn args_of(instruction: &Instruction) -> &[(Word, Option<Word>)] {
    if let Kind::Arg(list) = &instruction.kind { list } else { &[] }
}
