//! Lowers stage after stage: bases, triggers, instructions; asks for what it must know of the outside.
//! The encoding of single instructions is in the other files of this folder.

use std::collections::{BTreeMap, BTreeSet};

use graph::pattern::Patterns;
use oci::{ImageConfig, Platform};

use super::draft::{Drafts, Id};
use super::stages::{self, Base, Stages};
use super::state::{Naming, State};
use super::{Fact, Lines, Lowered, Need, NoCache, Options, copy, outline, run, scan, settings};
use crate::ast::{File, Instruction, Kind, Word};
use crate::diagnostic::{Diagnostic, Span};
use crate::parse;
use crate::rules::{self, Found};

type Result<T> = std::result::Result<T, Diagnostic>;

/// A lowering under way.
pub struct Lowering<'a> {
    pub options: &'a Options,
    pub drafts: Drafts,
    pub stages: &'a Stages<'a>,
    pub facts: &'a BTreeMap<Need, Fact>,
    /// SOURCE_DATE_EPOCH in seconds.
    epoch: Option<i64>,
    /// What must be known before it can go on.
    pub needs: BTreeMap<Need, Lines>,
    /// What the checks find.
    pub found: Found,
    /// Patterns of the context's ignore file, for the checks.
    pub ignore: Patterns,
    /// What a user may give to each stage.
    pub outlines: BTreeMap<usize, outline::Part>,
    /// States of the stages that are done.
    pub done: BTreeMap<usize, State>,
    /// The stage that is lowered now.
    pub current: usize,
    /// The instruction that is lowered now.
    pub place: Lines,
    /// The base image that was looked at last is one of which nothing is known.
    pub guessing: bool,
    pub context: Option<Id>,
    /// Paths of the context that are used.
    pub taken: BTreeSet<String>,
    /// Sources by what they are, so that each is one operation.
    pub sources: BTreeMap<String, Id>,
    /// Named directories of the client's, and which paths of them are used.
    pub locals: BTreeMap<Id, BTreeSet<String>>,
    /// Images of `--from` that are no stage, by name and platform.
    pub images: BTreeMap<(String, String), Option<Id>>,
}

