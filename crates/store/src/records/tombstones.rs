//! What is left of a removed record under each of its keys, so that a later miss can say what became of it.
//! Their number and age are bounded by the sweep; a new record under the same key ends one.

use oci::Digest;
use serde::{Deserialize, Serialize};
use solver::{Cause, KeyId, Lost};

use super::{Records, unlist};
use crate::error::Result;
use crate::format::table;
use crate::meta::Batch;
use crate::{Resource, clock};

/// Why a record was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Removal {
    /// A rule of the policy took it, named here.
    Evicted(String),
    /// Somebody asked, named here.
    Pruned(String),
    /// It was declared stale by somebody, named here.
    Invalidated(String),
    /// Its result was missing or damaged: what, named here.
    Lost(String),
}

/// What is left of a removed record, under each of its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// The record.
    pub record: Digest,
    /// Its step.
    pub step: Digest,
    /// Why.
    pub removal: Removal,
    /// When, milliseconds since 1970.
    pub when: u64,
    /// Bytes that its removal freed.
    pub bytes: u64,
}

impl Records<'_> {
    /// Removes records, leaving a tombstone under each of their keys. `gone` has the bytes that each removal freed.
    pub fn remove(&self, gone: &[(Digest, u64)], removal: &Removal) -> Result<()> {
        let when = clock::now();
        self.0.write(|batch| gone.iter().try_for_each(|(id, bytes)| bury(batch, *id, removal, when, *bytes)))
    }

    /// What became of the record that `key` led to, if one was removed and none came after it.
    pub fn tombstone(&self, key: &Digest) -> Result<Option<Tombstone>> {
        self.0.0.meta.get(&table::TOMBSTONES, key)
    }

    /// What became of the first of `keys` under which a record was removed, as a cause.
    pub fn lost(&self, keys: &[KeyId]) -> Result<Option<Lost>> {
        for key in keys {
            if let Some(tombstone) = self.tombstone(key)? {
                return Ok(Some(Lost { cause: tombstone.cause() }));
            }
        }
        Ok(None)
    }
}

impl Tombstone {
    /// The cause of a miss that it stands for.
    pub fn cause(&self) -> Cause {
        let Tombstone { when, bytes, .. } = *self;
        match self.removal.clone() {
            Removal::Evicted(rule) => Cause::Evicted { rule, when, bytes },
            Removal::Pruned(by) => Cause::Pruned { by, when },
            Removal::Invalidated(by) => Cause::Invalidated { by, when },
            Removal::Lost(what) => Cause::BlobMissing { digest: what, looked: vec!["this store".to_owned()] },
        }
    }
}

/// Stages a record's removal and its tombstones. One that is not there is no error.
pub(crate) fn bury(batch: &mut Batch<'_>, id: Digest, removal: &Removal, when: u64, bytes: u64) -> Result<()> {
    let Some(row) = batch.get(&table::RECORDS, &id)? else { return Ok(()) };
    unlist(batch, id, &row);
    batch.delete(&table::USES, &Resource::Record(id).key());
    let tombstone = Tombstone { record: id, step: row.step, removal: removal.clone(), when, bytes };
    row.keys.iter().try_for_each(|key| batch.put(&table::TOMBSTONES, key, &tombstone))
}
