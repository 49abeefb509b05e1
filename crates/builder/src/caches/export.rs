//! `--cache-to`: what a build did, as a cache elsewhere. Layers are packed once, for images and caches alike; what the other
//! side has is not sent. Also of a build that failed: what succeeded is worth keeping.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use graph::Edge;
use oci::{Descriptor, Digest, Reference};
use registry::s3::Ambient;
use solver::Trail;
use solver::exchange::{self, CONFIG, Config, Form, Listing, Moment, Output, UNCOMPRESSED};
use store::layer::Recipe;
use store::{SnapshotId, Store};

use super::collect::{Collected, Found, collect};
use super::place::{self, Place};
use super::{Error, Import, Imports, Request, early, gha, s3, tags};
use crate::event::What;
use crate::exporters::{assemble, options};
use crate::{Work, blocking};

/// Layers on their way at once.
pub(super) const UPLOADS: usize = 4;

/// Configs that are larger are not read by BuildKit (1 MiB).
pub const MOST: usize = (1 << 20) - 1;

/// A `--cache-to`, read.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only results that are a part of the wanted ones.
    pub min: bool,
    /// How layers are packed.
    pub recipe: Recipe,
    /// Also those that came packed another way.
    pub force: bool,
    form: Form,
    /// A failed export fails the build.
    pub strict: bool,
}

impl Options {
    /// Reads the attributes of a request.
    pub fn read(request: &Request) -> Result<Options, Error> {
        let min = match request.attribute("mode") {
            None | Some("min") => true,
            Some("max") => false,
            Some(other) => return Err(request.bad("mode", other, "expected min or max")),
        };
        let bad = |name: &str, value: &str, reason: String| request.bad(name, value, &reason);
        let compression = options::compression(&request.attributes, &bad)?;
        let oci = request.flag("oci-mediatypes", true)?;
        let form = match request.flag("image-manifest", oci)? {
            true if !oci => return Err(request.bad("image-manifest", "true", "it needs oci-mediatypes=true")),
            true => Form::ImageManifest,
            false => Form::Index { docker: !oci },
        };
        let recipe = Recipe { compression, clamp: None, docker_media: false };
        let strict = !request.flag("ignore-error", true)?;
        Ok(Options { min, recipe, force: request.flag("force-compression", false)?, form, strict })
    }

    /// What an image's own layers are packed by, for the cache inside of it.
    pub fn inline(recipe: Recipe, force: bool) -> Options {
        Options { min: true, recipe, force, form: Form::ImageManifest, strict: false }
    }
}

/// What a build leaves for its caches.
pub struct Done {
    /// The keys of its steps.
    pub trail: Vec<Trail>,
    /// The wanted outputs of steps; none of a build that failed.
    pub targets: BTreeSet<Edge>,
    /// The caches that it read.
    pub imports: Arc<Imports>,
    /// Images that it pushed: their repositories may have layers already.
    pub pushed: Vec<Reference>,
}

/// A cache that can be written: its config, and where each blob's bytes are.
pub struct Packed {
    /// The config.
    pub config: Config,
    blobs: BTreeMap<Digest, (Descriptor, Option<Arc<Import>>)>,
}

/// Refuses what can't be written, before anything is built for it.
pub fn check(requests: &[Request], ambient: &Ambient) -> Result<(), Error> {
    for request in requests {
        Options::read(request)?;
        match request.kind.as_str() {
            "registry" => drop(place::reference(request)?),
            "local" => drop(request.required("dest")?),
            "s3" => drop(s3::Options::read(request, ambient)?),
            "gha" => drop(gha::Options::read(request)?),
            "inline" => {}
            kind => return Err(place::unknown(kind)),
        }
    }
    Ok(())
}

/// What writing a cache is called: BuildKit's words.
pub fn title(kind: &str) -> &'static str {
    match kind {
        "registry" => "exporting cache to registry",
        "local" => "exporting cache to client directory",
        "s3" => "exporting cache to Amazon S3",
        "gha" => "exporting to GitHub Actions Cache",
        _ => "exporting cache",
    }
}

