//! Rows: small typed values under keys, in a base on disk (redb) with a journal before it.
//! A write is one `write(2)` to the journal and is then safe from `kill -9`; nobody waits for a disk. Power loss takes
//! what no [`Meta::sync`] had reached. It never interprets a row: the modules that own the tables do.

mod base;
mod checkpoint;
mod journal;
mod rows;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::error::Result;
use base::Base;
use journal::Journal;

pub use journal::SyncPoint;
pub(crate) use journal::mark_synced;
pub(crate) use rows::{Batch, Rows, no_view_is_held};
pub(crate) use table::{Key, Table};

/// A journal longer than this is folded into the base, in the background.
const CHECKPOINT_AT: u64 = 1 << 20;

/// A row's bytes; `None` says that it was removed.
type Value = Option<Arc<[u8]>>;
/// Rows that the base does not have yet, with the number of the write that made them.
type Overlay = BTreeMap<Vec<u8>, (u64, Value)>;

/// The metadata of one store. All methods take `&self`; writers take turns, readers never wait for a disk.
pub(crate) struct Meta {
    root: PathBuf,
    writer: Mutex<Writer>,
    overlay: RwLock<Overlay>,
    base: RwLock<Base>,
    checkpoint: Mutex<()>,
}

struct Writer {
    journal: Journal,
    /// Number of the newest write.
    written: u64,
    /// Bytes of earlier journals that are not in the base yet.
    older: u64,
    /// A checkpoint was asked for and has not ended.
    asked: bool,
}

/// What `Meta::open` found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Bytes of the journal that did not count: a torn end, or what another boot wrote and never synced.
    pub dropped: u64,
    /// The machine was started anew since the last write: what had not reached the disk may be gone.
    pub new_boot: bool,
}

impl Meta {
    /// Opens or makes the metadata under `root`, whose owner this process is. `boot` is the id of this boot.
    pub(crate) fn open(root: &Path, boot: &str) -> Result<(Meta, Recovered)> {
        let base = Base::open(root)?;
        let applied = base.applied()?;
        let mut overlay = Overlay::new();
        let mut written = 0;
        let (journal, older, recovered) = Journal::open(root, boot, applied, |key, value| {
            written += 1;
            overlay.insert(key, (written, value));
        })?;
        let meta = Meta {
            root: root.to_owned(),
            writer: Mutex::new(Writer { journal, written, older, asked: false }),
            overlay: RwLock::new(overlay),
            base: RwLock::new(base),
            checkpoint: Mutex::new(()),
        };
        Ok((meta, recovered))
    }

    /// A view of all rows as they are now; later writes do not show in it.
    pub(crate) fn rows(&self) -> Result<Rows<'_>> {
        no_view_is_held();
        // The overlay first: a row that a checkpoint moves meanwhile is then in one of the two for sure.
        let overlay = self.overlay.read().unwrap_or_else(PoisonError::into_inner);
        let file = self.base.read().unwrap_or_else(PoisonError::into_inner);
        Rows::new(overlay, file)
    }

    /// Reads one row.
    pub(crate) fn get<K: Key, V: serde::de::DeserializeOwned>(
        &self,
        table: &Table<K, V>,
        key: &K,
    ) -> Result<Option<V>> {
        self.rows()?.get(table, key)
    }

    /// Runs `edit` on a batch that sees its own writes, alone; what it staged becomes visible and safe from `kill -9` at
    /// once and together when it returns `Ok`, and nothing of it otherwise.
    pub(crate) fn write<T>(&self, edit: impl FnOnce(&mut Batch<'_>) -> Result<T>) -> Result<T> {
        no_view_is_held();
        let mut writer = self.lock_writer();
        let mut batch = Batch::new(self);
        let answer = edit(&mut batch)?;
        let staged = batch.staged();
        if staged.is_empty() {
            return Ok(answer);
        }
        writer.journal.append(&staged)?;
        writer.written += 1;
        let number = writer.written;
        let mut overlay = self.overlay.write().unwrap_or_else(PoisonError::into_inner);
        overlay.extend(staged.into_iter().map(|(key, value)| (key, (number, value))));
        Ok(answer)
    }

    /// Bytes of the journals that are not in the base.
    pub(crate) fn backlog(&self) -> u64 {
        let writer = self.lock_writer();
        writer.older + writer.journal.len()
    }

    /// Whether the journals are long enough to be folded into the base and nobody is at it; says so once.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        let mut writer = self.lock_writer();
        let wants = !writer.asked && writer.older + writer.journal.len() > CHECKPOINT_AT;
        writer.asked |= wants;
        wants
    }

    /// How far the journal reaches now, for [`mark_synced`].
    pub(crate) fn sync_point(&self) -> SyncPoint {
        self.lock_writer().journal.point()
    }

    /// Whether something was written that no sync has reached.
    pub(crate) fn unsynced(&self) -> Result<bool> {
        let point = self.sync_point();
        Ok(journal::synced(&self.root)?.is_none_or(|synced| synced < point))
    }

    fn lock_writer(&self) -> MutexGuard<'_, Writer> {
        // A panic in an edit leaves the journal as it was: nothing is staged before the edit ends.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
