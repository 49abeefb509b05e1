//! What a scan knows from earlier ones: digests of files by their stat. A file keeps its place under another name, and a
//! stat that could belong to a write of the same instant is never believed. Losing an index only costs reading.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use oci::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Result};

/// A change younger than this when a file was read may have come after the reading: clocks of file systems are coarse.
const MARGIN: Duration = Duration::from_millis(25);

/// What changes whenever a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stat {
    dev: u64,
    ino: u64,
    size: u64,
    mode: u32,
    mtime: i64,
    ctime: i64,
}

impl Stat {
    /// Of a path.
    pub fn of(data: &Metadata) -> Stat {
        Stat {
            dev: data.dev(),
            ino: data.ino(),
            size: data.size(),
            mode: data.mode(),
            mtime: data.mtime() * 1_000_000_000 + data.mtime_nsec(),
            ctime: data.ctime() * 1_000_000_000 + data.ctime_nsec(),
        }
    }
}

/// See the module.
pub struct Index {
    path: PathBuf,
    known: HashMap<Stat, Digest>,
    began: i64,
    changed: bool,
}

impl Index {
    /// Reads the index at `path`; one that is missing or damaged is empty.
    pub fn open(path: PathBuf) -> Index {
        let read = fs::read(&path).ok().and_then(|bytes| postcard::from_bytes::<Vec<(Stat, Digest)>>(&bytes).ok());
        let known = read.unwrap_or_default().into_iter().collect();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let began = i64::try_from(now.saturating_sub(MARGIN).as_nanos()).unwrap_or(0);
        Index { path, known, began, changed: false }
    }

    /// The digest of a file with this stat.
    pub fn get(&self, stat: &Stat) -> Option<Digest> {
        self.known.get(stat).copied()
    }

    /// Notes a digest, unless the file may change again under the same stat.
    pub fn add(&mut self, stat: Stat, digest: Digest) {
        if stat.ctime < self.began && stat.mtime < self.began {
            self.known.insert(stat, digest);
            self.changed = true;
        }
    }

    /// Forgets everything but `seen`.
    pub fn keep(&mut self, seen: &[Stat]) {
        let known = std::mem::take(&mut self.known);
        self.known = seen.iter().filter_map(|stat| known.get(stat).map(|digest| (*stat, *digest))).collect();
        self.changed |= self.known.len() != known.len();
    }

    /// Writes it, if there is something new.
    pub fn save(&self, folder: &Path) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        let rows: Vec<(Stat, Digest)> = self.known.iter().map(|(s, d)| (*s, *d)).collect();
        let bytes = postcard::to_stdvec(&rows).map_err(std::io::Error::other).doing("write", &self.path)?;
        let new = folder.join(format!("{}.new", crate::clock::id_text(crate::clock::id())));
        fs::write(&new, bytes).doing("write", &new)?;
        fs::rename(&new, &self.path).doing("write", &self.path)
    }
}
