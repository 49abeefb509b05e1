//! `--cache-from`: a manifest and a config are read, and which of its blobs are there is asked once. Nothing else moves
//! until the files of a result are needed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use oci::{Descriptor, Digest, Manifest, ManifestOrIndex};
use registry::filter::Filter;
use serde::Deserialize;
use solver::exchange::{Config, Imported, Listing, Output, UNCOMPRESSED};
use solver::{Cause, KeyId, Link, Stored};

use super::place::Place;
use super::{Error, Request, cause, shelf, tags};
use crate::Work;
use crate::sources::bytes::{ClientLogin, Origin};
use crate::sources::layers::Layers;

/// A cache that was read.
pub struct Import {
    /// Where it is, for people.
    pub backend: String,
    index: Imported,
    blobs: BTreeMap<Digest, Descriptor>,
    place: Place,
    /// Results that can't be had, by key.
    lost: Mutex<BTreeMap<KeyId, Cause>>,
}

/// The caches of one build, in order of preference.
#[derive(Default)]
pub struct Imports {
    /// Those that were read.
    pub read: Vec<Arc<Import>>,
    /// Why others could not be.
    pub unavailable: Vec<Cause>,
}

/// What became of a cache that was to be read.
pub enum Outcome {
    /// It was read.
    Read(Arc<Import>),
    /// There is none yet.
    Absent,
    /// It can't be had.
    Unavailable(Cause),
    /// Nothing that was asked for is in it, for certain. What may be in it.
    PassedOver(Filter),
}

/// Reads one cache, unless its registry says that none of `operations` is in it (by the digests of their records).
pub async fn import(work: &Work, request: &Request, operations: &BTreeSet<Digest>) -> Result<Outcome, crate::Error> {
    let place = Place::to_read(work, request).await?;
    let known = &work.engine.known;
    if let Place::Registry(reference) = &place {
        if known.is_absent(reference) {
            return Ok(Outcome::Absent);
        }
        // Asked beside the cache itself, so that what may be in there is not found later.
        return tokio::select! {
            biased;
            read = read_at(work, &place) => {
                if matches!(&read, Err(error) if is_absent(error)) {
                    known.note_absent(reference);
                }
                read
            }
            filter = passes_over(work, reference, operations) => Ok(Outcome::PassedOver(filter)),
        };
    }
    read_at(work, &place).await
}

/// Ready when a cache has none of the operations for certain.
async fn passes_over(work: &Work, reference: &oci::Reference, operations: &BTreeSet<Digest>) -> Filter {
    let login = ClientLogin(work.session.clone());
    match work.engine.registry.cache_filter(reference, &login).await {
        Ok(Some(filter)) if !operations.iter().any(|operation| filter.may_have(operation)) => filter,
        // Whether the cache can be had at all is found out where it is read.
        _ => std::future::pending().await,
    }
}

async fn read_at(work: &Work, place: &Place) -> Result<Outcome, crate::Error> {
    let (config, blobs) = read(work, place).await?;
    let lacking = lacking(work, place, config.blobs().collect()).await?;
    let place = place.clone();
    let import = Import { backend: place.shown(), index: Imported::new(config), blobs, place, lost: Mutex::default() };
    import.leave_out(&lacking);
    Ok(Outcome::Read(Arc::new(import)))
}

/// Which blobs can't be had. Asked side by side, and what was found out lately is not asked again.
async fn lacking(work: &Work, place: &Place, mut wanted: BTreeSet<Digest>) -> Result<BTreeSet<Digest>, crate::Error> {
    let (known, repository) = (&work.engine.known, place.repository());
    let mut lacking = BTreeSet::new();
    for digest in wanted.clone() {
        // What is here need not be there.
        let here = work.engine.store.blobs().has(&digest)?;
        let there = repository.and_then(|repository| known.blob(repository, &digest));
        if here || there.is_some() {
            wanted.remove(&digest);
        }
        if !here && there == Some(false) {
            lacking.insert(digest);
        }
    }
    let missing = place.lacks(work, wanted.clone()).await?;
    if let Some(repository) = repository {
        wanted.iter().for_each(|digest| known.note_blob(repository, digest, !missing.contains(digest)));
    }
    lacking.extend(missing);
    Ok(lacking)
}

