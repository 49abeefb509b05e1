//! The Dockerfile frontend: reads the files that a client offers, learns what lowering must know, and gives graphs.
//! The language itself is `dockerfile`'s; nothing is built here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use dockerfile::lower::{Fact, Input, Lowered, NamedContext, Need, NoCache, Options, Outcome};
use dockerfile::{Diagnostic, LineIndex};
use graph::Graph;
use oci::{Digest, Platform, Reference};

use super::context::{self, Remote};
use super::{Made, Target};
use crate::Error;
use crate::attestations::scan::{self, Scanner};
use crate::attestations::{Read, Wanted};
use crate::build::{Build, Faulty};
use crate::event::{Warning, What};
use crate::session::{self, Filter};
use crate::sources::image;

/// What a frontend works with.
pub struct Frontend<'a> {
    build: &'a Build,
    /// BuildKit's attributes of the frontend.
    attributes: &'a BTreeMap<String, String>,
    /// Graphs that contexts may name.
    inputs: &'a BTreeMap<String, Arc<Graph>>,
    /// Where the main context and the Dockerfile are, if not with the client.
    remote: Remote,
    /// Directories of the client's that were read.
    locals: Mutex<BTreeSet<String>>,
}

/// The Dockerfile as it was read.
pub struct Definition {
    /// Name of the file as the client knows it.
    pub filename: String,
    /// Its bytes.
    pub text: Vec<u8>,
    /// The step that loaded it: warnings belong to it.
    step: Digest,
}

