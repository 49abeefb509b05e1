//! The caches of one build: read before its first graph is made, written after its outputs or its failure.
//! A cache that can't be reached shows as a failed step; the build goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use graph::{Edge, Graph};
use oci::{Descriptor, Digest, Reference};
use solver::Trail;

use super::early::{Early, Sending};
use super::export::{self, Done};
use super::{Imports, Outcome, Request, import, place};
use crate::build::{Build, Response};
use crate::event::What;
use crate::{Error, exporters};

/// What a build remembers for its caches.
#[derive(Default)]
pub struct OfBuild {
    /// Caches to read that were not in the request: a frontend or a client named them with a graph.
    also: Mutex<Vec<Request>>,
    /// By their positions: those of the request, then the others.
    imports: tokio::sync::Mutex<BTreeMap<usize, Outcome>>,
    /// The keys of the steps of every graph that was made so far.
    trail: Arc<Mutex<Vec<Trail>>>,
    /// The heads of those graphs.
    heads: Mutex<BTreeSet<Edge>>,
    /// Layers that go to caches already, by the caches' positions.
    sending: Mutex<Option<BTreeMap<usize, Sending>>>,
    /// What went out that way.
    sent: Mutex<BTreeMap<usize, BTreeSet<Digest>>>,
    /// Whether caches were written.
    exported: AtomicBool,
}

impl OfBuild {
    /// A graph was made.
    pub fn made(&self, head: Edge) {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).insert(head);
    }
}

impl Build {
    /// From now on these caches are read too, for the rest of the build.
    pub fn import_also(&self, requests: Vec<Request>) {
        let mut also = self.caches().also.lock().unwrap_or_else(PoisonError::into_inner);
        for request in requests {
            if !self.request().cache_from.contains(&request) && !also.contains(&request) {
                also.push(request);
            }
        }
    }

    /// The caches that were named, as far as a graph may have hits in them; each is read once a build. One that
    /// can't be read shows as a failed step.
    pub(crate) async fn imports(&self, graph: &Graph) -> Arc<Imports> {
        let mut outcomes = self.caches().imports.lock().await;
        let also = self.caches().also.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let named: Vec<&Request> = self.request().cache_from.iter().chain(&also).collect();
        if !named.is_empty() {
            let operations = operations(graph);
            let requests = named.into_iter().enumerate();
            let open = requests.filter(|(p, _)| outcomes.get(p).is_none_or(|outcome| outcome.is_open_for(&operations)));
            let reading = open.map(|(position, request)| {
                let read = self.import(request, &operations);
                async move { (position, read.await) }.boxed()
            });
            let reading: Vec<_> = reading.collect();
            outcomes.extend(futures_util::future::join_all(reading).await);
        }
        Arc::new(Imports::of(outcomes.values()))
    }

    async fn import(&self, request: &Request, operations: &BTreeSet<Digest>) -> Outcome {
        let backend = request.shown();
        let name = format!("importing cache manifest from {backend}");
        let task = self.events().begin(&format!("{} {name}", self.request().id), &name);
        let read = async { import(&self.work(task.step)?, request, operations).await }.await;
        Outcome::of(&backend, task.finish(read))
    }

    /// Where the keys of steps are noted, if a cache is to be written.
    pub(crate) fn trail(&self) -> Option<Arc<Mutex<Vec<Trail>>>> {
        (!self.request().cache_to.is_empty() || self.is_inline()).then(|| self.caches().trail.clone())
    }

    /// Who hears at once of what steps make: begun with the build's first graph.
    pub(crate) fn early(&self) -> Result<Vec<Early>, Error> {
        let mut sending = self.caches().sending.lock().unwrap_or_else(PoisonError::into_inner);
        if sending.is_none() {
            let mut begun = BTreeMap::new();
            for (position, request) in self.request().cache_to.iter().enumerate() {
                let step = Digest::of(format!("{} {}", self.request().id, request.shown()).as_bytes());
                begun.extend(Sending::begin(self.work(step)?, request).map(|sending| (position, sending)));
            }
            *sending = Some(begun);
        }
        Ok(sending.iter().flatten().map(|(_, sending)| sending.early()).collect())
    }

