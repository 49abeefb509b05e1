//! The receiving half of fsutil: entries in order, then the content of the files that were asked for.
//! A client is not believed: a path that leaves the mirror, comes out of order or without its parent ends the transfer.
//! What is in a folder of the mirror and was not named goes when the folder's entries are over.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use builder::session::Error as SessionError;
use prost::Message;
use proto::files::packet::PacketType;
use proto::files::{Packet, Stat};
use rustix::fs::{AtFlags, CWD, XattrFlags};
use store::layer::Owners;
use store::tree::{Coming, Known, Stat as Written};
use tokio::sync::mpsc::UnboundedSender;

use super::content::Content;
use super::place::{dress_file, list, nanos, times};
use crate::stat::{CHARACTER, DEVICE, DIR, FIFO, SOCKET, SYMLINK, permissions};

/// Everything that is no permission and makes an entry no regular file.
const TYPE: u32 = DIR | SYMLINK | DEVICE | FIFO | SOCKET | CHARACTER;

/// Entries of one directory at most: what is known of them waits in memory.
const ENTRIES: u32 = 10_000_000;
/// A file may grow while it is read, by so many bytes: more is no file.
const GROWTH: u64 = 64 << 20;

/// What went wrong with a transfer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the client sent {path:?}: {reason}")]
    Refused { path: String, reason: &'static str },
    #[error("the client stopped: {0}")]
    Client(String),
    #[error("can't write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("the session ended in the middle of the transfer")]
    Ended,
}

impl Error {
    /// The error of the directory `name`.
    pub fn of(self, name: &str) -> SessionError {
        SessionError::Other(format!("can't sync the client's directory {name}: {self}"))
    }
}

/// Bytes of files that are asked for at a time, unless one is larger, and how many files: what is on its way waits in
/// memory when the disk is slow.
pub const ASKED: usize = 2 << 20;
const FILES: usize = 512;

/// What is known of a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Nanoseconds: files with a younger time are asked for although they look the same.
    pub synced: i64,
    /// No file of it was ever given an extended attribute.
    pub plain: bool,
}

/// What came of a transfer.
#[derive(Debug)]
pub struct Received {
    /// Bytes that came.
    pub transferred: u64,
    /// No file of the mirror was ever given an extended attribute.
    pub plain: bool,
    /// Files that were written, with their digests.
    pub known: Known,
}

/// A file whose content is on its way.
struct Pending {
    stat: Stat,
    content: Content,
    /// Bytes that came.
    came: u64,
    /// Its digest, unless it has extended attributes or nobody wants one.
    digest: Option<Coming>,
}

impl Pending {
    /// Bytes that the client said it has.
    fn size(&self) -> u64 {
        u64::try_from(self.stat.size).unwrap_or(0)
    }
}

/// A folder whose entries are coming.
struct Folder {
    path: String,
    /// What the mirror has in it and was not named yet.
    there: HashMap<OsString, Metadata>,
}

/// See the module.
pub struct Receiver {
    root: PathBuf,
    mirror: Mirror,
    /// The client's half; gone when the transfer is over.
    ask: Option<UnboundedSender<Packet>>,
    count: u32,
    previous: String,
    /// The folder of the last entry, and those above it.
    open: Vec<Folder>,
    pending: HashMap<u32, Pending>,
    /// Of those, what the client was not asked for yet.
    unasked: VecDeque<u32>,
    /// How much it was asked for and has not sent: files, and bytes as it said.
    asked: (usize, u64),
    /// Folders with their times, to be set when nothing is written into them any more.
    times: Vec<(String, i64)>,
    listed: bool,
    over: bool,
    /// Bytes that came.
    transferred: u64,
    known: Vec<(Written, oci::Digest)>,
    /// What was there and is not named stays.
    adds: bool,
    /// Entries belong to whoever receives them.
    owned: bool,
}

