//! A layer's blob as a snapshot, and an archive as files: gzip, zstd and plain tars, whiteouts in overlay's form. Whatever
//! an archive says, nothing is written outside the draft: paths are resolved inside the tree that is being made.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use oci::{Digest, Hasher};
use rustix::fs::{Timespec, XattrFlags};
use tar::{Archive, EntryType};

use crate::canvas::{self, Attributes, Canvas, set_owner_and_mode, set_time};
use crate::error::{Doing, Result};
use crate::layer::modest::Modest;
use crate::view::{Kind, Node};
use crate::{Draft, SnapshotId, Store};

/// An unpacked layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// The new snapshot.
    pub snapshot: SnapshotId,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Its length.
    pub diff_size: u64,
}

/// Unpacks a layer on top of `parent`. How it is compressed is read off its bytes.
pub fn unpack(store: &Store, parent: Option<SnapshotId>, blob: impl Read + Send, describe: &str) -> Result<Unpacked> {
    let mut draft = store.snapshots().begin(parent)?;
    draft.describe(crate::Kind::Regular, describe);
    let mut plain =
        Hashing { inner: decompress(BufReader::with_capacity(256 << 10, blob))?, hasher: Hasher::new(), size: 0 };
    Extraction::new(&draft, true)?.all(&mut plain)?;
    // The digest is of the whole stream, whatever follows the end of the archive.
    io::copy(&mut plain, &mut io::sink()).doing("read to the end of", Path::new(describe))?;
    let (diff_id, diff_size) = (plain.hasher.finish(), plain.size);
    let snapshot = draft.commit()?;
    store.layer_blobs().set_diff(snapshot, diff_id, diff_size)?;
    Ok(Unpacked { snapshot, diff_id, diff_size })
}

/// Unpacks an archive into an empty draft; the directories that the archive itself names, or `None` where it is no archive.
/// xz and bzip2 need the machine's programs.
pub fn unpack_archive(file: &File, draft: &Draft) -> Result<Option<HashSet<PathBuf>>> {
    let Some(mut archive) = archive(file)? else { return Ok(None) };
    Ok(Some(Extraction::new(draft, false)?.all(&mut archive)?))
}

/// When the newest regular file of an archive was changed, in seconds since 1970; `None` for an archive without one, and
/// for what is no archive.
pub fn newest(file: &File) -> Result<Option<i64>> {
    let Some(archive) = archive(file)? else { return Ok(None) };
    let (name, mut newest) = (Path::new("the archive"), None);
    for entry in Archive::new(Modest::new(archive)).entries().doing("read", name)? {
        let entry = entry.doing("read", name)?;
        if entry.header().entry_type().is_file() {
            let time = entry.header().mtime().doing("read a time in", name)?;
            newest = newest.max(i64::try_from(time).ok());
        }
    }
    Ok(newest)
}

/// The tar in a file, whichever way it is compressed; `None` where there is none.
fn archive(file: &File) -> Result<Option<Box<dyn Read + Send>>> {
    let name = Path::new("the archive");
    let start = |file: &File| -> io::Result<File> {
        let mut file = file.try_clone()?;
        file.rewind()?;
        Ok(file)
    };
    let mut magic = [0; 6];
    let length = read_up_to(&mut start(file).doing("read", name)?, &mut magic).doing("read", name)?;
    let program = match &magic[..length] {
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Some("xz"),
        [b'B', b'Z', b'h', ..] => Some("bzip2"),
        _ => None,
    };
    let open = || -> Result<Box<dyn Read + Send>> {
        let file = start(file).doing("read", name)?;
        match program {
            Some(program) => through(program, file),
            None => decompress(BufReader::with_capacity(256 << 10, file)),
        }
    };
    let mut header = [0; 512];
    // What can't be decompressed is no archive either.
    let is_tar = matches!(read_up_to(&mut open()?, &mut header), Ok(512)) && has_checksum(&header);
    if is_tar { open().map(Some) } else { Ok(None) }
}

fn read_up_to(from: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match from.read(&mut buffer[length..])? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

/// Whether a block is a tar header: its sum is right.
fn has_checksum(block: &[u8; 512]) -> bool {
    let text = String::from_utf8_lossy(&block[148..156]);
    let Ok(expected) = u64::from_str_radix(text.trim_matches(['\0', ' ']), 8) else { return false };
    let sum = block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) });
    sum.sum::<u64>() == expected
}

/// Reads through a program of this machine.
fn through(program: &str, file: File) -> Result<Box<dyn Read + Send>> {
    let child = Command::new(program).arg("-dc").stdin(file).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let child = child.map_err(|e| io::Error::new(e.kind(), format!("{e}; install `{program}`")));
    let mut child = child.doing("decompress with", Path::new(program))?;
    let out = child
        .stdout
        .take()
        .ok_or_else(|| io::Error::other("it has no output"))
        .doing("read from", Path::new(program))?;
    Ok(Box::new(Piped { child, out }))
}