impl Import {
    /// Results with blobs that are not there, or that nothing describes, are none.
    fn leave_out(&self, lacking: &BTreeSet<Digest>) {
        let described = |d: &Digest| self.blobs.get(d).is_some_and(|b| diff_id(b).is_some());
        for key in self.index.config().names() {
            let Some(output) = self.index.output(&key) else { continue };
            let missing = output.blobs.iter().find(|d| lacking.contains(d) || !described(d));
            if let Some(blob) = missing {
                self.lose(key, Cause::BlobMissing { digest: blob.to_string(), looked: vec![self.backend.clone()] });
            }
        }
    }

    /// Keys that `link` leads to from `parent`.
    pub fn children(&self, parent: &KeyId, link: &Link) -> Vec<KeyId> {
        self.index.children(parent, link)
    }

    /// The result under a key, when it can be had.
    pub fn output(&self, key: &KeyId) -> Option<&Output> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        self.index.output(key).filter(|_| !lost.contains_key(key))
    }

    /// The links that lead to the key of an output of an operation with this cache digest.
    pub fn links(&self, stored: &Stored, operation: Digest) -> Vec<(KeyId, Link, KeyId)> {
        self.index.links(&stored.key, operation, stored.output)
    }

    /// The layers of a result.
    pub fn layers(&self, output: &Output) -> Layers {
        let layer = |digest: &Digest| {
            let descriptor = self.blobs.get(digest)?;
            Some((descriptor.clone(), diff_id(descriptor)?))
        };
        let list = output.blobs.iter().filter_map(layer).collect();
        Layers { name: format!("from the cache {}", self.backend), origin: self.place.origin(), list }
    }

    /// The digest that a key is exported under.
    pub fn digest(&self, key: &KeyId) -> Option<Digest> {
        self.index.record(key).map(|record| record.digest)
    }

    /// The keys that lead to a key: for each input the selector and the input's key.
    pub fn inputs(&self, key: &KeyId) -> Vec<Vec<(Option<Digest>, KeyId)>> {
        self.index.inputs(key)
    }

    /// Where its blobs come from.
    pub fn origin(&self) -> Origin {
        self.place.origin()
    }

    /// Its reference, when it is kept in a registry.
    pub fn reference(&self) -> Option<&oci::Reference> {
        self.place.repository()
    }

    /// A result can't be had: it is not found again.
    pub fn lose(&self, key: KeyId, cause: Cause) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).insert(key, cause);
    }

    /// Why the result under one of `keys` can't be had, where there was one.
    pub fn lost(&self, keys: &[KeyId]) -> Option<Cause> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter().find_map(|key| lost.get(key).cloned())
    }
}

impl Imports {
    /// The first cache that has a result under a key.
    pub fn of_key(&self, key: &KeyId) -> Option<(&Arc<Import>, &Output)> {
        self.read.iter().find_map(|import| Some((import, import.output(key)?)))
    }

    /// What kept this build from finding a result under `keys`.
    pub fn lost(&self, keys: &[KeyId]) -> Option<Cause> {
        self.read.iter().find_map(|import| import.lost(keys))
    }

    /// Those among these outcomes that count.
    pub fn of<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Imports {
        let mut imports = Imports::default();
        for outcome in outcomes {
            match outcome {
                Outcome::Read(import) => imports.read.push(import.clone()),
                Outcome::Unavailable(cause) => imports.unavailable.push(cause.clone()),
                Outcome::Absent | Outcome::PassedOver(_) => {}
            }
        }
        imports
    }
}

impl Outcome {
    /// What was only not there yet is no failure.
    pub fn of(backend: &str, read: Result<Outcome, crate::Error>) -> Outcome {
        match read {
            Ok(outcome) => outcome,
            Err(error) if is_absent(&error) => Outcome::Absent,
            Err(error) => Outcome::Unavailable(cause(backend, &error)),
        }
    }

    /// Whether it is to be read (again) for a graph with these operations.
    pub fn is_open_for(&self, operations: &BTreeSet<Digest>) -> bool {
        matches!(self, Outcome::PassedOver(filter) if operations.iter().any(|operation| filter.may_have(operation)))
    }
}

/// Whether an error says that there is no such cache, as before the first export.
fn is_absent(error: &crate::Error) -> bool {
    matches!(super::fault(error), super::Fault::Missing)
}

