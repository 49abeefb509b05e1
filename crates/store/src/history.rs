//! Kept builds: one file of events each, and a row with what a listing shows. The content of both is the builder's.
//! A build whose process died has a file without a row; the collector removes it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use oci::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Result};
use crate::format::{self, table};
use crate::{Store, trash};

/// A kept build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its reference: letters, digits, `-`, `_` and `.`.
    pub id: String,
    /// When it began, milliseconds since 1970.
    pub created: u64,
    /// When it ended.
    pub completed: u64,
    /// Kept by a user's wish.
    pub pinned: bool,
    /// What a listing shows, in the builder's own encoding.
    pub summary: Vec<u8>,
}

/// The blobs of a kept build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blobs {
    /// Nothing but the history has them: they go with the build.
    pub own: Vec<Digest>,
    /// Of its results: they stay while the build is kept, and are then what they were before.
    pub results: Vec<Digest>,
}

/// Which kept builds stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// So many of the newest stay, however old.
    pub entries: usize,
    /// Builds that ended within this time stay, however many.
    pub age: Duration,
}

impl Default for Retention {
    /// BuildKit's: a build goes when it is beyond 50 and older than 48 hours.
    fn default() -> Retention {
        Retention { entries: 50, age: Duration::from_secs(48 * 3600) }
    }
}

/// See [`Store::history`].
pub struct History<'a>(pub(crate) &'a Store);

impl History<'_> {
    /// Starts the file of a build.
    pub fn begin(&self, id: &str) -> Result<HistoryWriter> {
        let path = self.path(id)?;
        let file = File::create(&path).doing("make", &path)?;
        Ok(HistoryWriter { store: self.0.clone(), file: BufWriter::with_capacity(1 << 16, file), path, kept: false })
    }

    /// Kept builds, newest first.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let rows = self.0.0.meta.rows()?.list(&table::HISTORY, &[])?;
        let mut list: Vec<Entry> = rows.into_iter().map(|(_, entry)| entry).collect();
        list.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| b.id.cmp(&a.id)));
        Ok(list)
    }

    /// One kept build.
    pub fn get(&self, id: &str) -> Result<Option<Entry>> {
        self.0.0.meta.get(&table::HISTORY, &id.to_owned())
    }

    /// The events of a kept build.
    pub fn events(&self, id: &str) -> Result<File> {
        let path = self.path(id)?;
        match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(not_found(id)),
            file => file.doing("open", &path),
        }
    }

    /// Changes what is kept of a build, in one step.
    pub fn change(&self, id: &str, change: impl FnOnce(&mut Entry, &mut Blobs)) -> Result<Entry> {
        let key = id.to_owned();
        let mut changed = None;
        self.0.write(|batch| {
            let mut entry = batch.get(&table::HISTORY, &key)?.ok_or_else(|| not_found(id))?;
            let mut blobs = batch.get(&table::HISTORY_BLOBS, &key)?.unwrap_or_default();
            change(&mut entry, &mut blobs);
            batch.put(&table::HISTORY, &key, &entry)?;
            batch.put(&table::HISTORY_BLOBS, &key, &blobs)?;
            changed = Some(entry);
            Ok(())
        })?;
        changed.ok_or_else(|| not_found(id))
    }

    /// Keeps a build from retention, or no more.
    pub fn pin(&self, id: &str, pinned: bool) -> Result<()> {
        self.change(id, |entry, _| entry.pinned = pinned).map(drop)
    }

    /// Removes a kept build, with the blobs that only it has.
    pub fn remove(&self, id: &str) -> Result<()> {
        let path = self.path(id)?;
        let key = id.to_owned();
        let mut blobs = Blobs::default();
        self.0.write(|batch| {
            batch.get(&table::HISTORY, &key)?.ok_or_else(|| not_found(id))?;
            blobs = batch.get(&table::HISTORY_BLOBS, &key)?.unwrap_or_default();
            batch.delete(&table::HISTORY, &key);
            batch.delete(&table::HISTORY_BLOBS, &key);
            Ok(())
        })?;
        let others = self.0.0.meta.rows()?.list(&table::HISTORY_BLOBS, &[])?;
        let others: HashSet<Digest> =
            others.into_iter().flat_map(|(_, b)| b.own.into_iter().chain(b.results)).collect();
        for digest in blobs.own.iter().filter(|digest| !others.contains(digest)) {
            match self.0.blobs().remove(digest) {
                // Somebody reads it now; the collector finds it later.
                Err(Error::InUse { .. }) => {}
                removed => removed?,
            }
        }
        trash::take(&self.0.0.root, &path)?;
        trash::empty_in_background(&self.0.0.root)
    }

    /// Removes what `retention` does not keep at `now` (milliseconds since 1970); returns the references.
    pub fn retain(&self, retention: Retention, now: u64) -> Result<Vec<String>> {
        let age = u64::try_from(retention.age.as_millis()).unwrap_or(u64::MAX);
        let gone: Vec<String> = self
            .list()?
            .into_iter()
            .filter(|entry| !entry.pinned)
            .skip(retention.entries)
            .filter(|entry| now.saturating_sub(entry.completed) > age)
            .map(|entry| entry.id)
            .collect();
        for id in &gone {
            self.remove(id)?;
        }
        Ok(gone)
    }

    fn path(&self, id: &str) -> Result<PathBuf> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if id.is_empty() || id.len() > 128 || id.starts_with('.') || !id.bytes().all(plain) {
            return Err(not_found(id));
        }
        Ok(self.0.0.root.join(format::HISTORY).join(id))
    }
}

fn not_found(id: &str) -> Error {
    Error::NotFound { kind: "kept build", name: id.to_owned() }
}

/// The file of a build that runs. Dropping it without [`HistoryWriter::finish`] keeps nothing.
pub struct HistoryWriter {
    store: Store,
    file: BufWriter<File>,
    path: PathBuf,
    kept: bool,
}

impl HistoryWriter {
    /// Ends the file and lists the build with its blobs.
    pub fn finish(mut self, entry: &Entry, blobs: &Blobs) -> Result<()> {
        self.file.flush().doing("write", &self.path)?;
        self.store.write(|batch| {
            batch.put(&table::HISTORY_BLOBS, &entry.id, blobs)?;
            batch.put(&table::HISTORY, &entry.id, entry)
        })?;
        self.kept = true;
        Ok(())
    }
}

impl Write for HistoryWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Drop for HistoryWriter {
    fn drop(&mut self) {
        if !self.kept {
            // What stays behind has no row, so the collector finds it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
