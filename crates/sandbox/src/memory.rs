//! File systems in memory, detached: for what a process may write, and, never swapped, for files that it may only read,
//! such as secrets.

use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, openat};

use crate::kernel::fresh;

/// An empty tmpfs of at most `size` (as tmpfs writes sizes; `None`: half of the memory).
pub fn tmpfs(size: Option<&str>, mode: u32, attr: u64) -> io::Result<OwnedFd> {
    let mode = CString::new(format!("{:o}", mode & 0o7777))?;
    let size = size.map(CString::new).transpose()?;
    let mut options = vec![(c"mode", Some(mode.as_c_str()))];
    if let Some(size) = &size {
        options.push((c"size", Some(size.as_c_str())));
    }
    Ok(fresh(c"tmpfs", &options, attr)?)
}

/// A place for [`file`]s. Some programs look whether their secret is on a tmpfs; one that is never swapped needs Linux 6.4
/// and the machine's own user namespace, and a ramfs never is.
pub fn files(attr: u64) -> io::Result<OwnedFd> {
    let mode = (c"mode", Some(c"700"));
    let held = fresh(c"tmpfs", &[mode, (c"noswap", None)], attr);
    Ok(held.or_else(|_| fresh(c"ramfs", &[mode], attr))?)
}

/// A file with its content and owner; the descriptor names it only (`O_PATH`).
pub fn file(place: &OwnedFd, name: &str, content: &[u8], (uid, gid): (u32, u32), mode: u32) -> io::Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(openat(place, name, flags, Mode::from_raw_mode(0o600))?);
    file.write_all(content)?;
    if (uid, gid) != (0, 0) {
        fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    fchmod(&file, Mode::from_raw_mode(mode & 0o777))?;
    Ok(openat(place, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}
