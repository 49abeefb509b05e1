//! The bytes of entries, in Azure's blob storage at signed addresses: what is large goes in blocks ("Put Blob", "Put Block",
//! "Put Block List", "Get Blob", Azure Storage REST API). Addresses that have expired are asked for anew.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError};

use base64::Engine;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use hyper::body::Bytes;
use oci::{Descriptor, Hasher};

use super::{Entry, Service, Upload};
use crate::client::{pause, stream as pass, verify};
use crate::{Content, Error};

/// Length of a block in bytes.
const BLOCK: u64 = 8 << 20;
/// Azure takes no more blocks.
const BLOCKS: u64 = 50_000;
/// Blocks of one entry on their way at once.
const AT_ONCE: usize = 4;
/// More bytes than any entry that is read whole has.
const MOST: usize = 64 << 20;

impl Service {
    /// Writes a reserved entry and makes it one that others find.
    pub async fn write(&self, upload: Upload, content: Content) -> Result<(), Error> {
        let (size, file, bytes) = match content {
            Content::Bytes(bytes) => (bytes.len() as u64, None, Bytes::from(bytes)),
            Content::File(path) => {
                let failed = |source| Error::Write { what: path.display().to_string(), source };
                let file = std::fs::File::open(&path).map_err(failed)?;
                let size = file.metadata().map_err(failed)?.len();
                (size, Some(Arc::new(file)), Bytes::new())
            }
        };
        let part = |start: u64, length: u64| {
            let (file, bytes, what) = (file.clone(), bytes.clone(), upload.key.clone());
            async move {
                let Some(file) = file else { return Ok(bytes.slice(start as usize..(start + length) as usize)) };
                let read = tokio::task::spawn_blocking(move || {
                    let mut bytes = vec![0; length as usize];
                    file.read_exact_at(&mut bytes, start).map(|()| Bytes::from(bytes))
                });
                let read = read.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
                read.map_err(|source| Error::Write { what, source })
            }
        };
        if size <= BLOCK {
            self.put(&upload, "", part(0, size).await?, true).await?;
            return self.finish(&upload.key, size).await;
        }
        let length = BLOCK.max(size.div_ceil(BLOCKS));
        // All ids of one blob are equally long.
        let id = |number: u64| base64::engine::general_purpose::STANDARD.encode(format!("{number:08}"));
        let block = |number: u64| {
            let start = number * length;
            let (part, upload) = (part(start, length.min(size - start)), &upload);
            let query = format!("&comp=block&blockid={}", crate::client::escape(&id(number)));
            async move { self.put(upload, &query, part.await?, false).await }.boxed()
        };
        let count = size.div_ceil(length);
        let blocks = (0..count).map(block).collect::<Vec<_>>();
        stream::iter(blocks).buffered(AT_ONCE).try_collect::<()>().await?;
        let list: String = (0..count).map(|number| format!("<Latest>{}</Latest>", id(number))).collect();
        let list = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{list}</BlockList>");
        self.put(&upload, "&comp=blocklist", list.into(), false).await?;
        self.finish(&upload.key, size).await
    }

    async fn put(&self, upload: &Upload, query: &str, body: Bytes, whole: bool) -> Result<(), Error> {
        let url = format!("{}{query}", upload.url);
        let request = || {
            let request = self.http.put(&url);
            if whole { request.header("x-ms-blob-type", "BlockBlob") } else { request }
        };
        self.send(request, body, &url, &upload.key).await.map(drop)
    }

    /// A small entry.
    pub async fn read(&self, entry: &Entry) -> Result<Vec<u8>, Error> {
        let (mut bytes, mut got, mut hasher, mut tries) = (Vec::new(), 0, Hasher::new(), 0);
        loop {
            tries += 1;
            let answer = self.get(&entry.key, &entry.url, got).await?;
            let length =
                answer.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
            let too_large = length.is_some_and(|length| length > MOST as u64);
            if too_large {
                let reason = format!("it is larger than {MOST} bytes");
                return Err(Error::Unreachable { url: entry.key.clone(), reason });
            }
            match pass(answer, &mut got, &mut hasher, &mut bytes, &mut |_| {}).await? {
                None => return Ok(bytes),
                Some(stopped) if !stopped.may_pass(tries, crate::s3::TRIES) => {
                    return Err(Error::Unreachable { url: entry.key.clone(), reason: stopped.reason }.after(tries));
                }
                Some(_) => tokio::time::sleep(pause(self.seed, &entry.key, tries)).await,
            }
        }
    }

    /// Streams the blob `what` of a key into `out`, verified. A connection that breaks goes on where it broke.
    pub async fn blob(
        &self,
        key: &str,
        what: &Descriptor,
        out: &mut (dyn Write + Send),
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), Error> {
        let (mut hasher, mut got, mut tries) = (Hasher::new(), 0, 0);
        loop {
            tries += 1;
            let known = self.found.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
            let url = match known {
                Some(url) => url,
                None => self.address(key).await?,
            };
            let answer = match self.get(key, &url, got).await {
                // What was signed long ago does not open any more.
                Err(error) if tries == 1 && matches!(error.last(), Error::Forbidden { .. }) => {
                    self.get(key, &self.address(key).await?, got).await?
                }
                answer => answer?,
            };
            let Some(stopped) = pass(answer, &mut got, &mut hasher, out, progress).await? else { break };
            if !stopped.may_pass(tries, crate::s3::TRIES) {
                return Err(Error::Unreachable { url: key.to_owned(), reason: stopped.reason }.after(tries));
            }
            tokio::time::sleep(pause(self.seed, key, tries)).await;
        }
        verify(hasher, &self.url, what)
    }

    /// A fresh address of an entry.
    async fn address(&self, key: &str) -> Result<String, Error> {
        let gone = || Error::NotFound { host: self.url.clone(), reference: key.to_owned(), status: 404 };
        Ok(self.find(key, false).await?.ok_or_else(gone)?.url)
    }

    async fn get(&self, key: &str, url: &str, start: u64) -> Result<reqwest::Response, Error> {
        let request = || {
            let request = self.http.get(url);
            if start > 0 { request.header("range", format!("bytes={start}-")) } else { request }
        };
        self.send(request, Bytes::new(), url, key).await
    }
}