    /// Waits for the layers that are on their way to caches. Gives the repositories that have layers of this build now, and
    /// so need not be the only ones that they are sent to.
    pub(crate) async fn end_early(&self) -> Vec<Reference> {
        let sending = self.caches().sending.lock().unwrap_or_else(PoisonError::into_inner).replace(BTreeMap::new());
        for (position, sending) in sending.into_iter().flatten() {
            let sent = sending.end().await;
            self.caches().sent.lock().unwrap_or_else(PoisonError::into_inner).insert(position, sent);
        }
        let sent = self.caches().sent.lock().unwrap_or_else(PoisonError::into_inner);
        let having = sent.iter().filter(|(_, blobs)| !blobs.is_empty());
        having.filter_map(|(position, _)| place::reference(self.request().cache_to.get(*position)?).ok()).collect()
    }

    /// What this build did, for images that are to hold the cache of their own layers.
    pub(crate) async fn inline(&self) -> Option<Done> {
        if self.is_inline() { Some(self.done(true).await) } else { None }
    }

    fn is_inline(&self) -> bool {
        let asked = self.request().attributes.get("build-arg:BUILDKIT_INLINE_CACHE");
        asked.is_some_and(|v| matches!(v.as_str(), "1" | "true"))
            || self.request().cache_to.iter().any(|request| request.kind == "inline")
    }

    /// Writes the caches of a build that has all it wanted, into its response.
    pub(crate) async fn export_to(&self, response: &mut Response) -> Result<(), Error> {
        let written = self.export_caches(true).await?;
        // BuildKit's clients know of one.
        if let Some(manifest) = written.first() {
            let json = serde_json::to_string(manifest).map_err(|e| Error::Failed(e.to_string()))?;
            response.exporter.insert("cache.manifest".to_owned(), json);
        }
        Ok(())
    }

    /// Writes every cache, once, and gives their manifests. `whole`: the build has all it wanted; else what succeeded is
    /// written.
    pub async fn export_caches(&self, whole: bool) -> Result<Vec<Descriptor>, Error> {
        let done = self.done(whole).await;
        let (mut written, mut failed) = (Vec::new(), None);
        if self.caches().exported.swap(true, Ordering::SeqCst) || (!whole && done.trail.is_empty()) {
            return Ok(written);
        }
        self.end_early().await;
        let sent = std::mem::take(&mut *self.caches().sent.lock().unwrap_or_else(PoisonError::into_inner));
        let nothing = BTreeSet::new();
        let requests = self.request().cache_to.iter().enumerate();
        for (position, request) in requests.filter(|(_, request)| request.kind != "inline") {
            let name = export::title(&request.kind);
            let task = self.events().begin(&format!("{} {name} {}", self.request().id, request.shown()), name);
            let sent = sent.get(&position).unwrap_or(&nothing);
            let exported = async { export::export(&self.work(task.step)?, request, &done, sent).await }.await;
            if let Ok(Some(manifest)) = &exported {
                let (step, manifest) = (task.step, manifest.clone());
                self.events().tell(What::Cache { step, position, manifest });
            }
            let strict = export::Options::read(request).map_or(true, |options| options.strict);
            match task.finish(exported) {
                Err(error) if strict => failed = failed.or(Some(error)),
                exported => written.extend(exported.ok().flatten()),
            }
        }
        failed.map_or(Ok(written), Err)
    }

    async fn done(&self, whole: bool) -> Done {
        let caches = self.caches();
        let imports = Arc::new(Imports::of(caches.imports.lock().await.values()));
        let heads = caches.heads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Done {
            trail: caches.trail.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            targets: if whole { heads } else { BTreeSet::new() },
            imports,
            pushed: exporters::pushed(&self.request().outputs),
        }
    }
}

/// The digests that records of a graph's results would have. What sources are is found out later, and no result of one is
/// in a cache.
fn operations(graph: &Graph) -> BTreeSet<Digest> {
    let host = oci::Platform::host();
    let inputs = graph.vertices().flat_map(|vertex| vertex.inputs.iter().copied());
    let edges: BTreeSet<Edge> = inputs.chain(graph.head).collect();
    let digest = |edge: Edge| {
        let map = solver::key::cache_map(graph.get(&edge.vertex)?, &host).ok()?;
        Some(solver::key::export_digest(&map.digest, edge.output))
    };
    edges.into_iter().filter_map(digest).collect()
}
