//! `/dev` inside the root: a small tmpfs with the devices every OCI runtime gives, made in the parent through its
//! descriptor. Where device nodes cannot be made or held (user namespaces, no device cgroup) they are binds of this machine's.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, chmodat, makedev, mkdirat, mknodat, openat, symlinkat};

use crate::kernel::{attr, fresh};
use crate::overlay::clone_tree;

/// Name, major and minor of the devices of every sandbox, all mode 0666.
pub const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// More, for `security=insecure`: BuildKit's list.
const INSECURE: [(&str, u32, u32); 5] =
    [("kmsg", 1, 11), ("cuse", 10, 203), ("fuse", 10, 229), ("kvm", 10, 232), ("loop-control", 10, 237)];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// A `/dev` that isn't attached yet.
pub struct Dev {
    /// The tmpfs.
    pub mount: OwnedFd,
    /// Detached binds to attach at `/dev/<name>` after it.
    pub binds: Vec<(&'static str, OwnedFd)>,
}

/// Makes it. `bound`: by binds instead of nodes.
pub fn dev(bound: bool, insecure: bool) -> io::Result<Dev> {
    let nodev = if bound { attr::NODEV } else { 0 };
    let options: &[(&CStr, Option<&CStr>)] = &[(c"mode", Some(c"755")), (c"size", Some(c"65536k"))];
    let mount = fresh(c"tmpfs", options, attr::NOSUID | nodev)?;
    let mut binds = Vec::new();
    for (name, major, minor) in DEVICES {
        if bound {
            drop(openat(&mount, name, OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from_raw_mode(0o666))?);
            binds.push((name, clone_tree(CWD, format!("/dev/{name}"), true)?));
        } else {
            node(&mount, name, FileType::CharacterDevice, (major, minor))?;
        }
    }
    if insecure && !bound {
        for (name, major, minor) in INSECURE {
            node(&mount, name, FileType::CharacterDevice, (major, minor))?;
        }
        mkdirat(&mount, "net", Mode::from_raw_mode(0o755))?;
        node(&mount, "net/tun", FileType::CharacterDevice, (10, 200))?;
        for loop_device in 0..8 {
            node(&mount, &format!("loop{loop_device}"), FileType::BlockDevice, (7, loop_device))?;
        }
    }
    for (name, target) in LINKS {
        symlinkat(target, mount.as_fd(), name)?;
    }
    for dir in ["pts", "shm", "mqueue"] {
        mkdirat(&mount, dir, Mode::from_raw_mode(0o755))?;
    }
    Ok(Dev { mount, binds })
}

fn node(dir: &OwnedFd, name: &str, kind: FileType, (major, minor): (u32, u32)) -> io::Result<()> {
    mknodat(dir, name, kind, Mode::from_raw_mode(0o666), makedev(major, minor))?;
    chmodat(dir, name, Mode::from_raw_mode(0o666), AtFlags::empty())?;
    Ok(())
}
