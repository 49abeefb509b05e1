//! Lowers stage after stage: bases, triggers, instructions; asks for what it must know of the outside.
//! The encoding of single instructions is in the other files of this folder.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use graph::Graph;
use graph::git::GitUrl;
use graph::wire::{self, op};
use oci::{ImageConfig, Platform, Reference};

use super::draft::{Draft, Drafts, Id};
use super::stages::{self, Base, Stages};
use super::state::{Naming, State};
use super::{Fact, Lowered, NamedContext, Need, NoCache, Options, copy, run, scan, settings};
use crate::ast::{File, Instruction, Kind, Word};
use crate::diagnostic::{Diagnostic, Span};
use crate::parse;

type Result<T> = std::result::Result<T, Diagnostic>;

/// A lowering under way.
pub struct Lowering<'a> {
    pub options: &'a Options,
    pub drafts: Drafts,
    stages: &'a Stages<'a>,
    facts: &'a BTreeMap<Need, Fact>,
    /// What must be known before it can go on.
    pub needs: BTreeSet<Need>,
    /// States of the stages that are done.
    done: BTreeMap<usize, State>,
    /// The stage that is lowered now.
    current: usize,
    context: Option<Id>,
    /// Paths of the context that are used.
    taken: BTreeSet<String>,
    /// Sources by what they are, so that each is one operation.
    sources: BTreeMap<String, Id>,
    /// Images of `--from` that are no stage, by name and platform.
    images: BTreeMap<(String, String), Option<Id>>,
}