/// Writes one cache. `None` when there is nothing to write. `sent`: blobs that are there for certain.
pub async fn export(
    work: &Work,
    request: &Request,
    done: &Done,
    sent: &BTreeSet<Digest>,
) -> Result<Option<Descriptor>, crate::Error> {
    let options = Options::read(request)?;
    let place = Place::to_write(work, request).await?;
    part(work, "preparing build cache for export");
    let collected = collected(work, done, &options).await?;
    let mut sent = sent.clone();
    let unpacked = unpacked(work, &collected, &options).await?;
    if !unpacked.is_empty() {
        sent.extend(early::ahead(work.clone(), place.clone(), options.clone(), stream::iter(unpacked)).await);
    }
    let packed = pack(work, collected, &options).await?;
    if packed.config.is_empty() {
        part(work, "skipping cache export for empty result");
        return Ok(None);
    }
    let (sending, blobs) = (send(work, &place, &packed, done, &sent), packed.descriptors());
    match &place {
        Place::Registry(reference) => {
            // It is looked beside the layers at what is there: where nothing is new, that is all.
            let before = tags::before(work, reference, &packed.config);
            let (sent, before) = futures_util::future::join(sending, before).await;
            sent?;
            // What could not be read is read again before anything is written in its place.
            let before = before.unwrap_or_default();
            let added = tags::add(work, reference, &packed.config, &blobs, options.form, &before).await;
            work.engine.known.note_written(reference);
            added.map(Some)
        }
        Place::Shelf(shelf) => {
            sending.await?;
            shelf.add(work, &packed.config, &blobs).await.map(|()| None)
        }
        Place::Folder { .. } => {
            sending.await?;
            write(work, &place, &packed, options.form).await.map(Some)
        }
    }
}

/// The cache for an image's configuration, as text: of the records whose results are made of the image's layers.
pub async fn inline(
    work: &Work,
    done: &Done,
    recipe: Recipe,
    force: bool,
    layers: &[Digest],
) -> Result<Option<String>, crate::Error> {
    use base64::Engine;
    let options = Options::inline(recipe, force);
    let packed = pack(work, collected(work, done, &options).await?, &options).await?;
    let of_image = |output: &Output| output.blobs.iter().all(|blob| layers.contains(blob));
    let config = packed.config.without(|output| !of_image(output)).pruned();
    Ok(config.to_inline(layers).map(|json| base64::engine::general_purpose::STANDARD.encode(json)))
}

/// Writes config and manifest.
async fn write(work: &Work, place: &Place, packed: &Packed, form: Form) -> Result<Descriptor, crate::Error> {
    let config = fit(&packed.config, MOST);
    let json = config.to_json();
    let descriptor = Descriptor::new(CONFIG, Digest::of(&json), json.len() as u64);
    let listing = Listing { config: descriptor, blobs: packed.descriptors() };
    part(work, &format!("writing config {}", listing.config.digest));
    place.put_bytes(work, &listing.config, json).await?;
    let (manifest, media_type) = listing.write(&config, form, BTreeMap::new()).map_err(Error::from)?;
    let descriptor = Descriptor::new(media_type, Digest::of(&manifest), manifest.len() as u64);
    let kind = if form == Form::ImageManifest { "image manifest" } else { "manifest" };
    part(work, &format!("writing cache {kind} {}", descriptor.digest));
    place.put_manifest(work, &descriptor, manifest).await?;
    Ok(descriptor)
}

/// Leaves the oldest results out until the config has no more than so many bytes.
pub fn fit(config: &Config, most: usize) -> Config {
    let mut config = config.clone();
    while config.to_json().len() > most {
        let mut times: Vec<Moment> =
            config.records().iter().filter_map(|r| r.output.as_ref()).map(|o| o.created).collect();
        times.sort_unstable();
        let Some(oldest) = times.get(times.len() / 8).copied() else { break };
        config = config.without(|output| output.created <= oldest).pruned();
    }
    config
}

/// Tells of a finished part of the export.
pub fn part(work: &Work, part: &str) {
    let step = work.step;
    work.events.tell(What::Progress { step, part: part.to_owned(), current: 0, total: 0, done: true });
}

/// The results that a cache is to have.
async fn collected(work: &Work, done: &Done, options: &Options) -> Result<Collected, crate::Error> {
    let store = work.engine.store.clone();
    let (trail, imports) = (done.trail.clone(), done.imports.clone());
    let targets = if options.min { done.targets.clone() } else { BTreeSet::new() };
    blocking("collected a cache", move || collect(&store, &imports, &trail, &targets)).await
}

