//! Plain files from the web, for `ADD https://…`. Nothing is kept here, and no credentials are sent but those that are given.

use std::io::{self, Write};

use futures_util::StreamExt;
use oci::{Digest, Hasher};

use crate::client::{Client, root_cause};
use crate::{Error, attend};

/// What was downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// Of the whole content.
    pub digest: Digest,
    /// The header `Last-Modified` as it came; empty when there was none.
    pub last_modified: String,
    /// The header `ETag` as it came; empty when there was none.
    pub etag: String,
    /// The header `Content-Disposition` as it came; empty when there was none.
    pub disposition: String,
}

/// Headers of a request, by their names.
pub type Headers = [(String, String)];

/// Asked for as BuildKit does, as some servers call a file another one by it.
const ENCODING: (&str, &str) = ("accept-encoding", "gzip");

impl Client {
    /// Streams the file at `url` into `out`; one that is compressed on the way only is written as it is.
    pub async fn download(
        &self,
        url: &str,
        headers: &Headers,
        out: &mut (dyn Write + Send),
    ) -> Result<Download, Error> {
        let unreachable = |reason: String| Error::Unreachable { url: url.to_owned(), reason };
        let asked = with(self.http()?.get(url), headers)?;
        let response = attend::send(asked, self.silence()).await.map_err(|e| unreachable(e.to_string()))?;
        let status = response.status();
        if !status.is_success() {
            return Err(unreachable(format!("invalid response status {status}")));
        }
        let (last_modified, etag) = (header(&response, "last-modified"), header(&response, "etag"));
        let disposition = header(&response, "content-disposition");
        let compressed = header(&response, "content-encoding").eq_ignore_ascii_case("gzip");
        let mut into = Into::new(out, compressed);
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|e| unreachable(root_cause(&e)))?;
            into.write_all(&chunk).map_err(|source| Error::Write { what: url.to_owned(), source })?;
        }
        let digest = into.finish().map_err(|source| Error::Write { what: url.to_owned(), source })?;
        Ok(Download { digest, last_modified, etag, disposition })
    }

    /// Whether the server says that the file at `url` is still the one that it called `etag`. One that does not say so is
    /// to be asked for the file.
    pub async fn is_unchanged(&self, url: &str, headers: &Headers, etag: &str) -> Result<bool, Error> {
        let asked = with(self.http()?.head(url), headers)?.header("if-none-match", etag);
        let asked = attend::send(asked, self.silence()).await;
        let status = |response: &reqwest::Response| response.status().as_u16();
        Ok(asked.is_ok_and(|response| match status(&response) {
            304 => true,
            200 => header(&response, "etag") == etag,
            _ => false,
        }))
    }
}

/// The host that a request to `url` goes to, without its port: what a login for a host is chosen by.
pub fn host_of(url: &str) -> Option<String> {
    let url = reqwest::Url::parse(url).ok()?;
    url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned())
}

fn with(mut asked: reqwest::RequestBuilder, headers: &Headers) -> Result<reqwest::RequestBuilder, Error> {
    for (name, value) in headers {
        let mut value =
            reqwest::header::HeaderValue::from_str(value).map_err(|_| Error::Header { name: name.clone() })?;
        value.set_sensitive(name.eq_ignore_ascii_case("authorization"));
        asked = asked.header(name, value);
    }
    Ok(asked.header(ENCODING.0, ENCODING.1))
}

/// Where a file goes, hashed as it is written.
struct Hashed<'a> {
    out: &'a mut (dyn Write + Send),
    hasher: Hasher,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.out.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        Ok(length)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The way there.
enum Into<'a> {
    Plain(Hashed<'a>),
    Compressed(Box<flate2::write::GzDecoder<Hashed<'a>>>),
}

impl<'a> Into<'a> {
    fn new(out: &'a mut (dyn Write + Send), compressed: bool) -> Into<'a> {
        let hashed = Hashed { out, hasher: Hasher::new() };
        if compressed { Into::Compressed(Box::new(flate2::write::GzDecoder::new(hashed))) } else { Into::Plain(hashed) }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Into::Plain(hashed) => hashed.write_all(bytes),
            Into::Compressed(decoder) => decoder.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<Digest> {
        Ok(match self {
            Into::Plain(hashed) => hashed.hasher.finish(),
            Into::Compressed(decoder) => decoder.finish()?.hasher.finish(),
        })
    }
}

/// A header's text; empty when there is none.
fn header(response: &reqwest::Response, name: &str) -> String {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn a_login_is_for_the_host_that_is_asked() {
        for (url, host) in [
            ("https://h.example:8080/a", Some("h.example")),
            ("https://trusted.example@evil.example/", Some("evil.example")),
            (r"https://evil.example\@trusted.example/", Some("evil.example")),
            ("http://[::1]:80/a", Some("::1")),
            ("nothing", None),
        ] {
            assert_eq!(host_of(url).as_deref(), host, "{url}");
        }
    }
}
