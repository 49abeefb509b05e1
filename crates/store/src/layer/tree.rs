//! A whole tree as a flat tar or as a directory of the client's: what `-o type=tar` and `type=local` give.
//! It reads the tree through a view; the destination is the caller's own.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Timespec;

use super::write::{self, Type};
use crate::canvas::{Attributes, copy_xattrs, set_owner_and_mode, set_time};
use crate::error::{Doing, Result};
use crate::view::{Kind, Node, View};

/// Writes trees as one flat tar. A `time`, in seconds since 1970, is that of everything it is given for.
pub struct TarWriter<'a> {
    out: &'a mut dyn Write,
}

impl<'a> TarWriter<'a> {
    /// A tar that goes to `out`.
    pub fn new(out: &'a mut dyn Write) -> TarWriter<'a> {
        TarWriter { out }
    }

    /// A tree, below `folder` unless that is empty.
    pub fn tree(&mut self, folder: &str, view: &View, time: Option<i64>) -> Result<()> {
        let mut below = folder.as_bytes().to_vec();
        if !below.is_empty() {
            below.push(b'/');
            self.made(&below, Type::Dir, 0o755, &[], time)?;
        }
        tar_folder(view, Path::new("/"), &below, self.out, time, &mut Links::default())
    }

    /// A file of bytes that only its owner reads.
    pub fn file(&mut self, path: &str, bytes: &[u8], time: Option<i64>) -> Result<()> {
        self.made(path.as_bytes(), Type::File, 0o600, bytes, time)
    }

    fn made(&mut self, path: &[u8], kind: Type, mode: u32, bytes: &[u8], time: Option<i64>) -> Result<()> {
        let (size, mtime) = (bytes.len() as u64, time.unwrap_or(0));
        let entry =
            write::Entry { path, kind, mode, uid: 0, gid: 0, size, mtime, link: b"", device: (0, 0), xattrs: &[] };
        let written = write::entry(self.out, &entry).and_then(|()| self.out.write_all(bytes));
        let written = written.and_then(|()| write::padding(self.out, size));
        written.doing("write to the tar", Path::new(&*String::from_utf8_lossy(path)))
    }

    /// Ends the tar.
    pub fn finish(self) -> Result<()> {
        write::end(self.out).doing("write the tar of", Path::new("/"))
    }
}

/// Where files with several names were written first: a file is known by its layer and its inode there. Layers may share
/// bytes without being told, so what is one inode in two of them is two files.
#[derive(Default)]
struct Links<T>(HashMap<(PathBuf, u64, u64), T>);

impl<T: Clone> Links<T> {
    /// Where the file of `node`, which is `real` in its tree, was written already; if nowhere, it is now at `here`.
    fn first(&mut self, node: &Node, real: &Path, here: T) -> Result<Option<T>> {
        let data = fs::symlink_metadata(&node.source).doing("look at", &node.source)?;
        if node.kind != Kind::File || data.nlink() < 2 {
            return Ok(None);
        }
        let layer = node.source.ancestors().nth(real.components().count() - 1).unwrap_or(&node.source);
        match self.0.entry((layer.to_owned(), data.dev(), data.ino())) {
            Entry::Occupied(first) => Ok(Some(first.get().clone())),
            Entry::Vacant(empty) => {
                empty.insert(here);
                Ok(None)
            }
        }
    }
}

fn tar_folder(
    view: &View,
    at: &Path,
    below: &[u8],
    out: &mut dyn Write,
    time: Option<i64>,
    links: &mut Links<Vec<u8>>,
) -> Result<()> {
    for node in view.list(at)? {
        let real = at.join(&node.name);
        let mut path = [below, node.name.as_bytes()].concat();
        if node.kind == Kind::Dir {
            path.push(b'/');
        }
        let first = links.first(&node, &real, path.clone())?;
        tar_node(&node, &path, first.as_deref(), out, time)?;
        if node.kind == Kind::Dir {
            tar_folder(view, &real, &path, out, time, links)?;
        }
    }
    Ok(())
}

fn tar_node(node: &Node, path: &[u8], first: Option<&[u8]>, out: &mut dyn Write, time: Option<i64>) -> Result<()> {
    let kind = match node.kind {
        Kind::File if first.is_some() => Type::HardLink,
        Kind::File => Type::File,
        Kind::Dir => Type::Dir,
        Kind::Link => Type::Symlink,
        Kind::Char => Type::Char,
        Kind::Block => Type::Block,
        Kind::Fifo => Type::Fifo,
        Kind::Socket => return Ok(()),
    };
    let size = if kind == Type::File { node.size } else { 0 };
    let entry = write::Entry {
        path,
        kind,
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        size,
        mtime: time.unwrap_or(node.mtime.div_euclid(1_000_000_000)),
        link: first.unwrap_or(node.link.as_os_str().as_bytes()),
        device: (rustix::fs::major(node.rdev), rustix::fs::minor(node.rdev)),
        xattrs: &node.xattrs()?,
    };
    let mut write = || -> io::Result<()> {
        write::entry(out, &entry)?;
        if kind == Type::File {
            let mut file = io::Read::take(fs::File::open(&node.source)?, size);
            if io::copy(&mut file, out)? != size {
                return Err(io::Error::other("it became shorter while it was read"));
            }
            write::padding(out, size)?;
        }
        Ok(())
    };
    write().doing("write to the tar", &node.source)
}

/// Whose the files are that a tree is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// As in the tree, which takes a process that may give files away.
    Kept,
    /// This process's.
    Own,
}

