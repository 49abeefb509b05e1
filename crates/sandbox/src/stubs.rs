//! Mount points that weren't there before: removed after the run when they are still empty, as BuildKit's executor does,
//! so that a layer doesn't tell what was mounted during its step. Never removes what the process has put there.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, fstat, openat2, statat, unlinkat};

use crate::resolve::{Made, restore_times};

/// Removes the empty ones of `made` below `root`, deepest first, and puts the times of their directories back. A path
/// that the process has replaced (by a symlink, a filled directory) is left alone.
pub fn remove(root: BorrowedFd<'_>, made: &[Made]) {
    for stub in made.iter().rev() {
        // Best effort: what cannot be removed is then part of the layer, which is what a process that holds on to it asked for.
        let _left = remove_one(root, stub);
    }
}

fn remove_one(root: BorrowedFd<'_>, stub: &Made) -> rustix::io::Result<()> {
    let Some(name) = stub.path.file_name() else { return Ok(()) };
    let parent = stub.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat2(root, parent, flags, Mode::empty(), resolve)?;
    let before = fstat(&dir)?;
    let found = statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => unlinkat(&dir, name, AtFlags::REMOVEDIR)?,
        FileType::RegularFile if found.st_size == 0 => unlinkat(&dir, name, AtFlags::empty())?,
        _ => return Ok(()),
    }
    restore_times(dir.as_fd(), &before)
}
