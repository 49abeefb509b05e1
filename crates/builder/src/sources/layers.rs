//! Layers that lie elsewhere, with their uncompressed digests: brought here and unpacked when their files are needed.
//! Layers that are here already, under whatever image or cache they came, are not brought again.

use futures_util::FutureExt;
use oci::{Descriptor, Digest};
use store::{Resource, SnapshotId};
use tokio::sync::Mutex;

use super::bytes::Origin;
use crate::{Error, Work, blocking, sources};

/// One unpacking at a time: layers that two images share are unpacked once.
static UNPACKING: Mutex<()> = Mutex::const_new(());

/// A stack of layers, lowest first.
pub struct Layers {
    /// What they belong to, for people.
    pub name: String,
    /// Where their bytes are.
    pub origin: Origin,
    /// Blob, and digest of the uncompressed tar.
    pub list: Vec<(Descriptor, Digest)>,
}

impl Layers {
    /// The chain ids, lowest first (OCI image-spec `config`, "Layer ChainID").
    fn chain_ids(&self) -> Vec<Digest> {
        let mut ids: Vec<Digest> = Vec::new();
        for (_, diff_id) in &self.list {
            let below = ids.last();
            ids.push(below.map_or(*diff_id, |below| Digest::of(format!("{below} {diff_id}").as_bytes())));
        }
        ids
    }

    /// How many of the lowest layers are unpacked here already, and the snapshot of the last of them.
    fn have(&self, store: &store::Store, chain: &[Digest]) -> Result<(usize, Option<SnapshotId>), Error> {
        for (i, id) in chain.iter().enumerate().rev() {
            if let Some(found) = store.layer_blobs().find_chain(id)? {
                return Ok((i + 1, Some(found)));
            }
        }
        Ok((0, None))
    }

    /// The blobs that would have to be brought to have the files.
    pub fn missing(&self, store: &store::Store) -> Result<Vec<Descriptor>, Error> {
        let (have, _) = self.have(store, &self.chain_ids())?;
        let mut missing = Vec::new();
        for (layer, _) in &self.list[have..] {
            if !store.blobs().has(&layer.digest)? {
                missing.push(layer.clone());
            }
        }
        Ok(missing)
    }

    /// Brings every blob into the store, without unpacking any.
    pub async fn fetch(&self, work: &Work) -> Result<(), Error> {
        self.fetch_from(work, 0).await
    }

    async fn fetch_from(&self, work: &Work, first: usize) -> Result<(), Error> {
        let fetches = self.list[first..].iter().map(|(layer, _)| self.fetch_one(work, layer).boxed());
        futures_util::future::try_join_all(fetches).await.map(drop)
    }

    async fn fetch_one(&self, work: &Work, layer: &Descriptor) -> Result<(), Error> {
        let fetched = self.origin.fetch(work, layer).await.and_then(|()| is_as_long(work, layer));
        fetched.map_err(|error| Error::Blob { digest: layer.digest, error: Box::new(error) })
    }

    /// The files as a snapshot, brought and unpacked now if need be; `None` when there is no layer.
    pub async fn snapshot(&self, work: &Work) -> Result<Option<SnapshotId>, Error> {
        let store = &work.engine.store;
        let chain = self.chain_ids();
        if let (have, Some(top)) = self.have(store, &chain)?
            && have == chain.len()
        {
            return Ok(Some(top));
        }
        let _one = UNPACKING.lock().await;
        let (have, mut parent) = self.have(store, &chain)?;
        self.fetch_from(work, have).await?;
        for (i, (layer, diff_id)) in self.list.iter().cloned().enumerate().skip(have) {
            let (store, name, chain, digest) = (store.clone(), self.name.clone(), chain[i], layer.digest);
            let _held = parent.map(|id| store.leases().hold(Resource::Snapshot(id))).transpose()?;
            let unpacked = blocking("unpacked a layer", move || unpack(&store, parent, &layer, diff_id, chain, &name));
            let unpacked = unpacked.await.map_err(|error| Error::Blob { digest, error: Box::new(error) });
            parent = Some(unpacked?);
        }
        Ok(parent)
    }
}

/// An image that has the layer says how long it is: what is not true here would be told to others.
fn is_as_long(work: &Work, layer: &Descriptor) -> Result<(), Error> {
    match work.engine.store.blobs().size(&layer.digest)? {
        Some(size) if size != layer.size => Err(sources::Error::WrongSize { expected: layer.size, size }.into()),
        _ => Ok(()),
    }
}

fn unpack(
    store: &store::Store,
    parent: Option<SnapshotId>,
    layer: &Descriptor,
    diff_id: Digest,
    chain: Digest,
    name: &str,
) -> Result<SnapshotId, store::Error> {
    let blob = store.blobs().open(&layer.digest)?;
    let unpacked = store::layer::unpack(store, parent, blob, name)?;
    if unpacked.diff_id != diff_id {
        let (found, size) = (unpacked.diff_id, unpacked.diff_size);
        store.snapshots().remove(unpacked.snapshot)?;
        return Err(store::Error::WrongDigest { expected: diff_id, found, size });
    }
    let form = store::Form {
        media_type: layer.media_type.clone(),
        recipe: "fetched".to_owned(),
        digest: layer.digest,
        size: layer.size,
    };
    store.layer_blobs().add_form(unpacked.snapshot, form)?;
    store.layer_blobs().set_chain(unpacked.snapshot, chain)?;
    Ok(unpacked.snapshot)
}
