//! This kernel: what it can do, and the system calls that rustix has no name for. Thin wrappers only; each `unsafe`
//! says why it is sound. Nothing here allocates but [`Abilities::detect`], so the child may use the rest.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// What this machine lets this process do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abilities {
    /// Whether the process is in a user namespace (rootless, or inside another container engine's).
    pub user_namespace: bool,
    /// Whether group 5 (`tty`) exists in the user namespace's map.
    pub tty_group: bool,
    /// Whether the user namespace forbids `setgroups` (it has a single id).
    pub setgroups_denied: bool,
    /// The kernel's release, as `uname -r`.
    pub release: String,
}

impl Abilities {
    /// Reads `/proc/self`'s id maps and `uname`.
    pub fn detect() -> Abilities {
        let whole = |text: &str| text.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"];
        let uid_map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let gid_map = fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
        Abilities {
            user_namespace: !uid_map.is_empty() && !whole(&uid_map),
            tty_group: gid_map.is_empty() || maps(&gid_map, 5),
            setgroups_denied: fs::read_to_string("/proc/self/setgroups").is_ok_and(|t| t.trim() == "deny"),
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
        }
    }
}

/// Whether an id map (`inside outside count` a line) has `id` inside.
fn maps(map: &str, id: u64) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().filter_map(|n| n.parse::<u64>().ok());
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(inside), Some(_), Some(count)) => id >= inside && id - inside < count,
            _ => false,
        }
    })
}

/// Attributes of a mount (`MOUNT_ATTR_*` of linux/mount.h).
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Set-user-id bits have no effect.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes cannot be opened.
    pub const NODEV: u64 = 0x4;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = 0x8;
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Changes the attributes of the mount behind `fd`, of all mounts below it too when `recursive`. Linux 5.12.
pub fn set_attr(fd: BorrowedFd<'_>, set: u64, clear: u64, recursive: bool) -> io::Result<()> {
    mount_setattr(fd, c"", MountAttr { set, clear, propagation: 0, userns: 0 }, recursive)
}

/// Cuts every mount of this namespace off from the others: nothing mounted later is seen elsewhere.
pub fn make_private() -> io::Result<()> {
    let attr = MountAttr { set: 0, clear: 0, propagation: libc::MS_PRIVATE, userns: 0 };
    mount_setattr(rustix::fs::CWD, c"/", attr, true)
}

fn mount_setattr(dir: BorrowedFd<'_>, path: &CStr, attr: MountAttr, recursive: bool) -> io::Result<()> {
    let mut flags = if path.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is NUL-terminated and the attributes are a live structure of the size given; the kernel only reads.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A new instance of the file system `kind` as a detached mount. `options`: a key alone is a flag.
pub fn fresh(kind: &CStr, options: &[(&CStr, Option<&CStr>)], attr: u64) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value)?,
            None => rustix::mount::fsconfig_set_flag(context.as_fd(), *key)?,
        }
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(attr as u32))
}

#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which side of a [`clone3`] this is.
pub enum Cloned {
    /// In the parent: the child and a descriptor that becomes readable when it ends.
    Parent {
        /// Its process id in this process's namespace.
        pid: i32,
        /// Its pidfd.
        pidfd: OwnedFd,
    },
    /// In the child.
    Child,
}

/// Forks with new namespaces (`CLONE_NEW*`), optionally straight into a cgroup of version 2.
///
/// # Safety
/// In the child only the calling thread exists, and locks that other threads held stay locked for ever. The child must
/// restrict itself to system calls: no allocation, no locking, no panic; and end by `execve` or `_exit`.
pub unsafe fn clone3(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: libc::c_int = -1;
    let args = CloneArgs {
        flags: namespaces | libc::CLONE_PIDFD as u64 | cgroup.map_or(0, |_| INTO_CGROUP),
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
        ..CloneArgs::default()
    };
    // SAFETY: no stack is given and CLONE_VM isn't set, so this returns twice as fork(2) does; the kernel writes only to
    // `pidfd`. The caller promises what the child may do.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        // SAFETY: the kernel has just put a new descriptor there, which nobody else owns.
        pid => Ok(Cloned::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// Marks every descriptor from 3 up to be closed by `execve`. Kernels before 5.11 lack it; ours are all made that way.
pub fn close_others_on_exec() {
    // SAFETY: changes flags of descriptors only.
    let _older_kernel = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_maps() {
        assert!(maps("         0          0 4294967295\n", 5));
        assert!(maps("0 1000 1\n1 100000 65536\n", 5));
        assert!(!maps("0 1000 1\n", 5));
    }
}
