//! One build from its request to its response, whoever asks: `larder build` in this process, a client over gRPC.
//! [`build`] does it in one go; a client that drives its build itself takes the phases of [`Build`] one by one.
//! Everything that is not in the request is asked of the session.

mod evaluate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use graph::Graph;
use oci::{Digest, Platform, Reference};
use solver::Cause;
use store::view::View;

use crate::attestations::{Making, Pins, Wanted};
use crate::caches;
use crate::driver::{Asked, Held};
use crate::event::now_micros;
use crate::exporters::Built;
use crate::frontends::dockerfile::Frontend;
use crate::frontends::{Made, context, questions};
use crate::history::Keeper;
use crate::policy::Policy;
use crate::sources::image::{self, ResolveMode, Resolved};
use crate::sources::remote::{self, Remote};
use crate::sources::{Seen, oci_layout};
use crate::{Engine, Error, Events, Live, Work, blocking, exporters, session};

/// A phase of a build that goes on. Boxed here, so that its code is compiled in this crate and not once more in each that
/// awaits it.
pub type Doing<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Names the build in the history. Unique.
    pub id: String,
    /// Who says what is to be built: `dockerfile.v0`, or empty where the client gives graphs.
    pub frontend: String,
    /// Graphs that the frontend may name.
    pub inputs: BTreeMap<String, Arc<Graph>>,
    /// BuildKit's attributes of the Dockerfile frontend: `filename`, `target`, `build-arg:NAME`, `label:NAME`,
    /// `platform`, `no-cache` (empty: all; else comma list of stages), `context:NAME`, `add-hosts`, `shm-size`, `ulimit`,
    /// `cgroup-parent`, `force-network-mode`, `image-resolve-mode` (`pull`), `multi-platform`, `source` …
    /// The context is the session's directory `context`, the Dockerfile's the directory `dockerfile`, unless the
    /// attribute `context` is a URL.
    pub attributes: BTreeMap<String, String>,
    /// Where results go.
    pub outputs: Vec<exporters::Request>,
    /// Caches to read, in order of preference.
    pub cache_from: Vec<caches::Request>,
    /// Caches to write.
    pub cache_to: Vec<caches::Request>,
    /// Fail when a step of these stages (empty list: any) must run, before it runs.
    pub fail_on_miss: Option<Vec<String>>,
    /// Granted to the build: `network.host`, `security.insecure`.
    pub entitlements: Vec<String>,
    /// What sources must keep to, in order.
    pub policies: Vec<Policy>,
    /// A client's question rather than a build: it leaves no history.
    pub internal: bool,
    /// The client's place in a trace (W3C `traceparent`); empty when it is in none.
    pub traceparent: String,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// BuildKit's exporter response: `containerimage.digest`, `containerimage.config.digest`,
    /// `containerimage.descriptor`, `image.name` …
    pub exporter: BTreeMap<String, String>,
    /// How each result was built, by its name (empty for the only one), as its history tells it: predicates of SLSA v1.
    pub provenance: BTreeMap<String, serde_json::Value>,
}

/// Steps that had to run although `fail_on_miss` forbids it: display name and cause.
pub type Misses = Vec<(String, Cause)>;

/// A failed Dockerfile: what is wrong, and where the first error stands.
#[derive(Clone, Debug)]
pub struct Faulty {
    /// The file and the first error's lines.
    pub place: graph::Place,
    /// What is wrong; findings of the checks among it.
    pub diagnostics: Vec<dockerfile::Diagnostic>,
    /// It can't even be read, before anything is asked of anybody.
    pub parsing: bool,
}

impl std::fmt::Display for Faulty {
    /// The first error in one line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(error) = self.diagnostics.iter().find(|d| d.is_error()) else {
            return write!(f, "{} can't be built", self.place.file.filename);
        };
        if let (true, Some((line, _))) = (self.parsing, self.place.lines()) {
            write!(f, "dockerfile parse error on line {line}: ")?;
        }
        write!(f, "{}", error.message)?;
        error.help.iter().try_for_each(|help| write!(f, " ({help})"))
    }
}

