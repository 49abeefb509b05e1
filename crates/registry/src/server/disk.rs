//! Storage on a local disk: small documents and blobs by key, written to a temporary name, synced, renamed.
//! What a call has returned is there after a power loss. It knows nothing of what the keys mean, and everything blocks.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::format;

/// An open folder that this process alone serves.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    temporary: AtomicU64,
    /// `None` where it is only read.
    _lock: Option<File>,
}

/// Why a folder can't be served.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum OpenError {
    #[error("the registry's folder {} is in use by {owner}", root.display())]
    Locked { root: PathBuf, owner: String },
    #[error("{} holds `{found}`, this larder reads `{}{}`: use the larder that wrote it, or another folder", path.display(), format::FORMAT_TEXT, format::VERSION)]
    Version { path: PathBuf, found: String },
    #[error("the registry's folder {} can't be used: {source}", root.display())]
    Io { root: PathBuf, source: io::Error },
}

/// What is under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The last part of its key.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// When it was written or touched, milliseconds since 1970.
    pub modified: u64,
    /// Whether more lies below it.
    pub folder: bool,
}

impl Disk {
    /// Opens the folder, making it when there is none, and clears away what a killed process left half written.
    /// `command` is told to whoever finds it locked.
    pub fn open(root: &Path, command: &str) -> Result<Disk, OpenError> {
        let failed = |source| OpenError::Io { root: root.to_owned(), source };
        fs::create_dir_all(root).map_err(failed)?;
        let path = root.join(format::LOCK);
        let options = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut lock = options.map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(source)) => return Err(failed(source)),
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // Who it is only informs.
                let _ = lock.read_to_string(&mut owner);
                let owner = if owner.is_empty() { "another process".to_owned() } else { owner };
                return Err(OpenError::Locked { root: root.to_owned(), owner });
            }
        }
        let owner = format!("process {} (`{}`)", std::process::id(), command.replace('\n', " "));
        lock.set_len(0).and_then(|()| lock.write_all(owner.as_bytes())).map_err(failed)?;
        let disk = Disk { root: root.to_owned(), temporary: AtomicU64::new(0), _lock: Some(lock) };
        disk.check_format()?;
        let clear = || match fs::remove_dir_all(root.join(format::TMP)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => fs::create_dir_all(root.join(format::TMP)),
        };
        clear().map_err(failed)?;
        Ok(disk)
    }

    /// Opens a folder that is only read, whoever serves it meanwhile.
    pub fn open_to_read(root: &Path) -> Result<Disk, OpenError> {
        let disk = Disk { root: root.to_owned(), temporary: AtomicU64::new(0), _lock: None };
        if disk.read(format::FORMAT).map_err(|source| OpenError::Io { root: root.to_owned(), source })?.is_none() {
            let source = io::Error::new(io::ErrorKind::NotFound, "there is no registry in it");
            return Err(OpenError::Io { root: root.to_owned(), source });
        }
        disk.check_format()?;
        Ok(disk)
    }

    fn check_format(&self) -> Result<(), OpenError> {
        let expected = format!("{}{}\n", format::FORMAT_TEXT, format::VERSION);
        let failed = |source| OpenError::Io { root: self.root.clone(), source };
        match self.read(format::FORMAT).map_err(failed)? {
            Some(found) if found == expected.as_bytes() => Ok(()),
            Some(found) => {
                let found = String::from_utf8_lossy(&found).trim().to_owned();
                Err(OpenError::Version { path: self.path(format::FORMAT), found })
            }
            None => {
                fs::create_dir_all(self.root.join(format::TMP)).map_err(failed)?;
                self.write(format::FORMAT, expected.as_bytes()).map_err(failed)
            }
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a key's bytes are.
    pub fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// A name for a file that is being written.
    pub fn temporary(&self) -> PathBuf {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        self.root.join(format::TMP).join(number.to_string())
    }

    /// A document's bytes.
    pub fn read(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(key);
        absent(fs::read(&path)).map_err(|error| at("read", &path, error))
    }

    /// Opens what is under a key.
    pub fn file(&self, key: &str) -> io::Result<Option<File>> {
        let path = self.path(key);
        absent(File::open(&path)).map_err(|error| at("open", &path, error))
    }

    /// Writes a document: all of it, or nothing.
    pub fn write(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return sync_folder(&self.mark(key)?);
        }
        let temporary = self.temporary();
        let made = File::create(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_data()
        });
        let placed = made.map_err(|error| at("write", &temporary, error)).and_then(|()| self.place(&temporary, key));
        if placed.is_err() {
            // What stays is cleared at the next start.
            let _ = fs::remove_file(&temporary);
        }
        placed
    }

    /// Gives a finished and synced file its key.
    pub fn place(&self, from: &Path, key: &str) -> io::Result<()> {
        sync_folder(&self.rename(from, key)?)
    }

    /// The same, with an empty document that says who has it. Both wait for the disk together.
    pub fn keep(&self, from: &Path, key: &str, mark: &str) -> io::Result<()> {
        let folders = [self.rename(from, key)?, self.mark(mark)?];
        folders.iter().try_for_each(|folder| sync_folder(folder))
    }

    /// Gives a file its key; the folder is to be synced.
    fn rename(&self, from: &Path, key: &str) -> io::Result<PathBuf> {
        self.in_folder(key, |path| fs::rename(from, path))
    }

    /// Makes an empty document, which can't be half there, or makes it young; the folder is to be synced.
    fn mark(&self, key: &str) -> io::Result<PathBuf> {
        self.in_folder(key, |path| {
            let file = File::options().write(true).create(true).truncate(true).open(path)?;
            file.set_modified(SystemTime::now())
        })
    }

    /// Does something with a key's path once its folder is there, which it returns.
    fn in_folder(&self, key: &str, work: impl Fn(&Path) -> io::Result<()>) -> io::Result<PathBuf> {
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.root);
        // A collector may remove an empty folder right after it was made.
        for _ in 0..8 {
            make_folder(folder)?;
            match work(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at("put in place", &path, error)),
                Ok(()) => return Ok(folder.to_owned()),
            }
        }
        Err(at("put in place", &path, io::ErrorKind::NotFound.into()))
    }

    /// Notes that what is under a key is still wanted.
    pub fn touch(&self, key: &str) -> io::Result<()> {
        let path = self.path(key);
        let touched = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        absent(touched).map(drop).map_err(|error| at("touch", &path, error))
    }

    /// Removes what is under a key; `false` when nothing was.
    pub fn remove(&self, key: &str) -> io::Result<bool> {
        let path = self.path(key);
        let removed = absent(fs::remove_file(&path)).map_err(|error| at("remove", &path, error))?;
        if removed.is_some() {
            sync_folder(path.parent().unwrap_or(&self.root))?;
        }
        Ok(removed.is_some())
    }

    /// Removes a folder and those above it, as far as they are empty and below `above`.
    pub fn remove_empty(&self, key: &str, above: &str) {
        let mut path = self.path(key);
        let above = self.path(above);
        // One that is not empty, or gone already, ends the walk: nothing is lost by that.
        while path.starts_with(&above) && path != above && fs::remove_dir(&path).is_ok() {
            if !path.pop() {
                return;
            }
        }
    }

    /// What is under a key.
    pub fn look(&self, key: &str) -> io::Result<Option<Entry>> {
        let path = self.path(key);
        let name = key.rsplit('/').next().unwrap_or(key).to_owned();
        let data = absent(fs::metadata(&path)).map_err(|error| at("look at", &path, error))?;
        Ok(data.map(|data| entry(name, &data)))
    }

    /// What lies directly below a key, by name.
    pub fn list(&self, key: &str) -> io::Result<Vec<Entry>> {
        let path = self.path(key);
        let Some(folder) = absent(fs::read_dir(&path)).map_err(|error| at("list", &path, error))? else {
            return Ok(Vec::new());
        };
        let mut entries = Vec::new();
        for found in folder {
            let found = found.map_err(|error| at("list", &path, error))?;
            // One that was removed since is not there.
            let Some(data) = absent(found.metadata()).map_err(|error| at("look at", &found.path(), error))? else {
                continue;
            };
            entries.push(entry(found.file_name().to_string_lossy().into_owned(), &data));
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }
}

