//! Where layers of the store hold copies of a client's files, so that a file which did not change is linked from an
//! earlier layer instead of being read and written again. Only a hint: a copy that is gone is made anew.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use oci::Digest;
use serde::{Deserialize, Serialize};

use super::index::{Changes, Moment, Stat, write_whole};
use super::scan::Scanned;
use crate::canvas::Attributes;
use crate::error::{Doing, Result};
use crate::{SnapshotId, Store, format};

/// A file as it was when it was read, and the attributes that its copy got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Copied {
    pub(super) stat: Stat,
    mode: u32,
    uid: u32,
    gid: u32,
    time: (i64, i64),
}

/// Each copy, with its layer and its path there. A path that is no UTF-8 is never known.
type Known = HashMap<Copied, (SnapshotId, String)>;

/// The copies of one scanned directory's files. Read from disk when they are first asked for.
pub struct Copies {
    pub(super) store: Store,
    pub(super) path: PathBuf,
    pub(super) scanned: Arc<Scanned>,
    /// When the scan began.
    pub(super) began: Moment,
    known: Mutex<Option<Kept>>,
}

/// What is known, and whether the file says more than that: it is appended to while it does not.
struct Kept {
    known: Arc<Known>,
    stale: bool,
}

/// A look at the copies, for many files.
pub struct Look {
    changes: Changes,
    store: Store,
    known: Arc<Known>,
    began: Moment,
    /// Files that the layer has: one with two names is no hard link in it, however the client has it.
    taken: Mutex<HashSet<Copied>>,
}

impl Copies {
    pub(super) fn new(store: &Store, name: &Digest, scanned: Arc<Scanned>, began: Moment) -> Copies {
        let path = store.root().join(format::SCANS).join(format!("{}.copies", name.hex()));
        Copies { store: store.clone(), path, scanned, began, known: Mutex::default() }
    }

    /// The copies as they are known now, for a layer that has `there` of them already.
    pub fn look<'a>(&self, there: impl Iterator<Item = &'a Copied>) -> Look {
        let (taken, changes) = (Mutex::new(there.copied().collect()), self.scanned.changes);
        Look { changes, store: self.store.clone(), known: self.known(), began: Moment::now(), taken }
    }

    /// Notes the copies that the layer `id` holds, each by its path there. Copies of what the directory no longer has are
    /// forgotten.
    pub fn note(&self, id: SnapshotId, copies: HashMap<PathBuf, Copied>) -> Result<()> {
        if copies.is_empty() {
            return Ok(());
        }
        let named =
            copies.into_iter().filter_map(|(path, copied)| Some((copied, path.into_os_string().into_string().ok()?)));
        let new: Known = named.map(|(copied, path)| (copied, (id, path))).collect();
        let encode = |known: &Known| postcard::to_stdvec(known).map_err(std::io::Error::other);
        let mut kept = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.get_or_insert_with(|| self.read());
        let appended = if kept.stale { None } else { Some(encode(&new).doing("write", &self.path)?) };
        let known = Arc::make_mut(&mut kept.known);
        known.extend(new);
        match appended {
            // A build of many copies would write all of them with each.
            Some(bytes) => {
                let file = File::options().append(true).create(true).open(&self.path);
                file.and_then(|mut file| file.write_all(&bytes)).doing("write", &self.path)
            }
            None => {
                let bytes = encode(known).doing("write", &self.path)?;
                write_whole(&self.store.root().join(format::TMP), &self.path, &bytes)?;
                kept.stale = false;
                Ok(())
            }
        }
    }

    fn known(&self) -> Arc<Known> {
        let mut kept = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get_or_insert_with(|| self.read()).known.clone()
    }

    /// Reads the file: maps one after another, of which later ones count. What can't be read ends it.
    fn read(&self) -> Kept {
        let bytes = fs::read(&self.path).unwrap_or_default();
        let (mut known, mut rest, mut count) = (Known::new(), bytes.as_slice(), 0);
        while !rest.is_empty() {
            let Ok((more, after)) = postcard::take_from_bytes::<Known>(rest) else { break };
            count += more.len();
            known.extend(more);
            rest = after;
        }
        if !known.is_empty() {
            let here = self.scanned.stats();
            known.retain(|copied, _| here.contains(&copied.stat));
        }
        let stale = known.len() < count || !rest.is_empty();
        Kept { known: Arc::new(known), stale }
    }
}

impl Look {
    /// What a copy of the file at `source` under `attributes` is: taken before the file is read.
    pub fn wanted(&self, source: &Path, attributes: &Attributes) -> Result<Copied> {
        let stat = Stat::of(&fs::symlink_metadata(source).doing("look at", source)?, self.changes);
        let Attributes { mode, uid, gid, time } = *attributes;
        Ok(Copied { stat, mode, uid, gid, time: (time.tv_sec, time.tv_nsec) })
    }

    /// Links the copy to `to`, if there is one.
    pub fn link(&self, wanted: &Copied, to: &Path) -> bool {
        let Some((id, path)) = self.known.get(wanted) else { return false };
        if !self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(*wanted) {
            return false;
        }
        // It may be gone with its layer, or have as many names as the file system allows.
        let copy = self.store.snapshots().dir(*id).join(path);
        fs::hard_link(copy, to).is_ok()
    }

    /// Whether the file stayed as `wanted` says while it was read from `file`, and can't change unseen from now on.
    pub fn stayed(&self, wanted: &Copied, file: &File) -> bool {
        let now = file.metadata().map(|data| Stat::of(&data, self.changes));
        now.is_ok_and(|now| now == wanted.stat) && self.began.is_after(&wanted.stat)
    }
}
