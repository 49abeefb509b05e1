//! Snapshots as layers of images: the diff id, and every compressed form that was made or fetched, so that a layer is
//! compressed once; and snapshots by chain id, so that a base image's layers are found again. It never compresses.

use oci::Digest;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::format::table;
use crate::meta::Batch;
use crate::{SnapshotId, Store};

/// One compressed form of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// Media type of the blob.
    pub media_type: String,
    /// How it was made, for reuse: compression, level and whatever else decides its bytes. `fetched` for a registry's.
    pub recipe: String,
    /// The blob.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// A snapshot's own layer as an image sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Digest of the uncompressed tar.
    pub diff_id: Option<Digest>,
    /// Length of the uncompressed tar.
    pub diff_size: Option<u64>,
    /// Chain id of the snapshot (OCI image-spec `config`, "Layer ChainID").
    pub chain_id: Option<Digest>,
    /// Its compressed forms; one a recipe.
    pub forms: Vec<Form>,
}

/// See [`Store::layer_blobs`].
pub struct LayerBlobs<'a>(pub(crate) &'a Store);

impl LayerBlobs<'_> {
    /// What is known of the snapshot's layer; empty when nothing is.
    pub fn get(&self, id: SnapshotId) -> Result<Layer> {
        Ok(self.0.0.meta.get(&table::LAYERS, &id)?.unwrap_or_default())
    }

    /// Notes the uncompressed tar.
    pub fn set_diff(&self, id: SnapshotId, diff_id: Digest, size: u64) -> Result<()> {
        self.edit(id, |layer| {
            layer.diff_id = Some(diff_id);
            layer.diff_size = Some(size);
        })
    }

    /// Adds a form, in place of one with the same recipe and media type.
    pub fn add_form(&self, id: SnapshotId, form: Form) -> Result<()> {
        self.edit(id, |layer| {
            layer.forms.retain(|old| (&old.recipe, &old.media_type) != (&form.recipe, &form.media_type));
            layer.forms.push(form);
        })
    }

    /// Forgets the forms that are this blob: it is missing or damaged.
    pub fn forget_form(&self, id: SnapshotId, blob: &Digest) -> Result<()> {
        self.edit(id, |layer| layer.forms.retain(|form| form.digest != *blob))
    }

    /// Names the snapshot by its chain id. The newest snapshot of a chain id is the one that is found.
    pub fn set_chain(&self, id: SnapshotId, chain: Digest) -> Result<()> {
        self.0.write(|batch| {
            let mut layer: Layer = batch.get(&table::LAYERS, &id)?.unwrap_or_default();
            layer.chain_id = Some(chain);
            batch.put(&table::CHAINS, &chain, &id)?;
            batch.put(&table::LAYERS, &id, &layer)
        })
    }

    /// The snapshot of a chain id, if it is here.
    pub fn find_chain(&self, chain: &Digest) -> Result<Option<SnapshotId>> {
        self.0.0.meta.get(&table::CHAINS, chain)
    }

    fn edit(&self, id: SnapshotId, change: impl FnOnce(&mut Layer)) -> Result<()> {
        self.0.write(|batch| {
            let mut layer = batch.get(&table::LAYERS, &id)?.unwrap_or_default();
            change(&mut layer);
            batch.put(&table::LAYERS, &id, &layer)
        })
    }
}

/// Stages the removal of the snapshot's rows here.
pub(crate) fn forget(batch: &mut Batch<'_>, id: SnapshotId) -> Result<()> {
    if let Some(layer) = batch.get(&table::LAYERS, &id)? {
        batch.delete(&table::LAYERS, &id);
        if let Some(chain) = layer.chain_id
            && batch.get(&table::CHAINS, &chain)? == Some(id)
        {
            batch.delete(&table::CHAINS, &chain);
        }
    }
    Ok(())
}
