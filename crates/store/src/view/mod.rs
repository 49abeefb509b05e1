//! A read-only look at a tree without mounting it: one folder, overlay layers with their whiteouts, or a scanned
//! directory of a client's. Paths are absolute inside the tree, and no symlink leads out of it. It never writes.

mod merged;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, FileType, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Result};
use crate::tree::scan::Scanned;
use merged::{Layers, Merged};

/// More symlinks in one path than this are a loop, as for the kernel.
const MAX_LINKS: usize = 40;

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Kind {
    File,
    Dir,
    Link,
    Char,
    Block,
    Fifo,
    Socket,
}

impl Kind {
    fn of(kind: FileType) -> Kind {
        match kind {
            k if k.is_dir() => Kind::Dir,
            k if k.is_symlink() => Kind::Link,
            k if k.is_char_device() => Kind::Char,
            k if k.is_block_device() => Kind::Block,
            k if k.is_fifo() => Kind::Fifo,
            k if k.is_socket() => Kind::Socket,
            _ => Kind::File,
        }
    }
}

/// One path of a tree.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name in its directory; `/` for the root.
    pub name: OsString,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with suid, sgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a file.
    pub size: u64,
    /// Modification time, nanoseconds since 1970.
    pub mtime: i64,
    /// Number of a device.
    pub rdev: u64,
    /// Where a symlink leads, as written.
    pub link: PathBuf,
    /// Where it lies on this machine.
    pub source: PathBuf,
}

impl Node {
    /// What lies at a path of this machine, whatever overlay would make of it.
    pub(crate) fn at(name: &OsStr, source: PathBuf) -> Result<Node> {
        let data = fs::symlink_metadata(&source).doing("look at", &source)?;
        Node::read(name, source, &data)
    }

    /// The same, where there may be nothing.
    pub(crate) fn there(name: &OsStr, source: PathBuf) -> Result<Option<Node>> {
        match fs::symlink_metadata(&source) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            data => {
                let data = data.doing("look at", &source)?;
                if is_whiteout(&data) { Ok(None) } else { Node::read(name, source, &data).map(Some) }
            }
        }
    }

    fn read(name: &OsStr, source: PathBuf, data: &Metadata) -> Result<Node> {
        let kind = Kind::of(data.file_type());
        let link = if kind == Kind::Link {
            fs::read_link(&source).doing("read the symlink", &source)?
        } else {
            PathBuf::new()
        };
        Ok(Node {
            name: name.to_owned(),
            kind,
            mode: data.mode() & 0o7777,
            uid: data.uid(),
            gid: data.gid(),
            size: data.size(),
            mtime: data.mtime() * 1_000_000_000 + data.mtime_nsec(),
            rdev: data.rdev(),
            link,
            source,
        })
    }

    /// Extended attributes, sorted by name, without overlay's own.
    pub fn xattrs(&self) -> Result<Vec<(String, Vec<u8>)>> {
        xattrs(&self.source)
    }
}

/// Extended attributes of a path, sorted by name, without overlay's own.
pub(crate) fn xattrs(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut names = [0; 4096];
    let mut large = Vec::new();
    let io = |error: rustix::io::Errno| std::io::Error::from(error);
    let names: &[u8] = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(0) | Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        Ok(length) => &names[..length],
        Err(rustix::io::Errno::RANGE) => {
            large.resize(64 << 10, 0);
            let length =
                rustix::fs::llistxattr(path, &mut large[..]).map_err(io).doing("list the attributes of", path)?;
            &large[..length]
        }
        Err(error) => return Err(io(error)).doing("list the attributes of", path),
    };
    let mut found = Vec::new();
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let text = String::from_utf8_lossy(name).into_owned();
        if text.starts_with("trusted.overlay.") || text.starts_with("user.overlay.") {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        match rustix::fs::lgetxattr(path, name, &mut value[..]) {
            Ok(length) => value.truncate(length),
            // It went away between the two calls, or is not ours to read.
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => continue,
            Err(error) => return Err(io(error)).doing("read an attribute of", path),
        }
        found.push((text, value));
    }
    found.sort();
    Ok(found)
}

/// See the module. Cheap to clone.
#[derive(Clone, Debug)]
pub struct View(Shape);

#[derive(Clone, Debug)]
enum Shape {
    /// Folders that do not change, top first; the same directory in several of them is one.
    Layers(Arc<Layers>),
    /// A folder that may change, over such.
    Draft(PathBuf, Arc<Layers>),
    Scanned(Arc<Scanned>),
}

impl View {
    /// The empty tree.
    pub fn empty() -> View {
        View::of_layers(Vec::new())
    }

    /// One folder.
    pub fn of_dir(folder: PathBuf) -> View {
        View::of_layers(vec![folder])
    }

    /// Overlay layers, top first. Nobody writes to them while they are looked at.
    pub fn of_layers(layers: Vec<PathBuf>) -> View {
        View(Shape::Layers(Arc::new(Layers::new(layers))))
    }

    /// What lies beneath a draft, and both together as they are at each look.
    pub(crate) fn of_draft(upper: PathBuf, lower: Vec<PathBuf>) -> (View, View) {
        let layers = Arc::new(Layers::new(lower));
        (View(Shape::Layers(layers.clone())), View(Shape::Draft(upper, layers)))
    }