/// A build that goes on. Its history is written by [`Build::finish`]; a build dropped before leaves none.
pub struct Build {
    engine: Arc<Engine>,
    session: session::Shared,
    seen: Arc<Seen>,
    events: Events,
    request: Request,
    keeper: Option<Keeper>,
    started: u64,
    caches: caches::OfBuild,
    /// What the sources turned out to be, of everything that was made in it.
    pins: Mutex<Pins>,
    asked: Asked,
    /// Volumes that were emptied for it.
    emptied: Mutex<BTreeSet<String>>,
}

/// Builds in one go. A Dockerfile that is for another frontend is [`Error::Elsewhere`], and nothing is left of the try: the
/// same request may be given to whoever has that frontend.
pub fn build(engine: &Arc<Engine>, session: session::Shared, events: Events, request: Request) -> Doing<'_, Response> {
    Box::pin(async move {
        let build = Build::begin(engine, session, events, request)?;
        let outcome = build.run().await;
        if let Err(Error::Elsewhere { .. }) = outcome {
            build.forget();
            return outcome;
        }
        let finish = move || Ok::<_, Error>((build.finish(&outcome), outcome));
        let (ended, outcome) = blocking("ended a build", finish).await?;
        ended?;
        outcome
    })
}

/// Asks the Dockerfile frontend what builds nothing (its attribute `requestid`), and keeps no history of it.
pub fn ask(
    engine: &Arc<Engine>,
    session: session::Shared,
    events: Events,
    request: Request,
) -> Doing<'_, questions::Answer> {
    Box::pin(async move {
        let build = Build::begin(engine, session, events, Request { internal: true, ..request })?;
        let Request { attributes, inputs, .. } = build.request();
        let question = attributes.get("requestid").map(String::as_str).unwrap_or_default();
        match build.question(question, attributes, inputs).await? {
            questions::Answered::Told(answer) => Ok(answer),
            questions::Answered::Elsewhere(image) => Err(Error::Elsewhere { line: image.line }),
            questions::Answered::Unknown => {
                let name = question.trim_start_matches("frontend.");
                Err(Error::Request(format!("the Dockerfile frontend knows no question `{name}`")))
            }
        }
    })
}

impl Build {
    /// Starts a build and its history.
    pub fn begin(
        engine: &Arc<Engine>,
        session: session::Shared,
        events: Events,
        request: Request,
    ) -> Result<Build, Error> {
        exporters::check(&request.outputs)?;
        caches::export::check(&request.cache_to, engine.registry.ambient())?;
        Wanted::read(&request.attributes)?;
        let begin = || Keeper::begin(&engine.store, &request, &session.project());
        let keeper = if request.internal { None } else { Some(begin()?) };
        let events = keeper.as_ref().map_or(events.clone(), |keeper| keeper.listen(events));
        let (engine, started, pins) = (engine.clone(), now_micros(), Mutex::default());
        let (caches, asked, emptied) = (caches::OfBuild::default(), Asked::default(), Mutex::default());
        Ok(Build {
            engine,
            session,
            seen: Arc::default(),
            events,
            request,
            keeper,
            started,
            caches,
            pins,
            asked,
            emptied,
        })
    }

