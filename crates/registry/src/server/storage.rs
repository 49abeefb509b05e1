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
use super::bucket::InBucket;
use super::digest::{Algorithm, ContentDigest};
use super::disk::{Disk, Entry};
use super::format;
use super::uploads::hash;
use crate::pieces::{PIECE, Pieces};

/// The storage of one registry.
#[derive(Clone, Debug)]
pub enum Storage {
    /// Everything on this disk.
    Disk(Arc<Disk>),
    /// Everything in a bucket.
    Bucket(Arc<InBucket>),
}

/// Does blocking work on a disk.
async fn blocking<T: Send + 'static>(
    disk: &Arc<Disk>,
    work: impl FnOnce(&Disk) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let disk = disk.clone();
    spawn_blocking(move || work(&disk)).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

impl Storage {
    /// Lets the place go for the next server.
    pub async fn close(&self) {
        match self {
            // The lock goes with the process.
            Storage::Disk(_) => {}
            Storage::Bucket(bucket) => bucket.close().await,
        }
    }

    /// The digest of the bytes under a key, and how many they are.
    pub async fn hash(&self, key: String, algorithm: Algorithm) -> io::Result<Option<(ContentDigest, u64)>> {
        let disk = match self {
            Storage::Disk(disk) => disk,
            Storage::Bucket(bucket) => return bucket.hash(&key, algorithm).await,
        };
        let work = move |disk: &Disk| {
            let Some(mut file) = disk.file(&key)? else { return Ok(None) };
            let (hashing, size) = hash(&mut file, algorithm)?;
            Ok(Some((hashing.finish(), size)))
        };
        blocking(disk, work).await
    }

    /// A document's bytes.
    pub async fn read(&self, key: String) -> io::Result<Option<Vec<u8>>> {
        match self {
            Storage::Disk(disk) => blocking(disk, move |disk| disk.read(&key)).await,
            Storage::Bucket(bucket) => bucket.read(&key).await,
        }
    }

    /// Writes a document.
    pub async fn write(&self, key: String, bytes: Vec<u8>) -> io::Result<()> {
        match self {
            Storage::Disk(disk) => blocking(disk, move |disk| disk.write(&key, &bytes)).await,
            Storage::Bucket(bucket) => bucket.write(&key, bytes).await,
        }
    }

    /// Removes a document or a blob.
    pub async fn remove(&self, key: String) -> io::Result<bool> {
        match self {
            Storage::Disk(disk) => blocking(disk, move |disk| disk.remove(&key)).await,
            Storage::Bucket(bucket) => bucket.remove(&key).await,
        }
    }

    /// Notes that it is still wanted.
    pub async fn touch(&self, key: String) -> io::Result<()> {
        match self {
            Storage::Disk(disk) => blocking(disk, move |disk| disk.touch(&key)).await,
            Storage::Bucket(bucket) => bucket.touch(&key).await,
        }
    }

    /// What is under a key.
    pub async fn look(&self, key: String) -> io::Result<Option<Entry>> {
        match self {
            Storage::Disk(disk) => blocking(disk, move |disk| disk.look(&key)).await,
            Storage::Bucket(bucket) => bucket.look(&key).await,
        }
    }

    /// What lies directly below a key, by name.
    pub async fn list(&self, key: String) -> io::Result<Vec<Entry>> {
        match self {
            Storage::Disk(disk) => blocking(disk, move |disk| disk.list(&key)).await,
            Storage::Bucket(bucket) => bucket.list(&key).await,
        }
    }

    /// Removes empty folders from `key` upwards, up to `above`.
    pub async fn remove_empty(&self, key: String, above: &'static str) -> io::Result<()> {
        // A bucket has no folders.
        let Storage::Disk(disk) = self else { return Ok(()) };
        blocking(disk, move |disk| {
            disk.remove_empty(&key, above);
            Ok(())
        })
        .await
    }

    /// Brings a finished and synced local file to where the blob of its digest is kept, if that takes long.
    pub async fn bring(&self, from: &Path, digest: &ContentDigest) -> io::Result<()> {
        match self {
            Storage::Disk(_) => Ok(()),
            Storage::Bucket(bucket) => bucket.upload(&format::blob(digest), from.to_owned()).await,
        }
    }

    /// Makes a local file, after [`Storage::bring`], the blob of its digest, and writes the empty document `mark`.
    pub async fn keep(&self, from: PathBuf, digest: &ContentDigest, mark: String) -> io::Result<()> {
        let key = format::blob(digest);
        match self {
            Storage::Disk(disk) => blocking(disk, move |disk| disk.keep(&from, &key, &mark)).await,
            Storage::Bucket(bucket) => {
                // A collector with next to no grace may have been there since.
                if bucket.look(&key).await?.is_none() {
                    bucket.upload(&key, from).await?;
                }
                bucket.write(&mark, Vec::new()).await
            }
        }
    }

    /// Makes the file at `from`, which must never change afterwards, the blob of its digest: by a second name for it
    /// where the file system allows, else as a copy.
    pub async fn link(&self, from: PathBuf, digest: &ContentDigest) -> io::Result<()> {
        let key = format::blob(digest);
        let disk = match self {
            Storage::Disk(disk) => disk,
            Storage::Bucket(bucket) => return bucket.upload(&key, from).await,
        };
        blocking(disk, move |disk| {
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
        let disk = match self {
            Storage::Disk(disk) => disk,
            Storage::Bucket(bucket) => {
                let found = bucket.stream(&key, start, length).await?;
                return Ok(found.map(|stream| Body::Arriving { stream, left: length }));
            }
        };
        blocking(disk, move |disk| {
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
