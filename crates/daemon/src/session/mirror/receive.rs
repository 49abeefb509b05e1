//! The receiving half of fsutil: entries in order, then the content of the files that were asked for.
//! A client is not believed: a path that leaves the mirror, comes out of order or without its parent ends the transfer.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use builder::session::Error as SessionError;
use prost::Message;
use proto::files::packet::PacketType;
use proto::files::{Packet, Stat};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, XattrFlags};
use tokio::sync::mpsc::UnboundedSender;

use crate::stat::{CHARACTER, DEVICE, DIR, FIFO, SOCKET, SYMLINK, permissions};

/// Everything that is no permission and makes an entry no regular file.
const TYPE: u32 = DIR | SYMLINK | DEVICE | FIFO | SOCKET | CHARACTER;

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

/// A file whose content is on its way.
struct Pending {
    stat: Stat,
    file: Option<File>,
    written: i64,
}

/// See the module.
pub struct Receiver {
    root: PathBuf,
    /// Nanoseconds: files with a younger time are asked for although they look the same.
    last: i64,
    /// The client's half; gone when the transfer is over.
    ask: Option<UnboundedSender<Packet>>,
    count: u32,
    previous: String,
    folders: HashSet<String>,
    seen: BTreeSet<String>,
    pending: HashMap<u32, Pending>,
    /// Folders with their times, to be set when nothing is written into them any more.
    times: Vec<(String, i64)>,
    listed: bool,
    over: bool,
    /// Bytes that came.
    transferred: u64,
}

impl Receiver {
    /// Into `root`, which is made if it is not there.
    pub fn new(root: &Path, last: i64, ask: UnboundedSender<Packet>) -> Result<Receiver, Error> {
        let made = std::fs::create_dir_all(root);
        made.map_err(|source| Error::Write { path: root.to_owned(), source })?;
        Ok(Receiver {
            root: root.to_owned(),
            last,
            ask: Some(ask),
            count: 0,
            previous: String::new(),
            folders: HashSet::from([String::new()]),
            seen: BTreeSet::new(),
            pending: HashMap::new(),
            times: Vec::new(),
            listed: false,
            over: false,
            transferred: 0,
        })
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

    /// All packets came: what the client did not name goes. Gives the bytes that came.
    pub fn finish(mut self) -> Result<u64, Error> {
        if !self.over {
            return Err(Error::Ended);
        }
        self.remove_unseen("")?;
        for (path, time) in std::mem::take(&mut self.times).into_iter().rev() {
            self.set_time(&path, time)?;
        }
        Ok(self.transferred)
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
        self.count += 1;
        self.check(&stat)?;
        self.previous.clone_from(&stat.path);
        self.seen.insert(stat.path.clone());
        let old = std::fs::symlink_metadata(self.root.join(&stat.path)).ok();
        let kind = stat.mode & TYPE;
        if kind & DIR != 0 {
            return self.folder(stat, old);
        }
        if kind == 0 && stat.linkname.is_empty() {
            return self.file(id, stat, old);
        }
        self.clear(&stat.path, old)?;
        self.special(stat)
    }

    /// What fsutil demands of a path.
    fn check(&self, stat: &Stat) -> Result<(), Error> {
        let refuse = |reason| Err(Error::Refused { path: stat.path.clone(), reason });
        let path = &stat.path;
        if path.is_empty() || path.starts_with('/') || path.contains('\0') {
            return refuse("a path must be relative and not empty");
        }
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return refuse("a path must be clean");
        }
        if !self.previous.is_empty() && path.split('/').cmp(self.previous.split('/')) != std::cmp::Ordering::Greater {
            return refuse("it came out of order");
        }
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if !self.folders.contains(parent) {
            return refuse("its folder was not named before");
        }
        Ok(())
    }

    fn folder(&mut self, stat: Stat, old: Option<std::fs::Metadata>) -> Result<(), Error> {
        let is_folder = old.as_ref().is_some_and(std::fs::Metadata::is_dir);
        if !is_folder {
            self.clear(&stat.path, old)?;
            self.on(&stat.path, std::fs::create_dir(self.root.join(&stat.path)))?;
        }
        self.dress(&stat)?;
        self.times.push((stat.path.clone(), stat.mod_time));
        self.folders.insert(stat.path);
        Ok(())
    }

