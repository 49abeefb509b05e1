//! The Dockerfile frontend: reads the files that a client offers, learns what lowering must know, and gives graphs.
//! The language itself is `dockerfile`'s; nothing is built here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use dockerfile::ast::{File, Kind};
use dockerfile::diagnostic::Span;
use dockerfile::lower::{Lowered, Options};
use dockerfile::{Diagnostic, LineIndex};
use graph::{Graph, wire};
use oci::{Digest, Platform};

use super::context::{self, Remote};
use super::{Elsewhere, Made, Target, lowering};
use crate::Error;
use crate::attestations::scan::{self, Scanner};
use crate::attestations::{Read, Wanted};
use crate::build::Build;
use crate::session::{self, Filter};

/// What a frontend works with.
pub struct Frontend<'a> {
    pub(super) build: &'a Build,
    /// BuildKit's attributes of the frontend.
    pub(super) attributes: &'a BTreeMap<String, String>,
    /// Graphs that contexts may name.
    pub(super) inputs: &'a BTreeMap<String, Arc<Graph>>,
    /// Where the main context and the Dockerfile are, if not with the client.
    pub(super) remote: Remote,
    /// Directories of the client's that were read.
    locals: Mutex<BTreeSet<String>>,
}

/// The Dockerfile as it was read.
pub struct Definition {
    /// Name of the file as the client knows it.
    pub filename: String,
    /// Its bytes.
    pub text: Vec<u8>,
    /// How it is got.
    pub source: wire::Definition,
    /// The step that loaded it: warnings belong to it.
    pub(super) step: Digest,
}

/// What the build checks say of a Dockerfile.
pub struct Checked {
    /// The file.
    pub definition: Definition,
    /// Its tree.
    pub file: File,
    /// Findings in the order of the file.
    pub findings: Vec<Diagnostic>,
    /// What keeps it from being built, as a client reads it, and its first and last line where it has a place.
    pub error: Option<(String, Option<(u32, u32)>)>,
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

    /// The frontend in an image that is asked for, unless it is the one that asks (`cmdline`).
    fn elsewhere(&self, definition: &Definition, file: &File) -> Option<Elsewhere> {
        if self.attributes.contains_key("cmdline") {
            return None;
        }
        let directive = file.directives.iter().find(|d| d.name == "syntax");
        let (line, place) = match (self.attribute("build-arg:BUILDKIT_SYNTAX"), directive) {
            (Some(line), _) => (line, None),
            (None, Some(directive)) => (directive.value.value.as_str(), Some(directive.value.span)),
            (None, None) => return None,
        };
        let source = line.split_whitespace().next()?;
        let at = |span: Span| {
            let line = LineIndex::new(&file.text).line(span.start);
            Box::new(lowering::place(definition, Some((line, line))))
        };
        (!super::is_built_in(source)).then(|| Elsewhere { line: line.to_owned(), place: place.map(at) })
    }

