//! What one tree has over another, as the folder of a layer: files are linked, what is gone becomes a whiteout, and a
//! directory that hides others becomes whiteouts of what it hides, so that the layer means the same on any tree.
//! It reads no contents where metadata say enough, and never changes what it compares.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::canvas::{Attributes, copy_xattrs, make_node, set_owner_and_mode, set_time, timespec, whiteout};
use crate::error::{Doing, Result};
use crate::view::{self, Kind, Node, View, is_opaque, is_whiteout};
use crate::{Draft, SnapshotId, Store};

/// Writes all that `upper` has over `lower` into a draft.
pub fn between(lower: &View, upper: &View, draft: &Draft) -> Result<()> {
    Changes::new(lower, upper, draft).all(None).map(drop)
}

/// Writes what the snapshot's own layer changes in the tree beneath it. Says whether that is all that is in the layer, so
/// that its blobs are blobs of what was written: files that it has and that are as they were before are left out.
pub fn of_layer(store: &Store, id: SnapshotId, draft: &Draft) -> Result<bool> {
    let snapshots = store.snapshots();
    let beneath = match snapshots.chain(id)?.get(1) {
        Some(beneath) => snapshots.layers(*beneath)?,
        None => Vec::new(),
    };
    let (lower, upper) = (View::of_layers(beneath), View::of_layers(snapshots.layers(id)?));
    Changes::new(&lower, &upper, draft).all(Some(&snapshots.parts(id)?))
}

struct Changes<'a> {
    lower: &'a View,
    upper: &'a View,
    into: &'a Path,
    /// Nothing was left out or said otherwise than in the layer.
    exact: bool,
    /// Files that could not be linked, by their inode: several names of one stay one.
    copied: HashMap<(u64, u64), PathBuf>,
}

/// Entries of a directory.
type Names = BTreeMap<OsString, Node>;

