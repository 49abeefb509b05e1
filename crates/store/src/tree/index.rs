//! What a scan knows from earlier ones: digests of files by their stat. A file keeps its place under another name, and a
//! stat that could belong to a write of the same instant is never believed. Losing an index only costs reading.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use oci::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Result};

/// How files of a directory change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    /// In any way: a user's directory.
    Anyhow,
    /// Only by another file in its place: a directory of ours. Its files get more names (in layers), and stay the same.
    ByReplacing,
}

/// What changes whenever a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stat {
    ino: u64,
    dev: u64,
    size: u64,
    mode: u32,
    mtime: i64,
    /// Nanoseconds: the time of its change. Where files are only replaced, the time when it was made, if the file system
    /// knows: a new name is a change.
    ctime: i64,
}

impl Stat {
    /// Of a path.
    pub fn of(data: &Metadata, changes: Changes) -> Stat {
        let changed = data.ctime() * 1_000_000_000 + data.ctime_nsec();
        let made = || data.created().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok();
        let made = || i64::try_from(made()?.as_nanos()).ok();
        // Folders stay, and change.
        let replaced = changes == Changes::ByReplacing && data.is_file();
        Stat {
            ino: data.ino(),
            dev: data.dev(),
            size: data.size(),
            mode: data.mode(),
            mtime: data.mtime() * 1_000_000_000 + data.mtime_nsec(),
            ctime: if replaced { made().unwrap_or(changed) } else { changed },
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

/// Digests of files that were hashed while they were written, by the stat that they had then. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<Vec<(Stat, Digest)>>);

impl Known {
    /// Of these files, in any order.
    pub fn new(mut files: Vec<(Stat, Digest)>) -> Known {
        files.sort_unstable_by_key(|(stat, _)| *stat);
        Known(Arc::new(files))
    }

    fn get(&self, stat: &Stat) -> Option<Digest> {
        find(&self.0, stat)
    }
}

fn find(sorted: &[(Stat, Digest)], stat: &Stat) -> Option<Digest> {
    sorted.binary_search_by_key(stat, |(stat, _)| *stat).ok().map(|at| sorted[at].1)
}

/// See the module.
pub struct Index {
    path: PathBuf,
    /// Sorted by stat: reading it is one pass, and a look a binary search.
    known: Vec<(Stat, Digest)>,
    /// What it was told beside its file.
    told: Known,
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
        Index { path, known, told: Known::default(), began: Moment::now() }
    }

    /// Of nothing.
    pub fn empty() -> Index {
        Index { path: PathBuf::new(), known: Vec::new(), told: Known::default(), began: Moment::now() }
    }

    /// The same, with more digests.
    pub fn with(self, told: &Known) -> Index {
        Index { told: told.clone(), ..self }
    }

    /// Whether it was told what its file does not say.
    pub fn grew(&self) -> bool {
        !self.told.0.is_empty()
    }

    /// The digest of a file with this stat.
    pub fn get(&self, stat: &Stat) -> Option<Digest> {
        find(&self.known, stat).or_else(|| self.told.get(stat))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn another_name_changes_only_what_changes_anyhow() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "a").unwrap();
        let stats = || [Changes::Anyhow, Changes::ByReplacing].map(|how| Stat::of(&fs::metadata(&path).unwrap(), how));
        let before = stats();
        std::thread::sleep(Duration::from_millis(20));
        fs::hard_link(&path, dir.path().join("layer")).unwrap();
        let after = stats();
        assert_ne!(after[0], before[0]);
        assert_eq!(after[1], before[1]);
        // Another file in its place is another, whatever it looks like.
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "b").unwrap();
        File::open(&path).unwrap().set_modified(time).unwrap();
        assert_ne!(stats()[1], after[1]);
    }
}