    fn file(&mut self, id: u32, stat: Stat, old: Option<std::fs::Metadata>) -> Result<(), Error> {
        if let Some(old) = &old
            && self.same(&stat, old)
        {
            return Ok(());
        }
        self.clear(&stat.path, old)?;
        if stat.size == 0 {
            drop(self.create(&stat.path)?);
            self.dress(&stat)?;
            return self.set_time(&stat.path, stat.mod_time);
        }
        self.pending.insert(id, Pending { stat, file: None, written: 0 });
        self.send(Packet { r#type: PacketType::PacketReq as i32, id, ..Packet::default() });
        Ok(())
    }

    /// Whether the mirror has this very file, and it can't have changed since unseen.
    fn same(&self, stat: &Stat, old: &std::fs::Metadata) -> bool {
        old.is_file()
            && stat.mod_time < self.last
            && old.len() as i64 == stat.size
            && old.mtime() * 1_000_000_000 + old.mtime_nsec() == stat.mod_time
            && old.mode() & 0o7777 == permissions(stat.mode)
            && (old.uid(), old.gid()) == (stat.uid, stat.gid)
            && self.attributes(&stat.path) == stat.xattrs
    }

    fn attributes(&self, path: &str) -> HashMap<String, Vec<u8>> {
        let path = self.root.join(path);
        let mut names = vec![0; 4096];
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

    fn special(&mut self, stat: Stat) -> Result<(), Error> {
        let path = self.root.join(&stat.path);
        let kind = stat.mode & TYPE;
        if kind == 0 {
            if !self.seen.contains(&stat.linkname) {
                return Err(Error::Refused { path: stat.path, reason: "it is a link to a file that was not named" });
            }
            // A link to a file that is still on its way is made when that file has come.
            let target = self.root.join(&stat.linkname);
            if let Some(id) = self.pending.iter().find(|(_, p)| p.stat.path == stat.linkname).map(|(id, _)| *id) {
                self.begin(id)?;
            }
            return self.on(&stat.path, std::fs::hard_link(target, path));
        }
        if kind & SYMLINK != 0 {
            self.on(&stat.path, std::os::unix::fs::symlink(&stat.linkname, &path))?;
        } else {
            let file_type = match kind {
                k if k & FIFO != 0 => rustix::fs::FileType::Fifo,
                k if k & DEVICE != 0 && k & CHARACTER != 0 => rustix::fs::FileType::CharacterDevice,
                k if k & DEVICE != 0 => rustix::fs::FileType::BlockDevice,
                _ => return Err(Error::Refused { path: stat.path, reason: "it is of an unknown kind" }),
            };
            let device = rustix::fs::makedev(stat.devmajor as u32, stat.devminor as u32);
            let made = rustix::fs::mknodat(CWD, &path, file_type, rustix::fs::Mode::from_raw_mode(0o600), device);
            self.on(&stat.path, made.map_err(io::Error::from))?;
        }
        self.dress(&stat)?;
        self.set_time(&stat.path, stat.mod_time)
    }

    /// Makes the empty file of pending content.
    fn begin(&mut self, id: u32) -> Result<(), Error> {
        let Some(path) = self.pending.get(&id).filter(|p| p.file.is_none()).map(|p| p.stat.path.clone()) else {
            return Ok(());
        };
        let file = self.create(&path)?;
        if let Some(pending) = self.pending.get_mut(&id) {
            pending.file = Some(file);
        }
        Ok(())
    }

    fn data(&mut self, id: u32, data: &[u8]) -> Result<(), Error> {
        self.begin(id)?;
        let unknown = || Error::Refused { path: format!("#{id}"), reason: "content that was not asked for" };
        if data.is_empty() {
            let pending = self.pending.remove(&id).ok_or_else(unknown)?;
            drop(pending.file);
            self.dress(&pending.stat)?;
            return self.set_time(&pending.stat.path, pending.stat.mod_time);
        }
        let pending = self.pending.get_mut(&id).ok_or_else(unknown)?;
        pending.written += data.len() as i64;
        let Some(file) = pending.file.as_mut() else { return Err(unknown()) };
        let written = file.write_all(data);
        let path = pending.stat.path.clone();
        self.on(&path, written)
    }

    fn create(&self, path: &str) -> Result<File, Error> {
        let mut options = std::fs::OpenOptions::new();
        let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let options = options.write(true).create_new(true).mode(0o600).custom_flags(flags);
        self.on(path, options.open(self.root.join(path)))
    }

    /// Owner, mode and attributes.
    fn dress(&self, stat: &Stat) -> Result<(), Error> {
        let path = self.root.join(&stat.path);
        if stat.uid != 0 || stat.gid != 0 {
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
        let time = Timespec { tv_sec: nanos.div_euclid(1_000_000_000), tv_nsec: nanos.rem_euclid(1_000_000_000) };
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: omit, last_modification: time };
        let set = rustix::fs::utimensat(CWD, self.root.join(path), &times, AtFlags::SYMLINK_NOFOLLOW);
        self.on(path, set.map_err(io::Error::from))
    }

    /// Takes away what stands where something else is to be.
    fn clear(&self, path: &str, old: Option<std::fs::Metadata>) -> Result<(), Error> {
        match old {
            None => Ok(()),
            Some(old) if old.is_dir() => self.on(path, std::fs::remove_dir_all(self.root.join(path))),
            Some(_) => self.on(path, std::fs::remove_file(self.root.join(path))),
        }
    }

    fn remove_unseen(&self, folder: &str) -> Result<(), Error> {
        let entries = self.on(folder, std::fs::read_dir(self.root.join(folder)))?;
        for entry in entries {
            let entry = self.on(folder, entry)?;
            let name = entry.file_name();
            let path = match (folder, std::str::from_utf8(name.as_bytes())) {
                ("", Ok(name)) => name.to_owned(),
                (folder, Ok(name)) => format!("{folder}/{name}"),
                (_, Err(_)) => continue,
            };
            let metadata = self.on(&path, entry.metadata())?;
            if !self.seen.contains(&path) {
                self.clear(&path, Some(metadata))?;
            } else if metadata.is_dir() {
                self.remove_unseen(&path)?;
            }
        }
        Ok(())
    }
}
