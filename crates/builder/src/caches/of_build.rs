//! The caches of one build: read before its first graph is made, written after its outputs or its failure.
//! A cache that can't be reached shows as a failed step; the build goes on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use oci::{Descriptor, Digest};
use solver::Trail;
use tokio::sync::OnceCell;

use super::export::{self, Done};
use super::{Import, Imports, Request, import};
use crate::build::{Build, Response};
use crate::{Error, exporters};

/// What a build remembers for its caches.
#[derive(Default)]
pub struct OfBuild {
    imports: OnceCell<Arc<Imports>>,
    /// The keys of the steps of every graph that was made so far.
    trail: Arc<Mutex<Vec<Trail>>>,
    /// The heads of those graphs.
    heads: Mutex<BTreeSet<Digest>>,
    /// Whether caches were written.
    exported: AtomicBool,
}

impl OfBuild {
    /// A graph was made.
    pub fn made(&self, head: Digest) {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).insert(head);
    }
}

impl Build {
    /// The caches that the request names, read once a build. One that can't be read shows as a failed step.
    pub(crate) async fn imports(&self) -> Arc<Imports> {
        let read = async {
            let reading = self.request().cache_from.iter().map(|request| self.import(request).boxed());
            let mut imports = Imports::default();
            for (backend, outcome) in futures_util::future::join_all(reading).await {
                imports.add(&backend, outcome);
            }
            Arc::new(imports)
        };
        self.caches().imports.get_or_init(|| read).await.clone()
    }

    async fn import(&self, request: &Request) -> (String, Result<Arc<Import>, Error>) {
        let backend = request.shown();
        let name = format!("importing cache manifest from {backend}");
        let task = self.events().begin(&format!("{} {name}", self.request().id), &name);
        let read = async { import(&self.work(task.step)?, request).await }.await;
        (backend, task.finish(read))
    }

    /// Where the keys of steps are noted, if a cache is to be written.
    pub(crate) fn trail(&self) -> Option<Arc<Mutex<Vec<Trail>>>> {
        (!self.request().cache_to.is_empty() || self.is_inline()).then(|| self.caches().trail.clone())
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
        response.caches = self.export_caches(true).await?;
        // BuildKit's clients know of one.
        if let Some(manifest) = response.caches.iter().flatten().next() {
            let json = serde_json::to_string(manifest).map_err(|e| Error::Request(e.to_string()))?;
            response.exporter.insert("cache.manifest".to_owned(), json);
        }
        Ok(())
    }

    /// Writes every cache, once. `whole`: the build has all it wanted; else what succeeded is written.
    pub async fn export_caches(&self, whole: bool) -> Result<Vec<Option<Descriptor>>, Error> {
        let done = self.done(whole).await;
        let mut written = Vec::new();
        if self.caches().exported.swap(true, Ordering::SeqCst) || (!whole && done.trail.is_empty()) {
            return Ok(written);
        }
        for request in self.request().cache_to.iter().filter(|request| request.kind != "inline") {
            let name = export::title(&request.kind);
            let task = self.events().begin(&format!("{} {name} {}", self.request().id, request.shown()), name);
            let exported = async { export::export(&self.work(task.step)?, request, &done).await }.await;
            let strict = export::Options::read(request).map_or(true, |options| options.strict);
            match task.finish(exported) {
                Err(error) if strict => return Err(error),
                exported => written.push(exported.ok().flatten()),
            }
        }
        Ok(written)
    }

    async fn done(&self, whole: bool) -> Done {
        let imports = self.imports().await;
        let caches = self.caches();
        let heads = caches.heads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Done {
            trail: caches.trail.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            targets: if whole { heads } else { BTreeSet::new() },
            imports,
            pushed: exporters::pushed(&self.request().outputs),
        }
    }
}
