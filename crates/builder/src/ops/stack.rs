//! Merge and diff: layers of one tree put on top of another, by linking files that the store has already (LLB `MergeOp`,
//! `DiffOp`). No byte is copied where the file system can link.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use store::{SnapshotId, Store};

use super::{Doing, Error};
use store::canvas::{Attributes, set_owner_and_mode, set_time, timespec};

/// Stacks trees in order: the first is built on as it is, the layers of the others are laid over it.
pub fn merge(store: &Store, trees: &[Option<SnapshotId>], name: &str) -> Result<Option<SnapshotId>, Error> {
    let mut trees = trees.iter().flatten().copied();
    let Some(mut top) = trees.next() else { return Ok(None) };
    for tree in trees {
        for layer in store.snapshots().chain(tree)?.into_iter().rev() {
            top = lay(store, Some(top), layer, name)?;
        }
    }
    Ok(Some(top))
}

/// What `upper` has over `lower`: the layers above it, when `upper` was built on `lower`.
pub fn diff(
    store: &Store,
    lower: Option<SnapshotId>,
    upper: Option<SnapshotId>,
    name: &str,
) -> Result<Option<SnapshotId>, Error> {
    let Some(upper) = upper else { return Ok(None) };
    let chain = store.snapshots().chain(upper)?;
    let above = match lower {
        None => chain.as_slice(),
        Some(lower) => {
            let at = chain.iter().position(|id| *id == lower);
            let unrelated = || Error::Malformed {
                operation: "diff",
                reason: "the difference of two trees that are not built on one another is not built yet".into(),
            };
            &chain[..at.ok_or_else(unrelated)?]
        }
    };
    let mut top = None;
    for layer in above.iter().rev() {
        top = Some(lay(store, top, *layer, name)?);
    }
    Ok(top)
}

/// The files of `layer` as a new layer on `parent`. It is the same layer to an image: its blobs are found again.
fn lay(store: &Store, parent: Option<SnapshotId>, layer: SnapshotId, name: &str) -> Result<SnapshotId, Error> {
    let mut draft = store.snapshots().begin(parent)?;
    draft.describe(store::Kind::Regular, name);
    for part in store.snapshots().parts(layer)?.into_iter().rev() {
        link_tree(&part, draft.upper(), &mut HashMap::new())?;
    }
    let made = draft.commit()?;
    let known = store.layer_blobs().get(layer)?;
    if let (Some(diff_id), Some(size)) = (known.diff_id, known.diff_size) {
        store.layer_blobs().set_diff(made, diff_id, size)?;
        for form in known.forms {
            store.layer_blobs().add_form(made, form)?;
        }
    }
    Ok(made)
}

/// Lays `from` over `to`, which is empty or an earlier part of the same layer; files are linked. Whiteouts and opaque marks go
/// along.
pub fn link_tree(from: &Path, to: &Path, copied: &mut HashMap<(u64, u64), std::path::PathBuf>) -> Result<(), Error> {
    for entry in std::fs::read_dir(from).doing("list", from)? {
        let entry = entry.doing("list", from)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let data = std::fs::symlink_metadata(&source).doing("look at", &source)?;
        if data.is_dir() {
            match std::fs::create_dir(&target) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => made.doing("make", &target)?,
            }
            link_tree(&source, &target, copied)?;
            dress(&source, &target, &data)?;
            continue;
        }
        let linked = match std::fs::hard_link(&source, &target) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                std::fs::remove_file(&target).doing("replace", &target)?;
                std::fs::hard_link(&source, &target)
            }
            linked => linked,
        };
        if linked.is_err() {
            copy_one(&source, &target, &data, copied)?;
        }
    }
    let data = std::fs::symlink_metadata(from).doing("look at", from)?;
    dress(from, to, &data)
}

/// A file that can't be linked (too many links, another file system).
fn copy_one(
    source: &Path,
    target: &Path,
    data: &std::fs::Metadata,
    copied: &mut HashMap<(u64, u64), std::path::PathBuf>,
) -> Result<(), Error> {
    if let Some(first) = copied.get(&(data.dev(), data.ino())) {
        return std::fs::hard_link(first, target).doing("link", target);
    }
    if data.is_symlink() {
        let link = std::fs::read_link(source).doing("read the symlink", source)?;
        std::os::unix::fs::symlink(link, target).doing("make the symlink", target)?;
    } else if data.is_file() {
        std::fs::copy(source, target).doing("copy", source)?;
        copied.insert((data.dev(), data.ino()), target.to_owned());
    } else {
        let kind = FileType::from_raw_mode(data.mode());
        rustix::fs::mknodat(CWD, target, kind, Mode::from_raw_mode(0o600), data.rdev())
            .map_err(std::io::Error::from)
            .doing("make the device", target)?;
    }
    dress(source, target, data)
}

fn dress(source: &Path, target: &Path, data: &std::fs::Metadata) -> Result<(), Error> {
    let time = timespec(data.mtime() * 1_000_000_000 + data.mtime_nsec());
    let attributes = Attributes { mode: data.mode() & 0o7777, uid: data.uid(), gid: data.gid(), time };
    set_owner_and_mode(target, &attributes).doing("set owner and mode of", target)?;
    xattrs(source, target)?;
    set_time(target, time).doing("set the time of", target)
}

fn xattrs(source: &Path, target: &Path) -> Result<(), Error> {
    let read = |error: rustix::io::Errno| std::io::Error::from(error);
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(source, &mut names[..]) {
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        length => length.map_err(read).doing("list the extended attributes of", source)?,
    };
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let size =
            rustix::fs::lgetxattr(source, name, &mut value[..]).map_err(read).doing("read an attribute of", source)?;
        match rustix::fs::lsetxattr(target, name, &value[..size], XattrFlags::empty()) {
            Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::PERM) => {}
            set => set.map_err(read).doing("set an attribute of", target)?,
        }
    }
    Ok(())
}
