//! Blobs: immutable bytes named by their sha256. Written to `tmp/`, hashed on the way, renamed into place, then noted in
//! the metadata: a file without a row is a leftover. What a row promises is checked when the blob is opened (its size)
//! and by [`Blobs::verify`] (its bytes).

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci::{Digest, Hasher};
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Result};
use crate::format::{self, table};
use crate::{Resource, Store, clock};

/// What is known of a blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) size: u64,
    pub(crate) created: u64,
}

/// A blob that is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// A blob in a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// When it was written, milliseconds since 1970.
    pub created: u64,
}

/// See [`Store::blobs`].
pub struct Blobs<'a>(pub(crate) &'a Store);

impl Blobs<'_> {
    /// Starts a blob. Dropping the writer without [`BlobWriter::commit`] leaves nothing.
    pub fn writer(&self) -> Result<BlobWriter> {
        let path = self.0.temporary();
        let file = File::options().write(true).create_new(true).open(&path).doing("make", &path)?;
        Ok(BlobWriter { store: self.0.clone(), file, path, hasher: Hasher::new(), size: 0 })
    }

    /// Stores bytes that are in memory.
    pub fn put(&self, bytes: &[u8]) -> Result<Blob> {
        let digest = Digest::of(bytes);
        if let Some(size) = self.size(&digest)? {
            return Ok(Blob { digest, size });
        }
        let mut writer = self.writer()?;
        writer.write_all(bytes).doing("write", &writer.path)?;
        writer.commit(Some(digest))
    }

    /// Stores the file at `path`, which must never change afterwards, by another name for it where the file system
    /// allows, else as a copy. Its bytes are read once and must be those of `expected` when that is given.
    pub fn import(&self, path: &Path, expected: Option<Digest>) -> Result<Blob> {
        let mut file = File::open(path).doing("open", path)?;
        let target = self.0.temporary();
        if fs::hard_link(path, &target).is_err() {
            // Another file system, or one that refuses links to this file: copy.
            let mut writer = self.writer()?;
            std::io::copy(&mut file, &mut writer).doing("copy", path)?;
            return writer.commit(expected);
        }
        let hashed = hash(&mut file).doing("read", path);
        let stored = hashed.and_then(|(digest, size)| self.put_in_place(&target, expected, digest, size));
        if stored.is_err() {
            remove_file(&target)?;
        }
        stored
    }

    /// Opens a blob for reading from its start.
    ///
    /// # Errors
    /// [`Error::BlobMissing`], or [`Error::BlobCorrupt`] when its file has another length than it was written with.
    pub fn open(&self, digest: &Digest) -> Result<File> {
        let size = self.size(digest)?.ok_or(Error::BlobMissing { digest: *digest })?;
        let path = self.path(digest);
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // The row promised what is not there; without it the blob is simply fetched or made again.
                self.0.write(|batch| {
                    batch.delete(&table::BLOBS, digest);
                    Ok(())
                })?;
                return Err(Error::BlobMissing { digest: *digest });
            }
            file => file.doing("open", &path)?,
        };
        let found = file.metadata().doing("look at", &path)?.size();
        if found != size {
            let what = format!("its file has {found} bytes, expected {size}");
            return Err(Error::BlobCorrupt { digest: *digest, path, what });
        }
        Ok(file)
    }

    /// A small blob's bytes, verified.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let path = self.path(digest);
        self.open(digest)?.read_to_end(&mut bytes).doing("read", &path)?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(Error::BlobCorrupt { digest: *digest, path, what: format!("its bytes are those of {found}") });
        }
        Ok(bytes)
    }

    /// Reads the blob through and compares.
    pub fn verify(&self, digest: &Digest) -> Result<()> {
        let mut file = self.open(digest)?;
        let path = self.path(digest);
        let (found, _) = hash(&mut file).doing("read", &path)?;
        if found != *digest {
            return Err(Error::BlobCorrupt { digest: *digest, path, what: format!("its bytes are those of {found}") });
        }
        Ok(())
    }

    /// Whether the blob is here. Asks the metadata only.
    pub fn has(&self, digest: &Digest) -> Result<bool> {
        Ok(self.size(digest)?.is_some())
    }

    /// Its length in bytes, if it is here.
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.0.0.meta.get(&table::BLOBS, digest)?.map(|row| row.size))
    }

    /// Where its file is, whether it is here or not. For handing to a syscall; read through [`Blobs::open`].
    pub fn path(&self, digest: &Digest) -> PathBuf {
        format::blob(&self.0.0.root, digest)
    }

    /// All blobs, by digest.
    pub fn list(&self) -> Result<Vec<BlobInfo>> {
        let rows = self.0.0.meta.rows()?.list(&table::BLOBS, &[])?;
        let info = |(digest, row): (Digest, Row)| BlobInfo { digest, size: row.size, created: row.created };
        Ok(rows.into_iter().map(info).collect())
    }

    /// Removes a blob that nobody holds. One that is not here is no error.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        let what = [Resource::Blob(*digest)];
        if self.0.0.leases.doom(&what).is_empty() {
            return Err(Error::InUse { what: what[0].to_string() });
        }
        let removed = self.0.write(|batch| {
            batch.delete(&table::BLOBS, digest);
            batch.delete(&table::USES, &what[0].key());
            Ok(())
        });
        let removed = removed.and_then(|()| remove_file(&self.path(digest)));
        self.0.0.leases.spare(&what);
        removed
    }

    /// Moves the finished file at `from` to its name and notes it.
    fn put_in_place(&self, from: &Path, expected: Option<Digest>, found: Digest, size: u64) -> Result<Blob> {
        if let Some(expected) = expected
            && expected != found
        {
            return Err(Error::WrongDigest { expected, found, size });
        }
        let path = self.path(&found);
        if let Err(error) = fs::rename(from, &path) {
            if error.kind() != std::io::ErrorKind::NotFound {
                return Err(error).doing("put in place", &path);
            }
            // The first blob of its two digits makes their folder.
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).doing("make", folder)?;
            }
            fs::rename(from, &path).doing("put in place", &path)?;
        }
        self.0.write(|batch| batch.put(&table::BLOBS, &found, &Row { size, created: clock::now() }))?;
        Ok(Blob { digest: found, size })
    }
}

/// A blob being written.
pub struct BlobWriter {
    store: Store,
    file: File,
    path: PathBuf,
    hasher: Hasher,
    size: u64,
}

impl BlobWriter {
    /// Makes the bytes written so far a blob.
    ///
    /// # Errors
    /// [`Error::WrongDigest`] when they are not those of `expected`.
    pub fn commit(mut self, expected: Option<Digest>) -> Result<Blob> {
        let digest = std::mem::take(&mut self.hasher).finish();
        let store = self.store.clone();
        store.blobs().put_in_place(&self.path, expected, digest, self.size)
        // Dropping `self` removes the temporary file if it is still there.
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // What stays behind is taken out at the next open.
        let _ = remove_file(&self.path);
    }
}

fn hash(file: &mut File) -> std::io::Result<(Digest, u64)> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    let mut size = 0;
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), size)),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).doing("remove", path),
        _ => Ok(()),
    }
}
