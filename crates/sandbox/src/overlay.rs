//! A [`Root`] as one detached mount: overlay through the new mount API, a bind where one directory is enough. The mount
//! is reached only through its descriptor until somebody attaches it, and is gone when the last descriptor closes.
//!
//! Limits of the kernel: a value given to `fsconfig` has at most 255 bytes (longer paths go by `/proc/self/fd`), layers
//! one by one (`lowerdir+`) need Linux 6.7; before that all options share one page of 4096 bytes; an overlay has at most 500
//! layers, and an overlay may be a layer of another, once.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::kernel::{attr, set_attr};
use crate::{Error, Root};

/// Longest value of `fsconfig(FSCONFIG_SET_STRING)`, less its NUL.
const LONGEST_VALUE: usize = 255;

/// Layers of one overlay: the kernel's limit, or what fits its page of options.
fn most() -> usize {
    if before_6_7() { 200 } else { 480 }
}

/// Mounts `root` detached. `user` chooses overlay's `user.*` extended attributes, for a user namespace.
pub fn mount(root: &Root, user: bool) -> Result<OwnedFd, Error> {
    match root.lower.len() {
        count if count <= most() => mount_one(root, user),
        count if count < 2 * most() => mount_nested(root, user),
        count => Err(Error::Spec(format!("{count} layers are too many: this kernel takes {}", 2 * most() - 1))),
    }
}

/// The lowest layers as an overlay of their own, which is the lowest layer of the other. Only the lowest may be: a
/// whiteout of the inner overlay hides nothing beneath it.
fn mount_nested(root: &Root, user: bool) -> Result<OwnedFd, Error> {
    // A layer must be mounted in the namespace of whoever mounts the overlay. No store lies there.
    const PLACE: &str = "/sys";
    let (above, beneath) = root.lower.split_at(root.lower.len() - most());
    let inner = mount_one(&Root::read_only(beneath.to_vec()), user)?;
    let lower = above.iter().cloned().chain([PLACE.into()]).collect();
    let outer = Root { lower, upper: root.upper.clone() };
    in_own_namespace(|| {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&inner, c"", CWD, PLACE, flags).map_err(|e| Error::kernel("mount the lowest layers", e))?;
        mount_one(&outer, user)
    })
}

fn mount_one(root: &Root, user: bool) -> Result<OwnedFd, Error> {
    let failed = |e: io::Error| Error::kernel(describe(root), e);
    match (&root.upper, root.lower.as_slice()) {
        (None, []) => Err(Error::Spec("a root without an upper directory needs at least one layer".into())),
        (None, [only]) => clone_tree(CWD, only, true)
            .and_then(|fd| set_attr(fd.as_fd(), attr::RDONLY, 0, false).map(|()| fd))
            .map_err(failed),
        (Some(upper), []) => clone_tree(CWD, &upper.dir, true).map_err(failed),
        _ => match new_api(root, user) {
            Err(Failure::NoLowerdirPlus) => old_api(root, user),
            Err(Failure::Io(e)) => Err(failed(e)),
            Ok(fd) => Ok(fd),
        },
    }
}

fn describe(root: &Root) -> String {
    let upper = root.upper.as_ref().map(|u| format!(", changes in {}", u.dir.display())).unwrap_or_default();
    format!("mount an overlay of {} layers{upper}", root.lower.len())
}

/// A detached copy of the mount at `path` under `dir`, with or without the mounts below it.
pub fn clone_tree(dir: BorrowedFd<'_>, path: impl rustix::path::Arg, follow: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    flags |= OpenTreeFlags::AT_EMPTY_PATH;
    if !follow {
        flags |= OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    }
    Ok(open_tree(dir, path, flags)?)
}

enum Failure {
    NoLowerdirPlus,
    Io(io::Error),
}

impl From<rustix::io::Errno> for Failure {
    fn from(e: rustix::io::Errno) -> Failure {
        Failure::Io(e.into())
    }
}

/// A path as an option value: itself, or a descriptor of it when it's too long.
struct Value {
    text: CString,
    _open: Option<OwnedFd>,
}

impl Value {
    fn of(path: &Path) -> io::Result<Value> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.len() <= LONGEST_VALUE {
            return Ok(Value { text: CString::new(bytes)?, _open: None });
        }
        Value::descriptor(path)
    }

    fn descriptor(path: &Path) -> io::Result<Value> {
        let fd = open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let text = CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        Ok(Value { text, _open: Some(fd) })
    }
}