    /// A scanned directory: only what its filter left, owned by root.
    pub(crate) fn of_scanned(scanned: Arc<Scanned>) -> View {
        View(Shape::Scanned(scanned))
    }

    /// What is at `path`. Symlinks on the way are followed, one at its end is not.
    pub fn lookup(&self, path: &Path) -> Result<Option<Node>> {
        let Some(name) = path.file_name() else { return Ok(self.raw(Path::new("/"))?.map(|m| m.node)) };
        let parent = path.parent().unwrap_or(Path::new("/"));
        Ok(match self.raw(path)? {
            Some(found) => Some(found.node),
            None => {
                let real = self.resolve(parent)?;
                if real == parent { None } else { self.raw(&real.join(name))?.map(|m| m.node) }
            }
        })
    }

    /// What is in the directory at `path`, sorted by name.
    pub fn list(&self, path: &Path) -> Result<Vec<Node>> {
        let real = self.resolve(path)?;
        match &self.0 {
            Shape::Scanned(scanned) => Ok(scanned.list(&real)),
            Shape::Layers(_) | Shape::Draft(..) => match self.raw(&real)? {
                Some(dir) if dir.node.kind == Kind::Dir => dir.list(),
                _ => Ok(Vec::new()),
            },
        }
    }

    /// `path` without symlinks. What does not exist stays as written.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf> {
        let mut left: Vec<OsString> = parts(path);
        left.reverse();
        let mut real = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = left.pop() {
            if part == ".." {
                real.pop();
                continue;
            }
            let next = real.join(&part);
            match self.raw(&next)?.map(|m| m.node).filter(|n| n.kind == Kind::Link) {
                Some(link) => {
                    links += 1;
                    if links > MAX_LINKS {
                        let looped = std::io::Error::from_raw_os_error(libc::ELOOP);
                        return Err(looped).doing("follow the symlinks of", path);
                    }
                    if link.link.is_absolute() {
                        real = PathBuf::from("/");
                    }
                    left.extend(parts(&link.link).into_iter().rev());
                }
                None => real = next,
            }
        }
        Ok(real)
    }

    /// What is at `path`, which has no symlinks on the way.
    fn raw(&self, path: &Path) -> Result<Option<Merged>> {
        let normal = path.components().filter(|part| matches!(part, Component::Normal(_)));
        let path: PathBuf = std::iter::once(Component::RootDir).chain(normal).collect();
        match &self.0 {
            Shape::Scanned(scanned) if path == Path::new("/") => Ok(Some(Merged::alone(scanned.root()))),
            Shape::Scanned(scanned) => Ok(scanned.lookup(&path).map(Merged::alone)),
            Shape::Layers(layers) => Ok(layers.at(&path)?.map(Arc::unwrap_or_clone)),
            Shape::Draft(upper, layers) => layers.under(upper, &path),
        }
    }
}

impl Node {
    /// A device or pipe that is nowhere yet.
    pub(crate) fn device(kind: Kind, rdev: u64) -> Node {
        Node { kind, rdev, ..nothing() }
    }
}

fn nothing() -> Node {
    Node {
        name: OsString::from("/"),
        kind: Kind::Dir,
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        mtime: 0,
        rdev: 0,
        link: PathBuf::new(),
        source: PathBuf::new(),
    }
}

fn parts(path: &Path) -> Vec<OsString> {
    let part = |c: Component<'_>| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

/// Whether it says that what is beneath is not there.
pub(crate) fn is_whiteout(data: &Metadata) -> bool {
    data.file_type().is_char_device() && data.rdev() == 0
}

/// Whether a directory hides those beneath it.
pub(crate) fn is_opaque(folder: &Path) -> bool {
    let mut names = [0; 512];
    // Most have no attribute at all: one question instead of two.
    if rustix::fs::llistxattr(folder, &mut names[..]) == Ok(0) {
        return false;
    }
    let mut value = [0; 2];
    let mut read =
        |name: &str| matches!(rustix::fs::lgetxattr(folder, name, &mut value[..]), Ok(1)) && value[0] == b'y';
    read("trusted.overlay.opaque") || read("user.overlay.opaque")
}

/// Names in the folders of one layer, sorted, each with where it lies, top first: see `Snapshots::parts`.
pub(crate) fn names(folders: &[PathBuf]) -> Result<Vec<(OsString, Vec<PathBuf>)>> {
    let mut all: BTreeMap<OsString, Vec<PathBuf>> = BTreeMap::new();
    for folder in folders {
        let entries = match fs::read_dir(folder) {
            // Only a directory has something below it.
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory && folders.len() > 1 => continue,
            entries => entries.doing("list", folder)?,
        };
        for entry in entries {
            let name = entry.doing("list", folder)?.file_name();
            let place = folder.join(&name);
            all.entry(name).or_default().push(place);
        }
    }
    Ok(all.into_iter().collect())
}

/// An error for a path that a tree does not have.
pub(crate) fn not_found(path: &str) -> Error {
    Error::NoPath { path: path.to_owned() }
}
