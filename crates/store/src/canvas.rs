//! A draft that file operations write into without mounting it: what is written goes to the upper directory in overlay's
//! own form (directories copied up, whiteouts), what is read is upper and lower together.
//! It never writes to a lower layer, and follows no symlink out of the tree.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::Draft;
use crate::error::{Doing, Result};
use crate::view::{Kind, Node, View};

/// When larder itself makes a directory, it gets this time, so that the same input gives the same layer.
const MADE_AT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Mode, owner and time of something that is written.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// Permission bits with suid, sgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub time: Timespec,
}

impl Attributes {
    /// Of a node that is there.
    pub fn of(node: &Node) -> Attributes {
        Attributes { mode: node.mode, uid: node.uid, gid: node.gid, time: timespec(node.mtime) }
    }

    /// Of a directory that larder makes.
    pub fn made(mode: u32, owner: Option<(u32, u32)>, time: Option<Timespec>) -> Attributes {
        let (uid, gid) = owner.unwrap_or((0, 0));
        Attributes { mode, uid, gid, time: time.unwrap_or(MADE_AT) }
    }
}

/// Nanoseconds since 1970 as the kernel takes them.
pub fn timespec(nanos: i64) -> Timespec {
    Timespec { tv_sec: nanos.div_euclid(1_000_000_000), tv_nsec: nanos.rem_euclid(1_000_000_000) }
}

/// See the module.
pub struct Canvas {
    upper: PathBuf,
    lower: View,
    merged: View,
    /// Directories that are in the upper, with the time that each gets at the end.
    up: HashMap<PathBuf, Timespec>,
    /// Directories that were made here: nothing lies beneath them, so the upper alone says what is in them.
    made: HashSet<PathBuf>,
}

impl Canvas {
    /// Onto a draft.
    pub fn new(draft: &Draft) -> Result<Canvas> {
        let upper = draft.upper().to_owned();
        let (lower, merged) = View::of_draft(upper.clone(), draft.lower().to_vec());
        let mut canvas = Canvas { upper, lower, merged, up: HashMap::new(), made: HashSet::new() };
        let root = match canvas.lower.lookup(Path::new("/"))? {
            Some(node) if !draft.lower().is_empty() => Attributes::of(&node),
            _ => Attributes::made(0o755, None, None),
        };
        canvas.dress(Path::new("/"), &root)?;
        Ok(canvas)
    }

    /// Upper and lower together, as they are now.
    pub fn view(&self) -> &View {
        &self.merged
    }

    /// Where in the upper directory the tree's `path` lies. Its parents are there only after [`Canvas::lift`].
    pub fn place(&self, path: &Path) -> PathBuf {
        self.upper.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Resolves every symlink of `path` inside the tree; what does not exist stays as written.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf> {
        self.merged.resolve(path)
    }

    /// What is at `path`, without following a symlink at its end.
    pub fn look(&self, path: &Path) -> Result<Option<Node>> {
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) if self.made.contains(parent) => Node::there(name, self.place(path)),
            _ => self.merged.lookup(path),
        }
    }

    /// Brings an existing directory, and those above it, into the upper.
    pub fn lift(&mut self, path: &Path) -> Result<()> {
        if self.up.contains_key(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.lift(parent)?;
        }
        let node = self.look(path)?.filter(|n| n.kind == Kind::Dir);
        let node = node.ok_or_else(not_a_directory).doing("go into", path)?;
        let place = self.place(path);
        match std::fs::create_dir(&place) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).doing("make", path),
            _ => {}
        }
        copy_xattrs(&node, &place)?;
        self.dress(path, &Attributes::of(&node))
    }

    /// Makes `path` and whatever is missing above it; `path` has no symlinks left. Directories that exist stay as they
    /// are.
    pub fn make_dirs(&mut self, path: &Path, attributes: &Attributes) -> Result<()> {
        let mut sofar = PathBuf::from("/");
        for part in path.components() {
            if let Component::Normal(name) = part {
                sofar.push(name);
                match self.look(&sofar)? {
                    Some(node) if node.kind == Kind::Dir => {}
                    Some(_) => return Err(not_a_directory()).doing("go into", &sofar),
                    None => self.make_dir(&sofar, attributes)?,
                }
            }
        }
        self.lift(path)
    }

    /// Makes one directory where there is nothing; its parent exists.
    pub fn make_dir(&mut self, path: &Path, attributes: &Attributes) -> Result<()> {
        self.lift_parent(path)?;
        let place = self.place(path);
        let hides = self.clear_whiteout(path)?;
        std::fs::create_dir(&place).doing("make", path)?;
        if hides {
            set_opaque(&place).doing("make", path)?;
        }
        self.made.insert(path.to_owned());
        self.dress(path, attributes)
    }

    /// Makes room for something that is no directory: its parent is lifted, an old file at `path` is gone from the upper.
    pub fn make_room(&mut self, path: &Path) -> Result<PathBuf> {
        self.lift_parent(path)?;
        let place = self.place(path);
        match std::fs::remove_file(&place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.doing("replace", path)?,
        }
        Ok(place)
    }

    /// Removes whatever is at `path`, with everything below it.
    pub fn remove(&mut self, path: &Path) -> Result<()> {
        if self.look(path)?.is_none() {
            return Ok(());
        }
        self.lift_parent(path)?;
        let place = self.place(path);
        match std::fs::symlink_metadata(&place) {
            Ok(data) if data.is_dir() => std::fs::remove_dir_all(&place).doing("remove", path)?,
            Ok(_) => std::fs::remove_file(&place).doing("remove", path)?,
            Err(_) => {}
        }
        self.up.retain(|dir, _| !dir.starts_with(path));
        self.made.retain(|dir| !dir.starts_with(path));
        if self.lower.lookup(path)?.is_some() {
            whiteout(&place).doing("remove", path)?;
        }
        Ok(())
    }

    /// Sets mode, owner and (at the end) time of a directory in the upper.
    pub fn dress(&mut self, path: &Path, attributes: &Attributes) -> Result<()> {
        let place = self.place(path);
        set_owner_and_mode(&place, attributes).doing("set owner and mode of", path)?;
        self.up.insert(path.to_owned(), attributes.time);
        Ok(())
    }

    /// Everything is written: sets the directories' times.
    pub fn finish(&mut self) -> Result<()> {
        for (path, time) in self.up.drain() {
            let place = self.upper.join(path.strip_prefix("/").unwrap_or(&path));
            set_time(&place, time).doing("set the time of", &path)?;
        }
        Ok(())
    }

    fn lift_parent(&mut self, path: &Path) -> Result<()> {
        path.parent().map_or(Ok(()), |parent| self.lift(parent))
    }

    /// Removes a whiteout of ours at `path`; says whether there was one.
    fn clear_whiteout(&self, path: &Path) -> Result<bool> {
        match std::fs::remove_file(self.place(path)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).doing("replace", path),
        }
    }
}