impl Receiver {
    /// Into `root`, which is made if it is not there.
    pub fn new(root: &Path, mirror: Mirror, ask: UnboundedSender<Packet>) -> Result<Receiver, Error> {
        let made = std::fs::create_dir_all(root).and_then(|()| list(root));
        let there = made.map_err(|source| Error::Write { path: root.to_owned(), source })?;
        Ok(Receiver {
            root: root.to_owned(),
            mirror,
            ask: Some(ask),
            count: 0,
            previous: String::new(),
            open: vec![Folder { path: String::new(), there }],
            pending: HashMap::new(),
            unasked: VecDeque::new(),
            asked: (0, 0),
            times: Vec::new(),
            listed: false,
            over: false,
            transferred: 0,
            known: Vec::new(),
            adds: false,
            owned: false,
        })
    }

    /// Into a user's own folder: what else is in it stays.
    pub fn adding(root: &Path, owners: Owners, ask: UnboundedSender<Packet>) -> Result<Receiver, Error> {
        let unknown = Mirror { synced: i64::MIN, plain: false };
        Ok(Receiver { adds: true, owned: owners == Owners::Own, ..Receiver::new(root, unknown, ask)? })
    }

    /// Takes one packet.
    pub fn take(&mut self, packet: Packet) -> Result<(), Error> {
        self.transferred += packet.encoded_len() as u64;
        match PacketType::try_from(packet.r#type) {
            Ok(PacketType::PacketStat) => match packet.stat {
                Some(stat) => self.entry(stat)?,
                None => self.listed = true,
            },
            Ok(PacketType::PacketData) => self.data(packet.id, &packet.data)?,
            Ok(PacketType::PacketFin) => {
                self.over = true;
                self.ask = None;
            }
            Ok(PacketType::PacketErr) => return Err(Error::Client(String::from_utf8_lossy(&packet.data).into_owned())),
            _ => {}
        }
        if self.listed && self.pending.is_empty() && !self.over {
            self.send(Packet { r#type: PacketType::PacketFin as i32, ..Packet::default() });
        }
        Ok(())
    }

    /// All packets came: what the client did not name goes.
    pub fn finish(mut self) -> Result<Received, Error> {
        if !self.over {
            return Err(Error::Ended);
        }
        while let Some(folder) = self.open.pop() {
            self.leave(folder)?;
        }
        for (path, time) in std::mem::take(&mut self.times) {
            let there = self.on(&path, std::fs::symlink_metadata(self.root.join(&path)))?;
            if nanos(&there) != time {
                self.set_time(&path, time)?;
            }
        }
        Ok(Received { transferred: self.transferred, plain: self.mirror.plain, known: Known::new(self.known) })
    }

    fn send(&self, packet: Packet) {
        // A client that is gone is noticed by the end of its half.
        if let Some(ask) = &self.ask {
            let _ = ask.send(packet);
        }
    }

    fn on<T>(&self, path: &str, done: io::Result<T>) -> Result<T, Error> {
        done.map_err(|source| Error::Write { path: self.root.join(path), source })
    }

    fn entry(&mut self, stat: Stat) -> Result<(), Error> {
        let id = self.count;
        if id == ENTRIES {
            return Err(Error::Refused { path: stat.path, reason: "the directory has too many entries" });
        }
        self.count += 1;
        let name = self.check(&stat)?;
        let (parent, _) = split(&stat.path);
        while self.open.last().is_some_and(|folder| folder.path != parent)
            && let Some(folder) = self.open.pop()
        {
            self.leave(folder)?;
        }
        let old = self.open.last_mut().and_then(|folder| folder.there.remove(OsStr::new(&stat.path[name..])));
        self.previous.clone_from(&stat.path);
        let kind = stat.mode & TYPE;
        if kind & DIR != 0 {
            return self.folder(stat, old);
        }
        if kind == 0 && stat.linkname.is_empty() {
            return self.file(id, stat, old);
        }
        self.special(stat, old)
    }

    /// What fsutil demands of a path. Gives where its name begins.
    fn check(&self, stat: &Stat) -> Result<usize, Error> {
        let refuse = |reason| Err(Error::Refused { path: stat.path.clone(), reason });
        let path = &stat.path;
        if path.is_empty() || path.starts_with('/') || path.contains('\0') {
            return refuse("a path must be relative and not empty");
        }
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return refuse("a path must be clean");
        }
        if !self.previous.is_empty() && !comes_before(&self.previous, path) {
            return refuse("it came out of order");
        }
        let (parent, name) = split(path);
        // Entries come folder by folder: one that is over has no more entries.
        if !self.open.iter().any(|folder| folder.path == parent) {
            return refuse("its folder was not named before");
        }
        Ok(path.len() - name.len())
    }

    /// Everything in a folder was named: the rest goes.
    fn leave(&self, folder: Folder) -> Result<(), Error> {
        if self.adds {
            return Ok(());
        }
        for (name, data) in folder.there {
            let path = self.root.join(&folder.path).join(name);
            let removed = if data.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(|source| Error::Write { path, source })?;
        }
        Ok(())
    }

    fn folder(&mut self, stat: Stat, old: Option<Metadata>) -> Result<(), Error> {
        let path = self.root.join(&stat.path);
        let there = match &old {
            Some(data) if data.is_dir() => self.on(&stat.path, list(&path))?,
            _ => {
                self.clear(&stat.path, old.as_ref())?;
                self.on(&stat.path, std::fs::create_dir(&path))?;
                HashMap::new()
            }
        };
        if !old.is_some_and(|old| old.is_dir() && self.dressed(&stat, &old)) {
            self.dress(&stat)?;
        }
        self.times.push((stat.path.clone(), stat.mod_time));
        self.open.push(Folder { path: stat.path, there });
        Ok(())
    }

    fn file(&mut self, id: u32, stat: Stat, old: Option<Metadata>) -> Result<(), Error> {
        let path = self.root.join(&stat.path);
        let same = old.as_ref().is_some_and(|old| self.same(&stat, old));
        // A change may have come within the clock's step, or be older than it says: such a file is compared as it comes.
        if same && stat.mod_time < self.mirror.synced {
            return Ok(());
        }
        if !same {
            self.clear(&stat.path, old.as_ref())?;
        }
        let content = if same { self.on(&stat.path, Content::compared(path))? } else { Content::new(path) };
        let size = u64::try_from(stat.size).unwrap_or(0);
        let hashed = !self.adds && stat.xattrs.is_empty();
        let digest = hashed.then(|| Coming::new(permissions(stat.mode), size));
        let pending = Pending { stat, content, came: 0, digest };
        if pending.stat.size == 0 {
            return self.complete(pending);
        }
        self.pending.insert(id, pending);
        self.unasked.push_back(id);
        self.ask_more();
        Ok(())
    }

    /// Asks for as many files as may be on their way.
    fn ask_more(&mut self) {
        while let Some(id) = self.unasked.front().copied() {
            let size = self.pending.get(&id).map_or(0, Pending::size);
            let (files, bytes) = self.asked;
            if files > 0 && (files == FILES || bytes.saturating_add(size) > ASKED as u64) {
                return;
            }
            self.unasked.pop_front();
            self.asked = (files + 1, bytes.saturating_add(size));
            self.send(Packet { r#type: PacketType::PacketReq as i32, id, ..Packet::default() });
        }
    }

    /// Whether a file of the mirror looks like this one.
    fn same(&self, stat: &Stat, old: &Metadata) -> bool {
        old.is_file() && old.len() as i64 == stat.size && nanos(old) == stat.mod_time && self.dressed(stat, old)
    }

    /// Whether owner, mode and attributes are these.
    fn dressed(&self, stat: &Stat, old: &Metadata) -> bool {
        old.mode() & 0o7777 == permissions(stat.mode)
            && (old.uid(), old.gid()) == (stat.uid, stat.gid)
            && if self.mirror.plain { stat.xattrs.is_empty() } else { self.attributes(&stat.path) == stat.xattrs }
    }

    fn attributes(&self, path: &str) -> HashMap<String, Vec<u8>> {
        let path = self.root.join(path);
        let mut names = [0; 4096];
        // A file system without attributes has none.
        let Ok(count @ 1..) = rustix::fs::llistxattr(&path, &mut names[..]) else { return HashMap::new() };
        let mut found = HashMap::new();
        for name in names[..count].split(|b| *b == 0).filter(|n| !n.is_empty()) {
            let Ok(name) = std::str::from_utf8(name) else { continue };
            let mut value = vec![0; 65536];
            if let Ok(size) = rustix::fs::lgetxattr(&path, name, &mut value[..]) {
                value.truncate(size);
                found.insert(name.to_owned(), value);
            }
        }
        found
    }

    fn special(&mut self, stat: Stat, old: Option<Metadata>) -> Result<(), Error> {
        let path = self.root.join(&stat.path);
        let kind = stat.mode & TYPE;
        if kind == 0 {
            return self.link(&stat, old);
        }
        if kind & SYMLINK != 0 {
            let there = old.as_ref().filter(|old| old.is_symlink() && nanos(old) == stat.mod_time);
            let owned = there.is_some_and(|old| (old.uid(), old.gid()) == (stat.uid, stat.gid));
            if owned && self.mirror.plain && std::fs::read_link(&path).is_ok_and(|to| to == Path::new(&stat.linkname)) {
                return Ok(());
            }
            self.clear(&stat.path, old.as_ref())?;
            self.on(&stat.path, std::os::unix::fs::symlink(&stat.linkname, &path))?;
        } else {
            let file_type = match kind {
                k if k & FIFO != 0 => rustix::fs::FileType::Fifo,
                k if k & DEVICE != 0 && k & CHARACTER != 0 => rustix::fs::FileType::CharacterDevice,
                k if k & DEVICE != 0 => rustix::fs::FileType::BlockDevice,
                _ => return Err(Error::Refused { path: stat.path, reason: "it is of an unknown kind" }),
            };
            self.clear(&stat.path, old.as_ref())?;
            let device = rustix::fs::makedev(stat.devmajor as u32, stat.devminor as u32);
            let made = rustix::fs::mknodat(CWD, &path, file_type, rustix::fs::Mode::from_raw_mode(0o600), device);
            self.on(&stat.path, made.map_err(io::Error::from))?;
        }
        self.dress(&stat)?;
        self.set_time(&stat.path, stat.mod_time)
    }

    /// Another name of a file that was named before.
    fn link(&mut self, stat: &Stat, old: Option<Metadata>) -> Result<(), Error> {
        let refuse = |reason| Err(Error::Refused { path: stat.path.clone(), reason });
        let unnamed = |folder: &Folder| {
            let below = stat.linkname.strip_prefix(&folder.path).unwrap_or_default().trim_start_matches('/');
            folder.there.contains_key(OsStr::new(below.split('/').next().unwrap_or_default()))
        };
        let clean = stat.linkname.split('/').all(|part| !matches!(part, "" | "." | ".."));
        let clean = clean && !stat.linkname.contains('\0') && self.is_below_folders(&stat.linkname);
        if !clean || !comes_before(&stat.linkname, &stat.path) || self.open.iter().any(unnamed) {
            return refuse("it is a link to a file that was not named");
        }
        // A link to a file that is still on its way is made to what will be that file.
        let target = self.root.join(&stat.linkname);
        if let Some(pending) = self.pending.values_mut().find(|p| p.stat.path == stat.linkname) {
            let begun = pending.content.begin().map(drop);
            self.on(&stat.linkname, begun)?;
        }
        match std::fs::symlink_metadata(&target) {
            Ok(data) if old.as_ref().is_some_and(|old| (old.dev(), old.ino()) == (data.dev(), data.ino())) => Ok(()),
            Ok(data) if data.is_file() => {
                self.clear(&stat.path, old.as_ref())?;
                self.on(&stat.path, std::fs::hard_link(target, self.root.join(&stat.path)))
            }
            _ => refuse("it is a link to a file that was not named"),
        }
    }

    /// Whether everything above the path is a folder: a symbolic link would lead out of the mirror.
    fn is_below_folders(&self, path: &str) -> bool {
        let is_folder = |above: &Path| std::fs::symlink_metadata(self.root.join(above)).is_ok_and(|data| data.is_dir());
        Path::new(path).ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()).all(is_folder)
    }

    fn data(&mut self, id: u32, data: &[u8]) -> Result<(), Error> {
        let unknown = || Error::Refused { path: format!("#{id}"), reason: "content that was not asked for" };
        if data.is_empty() {
            let pending = self.pending.remove(&id).ok_or_else(unknown)?;
            let (files, bytes) = self.asked;
            self.asked = (files.saturating_sub(1), bytes.saturating_sub(pending.size()));
            self.ask_more();
            return self.complete(pending);
        }
        let pending = self.pending.get_mut(&id).ok_or_else(unknown)?;
        pending.came += data.len() as u64;
        if pending.came > pending.size().saturating_add(GROWTH) {
            return Err(Error::Refused {
                path: pending.stat.path.clone(),
                reason: "it has far more content than its size",
            });
        }
        if let Some(digest) = &mut pending.digest {
            digest.take(data);
        }
        let taken = pending.content.take(data);
        taken.map_err(|source| Error::Write { path: pending.content.path().to_owned(), source })
    }

    /// A file's content is there: it gets its owner, mode, attributes and time, unless it stayed as it was.
    fn complete(&mut self, pending: Pending) -> Result<(), Error> {
        let Pending { stat, content, digest, .. } = pending;
        self.mirror.plain &= stat.xattrs.is_empty();
        let Some(file) = self.on(&stat.path, content.finish())? else { return Ok(()) };
        self.on(&stat.path, dress_file(&file, &stat))?;
        if let Some(digest) = digest {
            self.known.extend(self.on(&stat.path, digest.finish(&file))?);
        }
        Ok(())
    }

    /// Owner, mode and attributes.
    fn dress(&mut self, stat: &Stat) -> Result<(), Error> {
        self.mirror.plain &= stat.xattrs.is_empty();
        let path = self.root.join(&stat.path);
        if !self.owned && (stat.uid != 0 || stat.gid != 0) {
            self.on(&stat.path, std::os::unix::fs::lchown(&path, Some(stat.uid), Some(stat.gid)))?;
        }
        if stat.mode & SYMLINK == 0 {
            let permissions = std::fs::Permissions::from_mode(permissions(stat.mode));
            self.on(&stat.path, std::fs::set_permissions(&path, permissions))?;
        }
        for (name, value) in &stat.xattrs {
            let set = rustix::fs::lsetxattr(&path, name.as_str(), value, XattrFlags::empty());
            self.on(&stat.path, set.map_err(io::Error::from))?;
        }
        Ok(())
    }

    fn set_time(&self, path: &str, nanos: i64) -> Result<(), Error> {
        let set = rustix::fs::utimensat(CWD, self.root.join(path), &times(nanos), AtFlags::SYMLINK_NOFOLLOW);
        self.on(path, set.map_err(io::Error::from))
    }

    /// Takes away what stands where something else is to be.
    fn clear(&self, path: &str, old: Option<&Metadata>) -> Result<(), Error> {
        match old {
            None => Ok(()),
            Some(old) if old.is_dir() => self.on(path, std::fs::remove_dir_all(self.root.join(path))),
            Some(_) => self.on(path, std::fs::remove_file(self.root.join(path))),
        }
    }
}

/// The folder of a path, and its name there.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// fsutil's order: `/` before every other byte.
fn comes_before(a: &str, b: &str) -> bool {
    a.split('/').lt(b.split('/'))
}