/// Options beside the layers: no feature that other readers of the upper directory wouldn't understand.
fn plain_options(user: bool) -> Vec<(&'static str, &'static str)> {
    let mut options = vec![("index", "off"), ("metacopy", "off")];
    // With user.* attributes the kernel fixes this itself and refuses to be told.
    if !user {
        options.push(("redirect_dir", "nofollow"));
    }
    options
}

fn new_api(root: &Root, user: bool) -> Result<OwnedFd, Failure> {
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let fs = context.as_fd();
    fsconfig_set_string(fs, c"source", c"overlay")?;
    for layer in &root.lower {
        let value = Value::of(layer).map_err(Failure::Io)?;
        match fsconfig_set_string(fs, c"lowerdir+", value.text.as_c_str()) {
            // Before 6.7 the key is taken, and refused only when the file system is created; some kernels refuse here.
            Err(rustix::io::Errno::INVAL) => return Err(Failure::NoLowerdirPlus),
            other => other.map_err(|e| Failure::Io(with_log(fs, e)))?,
        }
    }
    if let Some(upper) = &root.upper {
        for (key, dir) in [(c"upperdir", &upper.dir), (c"workdir", &upper.work)] {
            let value = Value::of(dir).map_err(Failure::Io)?;
            fsconfig_set_string(fs, key, value.text.as_c_str()).map_err(|e| Failure::Io(with_log(fs, e)))?;
        }
        // Without it an unmount syncs the whole disk. What a crash may lose is the store's to know: it syncs later.
        fsconfig_set_flag(fs, c"volatile").map_err(|e| Failure::Io(with_log(fs, e)))?;
    }
    for (key, value) in plain_options(user) {
        fsconfig_set_string(fs, key, value).map_err(|e| Failure::Io(with_log(fs, e)))?;
    }
    if user {
        fsconfig_set_flag(fs, c"userxattr").map_err(|e| Failure::Io(with_log(fs, e)))?;
    }
    fsconfig_create(fs)
        .map_err(|e| if before_6_7() { Failure::NoLowerdirPlus } else { Failure::Io(with_log(fs, e)) })?;
    Ok(fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// The error with what the kernel wrote about it into the context's log, which is far clearer than the number.
fn with_log(fs: BorrowedFd<'_>, error: rustix::io::Errno) -> io::Error {
    let mut lines = Vec::new();
    let mut line = [0u8; 512];
    while let Ok(n) = rustix::io::read(fs, &mut line) {
        let text = String::from_utf8_lossy(line.get(2..n).unwrap_or_default()).trim().to_string();
        if text.is_empty() {
            break;
        }
        lines.push(text);
    }
    let error = io::Error::from(error);
    if lines.is_empty() { error } else { io::Error::new(error.kind(), format!("{error}: {}", lines.join("; "))) }
}

fn before_6_7() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (6, 7)
}

/// Does `work` in a thread with a mount namespace of its own, which ends with it.
fn in_own_namespace<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    let aside = || {
        // SAFETY: only this thread's file system context and mount namespace are left; the descriptor table stays shared.
        unsafe { unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }
            .map_err(|e| Error::kernel("make a mount namespace", e))?;
        crate::kernel::make_private().map_err(|e| Error::kernel("make a private mount namespace", e))?;
        work()
    };
    let panicked = |_| Err(Error::kernel("mount", io::Error::other("the mounting thread panicked")));
    std::thread::scope(|scope| scope.spawn(aside).join()).unwrap_or_else(panicked)
}

/// Mounts with `mount(2)` in a mount namespace of its own and takes a detached copy out of it.
fn old_api(root: &Root, user: bool) -> Result<OwnedFd, Error> {
    let mount = || -> io::Result<OwnedFd> {
        // Overlay takes layers of the mounter's own namespace only: opened after it's made.
        let (options, _open) = old_options(root, user)?;
        // Any directory serves as the place: the namespace is this thread's alone and ends with it.
        rustix::mount::mount(c"overlay", c"/proc", c"overlay", MountFlags::empty(), Some(options.as_c_str()))?;
        clone_tree(CWD, c"/proc", true)
    };
    in_own_namespace(|| mount().map_err(|e| Error::kernel(describe(root), e)))
}

