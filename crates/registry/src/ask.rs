//! One request to a registry, as it is tried. It is built here and sent once; whether that is done again is its client's.

use std::time::Duration;

use oci::{Reference, media};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RANGE};
use reqwest::{Method, Response};

use crate::attend::{self, Broken};
use crate::{Client, Error};

/// What is sent, perhaps several times.
#[derive(Clone, Debug)]
pub enum Content {
    /// From memory.
    Bytes(Vec<u8>),
    /// A file, streamed.
    File(std::path::PathBuf),
}

/// One request as it is tried, perhaps several times.
pub(crate) struct Ask<'a> {
    pub method: Method,
    pub url: String,
    pub reference: &'a Reference,
    /// `pull` or `pull,push`.
    pub actions: &'a str,
    /// Its type, and what it is.
    pub body: Option<(String, Content)>,
    pub range: Option<u64>,
    /// Not to be sent again when it broke: nobody knows what arrived.
    pub once: bool,
}

impl<'a> Ask<'a> {
    pub fn new(method: Method, url: String, reference: &'a Reference, actions: &'a str) -> Ask<'a> {
        Ask { method, url, reference, actions, body: None, range: None, once: false }
    }

    pub fn with(mut self, kind: &str, content: Content) -> Ask<'a> {
        self.body = Some((kind.to_owned(), content));
        self
    }
}

impl Client {
    /// Sends a request once.
    pub(crate) async fn attempt(
        &self,
        ask: &Ask<'_>,
        url: &str,
        token: Option<&str>,
        silence: Duration,
    ) -> Result<Result<Response, Broken>, Error> {
        let mut request = self.http_for(&ask.reference.domain)?.request(ask.method.clone(), url);
        let accept = [media::OCI_MANIFEST, media::OCI_INDEX, media::DOCKER_MANIFEST, media::DOCKER_INDEX, "*/*"];
        request = request.header(ACCEPT, accept.join(", "));
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token).unwrap_or(HeaderValue::from_static(""));
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(from) = ask.range {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let Some((kind, body)) = &ask.body else { return Ok(attend::send(request, silence).await) };
        request = request.header(CONTENT_TYPE, kind);
        Ok(match body {
            Content::Bytes(bytes) => attend::send_bytes(request, bytes.clone().into(), silence).await,
            Content::File(path) => {
                let failed = |source| Error::Write { what: path.display().to_string(), source };
                let file = std::fs::File::open(path).map_err(failed)?;
                let size = file.metadata().map_err(failed)?.len();
                attend::send_file(request, file, size, silence).await
            }
        })
    }
}
