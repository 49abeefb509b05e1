//! Storage in a bucket: the keys of [`super::format`] behind a prefix. A write that was answered is there for good, as the
//! bucket promises it. One server uses a bucket's prefix at a time (see `sign`). It keeps nothing on disk.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use hyper::body::Bytes;

use super::digest::{Algorithm, ContentDigest, Hashing};
use super::disk::{Entry, OpenError};
use super::sign::Sign;
use super::{format, now};
use crate::s3::{Bucket, Object, Only};
use crate::{Content, Error};

/// Tries to go on with a body that broke.
const TRIES: u32 = 4;
/// That a blob was touched is forgotten after so long: later than any collection that began before can end.
const FORGET: Duration = Duration::from_secs(7 * 24 * 3600);

/// Part of a bucket that a registry is kept in.
pub struct Place {
    /// The bucket.
    pub bucket: Bucket,
    /// What all keys begin with; empty, or with a slash at its end.
    pub prefix: String,
}

impl Place {
    /// As it is told to people.
    pub(super) fn root(&self) -> PathBuf {
        PathBuf::from(self.bucket.shown(&self.prefix))
    }
}

/// See the module.
pub struct InBucket {
    place: Arc<Place>,
    /// `None` where it is only read.
    sign: Option<Sign>,
    /// When blobs were touched, by key, in milliseconds since 1970. Their bytes stay as old as they are, as writing them
    /// anew would take long; as one server uses the bucket it is the only one that needs to know.
    touched: Mutex<HashMap<String, u64>>,
}

impl std::fmt::Debug for InBucket {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "InBucket({})", self.place.bucket.shown(&self.place.prefix))
    }
}

impl InBucket {
    /// Takes the place, waiting until it is clear that nobody else has it.
    pub async fn open(place: Place, command: &str) -> Result<InBucket, OpenError> {
        let place = Arc::new(place);
        let sign = Sign::take(place.clone(), command).await?;
        let opened = InBucket { place, sign: Some(sign), touched: Mutex::default() };
        if !opened.is_a_registry().await? {
            let written = opened.write(format::FORMAT, format_text()).await;
            written.map_err(|source| OpenError::Io { root: opened.place.root(), source })?;
        }
        Ok(opened)
    }

    /// Only reads, whoever uses the place.
    pub async fn to_read(place: Place) -> Result<InBucket, OpenError> {
        let opened = InBucket { place: Arc::new(place), sign: None, touched: Mutex::default() };
        if !opened.is_a_registry().await? {
            let source = io::Error::new(io::ErrorKind::NotFound, "there is no registry in it");
            return Err(OpenError::Io { root: opened.place.root(), source });
        }
        Ok(opened)
    }

    /// Whether a registry is there already, and of this version.
    async fn is_a_registry(&self) -> Result<bool, OpenError> {
        let root = self.place.root();
        match self.read(format::FORMAT).await {
            Ok(None) => Ok(false),
            Ok(Some(found)) if found == format_text() => Ok(true),
            Ok(Some(found)) => {
                let found = String::from_utf8_lossy(&found).trim().to_owned();
                Err(OpenError::Version { path: root.join(format::FORMAT), found })
            }
            Err(source) => Err(OpenError::Io { root, source }),
        }
    }

