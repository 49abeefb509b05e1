//! What a scan knows from earlier ones: digests of files by their stat. A file keeps its place under another name, and a
//! stat that could belong to a write of the same instant is never believed. Losing an index only costs reading.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use oci::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Result};

/// What changes whenever a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stat {
    ino: u64,
    dev: u64,
    size: u64,
    mode: u32,
    mtime: i64,
    ctime: i64,
}

impl Stat {
    /// Of a path.
    pub fn of(data: &Metadata) -> Stat {
        Stat {
            ino: data.ino(),
            dev: data.dev(),
            size: data.size(),
            mode: data.mode(),
            mtime: data.mtime() * 1_000_000_000 + data.mtime_nsec(),
            ctime: data.ctime() * 1_000_000_000 + data.ctime_nsec(),
        }
    }
}

/// The moment before which a file must have been left alone, for its stat to stand for what is read from now on.
#[derive(Clone, Copy, Debug)]
pub struct Moment(i64);

impl Moment {
    /// A change younger than this when a file was read may have come after the reading: clocks of file systems are coarse.
    const MARGIN: Duration = Duration::from_millis(25);

    /// For files that are read from now on.
    pub fn now() -> Moment {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Moment(i64::try_from(now.saturating_sub(Moment::MARGIN).as_nanos()).unwrap_or(0))
    }

    /// Whether a file with this stat was left alone before.
    pub fn is_after(self, stat: &Stat) -> bool {
        stat.ctime < self.0 && stat.mtime < self.0
    }
}

/// See the module.
pub struct Index {
    path: PathBuf,
    /// Sorted by stat: reading it is one pass, and a look a binary search.
    known: Vec<(Stat, Digest)>,
    began: Moment,
}

impl Index {
    /// Reads the index at `path`; one that is missing or damaged is empty.
    pub fn open(path: PathBuf) -> Index {
        let read = fs::read(&path).ok().and_then(|bytes| postcard::from_bytes::<Vec<(Stat, Digest)>>(&bytes).ok());
        let mut known = read.unwrap_or_default();
        if !known.is_sorted_by_key(|(stat, _)| *stat) {
            known.sort_unstable_by_key(|(stat, _)| *stat);
        }
        Index { path, known, began: Moment::now() }
    }

    /// Of nothing.
    pub fn empty() -> Index {
        Index { path: PathBuf::new(), known: Vec::new(), began: Moment::now() }
    }

    /// The digest of a file with this stat.
    pub fn get(&self, stat: &Stat) -> Option<Digest> {
        self.known.binary_search_by_key(stat, |(stat, _)| *stat).ok().map(|at| self.known[at].1)
    }

    /// Whether a file with this stat may be noted: it can't change again under it.
    pub fn is_settled(&self, stat: &Stat) -> bool {
        self.began.is_after(stat)
    }

    /// How many files it knows.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Writes `known`, in any order, in place of what it has.
    pub fn replace(self, tmp: &Path, mut known: Vec<(Stat, Digest)>) -> Result<()> {
        known.sort_unstable_by_key(|(stat, _)| *stat);
        let bytes = postcard::to_stdvec(&known).map_err(std::io::Error::other).doing("write", &self.path)?;
        write_whole(tmp, &self.path, &bytes)
    }
}

/// Writes a file under another name in `tmp` first, so that nobody ever reads half of it.
pub fn write_whole(tmp: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let new = tmp.join(format!("{}.new", crate::clock::id_text(crate::clock::id())));
    fs::write(&new, bytes).doing("write", &new)?;
    fs::rename(&new, path).doing("write", path)
}
