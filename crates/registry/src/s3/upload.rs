//! Writing what may be large: in one request up to the length of a part, else in parts side by side ("Uploading and copying
//! objects using multipart upload", Amazon S3 user guide). A file is read part by part, so that little is in memory.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use hyper::body::Bytes;
use reqwest::{Method, Response};

use super::{Ask, Bucket, Only, credentials, sign, tag, xml};
use crate::client::root_cause;
use crate::{Content, Error};

/// The least length of a part, in bytes.
const PART: u64 = 8 << 20;
/// S3 takes no more parts.
const PARTS: u64 = 10_000;
/// Parts of one object on their way at once.
const AT_ONCE: usize = 4;
/// The longest object that is copied in one request.
const COPY: u64 = 5 << 30;

/// Where bytes are read from.
#[derive(Clone)]
enum Source {
    Bytes(Bytes),
    File(Arc<std::fs::File>, PathBuf),
}

impl Source {
    async fn part(&self, start: u64, length: u64) -> Result<Bytes, Error> {
        let (file, path) = match self {
            Source::Bytes(bytes) => {
                let (start, length) = (start as usize, length as usize);
                return Ok(bytes.slice(start..start + length));
            }
            Source::File(file, path) => (file.clone(), path.clone()),
        };
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, start).map(|()| Bytes::from(bytes))
        });
        let read = read.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        read.map_err(|source| Error::Write { what: path.display().to_string(), source })
    }
}

impl Bucket {
    /// Writes an object of any length. What was under the key stays until all of it is there.
    pub async fn upload(&self, key: &str, content: Content) -> Result<(), Error> {
        let (size, source) = match content {
            Content::Bytes(bytes) => (bytes.len() as u64, Source::Bytes(bytes.into())),
            Content::File(path) => {
                let failed = |source| Error::Write { what: path.display().to_string(), source };
                let file = std::fs::File::open(&path).map_err(failed)?;
                let size = file.metadata().map_err(failed)?.len();
                (size, Source::File(Arc::new(file), path))
            }
        };
        if size <= PART {
            let bytes = source.part(0, size).await?;
            return self.write(key, bytes, &Only::Always).await.map(drop);
        }
        let length = PART.max(size.div_ceil(PARTS));
        let upload = self.begin(key).await?;
        let part = |number: u64| {
            let (source, upload) = (source.clone(), &upload);
            async move {
                let start = number * length;
                let mut ask = Ask::new(Method::PUT, key);
                ask.query = vec![("partNumber", (number + 1).to_string()), ("uploadId", upload.clone())];
                ask.body = source.part(start, length.min(size - start)).await?;
                Ok((number + 1, tag(&self.send(ask).await?)))
            }
            .boxed()
        };
        let parts = (0..size.div_ceil(length)).map(part);
        self.finish(key, &upload, stream::iter(parts.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await).await
    }

    /// Writes an object over itself, so that it is as old as now.
    pub async fn touch(&self, key: &str, size: u64) -> Result<(), Error> {
        let from = format!("/{}/{}", self.name, sign::encode(key, false));
        if size <= COPY {
            let mut ask = Ask::new(Method::PUT, key);
            ask.headers = vec![
                ("x-amz-copy-source", from),
                ("x-amz-metadata-directive", "REPLACE".to_owned()),
                ("x-amz-meta-updated-at", oci::time::rfc3339(credentials::now())),
            ];
            return self.answered(key, self.send(ask).await?).await.map(drop);
        }
        let upload = self.begin(key).await?;
        let part = |number: u64| {
            let (from, upload) = (from.clone(), &upload);
            async move {
                let (start, end) = (number * COPY, (number * COPY + COPY).min(size));
                let mut ask = Ask::new(Method::PUT, key);
                ask.query = vec![("partNumber", (number + 1).to_string()), ("uploadId", upload.clone())];
                let range = format!("bytes={start}-{}", end - 1);
                ask.headers = vec![("x-amz-copy-source", from), ("x-amz-copy-source-range", range)];
                let answer = self.answered(key, self.send(ask).await?).await?;
                Ok((number + 1, xml::text(&answer, "ETag").unwrap_or_default()))
            }
            .boxed()
        };
        let parts = (0..size.div_ceil(COPY)).map(part);
        self.finish(key, &upload, stream::iter(parts.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await).await
    }

    async fn begin(&self, key: &str) -> Result<String, Error> {
        let mut ask = Ask::new(Method::POST, key);
        ask.query = vec![("uploads", String::new())];
        let answer = self.answered(key, self.send(ask).await?).await?;
        let none = || Error::Unreachable { url: self.shown(key), reason: "the answer names no upload".to_owned() };
        xml::text(&answer, "UploadId").ok_or_else(none)
    }

    /// Puts the parts together; without all of them the upload is given up, so that nobody pays for it.
    async fn finish(&self, key: &str, upload: &str, parts: Result<Vec<(u64, String)>, Error>) -> Result<(), Error> {
        let id = vec![("uploadId", upload.to_owned())];
        let done = match parts {
            Ok(parts) => {
                let part = |(number, tag): &(u64, String)| {
                    format!("<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", xml::escape(tag))
                };
                let list: String = parts.iter().map(part).collect();
                let mut ask = Ask::new(Method::POST, key);
                ask.query = id.clone();
                ask.body = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>").into();
                match self.send(ask).await {
                    Ok(answer) => self.answered(key, answer).await.map(drop),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        if done.is_err() {
            let mut ask = Ask::new(Method::DELETE, key);
            ask.query = id;
            // The error that is told is the first one; a bucket's rules remove what stays.
            let _ = self.send(ask).await;
        }
        done
    }

    /// An answer's text. Copies and joined parts can fail after a good status.
    async fn answered(&self, key: &str, answer: Response) -> Result<String, Error> {
        let status = answer.status().as_u16();
        let failed = |e: reqwest::Error| Error::Unreachable { url: self.shown(key), reason: root_cause(&e) };
        let text = answer.text().await.map_err(failed)?;
        let Some(error) = xml::all(&text, "Error").first().copied() else { return Ok(text) };
        let body = format!(
            "{} {}",
            xml::text(error, "Code").unwrap_or_default(),
            xml::text(error, "Message").unwrap_or_default()
        );
        Err(Error::Status { host: self.base.clone(), what: self.shown(key), status, body })
    }
}