    /// One target a platform, unless the Dockerfile is for another frontend to read.
    pub async fn targets(&self) -> Result<Made, Error> {
        let (definition, ignore) = self.definition_and_ignore().await?;
        let (file, errors) = dockerfile::parse(&definition.text);
        if let Some(elsewhere) = self.elsewhere(&definition, &file) {
            return Ok(Made::Elsewhere(elsewhere));
        }
        let loaded = self.whole(Loaded { definition, ignore, file }, errors)?;
        self.know_stages(&loaded.file)?;
        let host = Platform::host();
        let platforms = self.platforms(&host)?;
        let sbom = Wanted::read(self.attributes)?.sbom;
        let scanner = match &sbom {
            Some(sbom) => Some(self.build.scanner(sbom, self.attributes).await?),
            None => None,
        };
        let mut targets = Vec::new();
        for platform in &platforms {
            let mut options = self.options(&loaded.definition, platform, &host, loaded.ignore.clone())?;
            options.multi_platform = platforms.len() > 1;
            options.scan = scanner.is_some();
            let mut lowered = self.lower(&loaded, &options, targets.is_empty()).await?;
            let graph = Arc::new(std::mem::take(&mut lowered.graph));
            lowered.graph = Arc::unwrap_or_clone(self.build.let_through(graph, &[])?);
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

    /// A misspelt stage would forbid nothing, and nobody would notice.
    fn know_stages(&self, file: &File) -> Result<(), Error> {
        let froms = file.instructions.iter().filter_map(|instruction| match &instruction.kind {
            Kind::From { name, .. } => Some(name.as_ref().map(|name| name.value.to_lowercase())),
            _ => None,
        });
        let known: Vec<String> = froms.enumerate().map(|(i, name)| name.unwrap_or_else(|| i.to_string())).collect();
        for stage in self.build.request().fail_on_miss.iter().flatten() {
            let is_number = stage.parse().is_ok_and(|number: usize| number < known.len());
            if !is_number && !known.contains(stage) {
                let stages = known.join(", ");
                return Err(Error::Request(format!(
                    "--fail-on-miss={stage}: there is no such stage; there are {stages}"
                )));
            }
        }
        Ok(())
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

    /// The Dockerfile that a question is about, whatever is wrong with it.
    pub(super) async fn asked(&self) -> Result<AskedAbout, Error> {
        let (definition, ignore) = self.definition_and_ignore().await?;
        let (file, errors) = dockerfile::parse(&definition.text);
        let elsewhere = self.elsewhere(&definition, &file);
        Ok(AskedAbout { loaded: Loaded { definition, ignore, file }, errors, elsewhere })
    }

    /// What the build checks say: of what the target needs, or without a target of everything.
    pub(super) async fn check(&self, loaded: Loaded, errors: Vec<Diagnostic>) -> Result<Checked, Error> {
        if errors.iter().any(Diagnostic::is_error) {
            let Loaded { definition, file, .. } = loaded;
            let findings = dockerfile::rules::of_broken(&file, self.wish());
            let error = self.faulty(&definition, &file, errors, true);
            return Ok(checked(definition, file, findings, &error));
        }
        let mut options = self.first_options(&loaded)?;
        options.all_stages = options.target.is_empty();
        let (findings, error) = match self.lower(&loaded, &options, false).await {
            Ok(lowered) => (lowered.findings, None),
            Err(Error::Dockerfile(faulty)) => {
                let (errors, findings) = faulty.diagnostics.iter().cloned().partition(Diagnostic::is_error);
                let errors: Vec<Diagnostic> = errors;
                (findings, Some(self.faulty(&loaded.definition, &loaded.file, errors, false)))
            }
            Err(error) => (Vec::new(), Some(error)),
        };
        let Loaded { definition, file, .. } = loaded;
        Ok(match error {
            Some(error) => checked(definition, file, findings, &error),
            None => Checked { definition, file, findings, error: None },
        })
    }

    /// The target as it would be built for the first platform.
    pub(super) async fn outline(
        &self,
        loaded: Loaded,
        errors: Vec<Diagnostic>,
    ) -> Result<(Definition, Lowered), Error> {
        let loaded = self.whole(loaded, errors)?;
        let options = self.first_options(&loaded)?;
        let lowered = self.lower(&loaded, &options, false).await?;
        Ok((loaded.definition, lowered))
    }

    fn first_options(&self, loaded: &Loaded) -> Result<Options, Error> {
        let host = Platform::host();
        let platform = self.platforms(&host)?.into_iter().next().unwrap_or_else(|| host.clone());
        self.options(&loaded.definition, &platform, &host, loaded.ignore.clone())
    }

    /// A Dockerfile that can be read; what the checks say of a broken one is told before it fails.
    fn whole(&self, loaded: Loaded, errors: Vec<Diagnostic>) -> Result<Loaded, Error> {
        if !errors.iter().any(Diagnostic::is_error) {
            return Ok(loaded);
        }
        let Loaded { definition, file, .. } = &loaded;
        self.warn(definition, file, &dockerfile::rules::of_broken(file, self.wish()));
        Err(self.faulty(definition, file, errors, true))
    }

    /// The client's wish of the checks.
    pub(super) fn wish(&self) -> Option<&str> {
        self.attribute("build-arg:BUILDKIT_DOCKERFILE_CHECK")
    }

    /// The client's name for the directory of the Dockerfile.
    fn dockerfile_key(&self) -> &str {
        self.attribute("dockerfilekey").unwrap_or("dockerfile")
    }

    /// The Dockerfile, and the patterns of what the context leaves out.
    pub async fn definition_and_ignore(&self) -> Result<(Definition, Vec<String>), Error> {
        let (definition, ()) = futures_util::future::join(self.definition(), self.ask_ahead()).await;
        let definition = definition?;
        let ignore = if self.remote.context.is_some() { Vec::new() } else { self.ignore(&definition.filename).await? };
        Ok((definition, ignore))
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
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
        let source = match &self.remote.dockerfile {
            Some((graph, _)) => graph.encode(),
            None => {
                context::local(&self.build.request().id, self.dockerfile_key(), &definition_files(&filename), &name)?
            }
        };
        Ok(Definition { filename, text, source, step })
    }

    /// Asks the client for the context's ignore file while the Dockerfile is on its way: two syncs in the time of one.
    /// Whoever needs the file asks again, and is answered by this or is told what is wrong.
    async fn ask_ahead(&self) {
        if self.remote.context.is_none() && self.remote.dockerfile.is_none() {
            drop(self.build.session().directory("context", &ignore_file()).await);
        }
    }

    /// The patterns of what the context leaves out.
    async fn ignore(&self, filename: &str) -> Result<Vec<String>, Error> {
        let task =
            self.build.events().begin(&format!("{} ignore", self.build.request().id), "[internal] load .dockerignore");
        let own = format!("{filename}.dockerignore");
        let read = async {
            if let Some((graph, _)) = &self.remote.dockerfile {
                if let Some(bytes) = context::find(self.build, graph, &own).await? {
                    return Ok(String::from_utf8_lossy(&bytes).into_owned());
                }
            } else {
                let wanted = definition_files(filename);
                let directory = self.directory(self.dockerfile_key(), &wanted).await?;
                if let Some(text) = optional(&directory.root.join(own))? {
                    return Ok(text);
                }
            }
            match self.ignore_of("context").await {
                // A Dockerfile that reads nothing of a context needs none.
                Err(session::Error::NoDirectory { .. }) => Ok(String::new()),
                text => Ok::<_, Error>(text?),
            }
        };
        let text = task.finish(read.await)?;
        Ok(dockerfile::ignore::patterns(&text))
    }

    pub(super) async fn ignore_of(&self, context: &str) -> Result<String, session::Error> {
        let directory = self.directory(context, &ignore_file()).await?;
        Ok(optional(&directory.root.join(".dockerignore"))?.unwrap_or_default())
    }
}

/// A Dockerfile as a question finds it.
pub(super) struct AskedAbout {
    pub loaded: Loaded,
    pub errors: Vec<Diagnostic>,
    /// It is for a frontend in an image.
    pub elsewhere: Option<Elsewhere>,
}

/// A Dockerfile that could be read.
pub(super) struct Loaded {
    pub definition: Definition,
    /// Patterns of what the context leaves out.
    pub ignore: Vec<String>,
    pub file: File,
}

fn checked(definition: Definition, file: File, findings: Vec<Diagnostic>, error: &Error) -> Checked {
    let place = match error {
        Error::Dockerfile(faulty) => faulty.place.lines(),
        Error::Placed { place, .. } => place.lines(),
        _ => None,
    };
    Checked { definition, file, findings, error: Some((error.to_string(), place)) }
}

/// The Dockerfile and what may lie beside it, as BuildKit asks for them.
fn definition_files(filename: &str) -> Filter {
    let follow = vec![filename.to_owned(), format!("{filename}.dockerignore"), filename.to_lowercase()];
    Filter { follow, hint: filename.to_owned(), ..Filter::default() }
}

/// The context's own ignore file.
fn ignore_file() -> Filter {
    Filter { follow: vec![".dockerignore".to_owned()], hint: ".dockerignore".to_owned(), ..Filter::default() }
}

fn optional(path: &std::path::Path) -> Result<Option<String>, session::Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(session::Error::Read { path: path.to_owned(), source }),
    }
}