impl<'a> Frontend<'a> {
    /// Finds out where the context is; a remote one is fetched.
    pub async fn new(
        build: &'a Build,
        attributes: &'a BTreeMap<String, String>,
        inputs: &'a BTreeMap<String, Arc<Graph>>,
    ) -> Result<Frontend<'a>, Error> {
        let remote = Remote::of(build, attributes, inputs).await?;
        Ok(Frontend { build, attributes, inputs, remote, locals: Mutex::default() })
    }

    /// The line that asks for a frontend in an image, unless that frontend is the one that asks (`cmdline`).
    fn elsewhere(&self, file: &dockerfile::ast::File) -> Option<String> {
        if self.attributes.contains_key("cmdline") {
            return None;
        }
        let directive = || file.directives.iter().find(|d| d.name == "syntax").map(|d| d.value.value.as_str());
        let line = self.attribute("build-arg:BUILDKIT_SYNTAX").or_else(directive)?;
        let source = line.split_whitespace().next()?;
        (!super::is_built_in(source)).then(|| line.to_owned())
    }

    /// One target a platform, unless the Dockerfile is for another frontend to read.
    pub async fn targets(&self) -> Result<Made, Error> {
        let (definition, ignore) = self.definition_and_ignore().await?;
        let (file, diagnostics) = dockerfile::parse(&definition.text);
        if let Some(line) = self.elsewhere(&file) {
            return Ok(Made::Elsewhere(line));
        }
        if diagnostics.iter().any(Diagnostic::is_error) {
            return Err(faulty(&definition, diagnostics));
        }
        let findings = dockerfile::rules::check(&definition.text, &ignore);
        if findings.iter().any(Diagnostic::is_error) {
            return Err(faulty(&definition, findings));
        }
        self.warn(&definition, &findings);
        let host = Platform::host();
        let platforms = self.platforms(&host)?;
        let sbom = Wanted::read(self.attributes)?.sbom;
        let scanner = match &sbom {
            Some(sbom) => Some((sbom, self.build.scanner(sbom, self.attributes).await?)),
            None => None,
        };
        let text = self.definition_graph(&definition)?.encode();
        let mut targets = Vec::new();
        for platform in &platforms {
            let mut options = self.options(&definition, platform, &host, ignore.clone())?;
            options.multi_platform = platforms.len() > 1;
            options.scan = scanner.is_some();
            let mut lowered = self.lower(&file, &options, &definition).await?;
            if let Some(info) = lowered.graph.source.as_mut().and_then(|source| source.infos.first_mut()) {
                info.definition = Some(text.clone());
            }
            let read = self.read();
            let scan = match &scanner {
                Some((sbom, image)) => {
                    let scanner = Scanner { sbom, digest: image.digest, config: &image.config, platform: &host };
                    let (core, extras) = (lowered.graph.clone(), std::mem::take(&mut lowered.scanned));
                    let target = scan::Target { core, extras, ignore_cache: lowered.no_cache };
                    Some(Arc::new(scanner.graph(&platform.to_string(), &target)?))
                }
                None => None,
            };
            targets.push(Target { platform: platform.clone(), lowered, read, scan });
        }
        Ok(Made::Targets(targets))
    }

    /// What was read so far to find out what to build.
    fn read(&self) -> Read {
        let locals = self.locals.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let remote = [self.remote.context.clone(), self.remote.dockerfile.as_ref().map(|(graph, _)| graph.clone())];
        Read { locals, graphs: remote.into_iter().flatten().collect() }
    }

    /// A directory of the client's that is read now.
    async fn directory(&self, name: &str, wanted: &Filter) -> Result<session::Directory, session::Error> {
        self.locals.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        self.build.session().directory(name, wanted).await
    }

    /// Where the Dockerfile came from, as a graph.
    fn definition_graph(&self, definition: &Definition) -> Result<Graph, Error> {
        if let Some((graph, _)) = &self.remote.dockerfile {
            return Ok((**graph).clone());
        }
        let files = definition_files(&definition.filename);
        let attrs = BTreeMap::from([
            ("local.followpaths".to_owned(), serde_json::json!(files.follow).to_string()),
            ("local.session".to_owned(), self.build.request().id.clone()),
            ("local.sharedkeyhint".to_owned(), files.hint),
        ]);
        let name = format!("[internal] load build definition from {}", definition.filename);
        context::source(format!("local://{}", self.dockerfile_key()), attrs, &name)
    }

    /// The client's name for the directory of the Dockerfile.
    fn dockerfile_key(&self) -> &str {
        self.attribute("dockerfilekey").unwrap_or("dockerfile")
    }

    /// The Dockerfile, and the patterns of what the context leaves out.
    pub async fn definition_and_ignore(&self) -> Result<(Definition, Vec<String>), Error> {
        let definition = self.definition().await?;
        let ignore = if self.remote.context.is_some() { Vec::new() } else { self.ignore(&definition.filename).await? };
        Ok((definition, ignore))
    }

    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    fn platforms(&self, host: &Platform) -> Result<Vec<Platform>, Error> {
        let Some(list) = self.attribute("platform") else { return Ok(vec![host.clone()]) };
        let read = |text: &str| Platform::parse(text, host).map_err(|e| Error::Request(e.to_string()));
        list.split(',').map(read).collect()
    }

    /// Reads the Dockerfile.
    async fn definition(&self) -> Result<Definition, Error> {
        let filename = match &self.remote.dockerfile {
            Some((_, Some(name))) => name.clone(),
            _ => self.attribute("filename").unwrap_or("Dockerfile").to_owned(),
        };
        let name = format!("[internal] load build definition from {filename}");
        let task = self.build.events().begin(&format!("{} {name}", self.build.request().id), &name);
        let step = task.step;
        let read = async {
            if let Some((graph, _)) = &self.remote.dockerfile {
                return context::read(self.build, graph, &filename).await;
            }
            let directory = self.directory(self.dockerfile_key(), &definition_files(&filename)).await?;
            let path = directory.root.join(&filename);
            let lower = directory.root.join(filename.to_lowercase());
            let path = if path.exists() || !lower.exists() { path } else { lower };
            if !path.exists() {
                return Err(Error::Request(format!(
                    "failed to read dockerfile: open {filename}: no such file or directory"
                )));
            }
            Ok(std::fs::read(&path).map_err(|source| session::Error::Read { path, source })?)
        };
        let text = task.finish(read.await)?;
        Ok(Definition { filename, text, step })
    }

    /// The patterns of what the context leaves out.
    async fn ignore(&self, filename: &str) -> Result<Vec<String>, Error> {
        let task =
            self.build.events().begin(&format!("{} ignore", self.build.request().id), "[internal] load .dockerignore");
        let read = async {
            let directory = self.directory(self.dockerfile_key(), &definition_files(filename)).await?;
            if let Some(text) = optional(&directory.root.join(format!("{filename}.dockerignore")))? {
                return Ok(text);
            }
            self.ignore_of("context").await
        };
        let text = task.finish(read.await)?;
        Ok(dockerfile::ignore::patterns(&text))
    }

    async fn ignore_of(&self, context: &str) -> Result<String, session::Error> {
        let wanted =
            Filter { follow: vec![".dockerignore".to_owned()], hint: ".dockerignore".to_owned(), ..Filter::default() };
        let directory = self.directory(context, &wanted).await?;
        Ok(optional(&directory.root.join(".dockerignore"))?.unwrap_or_default())
    }

    fn options(
        &self,
        definition: &Definition,
        platform: &Platform,
        host: &Platform,
        ignore: Vec<String>,
    ) -> Result<Options, Error> {
        let mut options = Options::new(platform.clone(), host.clone());
        options.filename.clone_from(&definition.filename);
        options.ignore = ignore;
        self.build.request().id.clone_into(&mut options.session);
        options.target = self.attribute("target").unwrap_or_default().to_owned();
        for (name, value) in self.attributes {
            if let Some(arg) = name.strip_prefix("build-arg:") {
                options.build_args.insert(arg.to_owned(), value.clone());
            } else if let Some(label) = name.strip_prefix("label:") {
                options.labels.insert(label.to_owned(), value.clone());
            } else if let Some(context) = name.strip_prefix("context:") {
                options.contexts.insert(context.to_owned(), named(context, value));
            }
        }
        self.link(&mut options, platform)?;
        options.context.clone_from(&self.remote.context);
        options.no_cache = match self.attributes.get("no-cache").map(String::as_str) {
            None => NoCache::None,
            Some("") => NoCache::All,
            Some(stages) => NoCache::Stages(stages.split(',').map(str::to_owned).collect()),
        };
        options.network = self.attribute("force-network-mode").unwrap_or_default().to_owned();
        options.hostname = self.attribute("hostname").unwrap_or_default().to_owned();
        if let Some(name) = options.build_args.get("BUILDKIT_SANDBOX_HOSTNAME") {
            options.hostname.clone_from(name);
        }
        options.cgroup_parent = self.attribute("cgroup-parent").unwrap_or_default().to_owned();
        options.resolve_mode = self.attribute("image-resolve-mode").unwrap_or_default().to_owned();
        for host in self.attribute("add-hosts").iter().flat_map(|v| v.split(',')) {
            let (name, ip) = host.split_once('=').ok_or_else(|| bad("add-hosts", host, "expected NAME=IP"))?;
            options.add_hosts.push((name.to_owned(), ip.to_owned()));
        }
        if let Some(size) = self.attribute("shm-size") {
            options.shm_size = size.parse().map_err(|_| bad("shm-size", size, "expected bytes"))?;
        }
        for limit in self.attribute("ulimit").iter().flat_map(|v| v.split(',')) {
            options.ulimits.push(ulimit(limit).ok_or_else(|| bad("ulimit", limit, "expected NAME=SOFT[:HARD]"))?);
        }
        options.epoch = match options.build_args.get("SOURCE_DATE_EPOCH").filter(|v| !v.is_empty()) {
            Some(text) => Some(text.parse().map_err(|_| bad("SOURCE_DATE_EPOCH", text, "expected seconds"))?),
            None => None,
        };
        Ok(options)
    }

    /// Contexts of a platform (`NAME::PLATFORM`) go before those of all, and inputs bring their image's configuration.
    fn link(&self, options: &mut Options, platform: &Platform) -> Result<(), Error> {
        let suffix = format!("::{platform}");
        let exact: Vec<_> = options.contexts.iter().filter(|(name, _)| name.ends_with(&suffix)).collect();
        let exact: Vec<_> =
            exact.into_iter().map(|(n, c)| (n.trim_end_matches(&suffix).to_owned(), c.clone())).collect();
        options.contexts.extend(exact);
        for (name, graph) in self.inputs {
            let config = self.attribute(&format!("input-metadata:{name}")).map(|text| context::config(text, platform));
            let config = config.transpose()?.flatten().map(Box::new);
            options.inputs.insert(name.clone(), Input { graph: graph.clone(), config });
        }
        Ok(())
    }

    /// Lowers as often as something more must be known.
    async fn lower(
        &self,
        file: &dockerfile::ast::File,
        options: &Options,
        definition: &Definition,
    ) -> Result<Lowered, Error> {
        let mut facts = BTreeMap::new();
        loop {
            match dockerfile::lower(file, options, &facts) {
                Err(diagnostics) => return Err(faulty(definition, diagnostics)),
                Ok(Outcome::Done(lowered)) => return Ok(*lowered),
                Ok(Outcome::Needs(needs)) => {
                    let answers = needs.iter().map(|need| self.learn(need, options));
                    let answers = futures_util::future::try_join_all(answers).await?;
                    facts.extend(needs.into_iter().zip(answers));
                }
            }
        }
    }

    async fn learn(&self, need: &Need, options: &Options) -> Result<Fact, Error> {
        let platform = |text: &str| Platform::parse(text, &options.platform).map_err(|e| Error::Request(e.to_string()));
        let resolved = match need {
            Need::Ignore { context } => {
                let text = self.ignore_of(context).await?;
                return Ok(Fact::Patterns(dockerfile::ignore::patterns(&text)));
            }
            Need::Image { reference, platform: wanted } => {
                let name = format!("[internal] load metadata for {reference}");
                let task = self.build.events().begin(&format!("{reference} {wanted}"), &name);
                let parsed = Reference::parse(reference).map_err(|e| Error::Request(e.to_string()))?;
                let mode = image::ResolveMode::parse(&options.resolve_mode);
                let work = self.build.work(task.step)?;
                let resolved = image::resolve(&work, &parsed, &platform(wanted)?, mode).await;
                task.finish(resolved)?
            }
            Need::Layout { store, reference, platform: wanted } => {
                self.build.layout("", store, reference, &platform(wanted)?).await?
            }
        };
        Ok(Fact::Image { digest: resolved.digest, config: Box::new(resolved.config) })
    }

    fn warn(&self, definition: &Definition, warnings: &[Diagnostic]) {
        let index = LineIndex::new(&String::from_utf8_lossy(&definition.text));
        for warning in warnings {
            let (first, last) = (index.line(warning.span.start), index.line(warning.span.end.max(1) - 1));
            let rule = warning.rule.clone().unwrap_or_default();
            let warning = Warning {
                short: format!("{rule}: {} (line {first})", warning.message),
                detail: warning.help.iter().cloned().collect(),
                url: warning.url.clone().unwrap_or_default(),
                file: definition.filename.clone(),
                lines: Some((first, last)),
                text: String::from_utf8_lossy(&definition.text).into_owned(),
            };
            self.build.events().tell(What::Warning { step: definition.step, warning });
        }
    }
}

