//! The cache as the solver asks it: this store first, then what each build imported, for that build alone. And results of
//! imported caches while steps need them. Nothing is fetched while the solver asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use graph::Vertex;
use oci::{Digest, Platform};
use solver::{Build, Cause, Cost, Event, Index, KeyId, Link, Locator, Record, ResultId, Save, Stored};

use super::results::Held;
use super::{Driver, State};
use crate::caches::{Import, Imports, Remote};
use crate::{Live, Work};

/// See the module.
pub struct Caches<'a> {
    pub store: store::CacheIndex<'a>,
    pub imports: BTreeMap<Build, Arc<Imports>>,
}

impl Caches<'_> {
    fn of<'b>(&'b self, builds: &'b BTreeSet<Build>) -> impl Iterator<Item = &'b Arc<Imports>> {
        builds.iter().filter_map(|build| self.imports.get(build))
    }
}

impl Index for Caches<'_> {
    fn children(&self, builds: &BTreeSet<Build>, parent: &KeyId, link: &Link) -> Vec<KeyId> {
        let mut keys = self.store.children(builds, parent, link);
        for imports in self.of(builds) {
            keys.extend(imports.read.iter().flat_map(|import| import.children(parent, link)));
        }
        keys
    }

    fn newest(&self, builds: &BTreeSet<Build>, keys: &[KeyId]) -> Option<(KeyId, Digest)> {
        let here = self.store.newest(builds, keys);
        // A record of a cache has one result; its key is its name.
        let key = || self.of(builds).find_map(|imports| keys.iter().find(|key| imports.of_key(key).is_some()));
        here.or_else(|| key().map(|key| (*key, *key)))
    }
}

impl State {
    /// The imports of all builds that have any.
    pub fn imports(&self) -> BTreeMap<Build, Arc<Imports>> {
        let known = self.builds.iter().filter(|(_, going)| !going.order.imports.read.is_empty());
        known.map(|(build, going)| (*build, going.order.imports.clone())).collect()
    }

    /// The cache that has the result under a key, of the builds that have the step.
    pub fn import(&self, step: &Digest, key: &KeyId) -> Option<Arc<Import>> {
        let builds = self.builds.values().filter(|going| going.order.graph.get(step).is_some());
        builds.into_iter().find_map(|going| Some(going.order.imports.of_key(key)?.0.clone()))
    }

    /// What kept the builds of a step from using an imported cache: its record was lost, or no cache could be asked.
    pub fn kept_from(&self, step: &Digest, keys: &[KeyId]) -> (Option<Cause>, Option<Cause>) {
        let builds: Vec<_> = self.builds.values().filter(|going| going.order.graph.get(step).is_some()).collect();
        let lost = builds.iter().find_map(|going| going.order.imports.lost(keys));
        let unavailable = builds.iter().find_map(|going| going.order.imports.unavailable.first().cloned());
        (lost, unavailable)
    }

    /// The links of a record that was found, so that it is found again without the cache it came from.
    pub fn imported_links(&self, step: &Digest, stored: &Stored) -> Vec<(KeyId, Link, KeyId)> {
        let map = self.vertex(step).and_then(|v| solver::key::cache_map(&v, &Platform::host()).ok());
        let import = self.import(step, &stored.key);
        import.zip(map).map(|(import, map)| import.links(stored, map.digest)).unwrap_or_default()
    }
}

/// A record of an imported cache as the result of one output of a step; `None` when no cache of its builds has it.
pub fn load(driver: &Driver, work: &Work, vertex: &Vertex, stored: &Stored) -> Option<Result<ResultId, Cause>> {
    let mut state = driver.lock();
    let key = stored.key;
    let import = state.import(&vertex.digest, &key).filter(|_| stored.record == key)?;
    let links = state.imported_links(&vertex.digest, stored);
    let operation = links.first().map(|(_, link, _)| link.digest);
    let map = || solver::key::cache_map(vertex, &Platform::host()).ok().map(|map| map.digest);
    let operation = operation.or_else(map)?;
    let save = Save { operation, keys: vec![key], links: links.clone(), found: Vec::new() };
    let order = state.builds.values().map(|g| &g.order).find(|o| o.graph.get(&vertex.digest).is_some())?;
    let record = Record {
        keys: vec![key],
        operation,
        results: Vec::new(),
        inputs: Vec::new(),
        ingredients: state.ingredients(vertex, &save),
        cost: Cost::default(),
        created: import.output(&key)?.created.millis(),
        build: order.id.clone(),
        locator: Locator::of(&order.project, &order.target, &vertex.name()),
    };
    let remote = Remote::new(&import, vertex.digest, record, links)?;
    let held = Held::new(&work.engine.store, Live::Remote(Arc::new(remote)));
    let held = held.map_err(|e| Cause::BlobMissing { digest: key.to_string(), looked: vec![e.to_string()] });
    Some(held.map(|held| state.hold(held, vertex.digest, String::new())))
}

/// Brings the inputs that lie elsewhere; the event that says so when one can't be had.
pub async fn bring(driver: &Driver, work: &Work, step: Digest, inputs: &[ResultId]) -> Option<Event> {
    for result in inputs {
        let live = driver.lock().live(*result).ok()?;
        let Live::Remote(remote) = live else { continue };
        if remote.snapshot(work).await.is_ok() {
            continue;
        }
        // One that failed for another reason fails again where it is used, and says why there.
        if let Some(cause) = remote.lost() {
            return Some(Event::Lost { vertex: step, result: *result, cause });
        }
    }
    None
}
