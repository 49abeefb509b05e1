//! Running as an unprivileged user: enter a user namespace in which this process is root, before anything else starts.
//! The process stays the same one: its id, its signals, its terminal and its files. Never changes anything for a process
//! that may mount already.

mod ids;
mod outside;
mod refused;

use std::ffi::{CStr, OsStr};
use std::fs;
use std::path::{Path, PathBuf};

use rustix::thread::{CapabilitySet, UnshareFlags};

use outside::Outside;

/// Why an unprivileged user cannot run sandboxes here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel or its configuration forbids it.
    #[error("larder can't run without root on this machine: {0}")]
    Forbidden(String),
    /// The user has a range of ids, and the program that maps it can't.
    #[error("larder can't use this user's ids of /etc/subuid and /etc/subgid: {0}")]
    Map(String),
    /// A system call that should not fail.
    #[error("cannot {doing} to run without root: {source}")]
    Kernel {
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// How this process may use namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// It is root, and may mount.
    Root,
    /// It is root of a user namespace with a range of ids (`/etc/subuid`).
    Ranges,
    /// It is root of a user namespace with one id: everything in a build belongs to root.
    Single {
        /// Why it has no range, and what to do.
        why: String,
    },
}

/// Enters a user namespace when this process cannot mount otherwise. `path` is where programs are searched, as in `PATH`.
/// To be called before there is a second thread.
pub fn enter_if_needed(path: &OsStr) -> Result<Mode, Error> {
    let capable = rustix::thread::capabilities(None).is_ok_and(|c| c.effective.contains(CapabilitySet::SYS_ADMIN));
    if capable && rustix::process::geteuid().is_root() {
        return Ok(Mode::Root);
    }
    let mode = match Ranges::of_this_user(path) {
        Ok(ranges) => {
            // It must be there before: who is in the namespace has no right to map others' ids into it.
            let outside = Outside::start(&ranges)?;
            unshare()?;
            outside.map()?;
            Mode::Ranges
        }
        Err(why) => {
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            unshare()?;
            map_one(uid, gid)?;
            Mode::Single { why }
        }
    };
    crate::kernel::make_private().map_err(|e| Error::Forbidden(refused::powerless(&e, &read)))?;
    Ok(mode)
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn unshare() -> Result<(), Error> {
    // SAFETY: this process has one thread, which keeps its file descriptors and its memory.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }
        .map_err(|e| Error::Forbidden(refused::unshare(e, &|path| Path::new(path).exists(), &read)))
}

/// The one map that the kernel lets everybody write.
fn map_one(uid: u32, gid: u32) -> Result<(), Error> {
    let write = |path: &str, text: String| {
        fs::write(path, text).map_err(|source| Error::Kernel { doing: "map this user's own id", source })
    };
    write("/proc/self/setgroups", "deny".into())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// A map of many ids and the programs that may write it.
struct Ranges {
    newuidmap: PathBuf,
    newgidmap: PathBuf,
    uids: Vec<String>,
    gids: Vec<String>,
}

impl Ranges {
    /// The ranges of the user that runs this; the error says why there are none.
    fn of_this_user(path: &OsStr) -> Result<Ranges, String> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let name = user_name(uid);
        let listed = |file: &str| {
            let found = ids::ranges(&read(file).unwrap_or_default(), name.as_deref(), uid);
            let who = name.clone().unwrap_or_else(|| uid.to_string());
            if found.is_empty() { Err(format!("{file} has no entry for {who}")) } else { Ok(found) }
        };
        let (uids, gids) = (listed("/etc/subuid")?, listed("/etc/subgid")?);
        Ok(Ranges {
            newuidmap: program("newuidmap", path)?,
            newgidmap: program("newgidmap", path)?,
            uids: ids::map(uid, &uids),
            gids: ids::map(gid, &gids),
        })
    }
}

/// The user's name, from wherever this machine keeps its users.
fn user_name(uid: u32) -> Option<String> {
    // SAFETY: this process has one thread, so the static entry stays as it is while it is read; it ends with a NUL.
    unsafe {
        let entry = libc::getpwuid(uid);
        if entry.is_null() {
            return None;
        }
        CStr::from_ptr((*entry).pw_name).to_str().ok().map(str::to_owned)
    }
}

fn program(name: &str, path: &OsStr) -> Result<PathBuf, String> {
    let usual = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(path).chain(usual).map(|dir| dir.join(name));
    places.find(|p| p.is_file()).ok_or_else(|| format!("{name} is not installed (Debian's package uidmap)"))
}