/// Layers of these results that have no blob yet, each once.
async fn unpacked(work: &Work, collected: &Collected, options: &Options) -> Result<Vec<SnapshotId>, crate::Error> {
    let (store, options) = (work.engine.store.clone(), options.clone());
    let here = |found: &Found| if let Found::Here(top, _) = found { Some(*top) } else { None };
    let tops: Vec<SnapshotId> = collected.found.values().filter_map(here).collect();
    let look = move || -> Result<Vec<SnapshotId>, store::Error> {
        let (mut seen, mut unpacked) = (BTreeSet::new(), Vec::new());
        for top in tops {
            for id in store.snapshots().chain(top)?.into_iter().rev() {
                let is_new = seen.insert(id);
                if is_new && assemble::found_layer_blob(&store, id, &options.recipe, options.force)?.is_none() {
                    unpacked.push(id);
                }
            }
        }
        Ok(unpacked)
    };
    blocking("looked for packed layers", look).await
}

/// Packs the layers of every result.
async fn pack(work: &Work, collected: Collected, options: &Options) -> Result<Packed, crate::Error> {
    let (store, options) = (work.engine.store.clone(), options.clone());
    let made = blocking("packed a cache", move || packed(&store, collected, &options));
    let (records, blobs) = made.await?;
    let config = Config::of(records, BTreeMap::new()).map_err(Error::from)?.pruned();
    Ok(Packed { config, blobs })
}

type Blobs = BTreeMap<Digest, (Descriptor, Option<Arc<Import>>)>;

fn packed(
    store: &Store,
    collected: Collected,
    options: &Options,
) -> Result<(Vec<exchange::Record>, Blobs), store::Error> {
    let (mut records, mut blobs) = (collected.records, BTreeMap::new());
    for (place, found) in collected.found {
        records[place].output = match found {
            Found::Here(top, created) => {
                let mut chain = store.snapshots().chain(top)?;
                chain.reverse();
                let mut digests = Vec::new();
                for id in chain {
                    let (mut layer, diff_id, _) = assemble::layer_blob(store, id, &options.recipe, options.force)?;
                    let made = Moment::of_millis(store.snapshots().info(id)?.created);
                    let made = oci::time::rfc3339_nanos(made.seconds, made.nanos);
                    layer.annotations.insert(UNCOMPRESSED.to_owned(), diff_id.to_string());
                    layer.annotations.insert("buildkit/createdat".to_owned(), made);
                    digests.push(layer.digest);
                    blobs.insert(layer.digest, (layer, None));
                }
                let created = Moment::of_millis(created);
                (!digests.is_empty()).then_some(Output { created, blobs: digests })
            }
            Found::Elsewhere(import, output) => {
                for (layer, _) in import.layers(&output).list {
                    blobs.entry(layer.digest).or_insert((layer, Some(import.clone())));
                }
                Some(output)
            }
        };
    }
    Ok((records, blobs))
}

impl Packed {
    fn descriptors(&self) -> BTreeMap<Digest, Descriptor> {
        self.blobs.iter().map(|(digest, (descriptor, _))| (*digest, descriptor.clone())).collect()
    }
}

/// Sends what the other side lacks.
async fn send(
    work: &Work,
    place: &Place,
    packed: &Packed,
    done: &Done,
    sent: &BTreeSet<Digest>,
) -> Result<(), crate::Error> {
    let (there, unknown): (BTreeSet<_>, BTreeSet<_>) = packed.config.blobs().partition(|digest| sent.contains(digest));
    there.iter().for_each(|digest| part(work, &format!("writing layer {digest}")));
    let lacking = place.lacks(work, unknown).await?;
    let sends = packed.blobs.iter().filter(|(digest, _)| lacking.contains(*digest));
    let sends = sends.map(|(_, (blob, import))| send_one(work, place, blob, import.as_deref(), &done.pushed).boxed());
    stream::iter(sends.collect::<Vec<_>>()).buffer_unordered(place.uploads(UPLOADS)).try_collect().await
}

async fn send_one(
    work: &Work,
    place: &Place,
    blob: &Descriptor,
    import: Option<&Import>,
    pushed: &[Reference],
) -> Result<(), crate::Error> {
    let from: Vec<&Reference> = import.and_then(Import::reference).into_iter().chain(pushed).collect();
    // What another repository of the same registry has need not come here first.
    let bring = async {
        match import {
            Some(import) => import.origin().fetch(work, blob).await,
            None => Ok(()),
        }
    };
    place.put(work, blob, &from, bring).await?;
    part(work, &format!("writing layer {}", blob.digest));
    Ok(())
}