fn entry(name: String, data: &fs::Metadata) -> Entry {
    let modified = data.modified().map_or(0, super::millis);
    Entry { name, size: data.len(), modified, folder: data.is_dir() }
}

/// Makes a folder and those above it; each is there after a power loss.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().ok_or(io::ErrorKind::NotFound)?;
    make_folder(above)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at("make", folder, error)),
        _ => sync_folder(above),
    }
}

/// Brings a folder's entries to the disk. One that is gone has none.
fn sync_folder(folder: &Path) -> io::Result<()> {
    let synced = File::open(folder).and_then(|file| file.sync_all());
    absent(synced).map(drop).map_err(|error| at("sync", folder, error))
}

/// `None` where there is nothing.
fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The same kind of error, saying what was tried on what.
pub(super) fn at(doing: &str, path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("can't {doing} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_whole_or_absent() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path(), "test").unwrap();
        assert_eq!(disk.read("a/b/c").unwrap(), None);
        disk.write("a/b/c", b"one").unwrap();
        disk.write("a/b/c", b"two").unwrap();
        disk.write("a/b/a", b"").unwrap();
        assert_eq!(disk.read("a/b/c").unwrap().unwrap(), b"two");
        let names: Vec<_> = disk.list("a/b").unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["a", "c"]);
        assert!(disk.list("a").unwrap()[0].folder);
        assert!(disk.remove("a/b/c").unwrap() && !disk.remove("a/b/c").unwrap());
        disk.remove_empty("a/b", "");
        assert!(disk.path("a/b").is_dir(), "it still holds `a`");
        let error = disk.write("a/b", b"").unwrap_err().to_string();
        assert!(error.contains("put in place"), "{error}");
    }

    #[test]
    fn one_process_serves_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let first = Disk::open(folder.path(), "larder registry").unwrap();
        let second = Disk::open(folder.path(), "x").unwrap_err().to_string();
        assert!(second.contains("larder registry"), "{second}");
        drop(first);
        fs::write(folder.path().join(format::FORMAT), "larder registry 99\n").unwrap();
        assert!(Disk::open(folder.path(), "x").unwrap_err().to_string().contains("99"));
    }
}
