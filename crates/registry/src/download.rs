//! Plain files from the web, for `ADD https://…`. Nothing is kept here, and no credentials are sent.

use std::io::Write;

use futures_util::StreamExt;
use oci::{Digest, Hasher};

use crate::Error;
use crate::client::{Client, root_cause};

/// What was downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// Of the whole content.
    pub digest: Digest,
    /// The header `Last-Modified` as it came; empty when there was none.
    pub last_modified: String,
}

impl Client {
    /// Streams the file at `url` into `out`.
    pub async fn download(&self, url: &str, out: &mut (dyn Write + Send)) -> Result<Download, Error> {
        let unreachable = |reason: String| Error::Unreachable { url: url.to_owned(), reason };
        let response = self.http()?.get(url).send().await.map_err(|e| unreachable(root_cause(&e)))?;
        let status = response.status();
        if !status.is_success() {
            return Err(unreachable(format!("it answers {status}")));
        }
        let header = response.headers().get("last-modified").and_then(|v| v.to_str().ok());
        let last_modified = header.unwrap_or_default().to_owned();
        let mut hasher = Hasher::new();
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|e| unreachable(root_cause(&e)))?;
            hasher.update(&chunk);
            out.write_all(&chunk).map_err(|source| Error::Write { what: url.to_owned(), source })?;
        }
        Ok(Download { digest: hasher.finish(), last_modified })
    }
}
