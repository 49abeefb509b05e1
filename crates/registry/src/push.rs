//! Pushing: blobs that the registry does not have, then manifests. A blob that another repository of the same registry
//! has is mounted from there. What is pushed was hashed before; the registry verifies it again.

use oci::{Descriptor, Digest, Reference};
use reqwest::Method;
use reqwest::header::LOCATION;

use crate::client::{Ask, Client, escape};
use crate::{Error, Login};

impl Client {
    /// Whether the repository has a blob.
    pub async fn has_blob(&self, reference: &Reference, digest: &Digest, login: &dyn Login) -> Result<bool, Error> {
        let url = format!("{}/v2/{}/blobs/{digest}", self.base(&reference.domain), reference.path);
        let ask = Ask { method: Method::HEAD, url, reference, actions: "pull,push", body: None, range: None };
        match self.send(&ask, login).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Uploads a blob, unless it is there. `from`: a repository of the same registry that may have it.
    pub async fn push_blob(
        &self,
        reference: &Reference,
        what: &Descriptor,
        from: Option<&str>,
        read: &mut (dyn FnMut() -> std::io::Result<Vec<u8>> + Send),
        login: &dyn Login,
    ) -> Result<(), Error> {
        if self.has_blob(reference, &what.digest, login).await? {
            return Ok(());
        }
        let address = self.base(&reference.domain);
        let mut url = format!("{address}/v2/{}/blobs/uploads/", reference.path);
        if let Some(from) = from {
            url.push_str(&format!("?mount={}&from={}", escape(&what.digest.to_string()), escape(from)));
        }
        let ask = Ask { method: Method::POST, url, reference, actions: "pull,push", body: None, range: None };
        let started = self.send(&ask, login).await?;
        if started.status() == reqwest::StatusCode::CREATED {
            return Ok(());
        }
        let location = started.headers().get(LOCATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let target = if location.starts_with('/') { format!("{address}{location}") } else { location.to_owned() };
        let mark = if target.contains('?') { '&' } else { '?' };
        let url = format!("{target}{mark}digest={}", escape(&what.digest.to_string()));
        let bytes = read().map_err(|source| Error::Write { what: what.digest.to_string(), source })?;
        let body = Some(("application/octet-stream".to_owned(), bytes));
        let ask = Ask { method: Method::PUT, url, reference, actions: "pull,push", body, range: None };
        self.send(&ask, login).await.map(drop)
    }

    /// Puts a manifest or index under the reference's tag, or its digest when it has none.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
        login: &dyn Login,
    ) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        let name = reference.tag.clone().unwrap_or_else(|| digest.to_string());
        let url = format!("{}/v2/{}/manifests/{name}", self.base(&reference.domain), reference.path);
        let body = Some((media_type.to_owned(), bytes.to_vec()));
        let ask = Ask { method: Method::PUT, url, reference, actions: "pull,push", body, range: None };
        self.send(&ask, login).await?;
        Ok(digest)
    }
}
