//! The sources of a lowering: images, contexts, graphs from elsewhere, each once; and what `--from` names.
//! Stages and their instructions are `build`'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use graph::Graph;
use graph::git::GitUrl;
use graph::wire::{self, op};
use oci::{Digest, ImageConfig, Platform, Reference};

use super::build::Lowering;
use super::draft::{Draft, Id};
use super::{Fact, NamedContext, Need, stages};
use crate::ast::{Instruction, Word};
use crate::diagnostic::Diagnostic;

type Result<T> = std::result::Result<T, Diagnostic>;

/// A named context that is a git repository or a file from the web: identifier and attributes of its source.
pub fn remote(url: &str) -> std::result::Result<(String, BTreeMap<String, String>), String> {
    Ok(match GitUrl::read(url).map_err(|e| e.to_string())? {
        Some(git) => (git.identifier(), git.attributes()),
        None => (url.to_owned(), BTreeMap::from([("http.filename".to_owned(), "context".to_owned())])),
    })
}

impl Lowering<'_> {
    /// An image as operation and configuration.
    pub fn image(&mut self, reference: &str, platform: &Platform, name: Option<&str>) -> Option<(Id, ImageConfig)> {
        let need = Need::Image { reference: reference.to_owned(), platform: platform.to_string() };
        let (digest, config, moved) = self.known(need)?;
        let reference = moved.as_deref().unwrap_or(reference);
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
            draft.lines = Some(self.place);
            draft.needs(&["source.image"]);
            self.drafts.add(draft)
        });
        self.sources.insert(key, id);
        Some((id, config))
    }

    /// The image that a need is about; what nobody can be asked is an image of which nothing is known.
    fn known(&mut self, need: Need) -> Option<(Digest, ImageConfig, Option<String>)> {
        match self.facts.get(&need) {
            Some(Fact::Image { digest, config, moved }) => Some((*digest, (**config).clone(), moved.clone())),
            Some(Fact::Unknown) => {
                self.guessing = true;
                Some((Digest::of(format!("{need:?}").as_bytes()), ImageConfig::default(), None))
            }
            _ => {
                self.needs.entry(need).or_insert(self.place);
                None
            }
        }
    }

    /// A named context as a tree and, if it is an image, its configuration.
    pub fn named(
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
                let (digest, config, _) = self.known(need)?;
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
                Some((Some(id), Some(config)))
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
                // One that contradicts itself was refused when the stages were read.
                let (identifier, attrs) = remote(url).ok()?;
                let cap = if identifier.starts_with("git://") { "source.git" } else { "source.http" };
                Some((Some(self.source(&identifier, attrs, &shown, &[cap])), None))
            }
        }
    }

    fn local(&mut self, name: &str, directory: &str) -> Option<Id> {
        let need = Need::Ignore { context: directory.to_owned() };
        let Some(Fact::Patterns(ignore)) = self.facts.get(&need) else {
            self.needs.entry(need).or_insert(self.place);
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
        let caps = ["source.local", "source.local.sessionid"];
        let id = self.source(&format!("local://{directory}"), attrs, &shown, &caps);
        self.locals.entry(id).or_default();
        Some(id)
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

    /// Notes that `path` (absolute, clean) of what `--from` or `from=` names is used; it was looked up before.
    pub fn take_from(&mut self, name: &str, path: &str) {
        let local = match self.stages.earlier(self.current, name) {
            Some(stage) => self.done.get(&stage).and_then(|state| state.local),
            None => self.images.get(&(name.to_owned(), self.options.platform.to_string())).copied().flatten(),
        };
        if let Some(taken) = local.and_then(|id| self.locals.get_mut(&id)) {
            taken.insert(path.to_owned());
        }
    }

    /// What is used of the client's directories is known now.
    pub fn finish_context(&mut self) {
        for (id, taken) in std::mem::take(&mut self.locals) {
            let (false, false) = (taken.is_empty(), taken.contains("/")) else { continue };
            let paths: Vec<String> = taken.iter().map(|p| p.trim_start_matches('/').to_owned()).collect();
            let Some(draft) = self.drafts.get(id) else { continue };
            if let Some(op::Op::Source(source)) = &mut draft.op.op {
                source.attrs.insert("local.followpaths".to_owned(), super::json_list(&paths));
            }
            draft.needs(&["source.local.followpaths"]);
        }
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
    pub fn tree(&mut self, name: &str, word: &Word) -> Result<Option<Id>> {
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
        // Whatever platform the stage has: what it brings is for the target.
        let platform = self.options.platform.clone();
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
    pub fn foresee(&mut self, i: usize, instruction: &Instruction) {
        for name in stages::froms(instruction) {
            let known = self.stages.earlier(i, &name).or(self.stages.named(&name)).is_some()
                || stages::context(&name, self.options).is_some();
            if let (false, Ok(parsed)) = (known || name == "scratch" || name.contains('$'), Reference::parse(&name)) {
                let platform = self.options.platform.clone();
                self.image(&parsed.or_latest().to_string(), &platform, None);
            }
        }
    }
}
