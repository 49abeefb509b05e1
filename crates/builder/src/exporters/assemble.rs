//! An image out of results: layers (made once, kept as blobs), configurations, manifests, an index where there are
//! several platforms. The same results give the same digests. It writes blobs and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use oci::{Descriptor, Digest, Index, Manifest, media};
use solver::exchange::Moment;
use store::layer::{Packed, Recipe};
use store::{Resource, SnapshotId, Store};

use super::history::complete;
use super::options::{Options, Place};
use super::tarred::Drafted;
use super::{Built, Error, Export, Written, attested};
use crate::caches::export::inline;
use crate::event::What;
use crate::sources::layers::Layers;
use crate::{Live, blocking};

/// An assembled image; all its blobs are in the store.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// The manifest or index.
    pub target: Descriptor,
    /// Of the first platform.
    pub config: Digest,
    /// When it was made, as the first platform's configuration says.
    pub created: Option<String>,
    /// Whether it is an index.
    pub index: bool,
    /// Everything that belongs to it, manifests last.
    pub blobs: Vec<Descriptor>,
    /// Manifests among them.
    pub manifests: Vec<Descriptor>,
    pub snapshots: Vec<SnapshotId>,
    /// Of the first platform, for Docker's own archive format.
    pub layers: Vec<Descriptor>,
    /// Of each result.
    pub all_layers: Vec<Vec<Descriptor>>,
    /// Statements in it, by what they say but for when.
    pub statements: BTreeMap<Digest, Digest>,
}

impl Image {
    /// What became of the output number `index`.
    pub fn written(self, index: usize, response: BTreeMap<String, String>) -> Result<Written, crate::Error> {
        let layers: BTreeSet<Digest> = self.all_layers.iter().flatten().map(|layer| layer.digest).collect();
        let small = self.blobs.iter().map(|blob| blob.digest).filter(|digest| !layers.contains(digest)).collect();
        let images = BTreeMap::from([(index, self.target)]);
        Ok(Written { response, images, small, layers: self.all_layers, statements: self.statements })
    }
}

/// A layer as the image has it.
pub(super) struct Layer {
    pub descriptor: Descriptor,
    pub diff_id: Digest,
    /// Milliseconds since 1970, where it is known.
    pub created: Option<u64>,
}

/// The tar that the image's layers go into, in their order, until it is taken out.
pub(crate) type Draft = Arc<Mutex<Option<Drafted>>>;

/// Assembles the image of all results.
pub(crate) async fn image(
    export: &Export<'_>,
    options: &Options,
    draft: Option<&Draft>,
) -> Result<Image, crate::Error> {
    let mut image: Option<Image> = None;
    let (mut manifests, mut attested) = (Vec::new(), Vec::new());
    for built in export.results {
        let options = &options.at(export.epoch(built)?);
        let one = platform(export, options, built, draft).await?;
        attested.extend(attested::manifest(export, options, built, &one)?);
        let mut descriptor = one.target.clone();
        descriptor.platform = Some(built.platform.clone());
        descriptor.annotations = options.annotations(Place::ManifestDescriptor, &built.platform);
        manifests.push(descriptor);
        image = Some(match image {
            None => one,
            Some(mut all) => {
                all.blobs.extend(one.blobs);
                all.manifests.extend(one.manifests);
                all.snapshots.extend(one.snapshots);
                all.all_layers.extend(one.all_layers);
                all
            }
        });
    }
    let nothing = || Error::Missing { kind: export.request.kind.clone(), what: "a result" };
    let mut image = image.ok_or_else(nothing)?;
    for one in attested {
        part(export, &format!("exporting attestation manifest {}", one.descriptor.digest));
        image.blobs.extend(one.blobs);
        image.manifests.push(one.descriptor.clone());
        image.statements.extend(one.statements);
        manifests.push(one.descriptor);
    }
    // A frontend that names its results wants them in an index, also where it is only one.
    if manifests.len() > 1 || export.results.iter().any(|built| !built.name.is_empty()) {
        image.index = true;
        let media_type = if options.oci { media::OCI_INDEX } else { media::DOCKER_INDEX };
        let index = Index {
            schema_version: 2,
            media_type: media_type.to_owned(),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: options.annotations(Place::Index, &export.results[0].platform),
        };
        image.target = put(&export.work.engine.store, media_type, &pretty(&index)?)?;
        image.blobs.push(image.target.clone());
        image.manifests.push(image.target.clone());
    }
    let told = format!("exporting manifest {}", image.target.digest);
    part(export, &told);
    Ok(image)
}

/// Tells of a finished part of the export.
pub(crate) fn part(export: &Export<'_>, part: &str) {
    let step = export.work.step;
    export.work.events.tell(What::Progress { step, part: part.to_owned(), current: 0, total: 0, done: true });
}

