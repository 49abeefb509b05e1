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
    /// The header `ETag` as it came; empty when there was none.
    pub etag: String,
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
        let (last_modified, etag) = (header(&response, "last-modified"), header(&response, "etag"));
        let mut hasher = Hasher::new();
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|e| unreachable(root_cause(&e)))?;
            hasher.update(&chunk);
            out.write_all(&chunk).map_err(|source| Error::Write { what: url.to_owned(), source })?;
        }
        Ok(Download { digest: hasher.finish(), last_modified, etag })
    }

    /// Whether the server says that the file at `url` is still the one that it called `etag`. One that does not say so is
    /// to be asked for the file.
    pub async fn is_unchanged(&self, url: &str, etag: &str) -> Result<bool, Error> {
        let asked = self.http()?.head(url).header("if-none-match", etag).send().await;
        let status = |response: &reqwest::Response| response.status().as_u16();
        Ok(asked.is_ok_and(|response| match status(&response) {
            304 => true,
            200 => header(&response, "etag") == etag,
            _ => false,
        }))
    }
}

/// A header's text; empty when there is none.
fn header(response: &reqwest::Response, name: &str) -> String {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}