fn diff_id(blob: &Descriptor) -> Option<Digest> {
    Digest::parse(blob.annotations.get(UNCOMPRESSED)?).ok()
}

/// The config and the blobs of what lies at a place.
async fn read(work: &Work, place: &Place) -> Result<(Config, BTreeMap<Digest, Descriptor>), crate::Error> {
    let no_cache = |reason: String| Error::NoCache { place: place.shown(), reason };
    if let Place::Shelf(cache) = place {
        let (host, reference, status) = ("the server".to_owned(), cache.shown(), 404);
        let none = || Error::Registry(registry::Error::NotFound { host, reference, status });
        let config = cache.config().await?.ok_or_else(none)?;
        let blobs = shelf::described(&config);
        return Ok((config, blobs));
    }
    if let Place::Registry(reference) = place
        && let Some(kept) = tags::read(work, reference).await?
    {
        return Ok((kept.config, kept.blobs));
    }
    let bytes = place.manifest(work).await?;
    let document = ManifestOrIndex::decode(&bytes, None).map_err(|e| no_cache(e.to_string()))?;
    if let Some(listing) = Listing::read(&document) {
        let config = place.bytes(work, &listing.config.digest).await?;
        return Ok((Config::parse(&config).map_err(Error::from)?, listing.blobs));
    }
    let manifests = match document {
        ManifestOrIndex::Manifest(manifest) => vec![manifest],
        ManifestOrIndex::Index(index) => {
            let mut found = Vec::new();
            for entry in &index.manifests {
                let bytes = match place {
                    Place::Registry(reference) => {
                        let reference = oci::Reference { digest: Some(entry.digest), ..reference.clone() };
                        Place::Registry(reference).manifest(work).await?
                    }
                    _ => place.bytes(work, &entry.digest).await?,
                };
                if let Ok(ManifestOrIndex::Manifest(manifest)) = ManifestOrIndex::decode(&bytes, None) {
                    found.push(manifest);
                }
            }
            found
        }
    };
    let (mut configs, mut blobs) = (Vec::new(), BTreeMap::new());
    for manifest in &manifests {
        let Some(config) = inline(work, place, manifest, &mut blobs).await? else { continue };
        configs.push(config);
    }
    if configs.is_empty() {
        return Err(no_cache("it is an image without a cache inside".to_owned()).into());
    }
    Ok((Config::join(&configs).map_err(Error::from)?, blobs))
}

/// The cache inside of an image.
async fn inline(
    work: &Work,
    place: &Place,
    manifest: &Manifest,
    blobs: &mut BTreeMap<Digest, Descriptor>,
) -> Result<Option<Config>, crate::Error> {
    #[derive(Deserialize)]
    struct Inside {
        #[serde(rename = "moby.buildkit.cache.v0")]
        cache: Option<String>,
        #[serde(default)]
        rootfs: oci::RootFs,
        #[serde(default)]
        history: Vec<oci::History>,
    }
    use base64::Engine;
    let no_cache = |reason: String| Error::NoCache { place: place.shown(), reason };
    if manifest.layers.is_empty() {
        return Ok(None);
    }
    let bytes = place.bytes(work, &manifest.config.digest).await?;
    let inside: Inside = serde_json::from_slice(&bytes).map_err(|e| no_cache(e.to_string()))?;
    let Some(text) = inside.cache else { return Ok(None) };
    if inside.rootfs.diff_ids.len() != manifest.layers.len() {
        return Ok(None);
    }
    let records = base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| no_cache(e.to_string()))?;
    let layers: Vec<Digest> = manifest.layers.iter().map(|l| l.digest).collect();
    let mut times = inside.history.iter().filter(|line| !line.empty_layer).map(|line| line.created.clone());
    for (layer, diff_id) in manifest.layers.iter().zip(&inside.rootfs.diff_ids) {
        let mut layer = layer.clone();
        if let Some(created) = times.next().flatten() {
            layer.annotations.insert("buildkit/createdat".to_owned(), created);
        }
        layer.annotations.insert(UNCOMPRESSED.to_owned(), diff_id.to_string());
        blobs.insert(layer.digest, layer);
    }
    Ok(Some(Config::parse_inline(&records, &layers).map_err(Error::from)?))
}