async fn platform(
    export: &Export<'_>,
    options: &Options,
    built: &Built,
    draft: Option<&Draft>,
) -> Result<Image, crate::Error> {
    let (layers, snapshots) = layers(export, options, built, draft).await?;
    part(export, "exporting layers");
    let given = built.config.as_ref().or(options.config.as_ref());
    let mut config = given.cloned().unwrap_or_default();
    if given.is_none() {
        config.os.clone_from(&built.platform.os);
        config.architecture.clone_from(&built.platform.architecture);
        config.variant.clone_from(&built.platform.variant);
    }
    complete(&mut config, &layers, options.epoch, built.base.as_ref());
    let (config_media, manifest_media) = match options.oci {
        true => (media::OCI_CONFIG, media::OCI_MANIFEST),
        false => (media::DOCKER_CONFIG, media::DOCKER_MANIFEST),
    };
    let created = config.created.clone();
    let store = &export.work.engine.store;
    let mut config = serde_json::to_value(&config).map_err(unwritable)?;
    if let (Some(done), Some(fields)) = (export.inline, config.as_object_mut()) {
        let blobs: Vec<Digest> = layers.iter().map(|l| l.descriptor.digest).collect();
        part(export, "preparing layers for inline cache");
        if let Some(records) = inline(&export.work, done, options.recipe, options.force, &blobs).await? {
            fields.insert("moby.buildkit.cache.v0".to_owned(), records.into());
        }
    }
    let config = put(store, config_media, &pretty(&config)?)?;
    part(export, &format!("exporting config {}", config.digest));
    let layers: Vec<Descriptor> = layers.into_iter().map(|l| l.descriptor).collect();
    let manifest = Manifest {
        schema_version: 2,
        media_type: manifest_media.to_owned(),
        artifact_type: None,
        config: config.clone(),
        layers: layers.clone(),
        subject: None,
        annotations: options.annotations(Place::Manifest, &built.platform),
    };
    let target = put(store, manifest_media, &pretty(&manifest)?)?;
    let mut blobs = layers.clone();
    blobs.extend([config.clone(), target.clone()]);
    let all_layers = vec![layers.clone()];
    let (manifests, config, statements) = (vec![target.clone()], config.digest, BTreeMap::new());
    Ok(Image { manifests, target, config, created, index: false, blobs, snapshots, layers, all_layers, statements })
}

pub(crate) fn pretty(value: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec_pretty(value).map_err(unwritable)
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::Write { what: "a manifest".to_owned(), source: error.into() }
}

pub(crate) fn put(store: &Store, media_type: &str, bytes: &[u8]) -> Result<Descriptor, Error> {
    let blob = store.blobs().put(bytes)?;
    Ok(Descriptor::new(media_type, blob.digest, blob.size))
}

async fn layers(
    export: &Export<'_>,
    options: &Options,
    built: &Built,
    draft: Option<&Draft>,
) -> Result<(Vec<Layer>, Vec<SnapshotId>), crate::Error> {
    let elsewhere = match &built.result.live {
        Live::Image(image) => Some(image.layers()),
        Live::Remote(remote) => Some(remote.layers()),
        _ => None,
    };
    let base = built.base.as_ref().map(|base| base.rootfs.diff_ids.as_slice()).unwrap_or_default();
    let as_it_is = |elsewhere: &Layers| {
        let rewritten = options.recipe.clamp.is_some() && !elsewhere.list.iter().map(|(_, id)| id).eq(base);
        !options.force && !rewritten
    };
    if let Some(elsewhere) = elsewhere.filter(|elsewhere| as_it_is(elsewhere)) {
        // Its layers pass as they are; nothing is unpacked.
        elsewhere.fetch(&export.work).await?;
        if let Some(draft) = draft.cloned() {
            let store = export.work.engine.store.clone();
            let blobs: Vec<Descriptor> = elsewhere.list.iter().map(|(descriptor, _)| descriptor.clone()).collect();
            let copied = move || blobs.iter().try_for_each(|blob| in_draft(&draft, |tar| tar.blob(&store, blob)));
            blocking("wrote layers", copied).await?;
        }
        let layer = |(descriptor, diff_id): &(Descriptor, Digest)| {
            // A cache says when a layer was made, so that the image is the one that it was.
            let made = descriptor.annotations.get("buildkit/createdat").and_then(|t| oci::time::parse_rfc3339(t));
            let created = made.map(|(seconds, nanos)| Moment { seconds, nanos }.millis());
            let descriptor = Descriptor::new(&descriptor.media_type, descriptor.digest, descriptor.size);
            Layer { descriptor: media_of(descriptor, options), diff_id: *diff_id, created }
        };
        return Ok((elsewhere.list.iter().map(layer).collect(), Vec::new()));
    }
    let Some(top) = built.result.live.snapshot(&export.work).await? else { return Ok((Vec::new(), Vec::new())) };
    let store = export.work.engine.store.clone();
    let (options, base, draft) = (options.clone(), base.to_vec(), draft.cloned());
    let made = blocking("packed layers", move || {
        let _held = store.leases().hold(Resource::Snapshot(top))?;
        let mut chain = store.snapshots().chain(top)?;
        chain.reverse();
        let (mut layers, mut base) = (Vec::new(), base.into_iter());
        let mut on_base = true;
        for id in &chain {
            // The base's own layers stay what they are: others have them too.
            on_base = on_base && base.next().is_some_and(|expected| is(&store, *id, &expected));
            layers.push(layer(&store, *id, &options, on_base, draft.as_ref())?);
        }
        Ok::<_, Error>((layers, chain))
    });
    made.await
}