    /// Lets the place go, so that the next server need not wait. Nothing is written afterwards.
    pub async fn close(&self) {
        if let Some(sign) = &self.sign {
            sign.remove().await;
        }
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.place.prefix)
    }

    /// Does what changes the place, while it is surely ours.
    async fn change<T>(&self, work: impl Future<Output = Result<T, Error>>) -> io::Result<T> {
        let sign = self.sign.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::ReadOnlyFilesystem))?;
        match tokio::time::timeout(sign.ours()?, work).await {
            Ok(done) => done.map_err(io::Error::other),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the bucket did not answer in time")),
        }
    }

    /// See [`super::storage::Storage`], of which these are the halves.
    pub async fn read(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.place.bucket.read(&self.key(key)).await.map_err(io::Error::other)?.map(|(bytes, _)| bytes))
    }

    pub async fn write(&self, key: &str, bytes: Vec<u8>) -> io::Result<()> {
        let key = self.key(key);
        self.change(self.place.bucket.write(&key, bytes, &Only::Always)).await.map(drop)
    }

    /// Writes a file, however long that takes: what is under the key of a blob is the same for every server.
    pub async fn upload(&self, key: &str, from: PathBuf) -> io::Result<()> {
        self.change(std::future::ready(Ok(()))).await?;
        self.place.bucket.upload(&self.key(key), Content::File(from)).await.map_err(io::Error::other)
    }

    pub async fn remove(&self, key: &str) -> io::Result<bool> {
        if self.look(key).await?.is_none() {
            return Ok(false);
        }
        self.touched().remove(key);
        let key = self.key(key);
        self.change(self.place.bucket.remove(&key)).await.map(|()| true)
    }

    pub async fn touch(&self, key: &str) -> io::Result<()> {
        if key.starts_with(format::BLOBS) {
            let now = now();
            let mut touched = self.touched();
            touched.retain(|_, at| now.saturating_sub(*at) < FORGET.as_millis() as u64);
            touched.insert(key.to_owned(), now);
            return Ok(());
        }
        let Some(entry) = self.look(key).await? else { return Ok(()) };
        let key = self.key(key);
        self.change(self.place.bucket.touch(&key, entry.size)).await
    }

    fn touched(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A bucket's times are whole seconds: what is as old as its second may be as young as the end of it.
    fn entry(&self, key: &str, size: u64, modified: u64) -> Entry {
        let name = key.rsplit('/').next().unwrap_or(key).to_owned();
        let touched = self.touched().get(key).copied().unwrap_or(0);
        Entry { name, size, modified: touched.max(modified / 1000 * 1000 + 999), folder: false }
    }

    pub async fn look(&self, key: &str) -> io::Result<Option<Entry>> {
        let found = self.place.bucket.look(&self.key(key)).await.map_err(io::Error::other)?;
        Ok(found.map(|object| self.entry(key, object.size, object.modified)))
    }

    pub async fn list(&self, key: &str) -> io::Result<Vec<Entry>> {
        let folder = format!("{}/", self.key(key));
        let level = self.place.bucket.level(&folder).await.map_err(io::Error::other)?;
        let folders = level.deeper.iter().map(|deeper| {
            let name = deeper.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
            Entry { name, size: 0, modified: 0, folder: true }
        });
        let mut entries: Vec<Entry> = folders.collect();
        let own = |object: &Object| {
            let key = object.key.strip_prefix(&self.place.prefix).unwrap_or(&object.key);
            self.entry(key, object.size, object.modified)
        };
        entries.extend(level.objects.iter().map(own));
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The bytes of an object from `start`, `length` of them, as they come. A connection that breaks goes on where it broke.
    pub async fn stream(
        self: &Arc<InBucket>,
        key: &str,
        start: u64,
        length: u64,
    ) -> io::Result<Option<BoxStream<'static, io::Result<Bytes>>>> {
        let key = self.key(key);
        if length == 0 {
            return Ok(Some(stream::empty().boxed()));
        }
        let first = match self.place.bucket.open(&key, start, Some(length)).await {
            Ok(first) => first,
            Err(error) if matches!(error.last(), Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(io::Error::other(error)),
        };
        let place = self.place.clone();
        let state = (first.bytes_stream().boxed(), start, start + length, 0);
        let body = stream::try_unfold(state, move |(mut body, mut at, end, mut broken)| {
            let (place, key) = (place.clone(), key.clone());
            async move {
                while at < end {
                    match body.next().await {
                        Some(Ok(bytes)) => {
                            let bytes = bytes.slice(..bytes.len().min((end - at) as usize));
                            at += bytes.len() as u64;
                            return Ok(Some((bytes, (body, at, end, 0))));
                        }
                        last if broken >= TRIES => {
                            let why = last.and_then(Result::err).map_or("it ended early".to_owned(), |e| e.to_string());
                            return Err(io::Error::other(format!("{}: {why}", place.bucket.shown(&key))));
                        }
                        _ => broken += 1,
                    }
                    let next = place.bucket.open(&key, at, Some(end - at)).await.map_err(io::Error::other)?;
                    body = next.bytes_stream().boxed();
                }
                Ok(None)
            }
        });
        Ok(Some(body.boxed()))
    }

    /// The digest of an object's bytes, and how many they are.
    pub async fn hash(
        self: &Arc<InBucket>,
        key: &str,
        algorithm: Algorithm,
    ) -> io::Result<Option<(ContentDigest, u64)>> {
        let Some(entry) = self.look(key).await? else { return Ok(None) };
        let Some(mut body) = self.stream(key, 0, entry.size).await? else { return Ok(None) };
        let (mut hashing, mut size) = (Hashing::new(algorithm), 0);
        while let Some(bytes) = body.next().await {
            let bytes = bytes?;
            hashing.update(&bytes);
            size += bytes.len() as u64;
        }
        Ok(Some((hashing.finish(), size)))
    }
}

fn format_text() -> Vec<u8> {
    format!("{}{}\n", format::FORMAT_TEXT, format::VERSION).into_bytes()
}
