//! Kept builds: one file of events each, and a row with what a listing shows. The content of both is the builder's.
//! A build whose process died has a file without a row; the collector removes it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

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

    /// Keeps a build from retention, or no more.
    pub fn pin(&self, id: &str, pinned: bool) -> Result<()> {
        let key = id.to_owned();
        self.0.write(|batch| {
            let mut entry = batch.get(&table::HISTORY, &key)?.ok_or_else(|| not_found(id))?;
            entry.pinned = pinned;
            batch.put(&table::HISTORY, &key, &entry)
        })
    }

    /// Removes a kept build.
    pub fn remove(&self, id: &str) -> Result<()> {
        let path = self.path(id)?;
        let key = id.to_owned();
        self.0.write(|batch| {
            batch.get(&table::HISTORY, &key)?.ok_or_else(|| not_found(id))?;
            batch.delete(&table::HISTORY, &key);
            Ok(())
        })?;
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
    /// Ends the file and lists the build.
    pub fn finish(mut self, entry: &Entry) -> Result<()> {
        self.file.flush().doing("write", &self.path)?;
        self.store.write(|batch| batch.put(&table::HISTORY, &entry.id, entry))?;
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