/// Whether a snapshot is known to be this layer.
fn is(store: &Store, id: SnapshotId, diff_id: &Digest) -> bool {
    store.layer_blobs().get(id).is_ok_and(|known| known.diff_id.as_ref() == Some(diff_id))
}

fn layer(
    store: &Store,
    id: SnapshotId,
    options: &Options,
    of_base: bool,
    draft: Option<&Draft>,
) -> Result<Layer, Error> {
    let created = Some(store.snapshots().info(id)?.created);
    let recipe = Recipe { clamp: options.recipe.clamp.filter(|_| !of_base), ..options.recipe };
    let force = options.force || recipe.clamp.is_some();
    let (mut descriptor, diff_id, fetched) = match draft {
        None => layer_blob(store, id, &recipe, force)?,
        Some(draft) => in_draft(draft, |tar| match found_layer_blob(store, id, &recipe, force)? {
            Some(found) => tar.blob(store, &found.0).map(|()| found),
            None => tar.pack(store, id, &recipe).map(new),
        })?,
    };
    if let (Some(seconds), true) = (recipe.clamp, options.oci) {
        descriptor.annotations.insert("buildkit/rewritten-timestamp".to_owned(), seconds.to_string());
    }
    let created = created.filter(|_| !fetched);
    Ok(Layer { descriptor: media_of(descriptor, options), diff_id, created })
}

/// A snapshot's own layer as a blob of the store, with its diff id, and whether it came from elsewhere. Packed now if
/// need be.
pub(crate) fn layer_blob(
    store: &Store,
    id: SnapshotId,
    recipe: &Recipe,
    force: bool,
) -> Result<(Descriptor, Digest, bool), store::Error> {
    if let Some(found) = found_layer_blob(store, id, recipe, force)? {
        return Ok(found);
    }
    store::layer::pack(store, id, recipe).map(new)
}

/// A layer that was packed here.
fn new(packed: Packed) -> (Descriptor, Digest, bool) {
    (Descriptor::new(&packed.media_type, packed.digest, packed.size), packed.diff_id, false)
}

/// Does something with a draft that is there for as long as its image is assembled.
fn in_draft<T>(draft: &Draft, work: impl FnOnce(&mut Drafted) -> Result<T, Error>) -> Result<T, Error> {
    let mut tar = draft.lock().unwrap_or_else(PoisonError::into_inner);
    work(tar.as_mut().ok_or_else(|| Error::Missing { kind: "tar".to_owned(), what: "its draft" })?)
}

/// The same, if it is packed already.
pub(crate) fn found_layer_blob(
    store: &Store,
    id: SnapshotId,
    recipe: &Recipe,
    force: bool,
) -> Result<Option<(Descriptor, Digest, bool)>, store::Error> {
    let known = store.layer_blobs().get(id)?;
    if let (Some(diff_id), false) = (known.diff_id, force) {
        // What came compressed goes out as it came.
        for form in known.forms.iter().filter(|f| f.recipe == "fetched") {
            if store.blobs().has(&form.digest)? {
                return Ok(Some((Descriptor::new(&form.media_type, form.digest, form.size), diff_id, true)));
            }
        }
    }
    let packed = store::layer::find(store, id, recipe)?;
    Ok(packed.map(new))
}

/// The same layer under the media type that the image's kind wants.
fn media_of(mut layer: Descriptor, options: &Options) -> Descriptor {
    let pairs = [
        (media::OCI_LAYER, media::DOCKER_LAYER),
        (media::OCI_LAYER_GZIP, media::DOCKER_LAYER_GZIP),
        (media::OCI_LAYER_ZSTD, media::DOCKER_LAYER_ZSTD),
    ];
    for (oci, docker) in pairs {
        if options.oci && layer.media_type == docker {
            oci.clone_into(&mut layer.media_type);
        } else if !options.oci && layer.media_type == oci {
            docker.clone_into(&mut layer.media_type);
        }
    }
    layer
}