/// Options as one string, with descriptors as `/proc/self/fd/N` to keep it short: about 230 layers fit a page.
fn old_options(root: &Root, user: bool) -> io::Result<(CString, Vec<Value>)> {
    let mut open = root.lower.iter().map(|l| Value::descriptor(l)).collect::<io::Result<Vec<_>>>()?;
    let lower: Vec<_> = open.iter().map(|v| v.text.to_string_lossy()).collect();
    let mut options = format!("lowerdir={}", lower.join(":"));
    if let Some(upper) = &root.upper {
        let (dir, work) = (Value::descriptor(&upper.dir)?, Value::descriptor(&upper.work)?);
        options +=
            &format!(",upperdir={},workdir={},volatile", dir.text.to_string_lossy(), work.text.to_string_lossy());
        open.extend([dir, work]);
    }
    for (key, value) in plain_options(user) {
        options += &format!(",{key}={value}");
    }
    if user {
        options += ",userxattr";
    }
    if options.len() >= 4096 {
        let message = format!("{} layers are too many for this kernel: Linux 6.7 takes more", root.lower.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok((CString::new(options)?, open))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    fn read(mount: &OwnedFd, name: &str) -> Option<String> {
        let fd = rustix::fs::openat(mount, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        io::read_to_string(fs::File::from(fd)).ok()
    }

    #[allow(clippy::print_stderr)]
    fn is_root(what: &str) -> bool {
        let root = fs::metadata("/proc/self").map(|m| m.uid() == 0).unwrap_or(false);
        if !root {
            eprintln!("SKIPPED: {what}: needs root to mount");
        }
        root
    }

    fn layers(dir: &Path, count: usize, deep: bool) -> Root {
        let mut base = dir.to_path_buf();
        if deep {
            base.push("d".repeat(200));
            base.push("e".repeat(100));
        }
        let mut lower = Vec::new();
        for n in 0..count {
            let layer = base.join(format!("layer{n}"));
            fs::create_dir_all(&layer).unwrap();
            fs::write(layer.join(format!("file{n}")), n.to_string()).unwrap();
            fs::write(layer.join("same"), n.to_string()).unwrap();
            lower.insert(0, layer);
        }
        let (upper, work) = (base.join("upper"), base.join("work"));
        fs::create_dir_all(&upper).unwrap();
        fs::create_dir_all(&work).unwrap();
        Root::writable(lower, upper, work)
    }

    #[test]
    fn many_layers_with_long_paths_by_both_ways() {
        if !is_root("overlay of many layers") {
            return;
        }
        for (count, deep) in [(1, false), (2, true), (150, true)] {
            let dir = tempfile::tempdir().unwrap();
            let root = layers(dir.path(), count, deep);
            let top = Some((count - 1).to_string());
            for old in [true, false] {
                let fd = if old { old_api(&root, false).unwrap() } else { mount(&root, false).unwrap() };
                assert_eq!(read(&fd, "same"), top);
                assert_eq!(read(&fd, "file0").as_deref(), Some("0"));
                drop(fd);
                // What `volatile` left: the caller deletes the work directory, so does the second turn here.
                fs::remove_dir_all(&root.upper.as_ref().unwrap().work).unwrap();
                fs::create_dir(&root.upper.as_ref().unwrap().work).unwrap();
            }
            let ro = mount(&Root::read_only(root.lower), false).unwrap();
            assert_eq!(read(&ro, "same"), top);
            let denied = rustix::fs::openat(&ro, "new", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap_err();
            assert_eq!(denied, rustix::io::Errno::ROFS);
        }
    }

    #[test]
    fn more_layers_than_one_overlay_takes() {
        if !is_root("overlays of very many layers") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut root = layers(dir.path(), 700, false);
        // Layers from top to bottom: 0 is the topmost; 220 and above lie in the inner overlay.
        let gone = |at: usize, name: &str| {
            let place = root.lower[at].join(name);
            rustix::fs::mknodat(CWD, &place, rustix::fs::FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        };
        gone(0, "file1"); // from the top, far beneath
        gone(100, "file650"); // within the outer one
        gone(650, "file10"); // within the inner one
        let fd = mount(&root, false).unwrap();
        assert_eq!(read(&fd, "same").as_deref(), Some("699"));
        for (name, there) in
            [("file0", true), ("file1", false), ("file650", true), ("file10", false), ("file300", true)]
        {
            // file650 lies in layer 49, above the whiteout.
            assert_eq!(read(&fd, name).is_some(), there, "{name}");
        }
        drop(fd);
        root.lower.extend(root.lower.clone());
        let text = mount(&root, false).unwrap_err().to_string();
        assert!(text.contains("1400 layers are too many: this kernel takes 959"), "{text}");
    }

    #[test]
    fn an_error_says_what_the_kernel_says() {
        if !is_root("overlay errors") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut root = layers(dir.path(), 2, false);
        root.lower[0] = dir.path().join("missing");
        let text = mount(&root, false).unwrap_err().to_string();
        assert!(text.contains("overlay of 2 layers") && text.contains("No such file"), "{text}");
    }
}