/// Writes the tree into the directory `to`, over what is there; everything in it is of `time` (seconds since 1970), if
/// there is one.
pub fn write_dir(view: &View, to: &Path, owners: Owners, time: Option<i64>) -> Result<()> {
    fs::create_dir_all(to).doing("make", to)?;
    dir_folder(view, Path::new("/"), to, owners, time.map(seconds), &mut Links::default())
}

/// A whole second.
fn seconds(time: i64) -> Timespec {
    Timespec { tv_sec: time, tv_nsec: 0 }
}

/// Writes a file of bytes that only its owner reads.
pub fn write_file(path: &Path, bytes: &[u8], time: Option<i64>) -> Result<()> {
    fs::write(path, bytes).doing("write", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).doing("set the mode of", path)?;
    time.map_or(Ok(()), |time| set_time(path, seconds(time)).doing("set the time of", path))
}

fn dir_folder(
    view: &View,
    at: &Path,
    to: &Path,
    owners: Owners,
    time: Option<Timespec>,
    links: &mut Links<PathBuf>,
) -> Result<()> {
    for node in view.list(at)? {
        let (real, target) = (at.join(&node.name), to.join(&node.name));
        let there = fs::symlink_metadata(&target).ok();
        let is_dir = node.kind == Kind::Dir;
        match there {
            Some(data) if data.is_dir() && is_dir => {}
            Some(data) if data.is_dir() => fs::remove_dir_all(&target).doing("replace", &target)?,
            Some(_) => fs::remove_file(&target).doing("replace", &target)?,
            None => {}
        }
        match node.kind {
            Kind::Dir => {
                if !target.is_dir() {
                    fs::create_dir(&target).doing("make", &target)?;
                }
                dir_folder(view, &real, &target, owners, time, links)?;
            }
            Kind::File if let Some(first) = links.first(&node, &real, target.clone())? => {
                fs::hard_link(first, &target).doing("link", &target)?;
                continue;
            }
            Kind::File => drop(fs::copy(&node.source, &target).doing("copy", &target)?),
            Kind::Link => std::os::unix::fs::symlink(&node.link, &target).doing("make the symlink", &target)?,
            Kind::Char | Kind::Block | Kind::Fifo => crate::canvas::make_node(&node, &target).doing("make", &target)?,
            Kind::Socket => continue,
        }
        let mut attributes = Attributes::of(&node);
        if owners == Owners::Own {
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            (attributes.uid, attributes.gid) = (uid, gid);
        }
        set_owner_and_mode(&target, &attributes).doing("set owner and mode of", &target)?;
        copy_xattrs(&node, &target)?;
        set_time(&target, time.unwrap_or(attributes.time)).doing("set the time of", &target)?;
    }
    Ok(())
}