/// The Dockerfile and what may lie beside it, as BuildKit asks for them.
fn definition_files(filename: &str) -> Filter {
    let follow = vec![filename.to_owned(), format!("{filename}.dockerignore"), filename.to_lowercase()];
    Filter { follow, hint: filename.to_owned(), ..Filter::default() }
}

fn faulty(definition: &Definition, diagnostics: Vec<Diagnostic>) -> Error {
    let text = String::from_utf8_lossy(&definition.text).into_owned();
    Error::Dockerfile(Box::new(Faulty { filename: definition.filename.clone(), text, diagnostics }))
}

fn bad(name: &str, value: &str, expected: &str) -> Error {
    Error::Request(format!("`{value}` is no value for {name}: {expected}"))
}

fn optional(path: &std::path::Path) -> Result<Option<String>, session::Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(session::Error::Read { path: path.to_owned(), source }),
    }
}

fn ulimit(text: &str) -> Option<(String, i64, i64)> {
    let (name, values) = text.split_once('=')?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    Some((name.to_owned(), soft.parse().ok()?, hard.parse().ok()?))
}

/// What a client means by `context:NAME=VALUE` (BuildKit's forms).
fn named(name: &str, value: &str) -> NamedContext {
    if let Some(image) = value.strip_prefix("docker-image://").or(value.strip_prefix("docker-image:")) {
        return NamedContext::Image(image.to_owned());
    }
    if let Some(layout) = value.strip_prefix("oci-layout://").or(value.strip_prefix("oci-layout:")) {
        let at = layout.find(['@', ':']).unwrap_or(layout.len());
        return NamedContext::Layout { store: layout[..at].to_owned(), reference: layout[at..].to_owned() };
    }
    match value.strip_prefix("local:") {
        Some(directory) => NamedContext::Local(directory.to_owned()),
        None if value.starts_with("input:") => NamedContext::Input(value.trim_start_matches("input:").to_owned()),
        None if value.contains("://") || value.starts_with("git@") => NamedContext::Remote(value.to_owned()),
        None => NamedContext::Local(name.to_owned()),
    }
}