impl<'a> Changes<'a> {
    fn new(lower: &'a View, upper: &'a View, draft: &'a Draft) -> Changes<'a> {
        Changes { lower, upper, into: draft.upper(), exact: true, copied: HashMap::new() }
    }

    /// `own`: the layer's folders, where only what is in them can differ.
    fn all(mut self, own: Option<&[PathBuf]>) -> Result<bool> {
        let root = Path::new("/");
        self.folder(root, own, true)?;
        if let Some(node) = self.upper.lookup(root)? {
            dress(&node, self.into)?;
        }
        Ok(self.exact)
    }

    /// The directory `at`, which is made already; `beneath`: it is a directory in the lower tree too. Says whether anything
    /// in it differs.
    fn folder(&mut self, at: &Path, own: Option<&[PathBuf]>, beneath: bool) -> Result<bool> {
        let own = match own {
            Some(folders) if beneath && at != Path::new("/") && folders.iter().any(|f| is_opaque(f)) => {
                self.exact = false;
                None
            }
            own => own,
        };
        let below = if beneath { by_name(self.lower.list(at)?) } else { Names::new() };
        let above = by_name(self.upper.list(at)?);
        let mut changed = false;
        for (name, places) in names(own, &below, &above)? {
            let (path, was) = (at.join(&name), below.get(&name));
            changed |= match above.get(&name) {
                Some(node) if node.kind == Kind::Dir => self.directory(&path, was, node, places)?,
                Some(node) => self.file(&path, was, node)?,
                None if was.is_some() || removes(&places)? => {
                    let place = self.place(&path);
                    whiteout(&place).doing("remove", &path)?;
                    true
                }
                None => false,
            };
        }
        Ok(changed)
    }

    fn directory(
        &mut self,
        path: &Path,
        was: Option<&Node>,
        node: &Node,
        places: Option<Vec<PathBuf>>,
    ) -> Result<bool> {
        let place = self.place(path);
        fs::create_dir(&place).doing("make", path)?;
        let was = was.filter(|was| was.kind == Kind::Dir);
        let own: Option<Vec<PathBuf>> = places.map(|all| all.into_iter().filter(|p| p.is_dir()).collect());
        let changed = self.folder(path, own.as_deref(), was.is_some())?;
        if let Some(was) = was
            && !changed
            && alike(was, node)
            && was.xattrs()? == node.xattrs()?
        {
            self.exact = false;
            fs::remove_dir(&place).doing("leave out", path)?;
            return Ok(false);
        }
        dress(node, &place)?;
        Ok(true)
    }

    fn file(&mut self, path: &Path, was: Option<&Node>, node: &Node) -> Result<bool> {
        if let Some(was) = was
            && same(was, node)?
        {
            self.exact = false;
            return Ok(false);
        }
        let place = self.place(path);
        if fs::hard_link(&node.source, &place).is_err() {
            self.copy(node, &place)?;
        }
        Ok(true)
    }

    /// A file that can't be linked (too many links, another file system, another's file).
    fn copy(&mut self, node: &Node, place: &Path) -> Result<()> {
        let data = fs::symlink_metadata(&node.source).doing("look at", &node.source)?;
        if let Some(first) = self.copied.get(&(data.dev(), data.ino())) {
            return fs::hard_link(first, place).doing("link", place);
        }
        match node.kind {
            Kind::Link => std::os::unix::fs::symlink(&node.link, place).doing("make the symlink", place)?,
            Kind::File => {
                fs::copy(&node.source, place).doing("copy", &node.source)?;
                self.copied.insert((data.dev(), data.ino()), place.to_owned());
            }
            _ => make_node(node, place).doing("make the device", place)?,
        }
        dress(node, place)
    }

    fn place(&self, path: &Path) -> PathBuf {
        self.into.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// What is to be looked at in a directory, each with where the layer has it.
fn names(own: Option<&[PathBuf]>, below: &Names, above: &Names) -> Result<Vec<(OsString, Option<Vec<PathBuf>>)>> {
    match own {
        Some(folders) => Ok(view::names(folders)?.into_iter().map(|(name, places)| (name, Some(places))).collect()),
        None => {
            let all: BTreeSet<&OsString> = below.keys().chain(above.keys()).collect();
            Ok(all.into_iter().map(|name| (name.clone(), None)).collect())
        }
    }
}

/// Whether the layer itself says that something is gone, also where nothing lies beneath.
fn removes(places: &Option<Vec<PathBuf>>) -> Result<bool> {
    let Some(first) = places.iter().flatten().next() else { return Ok(false) };
    Ok(is_whiteout(&fs::symlink_metadata(first).doing("look at", first)?))
}

fn by_name(nodes: Vec<Node>) -> Names {
    nodes.into_iter().map(|node| (node.name.clone(), node)).collect()
}

/// Kind, mode and owner.
fn alike(a: &Node, b: &Node) -> bool {
    let number = |node: &Node| if matches!(node.kind, Kind::Char | Kind::Block) { node.rdev } else { 0 };
    (a.kind, a.mode, a.uid, a.gid, number(a)) == (b.kind, b.mode, b.uid, b.gid, number(b))
}

/// Whether a file is as it was. Times without a part of a second may have been cut off: then the contents decide.
fn same(was: &Node, node: &Node) -> Result<bool> {
    if was.kind != node.kind {
        return Ok(false);
    }
    let inode = |node: &Node| -> Result<(u64, u64)> {
        let data = fs::symlink_metadata(&node.source).doing("look at", &node.source)?;
        Ok((data.dev(), data.ino()))
    };
    if inode(was)? == inode(node)? {
        return Ok(true);
    }
    if !alike(was, node) || (was.size, was.mtime, &was.link) != (node.size, node.mtime, &node.link) {
        return Ok(false);
    }
    if was.xattrs()? != node.xattrs()? {
        return Ok(false);
    }
    let cut = node.mtime % 1_000_000_000 == 0;
    if cut && node.kind == Kind::File { contents_alike(&was.source, &node.source) } else { Ok(true) }
}

/// Of files of one size.
fn contents_alike(a: &Path, b: &Path) -> Result<bool> {
    let open = |path: &Path| fs::File::open(path).doing("read", path);
    let (mut first, mut second) = (open(a)?, open(b)?);
    let (mut x, mut y) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let length = first.read(&mut x).doing("read", a)?;
        match second.read_exact(&mut y[..length]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read.doing("read", b)?,
        }
        if x[..length] != y[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(true);
        }
    }
}

/// Owner, mode, extended attributes and time of a node onto what was made from it.
fn dress(node: &Node, place: &Path) -> Result<()> {
    let time = timespec(node.mtime);
    set_owner_and_mode(place, &Attributes::of(node)).doing("set owner and mode of", place)?;
    if !node.source.as_os_str().is_empty() {
        copy_xattrs(node, place)?;
    }
    set_time(place, time).doing("set the time of", place)
}
