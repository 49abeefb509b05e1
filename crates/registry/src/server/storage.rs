//! Where a registry keeps its bytes, without blocking a task: documents by key, blobs by digest.
//! It never decides what is kept or who may read it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::body::Bytes;
use tokio::task::spawn_blocking;

use super::answer::Body;
use super::digest::ContentDigest;
use super::disk::{Disk, Entry};
use super::format;
use crate::pieces::{PIECE, Pieces};

/// The storage of one registry.
#[derive(Clone, Debug)]
pub struct Storage {
    disk: Arc<Disk>,
}

impl Storage {
    /// Everything on this disk.
    pub fn on_disk(disk: Disk) -> Storage {
        Storage { disk: Arc::new(disk) }
    }

    /// Does blocking work on the disk.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let disk = self.disk.clone();
        spawn_blocking(move || work(&disk)).await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// A document's bytes.
    pub async fn read(&self, key: String) -> io::Result<Option<Vec<u8>>> {
        self.blocking(move |disk| disk.read(&key)).await
    }

    /// Writes a document.
    pub async fn write(&self, key: String, bytes: Vec<u8>) -> io::Result<()> {
        self.blocking(move |disk| disk.write(&key, &bytes)).await
    }

    /// Removes a document or a blob.
    pub async fn remove(&self, key: String) -> io::Result<bool> {
        self.blocking(move |disk| disk.remove(&key)).await
    }

    /// Notes that it is still wanted.
    pub async fn touch(&self, key: String) -> io::Result<()> {
        self.blocking(move |disk| disk.touch(&key)).await
    }

    /// What is under a key.
    pub async fn look(&self, key: String) -> io::Result<Option<Entry>> {
        self.blocking(move |disk| disk.look(&key)).await
    }

    /// What lies directly below a key, by name.
    pub async fn list(&self, key: String) -> io::Result<Vec<Entry>> {
        self.blocking(move |disk| disk.list(&key)).await
    }

    /// Removes empty folders from `key` upwards, up to `above`.
    pub async fn remove_empty(&self, key: String, above: &'static str) -> io::Result<()> {
        self.blocking(move |disk| {
            disk.remove_empty(&key, above);
            Ok(())
        })
        .await
    }

    /// Makes a finished and synced local file the blob of its digest.
    pub async fn keep(&self, from: PathBuf, digest: &ContentDigest) -> io::Result<()> {
        let key = format::blob(digest);
        self.blocking(move |disk| disk.place(&from, &key)).await
    }

    /// Makes the file at `from`, which must never change afterwards, the blob of its digest: by a second name for it
    /// where the file system allows, else as a copy.
    pub async fn link(&self, from: PathBuf, digest: &ContentDigest) -> io::Result<()> {
        let key = format::blob(digest);
        self.blocking(move |disk| {
            let temporary = disk.temporary();
            if std::fs::hard_link(&from, &temporary).is_err() {
                std::fs::copy(&from, &temporary)?;
            }
            let synced = File::open(&temporary).and_then(|file| file.sync_data());
            let placed = synced.and_then(|()| disk.place(&temporary, &key));
            // A rename onto another name of the same file leaves both names: the temporary one goes.
            remove(&temporary).and(placed)
        })
        .await
    }

    /// Makes bytes that are in memory a blob.
    pub async fn put(&self, digest: &ContentDigest, bytes: Vec<u8>) -> io::Result<()> {
        self.write(format::blob(digest), bytes).await
    }

    /// A blob's length, if it is here.
    pub async fn size(&self, digest: &ContentDigest) -> io::Result<Option<u64>> {
        Ok(self.look(format::blob(digest)).await?.map(|entry| entry.size))
    }

    /// A blob's bytes from `start`, `length` of them; `None` when it is not here.
    pub async fn stream(&self, digest: &ContentDigest, start: u64, length: u64) -> io::Result<Option<Body>> {
        let key = format::blob(digest);
        self.blocking(move |disk| {
            let Some(file) = disk.file(&key)? else { return Ok(None) };
            if length > PIECE {
                return Ok(Some(Body::Reading(Pieces::new(file, start, length))));
            }
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            file.read_exact_at(&mut bytes, start)?;
            Ok(Some(Body::whole(Bytes::from(bytes))))
        })
        .await
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
