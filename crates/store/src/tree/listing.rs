//! One folder of a client's directory as the kernel lists it, for scans of tens of thousands of files: names lie in one
//! piece of memory, and each is looked up in the open folder. Nothing is kept, and nothing is read but names and stats.

use std::ffi::{CStr, OsStr};
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Statx, StatxFlags};
use rustix::io::Errno;

use super::index::{Changes, Stat};
use crate::view::Kind;

/// Bytes of a folder that are listed at a time.
const PIECE: usize = 32 << 10;

/// A folder and the names in it.
pub struct Listing {
    folder: OwnedFd,
    /// Each with a zero behind it.
    names: Vec<u8>,
    /// Sorted by name, zeros included.
    places: Vec<Range<usize>>,
}

/// What a path is.
pub struct Seen {
    pub kind: Kind,
    pub rdev: u64,
    pub stat: Stat,
}

impl Listing {
    /// Lists the folder at `path`.
    pub fn of(path: &Path) -> io::Result<Listing> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty())?;
        let (mut names, mut places) = (Vec::new(), Vec::new());
        let mut buffer = Vec::with_capacity(PIECE);
        let mut list = RawDir::new(&folder, buffer.spare_capacity_mut());
        while let Some(entry) = list.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes_with_nul();
            if name != b".\0" && name != b"..\0" {
                places.push(names.len()..names.len() + name.len());
                names.extend_from_slice(name);
            }
        }
        places.sort_unstable_by(|a: &Range<usize>, b| names[a.clone()].cmp(&names[b.clone()]));
        Ok(Listing { folder, names, places })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &CStr> {
        self.places.iter().filter_map(|place| CStr::from_bytes_with_nul(&self.names[place.clone()]).ok())
    }

    /// What is there under a name; `None` when it is gone since it was listed.
    pub fn look(&self, name: &CStr, changes: Changes) -> io::Result<Option<Seen>> {
        match rustix::fs::statx(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW, wanted()) {
            Err(Errno::NOENT) => Ok(None),
            data => Ok(Some(Seen::of(&data?, changes))),
        }
    }
}

fn wanted() -> StatxFlags {
    StatxFlags::BASIC_STATS | StatxFlags::BTIME
}

/// A name without its zero.
pub fn text(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

impl Seen {
    /// What is at `path`, wherever a symlink there leads.
    pub fn at(path: &Path, changes: Changes) -> io::Result<Seen> {
        Ok(Seen::of(&rustix::fs::statx(CWD, path, AtFlags::empty(), wanted())?, changes))
    }

    fn of(data: &Statx, changes: Changes) -> Seen {
        let kind = match FileType::from_raw_mode(u32::from(data.stx_mode)) {
            FileType::Directory => Kind::Dir,
            FileType::Symlink => Kind::Link,
            FileType::CharacterDevice => Kind::Char,
            FileType::BlockDevice => Kind::Block,
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            _ => Kind::File,
        };
        let rdev = rustix::fs::makedev(data.stx_rdev_major, data.stx_rdev_minor);
        Seen { kind, rdev, stat: Stat::of_statx(data, changes) }
    }
}