struct Piped {
    child: std::process::Child,
    out: std::process::ChildStdout,
}

impl Read for Piped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.out.read(buffer)
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        // It may still be writing what nobody reads.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn decompress<'a>(mut blob: impl BufRead + Send + 'a) -> Result<Box<dyn Read + Send + 'a>>
where
{
    let start = blob.fill_buf().doing("read", Path::new("the layer"))?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(blob)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Box::new(zstd::Decoder::with_buffer(blob).doing("decompress", Path::new("the layer"))?)
        }
        _ => Box::new(blob),
    })
}

struct Hashing<R> {
    inner: R,
    hasher: Hasher,
    size: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        self.size += length as u64;
        Ok(length)
    }
}

/// An archive on its way into a draft.
struct Extraction {
    canvas: Canvas,
    /// Whether `.wh.` names remove.
    whiteouts: bool,
    /// Folders without symlinks on the way, by how the archive names them.
    real: HashMap<PathBuf, PathBuf>,
    /// Folders that it names, not only what lies in them.
    named: HashSet<PathBuf>,
}

impl Extraction {
    fn new(draft: &Draft, whiteouts: bool) -> Result<Extraction> {
        Ok(Extraction { canvas: Canvas::new(draft)?, whiteouts, real: HashMap::new(), named: HashSet::new() })
    }

    fn all(mut self, from: &mut dyn Read) -> Result<HashSet<PathBuf>> {
        let mut modest = Modest::new(from);
        let mut archive = Archive::new(&mut modest as &mut dyn Read);
        let name = Path::new("the archive");
        for entry in archive.entries().doing("read", name)? {
            let mut entry = entry.doing("read", name)?;
            self.entry(&mut entry)?;
        }
        self.canvas.finish()?;
        Ok(self.named)
    }

    fn entry(&mut self, entry: &mut tar::Entry<'_, &mut dyn Read>) -> Result<()> {
        let written = entry.path().doing("read", Path::new("a name in the archive"))?.into_owned();
        let clean = inside(&written);
        let (Some(name), Some(parent)) = (clean.file_name(), clean.parent()) else {
            let attributes = attributes(entry).doing("read the header of", &written)?;
            return self.canvas.dress(Path::new("/"), &attributes);
        };
        let parent = self.folder(parent)?;
        let path = parent.join(name);
        if self.whiteouts
            && let Some(gone) = name.to_str().and_then(|n| n.strip_prefix(".wh."))
        {
            return self.whiteout(&parent, gone);
        }
        self.put(entry, &written, &path)
    }

    /// The real folder behind a path, made if it is missing.
    fn folder(&mut self, parent: &Path) -> Result<PathBuf> {
        if let Some(real) = self.real.get(parent) {
            return Ok(real.clone());
        }
        let real = self.canvas.resolve(parent)?;
        self.canvas.make_dirs(&real, &Attributes::made(0o755, None, None))?;
        self.real.insert(parent.to_owned(), real.clone());
        Ok(real)
    }

    fn whiteout(&mut self, parent: &Path, gone: &str) -> Result<()> {
        match gone {
            ".wh..opq" => {
                self.canvas.lift(parent)?;
                canvas::set_opaque(&self.canvas.place(parent)).doing("make opaque", parent)
            }
            "" | "." | ".." => {
                let error = io::Error::new(io::ErrorKind::InvalidData, "it removes nothing that has a name");
                Err(error).doing("take in the whiteout in", parent)
            }
            // Others of this form are aufs' own.
            name if name.starts_with(".wh.") => Ok(()),
            name => {
                self.real.clear();
                self.canvas.remove(&parent.join(name))
            }
        }
    }

