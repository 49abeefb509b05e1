//! The layer that a client's directory was copied into as a whole, with what the directory was then: a later copy of the same
//! kind lies over that layer and holds only what changed. Only a hint: without one everything is copied or linked.
//! It says what changed, and copies nothing.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use oci::Digest;
use serde::{Deserialize, Serialize};

use super::copies::{Copied, Copies};
use super::index::{Stat, write_whole};
use super::scan::Entry;
use crate::error::{Doing, Result};
use crate::view::{self, Kind};
use crate::{Lease, Resource, SnapshotId, format};

/// A layer of fewer files is as quickly made anew.
const WORTH: usize = 256;

/// One path of the directory as it was; in the order of a walk.
#[derive(Serialize, Deserialize)]
struct Was {
    depth: u32,
    name: Vec<u8>,
    kind: Kind,
    stat: Stat,
    /// What was copied is what a file or directory with this stat has.
    settled: bool,
    /// Of anything else: what a link says, which device it is.
    digest: Option<Digest>,
    /// A directory that has been given more than mode, owner and time: what was taken from it since would stay.
    marked: bool,
}

/// A layer of the store that holds the directory, but for some changed paths.
pub struct Base {
    /// The layer.
    pub id: SnapshotId,
    /// Paths in the scanned directory, absolute there.
    changed: HashSet<PathBuf>,
    /// Directories above them.
    above: HashSet<PathBuf>,
    _lease: Lease,
}

impl Base {
    /// Whether `path`, a file or a directory by itself, is not in the layer as it is now.
    pub fn is_changed(&self, path: &Path) -> bool {
        self.changed.contains(path)
    }

    /// Whether anything below the directory `path` changed.
    pub fn changed_below(&self, path: &Path) -> bool {
        self.above.contains(path)
    }
}

impl Copies {
    /// The layer that `copy` (the digest of what it does) made on `parent`; `None` when there is none, or when paths came,
    /// went or became of another kind since.
    pub fn base(&self, copy: &Digest, parent: Option<SnapshotId>) -> Option<Base> {
        let bytes = fs::read(self.base_path(copy)).ok()?;
        let (on, id, was): (Option<SnapshotId>, SnapshotId, Vec<Was>) = postcard::from_bytes(&bytes).ok()?;
        if on != parent {
            return None;
        }
        let lease = self.store.leases().hold(Resource::Snapshot(id)).ok()?;
        if !self.store.snapshots().has(id).ok()? {
            return None;
        }
        let mut compare = Compare { was: was.into_iter(), changed: HashSet::new(), above: HashSet::new() };
        let alike = compare.walk(&self.scanned.top, &mut PathBuf::from("/"), 0);
        (alike && compare.was.next().is_none()).then_some(Base {
            id,
            changed: compare.changed,
            above: compare.above,
            _lease: lease,
        })
    }

    /// Notes that the layer `id` on `parent` is what `copy` makes of the directory as it was scanned; `notes` are the files
    /// that are sure to be as they were then.
    pub fn note_base(
        &self,
        copy: &Digest,
        parent: Option<SnapshotId>,
        id: SnapshotId,
        notes: &HashMap<PathBuf, Copied>,
    ) -> Result<()> {
        let path = self.base_path(copy);
        if notes.len() < WORTH {
            // One that was noted before is of no use any more.
            return self.forget_base(copy);
        }
        let settled: HashSet<Stat> = notes.values().map(|copied| copied.stat).collect();
        let mut was = Vec::new();
        self.list(&self.scanned.top, &mut self.scanned.base.clone(), 0, &settled, &mut was);
        let bytes = postcard::to_stdvec(&(parent, id, was)).map_err(std::io::Error::other).doing("write", &path)?;
        write_whole(&self.store.root().join(format::TMP), &path, &bytes)
    }

    /// The next `copy` is made as a whole.
    pub fn forget_base(&self, copy: &Digest) -> Result<()> {
        let path = self.base_path(copy);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).doing("remove", &path),
            _ => Ok(()),
        }
    }

    fn base_path(&self, copy: &Digest) -> PathBuf {
        self.path.with_extension(format!("{}.base", &copy.hex()[..16]))
    }

    fn list(&self, entry: &Entry, at: &mut PathBuf, depth: u32, settled: &HashSet<Stat>, was: &mut Vec<Was>) {
        let (name, kind, stat) = (entry.name.as_encoded_bytes().to_vec(), entry.kind, entry.stat);
        let (settled_now, digest) = match kind {
            Kind::File => (settled.contains(&stat), None),
            Kind::Dir => (self.began.is_after(&stat), None),
            _ => (true, entry.digest),
        };
        let stayed = || fs::symlink_metadata(&*at).is_ok_and(|data| Stat::of(&data, self.scanned.changes) == stat);
        let marked = kind == Kind::Dir && !(stayed() && view::xattrs(at).is_ok_and(|all| all.is_empty()));
        was.push(Was { depth, name, kind, stat, settled: settled_now, digest, marked });
        for child in &entry.children {
            at.push(&*child.name);
            self.list(child, at, depth + 1, settled, was);
            at.pop();
        }
    }
}

struct Compare<I> {
    was: I,
    changed: HashSet<PathBuf>,
    above: HashSet<PathBuf>,
}

impl<I: Iterator<Item = Was>> Compare<I> {
    /// Compares `entry`, which is at `at`, and what is below; false ends it.
    fn walk(&mut self, entry: &Entry, at: &mut PathBuf, depth: u32) -> bool {
        let Some(was) = self.was.next() else { return false };
        if (was.depth, was.kind) != (depth, entry.kind) || was.name != entry.name.as_encoded_bytes() {
            return false;
        }
        let same = was.stat == entry.stat;
        match entry.kind {
            Kind::File | Kind::Dir if same && was.settled => {}
            Kind::File | Kind::Dir if !was.marked => self.note(at),
            _ if same && was.digest == entry.digest => {}
            // A link leads elsewhere, a device is another.
            _ => return false,
        }
        for child in &entry.children {
            at.push(&*child.name);
            let alike = self.walk(child, at, depth + 1);
            at.pop();
            if !alike {
                return false;
            }
        }
        true
    }

    fn note(&mut self, at: &Path) {
        self.changed.insert(at.to_owned());
        // What is above one that is known is known.
        for above in at.ancestors().skip(1) {
            if !self.above.insert(above.to_owned()) {
                break;
            }
        }
    }
}