impl<'a> Lowering<'a> {
    /// Begins.
    pub fn new(stages: &'a Stages<'a>, options: &'a Options, facts: &'a BTreeMap<Need, Fact>) -> Lowering<'a> {
        Lowering {
            options,
            drafts: Drafts::default(),
            stages,
            facts,
            needs: BTreeSet::new(),
            done: BTreeMap::new(),
            current: 0,
            context: None,
            taken: BTreeSet::new(),
            sources: BTreeMap::new(),
            images: BTreeMap::new(),
        }
    }

    /// Lowers everything that `target` needs. `None` when more must be known.
    pub fn all(&mut self, target: usize, file: &File) -> std::result::Result<Option<Lowered>, Vec<Diagnostic>> {
        let needed = self.stages.needed(target);
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
        let no_cache = state.no_cache || self.done.values().any(|s| s.no_cache && heads.contains_key(&s.naming.id));
        self.finish_context();
        let mut config = state.image;
        for (name, value) in &self.options.labels {
            config.config.labels.get_or_insert_default().insert(name.clone(), value.clone());
        }
        let platform = &state.platform;
        config.os.clone_from(&platform.os);
        config.architecture.clone_from(&platform.architecture);
        config.variant.clone_from(&platform.variant);
        if !platform.os_version.is_empty() {
            config.os_version.clone_from(&platform.os_version);
        }
        let drafts = std::mem::take(&mut self.drafts);
        let finish = |drafts: Drafts, head| {
            let graph = drafts.finish(head, &self.options.filename, &file.text);
            graph.map_err(|e| vec![Diagnostic::error(Span::default(), e.to_string())])
        };
        let mut scanned = BTreeMap::new();
        for (name, head) in heads {
            scanned.insert(name, finish(drafts.clone(), head)?);
        }
        let graph = finish(drafts, state.head)?;
        Ok(Some(Lowered { graph, config, base_config: state.base_image, scanned, no_cache }))
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
        let Some(mut state) = self.base(i)? else {
            // Images of later steps can be asked for at the same time.
            for instruction in stage.instructions {
                self.foresee(i, instruction);
            }
            return Ok(None);
        };
        let triggers = state.image.config.on_build.take().unwrap_or_default();
        let triggers = self.triggers(&triggers, stage.from)?;
        let trigger_steps = triggers.iter().filter(|t| counts(t)).count() as u32;
        let index = state.naming.index;
        state.naming = Naming {
            stage: stage.shown(i, self.stages.list.len() == 1),
            id: if stage.name.is_empty() { i.to_string() } else { stage.name.clone() },
            index,
            total: u32::from(pulled) + steps + trigger_steps,
            platform: self.options.multi_platform.then(|| stage.platform.to_string()),
            onbuild: false,
        };
        state.args.clear();
        state.no_cache = match &self.options.no_cache {
            NoCache::None => false,
            NoCache::All => true,
            NoCache::Stages(list) => {
                list.iter().any(|n| n.eq_ignore_ascii_case(&stage.name) || *n == i.to_string()) && !list.is_empty()
            }
        };
        state.epoch = self.options.epoch.map(oci::time::rfc3339);
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
        match &instruction.kind {
            Kind::Run(run) => run::lower(self, state, instruction, run),
            Kind::Copy(copy) => copy::lower(self, state, instruction, copy),
            Kind::Workdir(word) => copy::workdir(self, state, instruction, word),
            Kind::Broken => Err(Diagnostic::error(instruction.span, "this instruction can't be read")),
            Kind::From { .. } => Err(Diagnostic::error(instruction.span, "FROM isn't allowed as an ONBUILD trigger")),
            _ => settings::apply(state, instruction, self.options, &self.stages.globals).map(drop),
        }
    }

    /// What a stage begins with; `None` when it is not known yet.
    fn base(&mut self, i: usize) -> Result<Option<State>> {
        let stage = &self.stages.list[i];
        let shell = self.stages.shell;
        Ok(match &stage.base {
            Base::Scratch => Some(State::scratch(&stage.platform, shell)),
            Base::Stage(parent) => self.done.get(parent).cloned().map(|mut state| {
                state.cmd_set = false;
                state.naming = Naming::default();
                state
            }),
            Base::Image(reference) => self.image(reference, &stage.platform, None).map(|(id, config)| {
                let mut state = State::of_image(Some(id), config.clone(), &stage.platform, shell);
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
                        state
                    }
                })
            }
        })
    }

    /// An image as operation and configuration.
    fn image(&mut self, reference: &str, platform: &Platform, name: Option<&str>) -> Option<(Id, ImageConfig)> {
        let need = Need::Image { reference: reference.to_owned(), platform: platform.to_string() };
        let Some(Fact::Image { digest, config }) = self.facts.get(&need) else {
            self.needs.insert(need);
            return None;
        };
        let pinned = match Reference::parse(reference) {
            Ok(parsed) if parsed.digest.is_some() => reference.to_owned(),
            _ => format!("{reference}@{digest}"),
        };
        let identifier = format!("docker-image://{pinned}");
        let mut attrs = BTreeMap::new();
        if !self.options.resolve_mode.is_empty() {
            attrs.insert("image.resolvemode".to_owned(), self.options.resolve_mode.clone());
        }
        let shown = name.map_or_else(|| format!("FROM {pinned}"), |name| format!("[context {name}] {pinned}"));
        let key = format!("{identifier} {platform}");
        let known = self.sources.get(&key).copied();
        let id = known.unwrap_or_else(|| {
            let op = op::Op::Source(wire::SourceOp { identifier, attrs });
            let mut draft = Draft::new(op, Vec::new(), &shown).on(platform);
            draft.needs(&["source.image"]);
            self.drafts.add(draft)
        });
        self.sources.insert(key, id);
        Some((id, (**config).clone()))
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

    /// A named context as a tree and, if it is an image, its configuration.
    fn named(
        &mut self,
        name: &str,
        context: &NamedContext,
        platform: &Platform,
    ) -> Option<(Option<Id>, Option<ImageConfig>)> {
        match context {
            NamedContext::Image(reference) if reference == "scratch" => Some((None, None)),
            NamedContext::Image(reference) => {
                let normal = Reference::parse(reference).map(|r| r.or_latest().to_string());
                let normal = normal.unwrap_or_else(|_| reference.clone());
                let (id, config) = self.image(&normal, platform, Some(name))?;
                Some((Some(id), Some(config)))
            }
            NamedContext::Layout { store, reference } => {
                let need =
                    Need::Layout { store: store.clone(), reference: reference.clone(), platform: platform.to_string() };
                let Some(Fact::Image { digest, config }) = self.facts.get(&need) else {
                    self.needs.insert(need);
                    return None;
                };
                let familiar = Reference::parse(name).map(|r| r.repository());
                let familiar = familiar.unwrap_or_else(|_| name.to_owned());
                let attrs = BTreeMap::from([
                    ("oci.session".to_owned(), self.options.session.clone()),
                    ("oci.store".to_owned(), store.clone()),
                ]);
                let identifier = format!("oci-layout://{familiar}@{digest}");
                let key = format!("{identifier} {platform}");
                let known = self.sources.get(&key).copied();
                let id = known.unwrap_or_else(|| {
                    let op = op::Op::Source(wire::SourceOp { identifier, attrs });
                    let mut draft =
                        Draft::new(op, Vec::new(), &format!("[context {name}] OCI load from client")).on(platform);
                    draft.needs(&["source.ocilayout"]);
                    self.drafts.add(draft)
                });
                self.sources.insert(key, id);
                Some((Some(id), Some((**config).clone())))
            }
            NamedContext::Input(input) => {
                let Some(input) = self.options.inputs.get(input).cloned() else { return Some((None, None)) };
                let config = input.config.map(|config| *config);
                let id = input.graph.head.is_some().then(|| self.graft(&format!("input {name}"), &input.graph));
                Some((id, config))
            }
            NamedContext::Local(directory) => self.local(name, directory).map(|id| (Some(id), None)),
            NamedContext::Remote(url) => {
                let shown = format!("[context {name}] {url}");
                let Some(git) = GitUrl::parse(url) else {
                    let attrs = BTreeMap::from([("http.filename".to_owned(), "context".to_owned())]);
                    return Some((Some(self.source(url, attrs, &shown, &["source.http"])), None));
                };
                Some((Some(self.source(&git.identifier(), git.attributes(), &shown, &["source.git"])), None))
            }
        }
    }

    fn local(&mut self, name: &str, directory: &str) -> Option<Id> {
        let need = Need::Ignore { context: directory.to_owned() };
        let Some(Fact::Patterns(ignore)) = self.facts.get(&need) else {
            self.needs.insert(need);
            return None;
        };
        let mut attrs = BTreeMap::from([
            ("local.session".to_owned(), self.options.session.clone()),
            ("local.sharedkeyhint".to_owned(), format!("context:{name}")),
        ]);
        if !ignore.is_empty() {
            attrs.insert("local.excludepatterns".to_owned(), super::json_list(ignore));
        }
        let shown = format!("[context {name}] load from client");
        Some(self.source(&format!("local://{directory}"), attrs, &shown, &["source.local", "source.local.sessionid"]))
    }

    /// A source, once for each identifier and attributes.
    pub fn source(&mut self, identifier: &str, attrs: BTreeMap<String, String>, name: &str, caps: &[&str]) -> Id {
        let key = format!("{identifier} {attrs:?}");
        if let Some(id) = self.sources.get(&key) {
            return *id;
        }
        let op = op::Op::Source(wire::SourceOp { identifier: identifier.to_owned(), attrs });
        let mut draft = Draft::new(op, Vec::new(), name);
        draft.needs(caps);
        let id = self.drafts.add(draft);
        self.sources.insert(key, id);
        id
    }

    /// A graph from elsewhere, once for each name.
    fn graft(&mut self, name: &str, graph: &Arc<Graph>) -> Id {
        if let Some(id) = self.sources.get(name) {
            return *id;
        }
        let id = self.drafts.add(Draft::graft(graph.clone()));
        self.sources.insert(name.to_owned(), id);
        id
    }

    /// The main context.
    pub fn context(&mut self) -> Id {
        if let Some(graph) = &self.options.context {
            return self.graft("main context", graph);
        }
        if let Some(id) = self.context {
            return id;
        }
        let source = wire::SourceOp { identifier: "local://context".to_owned(), ..Default::default() };
        let mut draft = Draft::new(op::Op::Source(source), Vec::new(), "[internal] load build context");
        draft.needs(&["source.local", "source.local.sessionid", "source.local.sharedkeyhint"]);
        let id = self.drafts.add(draft);
        self.context = Some(id);
        id
    }

    /// Notes that `path` (absolute, clean) of the main context is used.
    pub fn take(&mut self, path: &str) {
        self.taken.insert(path.to_owned());
    }

    fn finish_context(&mut self) {
        let Some(id) = self.context else { return };
        let mut attrs = BTreeMap::from([
            ("local.session".to_owned(), self.options.session.clone()),
            ("local.sharedkeyhint".to_owned(), "context".to_owned()),
        ]);
        let mut caps = Vec::new();
        if !self.options.ignore.is_empty() {
            attrs.insert("local.excludepatterns".to_owned(), super::json_list(&self.options.ignore));
            caps.push("source.local.excludepatterns");
        }
        if !self.taken.contains("/") {
            let paths: Vec<String> = self.taken.iter().map(|p| p.trim_start_matches('/').to_owned()).collect();
            attrs.insert("local.followpaths".to_owned(), super::json_list(&paths));
            caps.push("source.local.followpaths");
        }
        if let Some(draft) = self.drafts.get(id) {
            if let Some(op::Op::Source(source)) = &mut draft.op.op {
                source.attrs = attrs;
            }
            draft.needs(&caps);
        }
    }

    /// The tree that `--from` or `from=` names; `None` is the empty one.
    pub fn tree(&mut self, name: &str, word: &Word, state: &State) -> Result<Option<Id>> {
        if name.contains('$') {
            let error = Diagnostic::error(
                word.span,
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
            );
            return Err(error);
        }
        if let Some(i) = self.stages.earlier(self.current, name) {
            return Ok(match self.done.get(&i) {
                Some(state) => state.head,
                // Its base is not known yet: anything stands for it, as this lowering is thrown away.
                None => Some(self.context()),
            });
        }
        if let Some(later) = self.stages.named(name).filter(|later| *later > self.current) {
            let text = format!("cannot copy from stage \"{name}\", it needs to be defined before current stage");
            let place = self.stages.list[later].from.lines.0;
            return Err(Diagnostic::error(word.span, text).help(format!("it begins on line {place}")));
        }
        let platform = state.platform.clone();
        let key = (name.to_owned(), platform.to_string());
        if let Some(id) = self.images.get(&key) {
            return Ok(*id);
        }
        let found = match stages::context(name, self.options) {
            Some(context) => self.named(name, &context, &platform).map(|(id, _)| id),
            None if name == "scratch" => Some(None),
            None => {
                let parsed = Reference::parse(name).map_err(|e| self.no_such(name, word, &e.to_string()))?;
                self.image(&parsed.or_latest().to_string(), &platform, None).map(|(id, _)| Some(id))
            }
        };
        // While it is not known yet, anything stands for it: the lowering is thrown away.
        let id = found.unwrap_or_else(|| Some(self.context()));
        self.images.insert(key, id);
        Ok(id)
    }

    fn no_such(&self, name: &str, word: &Word, reason: &str) -> Diagnostic {
        let names = self.stages.list.iter().map(|s| s.name.as_str()).filter(|n| !n.is_empty());
        let error = Diagnostic::error(word.span, format!("`{name}` is no stage and no image: {reason}"));
        match crate::diagnostic::nearest(name, names) {
            Some(near) => error.help(format!("did you mean {near}?")),
            None => error,
        }
    }

    /// Asks for images of steps that can't be lowered yet.
    fn foresee(&mut self, i: usize, instruction: &Instruction) {
        for name in stages::froms(instruction) {
            let known = self.stages.earlier(i, &name).or(self.stages.named(&name)).is_some()
                || stages::context(&name, self.options).is_some();
            if let (false, Ok(parsed)) = (known || name == "scratch" || name.contains('$'), Reference::parse(&name)) {
                let platform = self.stages.list[i].platform.clone();
                self.image(&parsed.or_latest().to_string(), &platform, None);
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
