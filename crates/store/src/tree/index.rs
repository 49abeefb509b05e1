//! What a scan knows from earlier ones: digests of files by their stat. A file keeps its place under another name, and a
//! stat that could belong to a write of the same instant is never believed. Losing an index only costs reading.

use std::fs::{self, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use oci::Digest;
use rustix::fs::{FileType, Statx, StatxFlags, StatxTimestamp};
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

/// A stat as an index has it, with the digest behind it.
const RECORD: usize = 44 + 32;

impl Stat {
    /// The same, of the kernel's own answer.
    pub(super) fn of_statx(data: &Statx, changes: Changes) -> Stat {
        let nanos = |time: &StatxTimestamp| time.tv_sec * 1_000_000_000 + i64::from(time.tv_nsec);
        let is_file = FileType::from_raw_mode(u32::from(data.stx_mode)) == FileType::RegularFile;
        let knows = data.stx_mask & StatxFlags::BTIME.bits() != 0;
        let replaced = changes == Changes::ByReplacing && is_file && knows;
        Stat {
            ino: data.stx_ino,
            dev: rustix::fs::makedev(data.stx_dev_major, data.stx_dev_minor),
            size: data.stx_size,
            mode: u32::from(data.stx_mode),
            mtime: nanos(&data.stx_mtime),
            ctime: nanos(if replaced { &data.stx_btime } else { &data.stx_ctime }),
        }
    }

    /// Permission bits with suid, sgid and sticky.
    pub(super) fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// Bytes of a file.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Modification time, nanoseconds since 1970.
    pub(super) fn mtime(&self) -> i64 {
        self.mtime
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        for number in [self.ino, self.dev, self.size] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.mode.to_le_bytes());
        for time in [self.mtime, self.ctime] {
            bytes.extend_from_slice(&time.to_le_bytes());
        }
    }

    fn read(record: &[u8; RECORD]) -> Stat {
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| record[at + i]));
        let mode = u32::from_le_bytes(std::array::from_fn(|i| record[24 + i]));
        let time = |at: usize| long(at).cast_signed();
        Stat { ino: long(0), dev: long(8), size: long(16), mode, mtime: time(28), ctime: time(36) }
    }

    /// Of a path that the standard library looked at.
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
        self.0.binary_search_by_key(stat, |(stat, _)| *stat).ok().map(|at| self.0[at].1)
    }
}

/// See the module. Its file is records of one size, sorted by stat: nothing is read of it but what a search comes by.
pub struct Index {
    path: PathBuf,
    records: Vec<[u8; RECORD]>,
    /// What it was told beside its file.
    told: Known,
    began: Moment,
}

impl Index {
    /// Reads the index at `path`; one that is missing or damaged is empty.
    pub fn open(path: PathBuf) -> Index {
        let read = fs::File::open(&path).and_then(|file| read_records(&file));
        Index { path, records: read.unwrap_or_default(), told: Known::default(), began: Moment::now() }
    }

    /// Of nothing.
    pub fn empty() -> Index {
        Index { path: PathBuf::new(), records: Vec::new(), told: Known::default(), began: Moment::now() }
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
        let found = self.records.binary_search_by(|record| Stat::read(record).cmp(stat));
        let digest = |at: usize| Digest::from_bytes(std::array::from_fn(|i| self.records[at][44 + i]));
        found.ok().map(digest).or_else(|| self.told.get(stat))
    }

    /// Whether a file with this stat may be noted: it can't change again under it.
    pub fn is_settled(&self, stat: &Stat) -> bool {
        self.began.is_after(stat)
    }

    /// How many files it knows.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Writes `known`, in any order, in place of what it has.
    pub fn replace(self, tmp: &Path, mut known: Vec<(Stat, Digest)>) -> Result<()> {
        known.sort_unstable_by_key(|(stat, _)| *stat);
        let mut bytes = Vec::with_capacity(known.len() * RECORD);
        for (stat, digest) in &known {
            stat.write(&mut bytes);
            bytes.extend_from_slice(digest.bytes());
        }
        write_whole(tmp, &self.path, &bytes)
    }
}

/// What is no whole record at the end is left out: an index is only a help.
fn read_records(mut file: &fs::File) -> std::io::Result<Vec<[u8; RECORD]>> {
    let count = usize::try_from(file.metadata()?.len()).unwrap_or_default() / RECORD;
    let mut records = vec![[0; RECORD]; count];
    file.read_exact(records.as_flattened_mut())?;
    Ok(records)
}

/// Writes a file under another name in `tmp` first, so that nobody ever reads half of it.
pub fn write_whole(tmp: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    let new = tmp.join(format!("{}.new", crate::clock::id_text(crate::clock::id())));
    fs::write(&new, bytes).doing("write", &new)?;
    fs::rename(&new, path).doing("write", path)
}

#[cfg(test)]
mod tests {
    use super::super::listing::Seen;
    use super::*;
    use std::fs::File;

    #[test]
    fn what_was_written_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let stat = |number: u64| Stat {
            ino: number,
            dev: u64::MAX - number,
            size: 3,
            mode: 0o100_644,
            mtime: -1,
            ctime: i64::MIN + number.cast_signed(),
        };
        let known: Vec<_> = (0..9).rev().map(|number| (stat(number), Digest::of(&[number as u8]))).collect();
        Index::open(path.clone()).replace(dir.path(), known).unwrap();
        let index = Index::open(path.clone());
        assert_eq!(index.len(), 9);
        assert_eq!(index.get(&stat(4)), Some(Digest::of(&[4])));
        assert_eq!(index.get(&Stat { size: 4, ..stat(4) }), None);
        // Half a record at the end is none.
        File::options().write(true).open(&path).unwrap().set_len(8 * RECORD as u64 + 5).unwrap();
        assert_eq!(
            (Index::open(path.clone()).get(&stat(7)), Index::open(path).get(&stat(8))),
            (Some(Digest::of(&[7])), None)
        );
    }

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
        for (how, stat) in [Changes::Anyhow, Changes::ByReplacing].into_iter().zip(after) {
            assert_eq!(Seen::at(&path, how).unwrap().stat, stat, "the kernel's own answer says the same");
        }
        // Another file in its place is another, whatever it looks like.
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "b").unwrap();
        File::open(&path).unwrap().set_modified(time).unwrap();
        assert_ne!(stats()[1], after[1]);
    }
}