    fn put(&mut self, entry: &mut tar::Entry<'_, &mut dyn Read>, written: &Path, path: &Path) -> Result<()> {
        let attributes = attributes(entry).doing("read the header of", written)?;
        let kind = entry.header().entry_type();
        let there = self.canvas.look(path)?;
        let was_dir = there.as_ref().is_some_and(|n| n.kind == Kind::Dir);
        if there.is_some() && was_dir != (kind == EntryType::Directory) {
            self.canvas.remove(path)?;
            self.real.clear();
        }
        if kind == EntryType::Directory {
            self.named.insert(path.to_owned());
            if was_dir {
                self.canvas.lift(path)?;
                self.canvas.dress(path, &attributes)?;
            } else {
                self.canvas.make_dir(path, &attributes)?;
            }
            return set_xattrs(entry, &self.canvas.place(path));
        }
        let place = self.canvas.make_room(path)?;
        match kind {
            EntryType::Link => return self.hard_link(entry, written, &place),
            EntryType::Symlink => {
                let target = entry.link_name().doing("read", written)?.unwrap_or_default();
                std::os::unix::fs::symlink(target, &place).doing("make the symlink", written)?;
                self.real.clear();
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => match device(entry, kind, &place) {
                // Only root makes devices. An image is used without them, as a step gets a /dev of its own, and its blobs
                // keep them; an archive's files would be lost.
                Err(error) if self.whiteouts && error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
                made => made.doing("make", written)?,
            },
            _ => {
                fits(entry.size(), &place).doing("make", written)?;
                let mut file = File::create_new(&place).doing("make", written)?;
                io::copy(entry, &mut file).doing("write", written)?;
            }
        }
        set_owner_and_mode(&place, &attributes).doing("set owner and mode of", written)?;
        set_xattrs(entry, &place)?;
        set_time(&place, attributes.time).doing("set the time of", written)
    }

    fn hard_link(&mut self, entry: &tar::Entry<'_, &mut dyn Read>, written: &Path, place: &Path) -> Result<()> {
        let target = entry.link_name().doing("read", written)?.unwrap_or_default();
        let target = inside(&target);
        let (parent, name) = (target.parent().unwrap_or(Path::new("/")), target.file_name().unwrap_or_default());
        let real = self.canvas.resolve(parent)?.join(name);
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("it is a link to {}", target.display()));
        let node = self.canvas.look(&real)?.ok_or_else(missing).doing("link", written)?;
        std::fs::hard_link(&node.source, place).doing("link", written)
    }
}

/// Refuses a file that the disk can't hold before it is filled: a header of a few bytes may say anything.
fn fits(size: u64, place: &Path) -> io::Result<()> {
    const LARGE: u64 = 1 << 30;
    if size < LARGE {
        return Ok(());
    }
    let disk = rustix::fs::statvfs(place.parent().unwrap_or(place))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if size <= free {
        return Ok(());
    }
    let text = format!("it is said to have {size} bytes, and {free} are free");
    Err(io::Error::new(io::ErrorKind::StorageFull, text))
}

/// An absolute path without `..`: what leads above the root ends at the root.
fn inside(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

fn attributes(entry: &tar::Entry<'_, &mut dyn Read>) -> io::Result<Attributes> {
    let header = entry.header();
    // Some writers leave out what is zero.
    let is_empty = |field: std::ops::Range<usize>| header.as_bytes()[field].iter().all(|b| matches!(b, 0 | b' '));
    let uid = if is_empty(108..116) { 0 } else { header.uid()? };
    let gid = if is_empty(116..124) { 0 } else { header.gid()? };
    let number = |n: u64| u32::try_from(n).map_err(|_| io::Error::other(format!("{n} is no user or group id")));
    let time = Timespec {
        tv_sec: i64::try_from(if is_empty(136..148) { 0 } else { header.mtime()? }).unwrap_or(0),
        tv_nsec: 0,
    };
    Ok(Attributes { mode: header.mode()? & 0o7777, uid: number(uid)?, gid: number(gid)?, time })
}

fn set_xattrs(entry: &mut tar::Entry<'_, &mut dyn Read>, place: &Path) -> Result<()> {
    let Some(records) = entry.pax_extensions().doing("read the attributes of", place)? else { return Ok(()) };
    for record in records {
        let record = record.doing("read the attributes of", place)?;
        let Some(name) = record.key().ok().and_then(|k| k.strip_prefix("SCHILY.xattr.")) else { continue };
        if name.starts_with("trusted.overlay.") || name.starts_with("user.overlay.") {
            continue;
        }
        match rustix::fs::lsetxattr(place, name, record.value_bytes(), XattrFlags::empty()) {
            // A file system or a user that can't have it: the file is there without it, as with BuildKit.
            Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::PERM) => {}
            set => set.map_err(io::Error::from).doing("set an attribute of", place)?,
        }
    }
    Ok(())
}

fn device(entry: &tar::Entry<'_, &mut dyn Read>, kind: EntryType, place: &Path) -> io::Result<()> {
    let header = entry.header();
    let (major, minor) = match kind {
        // Some writers leave a pipe's numbers out.
        EntryType::Fifo => (0, 0),
        _ => (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)),
    };
    let node = Node::device(
        match kind {
            EntryType::Char => Kind::Char,
            EntryType::Block => Kind::Block,
            _ => Kind::Fifo,
        },
        rustix::fs::makedev(major, minor),
    );
    canvas::make_node(&node, place)
}