fn not_a_directory() -> io::Error {
    io::ErrorKind::NotADirectory.into()
}

/// Owner and mode, in this order: changing the owner clears suid.
pub fn set_owner_and_mode(place: &Path, attributes: &Attributes) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let data = std::fs::symlink_metadata(place)?;
    if (data.uid(), data.gid()) != (attributes.uid, attributes.gid) {
        give(place, attributes.uid, attributes.gid)?;
    }
    if !data.is_symlink() {
        std::fs::set_permissions(place, std::fs::Permissions::from_mode(attributes.mode))?;
    }
    Ok(())
}

/// Changes the owner. An id that a user namespace does not have is the one reason that has a remedy.
fn give(place: &Path, uid: u32, gid: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(place, Some(uid), Some(gid)).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("owner {uid}:{gid} is outside of this user's ids: /etc/subuid and /etc/subgid give more"),
        ),
        _ => error,
    })
}

/// Modification time of a file, directory or the symlink itself; the time of access becomes the same.
pub fn set_time(place: &Path, time: Timespec) -> io::Result<()> {
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(CWD, place, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Extended attributes of a node onto what was made from it. A file system that has none of them loses them, as with
/// BuildKit.
pub fn copy_xattrs(node: &Node, place: &Path) -> Result<()> {
    for (name, value) in node.xattrs()? {
        match rustix::fs::lsetxattr(place, name.as_str(), &value, XattrFlags::empty()) {
            Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::PERM) => {}
            set => set.map_err(io::Error::from).doing("set an extended attribute of", place)?,
        }
    }
    Ok(())
}

/// A device or a pipe like `node`.
pub fn make_node(node: &Node, place: &Path) -> io::Result<()> {
    let kind = match node.kind {
        Kind::Char => FileType::CharacterDevice,
        Kind::Block => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    Ok(rustix::fs::mknodat(CWD, place, kind, Mode::from_raw_mode(0o600), node.rdev)?)
}

/// Says that what lies beneath `place` is not there.
pub fn whiteout(place: &Path) -> io::Result<()> {
    Ok(rustix::fs::mknodat(CWD, place, FileType::CharacterDevice, Mode::empty(), 0)?)
}

/// Says that a directory hides those beneath it.
pub fn set_opaque(place: &Path) -> io::Result<()> {
    match rustix::fs::setxattr(place, "trusted.overlay.opaque", b"y", XattrFlags::empty()) {
        // Without privileges the kernel reads the other name.
        Err(rustix::io::Errno::PERM) => {
            Ok(rustix::fs::setxattr(place, "user.overlay.opaque", b"y", XattrFlags::empty())?)
        }
        set => Ok(set?),
    }
}