    /// What is wanted.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// When it began, microseconds since 1970.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Where the build tells what happens.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The Dockerfile frontend with its attributes, then everything up to the outputs.
    pub fn run(&self) -> Doing<'_, Response> {
        Box::pin(async move {
            match self.make().await {
                Ok(made) => self.export(made).await,
                Err(error @ Error::Elsewhere { .. }) => Err(error),
                Err(error) => {
                    // What succeeded is not lost, and the failure is what counts.
                    let _shown = self.export_caches(false).await;
                    Err(error)
                }
            }
        })
    }

    async fn make(&self) -> Result<Vec<Built>, Error> {
        let (attributes, inputs) = (&self.request.attributes, &self.request.inputs);
        let targets = match self.dockerfile(attributes, inputs).await? {
            Made::Targets(targets) => targets,
            Made::Elsewhere(image) => return Err(Error::Elsewhere { line: image.line }),
        };
        let origin = Arc::new(self.origin(Some(self.call("dockerfile.v0", attributes, inputs))));
        let several = targets.len() > 1;
        let built = targets.into_iter().map(|target| async {
            let lowered = target.lowered;
            let making = Making { graph: Arc::new(lowered.graph), origin: origin.clone(), read: target.read };
            let name = if several { target.platform.to_string() } else { String::new() };
            let result = self.evaluate(&making.graph).await?;
            let mut built = Built::new(name, target.platform, result, making);
            (built.config, built.base, built.epoch) = (Some(lowered.config), lowered.base_config, lowered.epoch);
            if let Some(scan) = target.scan {
                self.add_scan(&mut built, scan).await?;
            }
            Ok::<_, Error>(built)
        });
        futures_util::future::try_join_all(built).await
    }

    /// Graphs of the client's Dockerfile, one a platform, if its language is the built-in one. Of them nothing is run yet. `inputs` are graphs that
    /// contexts may name.
    pub fn dockerfile<'a>(
        &'a self,
        attributes: &'a BTreeMap<String, String>,
        inputs: &'a BTreeMap<String, Arc<Graph>>,
    ) -> Doing<'a, Made> {
        Box::pin(async move { Frontend::new(self, attributes, inputs).await?.targets().await })
    }

    /// The frontend's answer to a question that builds nothing.
    pub fn question<'a>(
        &'a self,
        name: &'a str,
        attributes: &'a BTreeMap<String, String>,
        inputs: &'a BTreeMap<String, Arc<Graph>>,
    ) -> Doing<'a, questions::Answered> {
        Box::pin(async move { questions::answer(self, name, attributes, inputs).await })
    }

    pub(crate) fn pins(&self) -> MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes every output, with the attestations that are wanted, then every cache: what was built is kept even if an
    /// output can't be written.
    pub fn export(&self, results: Vec<Built>) -> Doing<'_, Response> {
        Box::pin(async move {
            let written = self.export_outputs(results).await;
            let mut response = match written {
                Ok(response) => response,
                Err(error) => {
                    let _shown = self.export_caches(true).await;
                    return Err(error);
                }
            };
            self.export_to(&mut response).await?;
            Ok(response)
        })
    }

    async fn export_outputs(&self, mut results: Vec<Built>) -> Result<Response, Error> {
        self.attest(&mut results).await?;
        let (engine, session, events, request) = (&self.engine, &self.session, &self.events, &self.request);
        let (id, attributes) = (&request.id, &request.attributes);
        let inline = self.inline().await;
        let (outputs, inline) = (&request.outputs, inline.as_ref());
        // What is on its way to a cache need not be sent to its registry a second time.
        let near = if exporters::pushed(outputs).is_empty() { Vec::new() } else { self.end_early().await };
        let written =
            exporters::export(engine, session, events, id, outputs, &results, attributes, inline, &near).await?;
        let (kept, provenance) = self.history_provenance(&results, &written)?;
        if let Some(keeper) = &self.keeper {
            keeper.wrote(&engine.store, &written, &kept)?;
        }
        Ok(Response { exporter: written.response, provenance })
    }

    /// What it shares with other builds.
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// What it remembers for its caches.
    pub(crate) fn caches(&self) -> &caches::OfBuild {
        &self.caches
    }

    /// The client.
    pub(crate) fn session(&self) -> &session::Shared {
        &self.session
    }

    /// What an image reference names now for a platform, and by which name: a policy may give it another one. `mode` is
    /// `default`, `pull` or `local`; `more` are policies of who asks.
    pub fn image<'a>(
        &'a self,
        reference: &'a Reference,
        platform: &'a Platform,
        mode: &'a str,
        more: &'a [Policy],
    ) -> Doing<'a, (Reference, Resolved)> {
        Box::pin(async move {
            let reference = self.let_image(reference, more)?;
            let name = format!("[internal] load metadata for {reference}");
            let task = self.events.begin(&format!("{reference} {platform}"), &name);
            let work = self.work(task.step)?;
            let resolved = image::resolve(&work, &reference, platform, ResolveMode::parse(mode)).await;
            Ok((reference, task.finish(resolved)?))
        })
    }

    /// What an image of a layout on the client's side is; `reference` is `@digest`.
    pub fn layout<'a>(
        &'a self,
        session: &'a str,
        layout: &'a str,
        reference: &'a str,
        platform: &'a Platform,
    ) -> Doing<'a, Resolved> {
        Box::pin(async move {
            let name = format!("[internal] load metadata for oci-layout://{layout}{reference}");
            let task = self.events.begin(&format!("{name} {platform}"), &name);
            let work = self.work(task.step)?;
            task.finish(oci_layout::resolve(&work, session, layout, reference, platform).await)
        })
    }

    /// When a source was made, in seconds since 1970.
    pub(crate) async fn time(&self, identifier: &str, attrs: BTreeMap<String, String>) -> Result<Option<i64>, Error> {
        let (graph, name) = lone(identifier, attrs)?;
        let Some(vertex) = graph.vertices().next() else { return Ok(None) };
        let task = self.events.begin(&format!("time of {identifier}"), &name);
        let found = async { remote::time(&self.work(task.step)?, vertex).await }.await;
        task.finish(found)
    }

    /// What a source of git's or of the web's is now; `None` for another. `objects`: with what git keeps of a commit.
    pub fn remote<'a>(
        &'a self,
        identifier: &'a str,
        attrs: BTreeMap<String, String>,
        objects: bool,
    ) -> Doing<'a, Option<Remote>> {
        Box::pin(async move {
            let (graph, name) = lone(identifier, attrs)?;
            let Some(vertex) = graph.vertices().next() else { return Ok(None) };
            let task = self.events.begin(&format!("metadata of {identifier}"), &name);
            let found = async { remote::look(&self.work(task.step)?, vertex, objects).await }.await;
            task.finish(found)
        })
    }

    /// The files of a result, for reading.
    pub fn view<'a>(&'a self, result: &'a Held) -> Doing<'a, View> {
        Box::pin(async move {
            if let Live::Local(tree) = &result.live {
                return Ok(tree.scanned.view());
            }
            let tree = result.live.snapshot(&self.work(Digest::of(b"view"))?).await?;
            Ok(match tree {
                Some(id) => View::of_layers(self.engine.store.snapshots().layers(id)?),
                None => View::empty(),
            })
        })
    }

    /// What work for a step is given.
    pub(crate) fn work(&self, step: Digest) -> Result<Work, Error> {
        let cancel = sandbox::Cancel::new().map_err(crate::ops::Error::from)?;
        let (engine, session, events) = (self.engine.clone(), self.session.clone(), self.events.clone());
        Ok(Work { engine, session, seen: self.seen.clone(), events, step, cancel })
    }

    /// What a client is told of the build's failure, kept with its history: a status' code, and its bytes.
    pub fn tell_failure(&self, code: i32, status: &[u8]) -> Result<(), Error> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        keeper.failed(&self.engine.store, code, status)
    }

    /// Keeps nothing of it.
    fn forget(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.forget();
        }
    }

    /// Ends the build's history. Called twice, the first outcome stays.
    pub fn finish(&self, outcome: &Result<Response, Error>) -> Result<(), Error> {
        let Some(keeper) = &self.keeper else { return Ok(()) };
        keeper.finish(&self.engine.store, self.engine.settings.retention, outcome)?;
        Ok(self.engine.store.flush()?)
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.engine.producers.forget(&self.request.id);
    }
}

/// A source by itself, and what it is called while it is looked at.
fn lone(identifier: &str, attrs: BTreeMap<String, String>) -> Result<(Graph, String), Error> {
    let name = format!("[internal] load metadata for {identifier}");
    Ok((context::source(identifier.to_owned(), attrs, &name)?, name))
}