impl<'a> Lowering<'a> {
    /// Begins.
    pub fn new(
        stages: &'a Stages<'a>,
        options: &'a Options,
        facts: &'a BTreeMap<Need, Fact>,
        epoch: Option<i64>,
    ) -> Lowering<'a> {
        Lowering {
            options,
            drafts: Drafts::default(),
            stages,
            facts,
            epoch,
            needs: BTreeMap::new(),
            found: Found::default(),
            // One that can't be read is the build's to complain of.
            ignore: Patterns::new(&options.ignore).unwrap_or_default(),
            outlines: BTreeMap::new(),
            done: BTreeMap::new(),
            current: 0,
            place: (0, 0),
            guessing: false,
            context: None,
            taken: BTreeSet::new(),
            sources: BTreeMap::new(),
            locals: BTreeMap::new(),
            images: BTreeMap::new(),
        }
    }

    /// Lowers everything that `target` needs. `None` when more must be known.
    pub fn all(&mut self, target: usize, file: &File) -> std::result::Result<Option<Lowered>, Vec<Diagnostic>> {
        let needed = match self.options.all_stages {
            true => (0..self.stages.list.len()).collect(),
            false => self.stages.needed(target),
        };
        let mut errors = Vec::new();
        for i in needed {
            self.current = i;
            match self.stage(i) {
                Ok(Some(state)) => drop(self.done.insert(i, state)),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let Some(state) = self.done.remove(&target).filter(|_| self.needs.is_empty()) else { return Ok(None) };
        let heads = if self.options.scan { self.scanned(target, &state) } else { scan::Heads::new() };
        let no_cache = state.no_cache.is_some()
            || self.done.values().any(|s| s.no_cache.is_some() && heads.contains_key(&s.naming.id));
        // All of the target's files are wanted, and of those that are scanned.
        for local in self.done.values().filter(|s| heads.contains_key(&s.naming.id)).chain([&state]).map(|s| s.local) {
            if let Some(taken) = local.and_then(|id| self.locals.get_mut(&id)) {
                taken.insert("/".to_owned());
            }
        }
        self.finish_context();
        let mut config = state.image;
        for (name, value) in &self.options.labels {
            config.config.labels.get_or_insert_default().insert(name.clone(), value.clone());
        }
        self.say_platform(&mut config, &state.platform);
        let drafts = std::mem::take(&mut self.drafts);
        let finish = |drafts: Drafts, head| {
            let graph = drafts.finish(head, self.options, &file.text);
            graph.map_err(|e| vec![Diagnostic::error(Span::default(), e.to_string())])
        };
        let mut scanned = BTreeMap::new();
        for (name, head) in heads {
            scanned.insert(name, finish(drafts.clone(), head)?);
        }
        let graph = finish(drafts, state.head)?;
        let outline = outline::of(self.stages, target, &self.outlines);
        let (base_config, findings, epoch) = (state.base_image, Vec::new(), self.epoch);
        Ok(Some(Lowered { graph, config, base_config, epoch, scanned, no_cache, findings, outline }))
    }

    /// The platform of the image: the one that the client asks for, else its base's.
    fn say_platform(&self, config: &mut ImageConfig, of_stage: &Platform) {
        let platform = if self.options.platform_given { &self.options.platform } else { of_stage };
        if !self.options.platform_given && !config.architecture.is_empty() {
            return;
        }
        let same = config.os == platform.os && config.architecture == platform.architecture;
        config.os.clone_from(&platform.os);
        config.architecture.clone_from(&platform.architecture);
        if !platform.variant.is_empty() || !same {
            config.variant.clone_from(&platform.variant);
        }
        if !platform.os_version.is_empty() || !same {
            config.os_version.clone_from(&platform.os_version);
        }
    }

    /// What is scanned beside the target.
    fn scanned(&mut self, target: usize, state: &State) -> scan::Heads {
        let mut heads = scan::Heads::new();
        let asks = |state: &State, argument| scan::asks(state, &self.stages.globals, argument);
        for (i, stage) in &self.done {
            if *i != target && asks(stage, scan::STAGE) {
                heads.insert(stage.naming.id.clone(), stage.head);
            }
        }
        if asks(state, scan::CONTEXT) {
            self.take("/");
            heads.insert("context".to_owned(), Some(self.context()));
        }
        heads
    }

    fn stage(&mut self, i: usize) -> Result<Option<State>> {
        let stage = &self.stages.list[i];
        let steps = stage.instructions.iter().filter(|i| counts(i)).count() as u32;
        let pulled = !matches!(stage.base, Base::Scratch | Base::Stage(_));
        self.place = stage.from.lines;
        self.guessing = false;
        let Some(mut state) = self.base(i)? else {
            // Images of later steps can be asked for at the same time.
            for instruction in stage.instructions {
                self.place = instruction.lines;
                self.foresee(i, instruction);
            }
            return Ok(None);
        };
        state.unknown |= self.guessing;
        let triggers = state.image.config.on_build.take().unwrap_or_default();
        let triggers = self.triggers(&triggers, stage.from)?;
        let index = state.naming.index;
        state.naming = Naming {
            stage: stage.shown(i, self.stages.is_alone()),
            id: if stage.name.is_empty() { i.to_string() } else { stage.name.clone() },
            index,
            // Of triggers all are counted, whether or not they are steps: BuildKit's numbers.
            total: u32::from(pulled) + steps + triggers.len() as u32,
            platform: self.options.multi_platform.then(|| stage.platform.to_string()),
            onbuild: false,
        };
        state.no_cache = match &self.options.no_cache {
            NoCache::None => None,
            NoCache::All => Some("--no-cache"),
            NoCache::Stages(list) => {
                let is_named = list.iter().any(|n| n.eq_ignore_ascii_case(&stage.name) || *n == i.to_string());
                is_named.then_some("--no-cache-filter")
            }
        };
        state.epoch = self.epoch;
        self.name_base(i, &mut state);
        self.lower_read(i, &triggers)?;
        state.naming.onbuild = true;
        for trigger in &triggers {
            self.instruction(&mut state, trigger)?;
        }
        state.naming.onbuild = false;
        for instruction in stage.instructions {
            self.instruction(&mut state, instruction)?;
        }
        Ok(Some(state))
    }

    /// Lowers the stages that triggers read: which ones is known only now.
    fn lower_read(&mut self, i: usize, triggers: &[Instruction]) -> Result<()> {
        let names = triggers.iter().flat_map(stages::froms);
        let read: BTreeSet<usize> = names.filter_map(|name| self.stages.earlier(i, &name)).collect();
        for stage in read.iter().flat_map(|stage| self.stages.needed(*stage)) {
            if self.done.contains_key(&stage) {
                continue;
            }
            self.current = stage;
            if let Some(state) = self.stage(stage)? {
                self.done.insert(stage, state);
            }
        }
        self.current = i;
        Ok(())
    }

    fn instruction(&mut self, state: &mut State, instruction: &Instruction) -> Result<()> {
        self.place = instruction.lines;
        self.check(state, instruction);
        match &instruction.kind {
            Kind::Run(run) => run::lower(self, state, instruction, run),
            Kind::Copy(copy) => copy::lower(self, state, instruction, copy),
            Kind::Workdir(word) => copy::workdir(self, state, instruction, word),
            Kind::Broken => Err(Diagnostic::error(instruction.span, "this instruction can't be read")),
            Kind::From { .. } => Err(Diagnostic::error(instruction.span, "FROM isn't allowed as an ONBUILD trigger")),
            Kind::Arg(list) => {
                settings::apply(state, instruction, self.options, &self.stages.globals)?;
                let is_own = |name: &str, has_default: bool| {
                    has_default || self.options.build_args.contains_key(name) || !self.stages.globals.contains_key(name)
                };
                let part = self.outlines.entry(self.current).or_default();
                for (name, default) in list {
                    let value = state.args.iter().find(|(known, _)| *known == name.value).and_then(|(_, v)| v.clone());
                    part.argument(instruction, &name.value, value, is_own(&name.value, default.is_some()));
                }
                Ok(())
            }
            _ => settings::apply(state, instruction, self.options, &self.stages.globals).map(drop),
        }
    }

    /// What the checks say of an instruction where it stands.
    fn check(&mut self, state: &mut State, instruction: &Instruction) {
        let expand = |word: &Word| {
            let value = |name: &str| state.get_env(name);
            let (_, named) = state.shell.expand(&word.value, &value).ok()?;
            (!state.unknown || named.unset.is_empty()).then(|| state.words(word).ok()).flatten()
        };
        let has_shell = state.image.config.shell.is_some();
        let mut seen = state.seen.clone();
        let place = rules::instructions::Place { expand: &expand, has_shell };
        rules::instructions::look(&mut self.found, instruction, &mut seen, &place);
        if !state.unknown {
            let given = |name: &str| !self.options.build_args.contains_key(name);
            let args: Vec<&str> = state.args.iter().map(|(name, _)| name.as_str()).collect();
            let scope = rules::variables::Scope { env: &state.env, args, has_default: &given, shell: state.shell };
            rules::variables::undefined(&mut self.found, instruction, &scope);
        }
        state.seen = seen;
    }

    /// What a stage begins with; `None` when it is not known yet.
    fn base(&mut self, i: usize) -> Result<Option<State>> {
        let stage = &self.stages.list[i];
        let shell = self.stages.shell;
        Ok(match &stage.base {
            // Nothing is for no platform, so it is the target's.
            Base::Scratch => Some(State::scratch(&self.options.platform, shell)),
            Base::Stage(parent) => self.done.get(parent).cloned().map(|mut state| {
                state.cmd_set = false;
                state.naming = Naming::default();
                state.seen = state.seen.inherited();
                state.renew_env();
                state
            }),
            Base::Image(reference) => self.image(reference, &stage.platform, None).map(|(id, config)| {
                self.check_platform(i, &config);
                // An image without layers is nothing that would have to be pulled.
                let has_layers = !config.rootfs.diff_ids.is_empty()
                    || config.history.iter().flatten().any(|line| !line.empty_layer)
                    || self.guessing;
                let head = has_layers.then_some(id);
                let mut state = State::of_image(head, config.clone(), &stage.platform, shell);
                state.base_image = Some(config);
                state
            }),
            Base::Context(name, context) => {
                self.named(name, context, &stage.platform).map(|(head, config)| match config {
                    Some(config) => {
                        let mut state = State::of_image(head, config.clone(), &stage.platform, shell);
                        state.base_image = Some(config);
                        state
                    }
                    None => {
                        let mut state = State::scratch(&stage.platform, shell);
                        state.head = head;
                        state.local = head.filter(|id| self.locals.contains_key(id));
                        state
                    }
                })
            }
        })
    }

    fn check_platform(&mut self, i: usize, config: &ImageConfig) {
        let stage = &self.stages.list[i];
        let Kind::From { image, .. } = &stage.from.kind else { return };
        let actual = Platform::new(&config.os, &config.architecture, &config.variant);
        if !self.guessing {
            rules::stages::image(&mut self.found, image, &stage.base_name, &stage.platform, &actual);
        }
    }

    /// The base image's own step gets its place among the stage's.
    fn name_base(&mut self, i: usize, state: &mut State) {
        if let (Base::Image(_), Some(id)) = (&self.stages.list[i].base, state.head)
            && let Some(draft) = self.drafts.get(id)
        {
            let text = draft.metadata.description.get("llb.customname").cloned().unwrap_or_default();
            if text.starts_with("FROM ") {
                draft.describe("llb.customname", &state.naming.next(&text));
            } else {
                state.naming.index += 1;
            }
        }
    }

    fn triggers(&self, texts: &[String], from: &Instruction) -> Result<Vec<Instruction>> {
        let mut made = Vec::new();
        for text in texts {
            let (trigger, errors) = parse::trigger(text);
            if let Some(error) = errors.into_iter().next() {
                let text = format!("the base's ONBUILD trigger `{text}` can't be read: {}", error.message);
                return Err(Diagnostic::error(from.span, text));
            }
            made.extend(trigger.map(|t| Instruction { lines: from.lines, span: from.span, ..t }));
        }
        Ok(made)
    }
}

/// Whether an instruction is a step with a number.
fn counts(instruction: &Instruction) -> bool {
    matches!(instruction.kind, Kind::Run(_) | Kind::Copy(_) | Kind::Workdir(_))
}
