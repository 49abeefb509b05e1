//! Pushing: blobs that the registry does not have, then manifests. A blob that another repository of the same registry
//! has is mounted from there. What is pushed was hashed before; the registry verifies it again.

use oci::{Descriptor, Digest, Reference};
use reqwest::Method;
use reqwest::header::LOCATION;

use crate::ask::Ask;
use crate::client::{TRIES, escape, pause};
use crate::filter::Filter;
use crate::{Client, Content, Error, Login};

/// More bytes than any list that is asked for has.
const LIST: usize = 64 << 20;

/// An upload that a registry has begun. It keeps one until it is finished or given up.
#[derive(Debug)]
#[must_use]
pub struct Upload(String);

impl Client {
    /// Whether the repository has a blob. `actions`: what the asker may do there, `pull` or `pull,push`.
    pub async fn has_blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        actions: &str,
        login: &dyn Login,
    ) -> Result<bool, Error> {
        let url = format!("{}/v2/{}/blobs/{digest}", self.base(&reference.domain), reference.path);
        let ask = Ask::new(Method::HEAD, url, reference, actions);
        match self.send(&ask, login).await {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.last(), Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Uploads a blob, unless it is there.
    pub async fn push_blob(
        &self,
        reference: &Reference,
        what: &Descriptor,
        content: Content,
        login: &dyn Login,
    ) -> Result<(), Error> {
        if self.has_blob(reference, &what.digest, "pull,push", login).await? {
            return Ok(());
        }
        self.upload_blob(reference, what, content, login).await
    }

    /// Uploads a blob without asking whether it is there.
    pub async fn upload_blob(
        &self,
        reference: &Reference,
        what: &Descriptor,
        content: Content,
        login: &dyn Login,
    ) -> Result<(), Error> {
        let Some(upload) = self.begin_upload(reference, &what.digest, None, login).await? else { return Ok(()) };
        self.finish_upload(reference, what, upload, content, login).await
    }

    /// Begins an upload, or has the registry take the blob over from the repository `from`: `None` when it is there with
    /// that. A registry that does not take it over has begun an upload all the same.
    pub async fn begin_upload(
        &self,
        reference: &Reference,
        digest: &Digest,
        from: Option<&str>,
        login: &dyn Login,
    ) -> Result<Option<Upload>, Error> {
        let address = self.base(&reference.domain);
        let blob = escape(&digest.to_string());
        let query = match from {
            Some(from) => format!("?mount={blob}&from={}", escape(from)),
            // A registry on this machine may have it already: the daemon's own has what was built here.
            None if address.starts_with("http://") => format!("?mount={blob}"),
            None => String::new(),
        };
        let url = format!("{address}/v2/{}/blobs/uploads/{query}", reference.path);
        let ask = Ask::new(Method::POST, url, reference, "pull,push");
        let started = self.send(&ask, login).await?;
        if started.status() == reqwest::StatusCode::CREATED {
            return Ok(None);
        }
        let location = started.headers().get(LOCATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        Ok(Some(Upload(if location.starts_with('/') { format!("{address}{location}") } else { location.to_owned() })))
    }

    /// Sends a blob to an upload.
    pub async fn finish_upload(
        &self,
        reference: &Reference,
        what: &Descriptor,
        upload: Upload,
        content: Content,
        login: &dyn Login,
    ) -> Result<(), Error> {
        let Upload(mut target) = upload;
        let mut tries = 0;
        loop {
            tries += 1;
            let mark = if target.contains('?') { '&' } else { '?' };
            let url = format!("{target}{mark}digest={}", escape(&what.digest.to_string()));
            let mut ask = Ask::new(Method::PUT, url, reference, "pull,push");
            ask.once = true;
            ask = ask.with("application/octet-stream", content.clone());
            let Err(error) = self.send(&ask, login).await else { return Ok(()) };
            if tries >= TRIES || !may_pass(&error) {
                return Err(error.after(tries));
            }
            tokio::time::sleep(pause(self.seed(), &ask.url, tries)).await;
            // What of it arrived is not known: it begins anew.
            match self.begin_upload(reference, &what.digest, None, login).await? {
                None => return Ok(()),
                Some(Upload(next)) => target = next,
            }
        }
    }

    /// Tells the registry that nothing will come to an upload.
    pub async fn give_up(&self, reference: &Reference, upload: Upload, login: &dyn Login) -> Result<(), Error> {
        let Upload(url) = upload;
        let ask = Ask::new(Method::DELETE, url, reference, "pull,push");
        self.send(&ask, login).await.map(drop)
    }

    /// Whether the registry joins caches itself (an extension of larder's registry).
    pub async fn joins(&self, reference: &Reference, login: &dyn Login) -> Result<bool, Error> {
        if let Some(known) = self.extends(reference, "cache-join") {
            return Ok(known);
        }
        let url = format!("{}/v2/", self.base(&reference.domain));
        let ask = Ask::new(Method::GET, url, reference, "pull");
        self.send(&ask, login).await?;
        Ok(self.extends(reference, "cache-join").unwrap_or(false))
    }

    /// Which operations may have results in a cache; `None` where the registry does not say (an extension of larder's
    /// registry), or holds no cache there.
    pub async fn cache_filter(&self, reference: &Reference, login: &dyn Login) -> Result<Option<Filter>, Error> {
        if self.extends(reference, "cache-filter") == Some(false) {
            return Ok(None);
        }
        let name = reference.digest.map(|d| d.to_string()).or(reference.tag.clone()).unwrap_or_default();
        let url = format!("{}/v2/{}/_larder/cache/filter/{name}", self.base(&reference.domain), reference.path);
        let ask = Ask::new(Method::GET, url.clone(), reference, "pull");
        match self.read(&ask, LIST, login).await {
            Ok((bytes, _)) => Ok(Filter::from_bytes(&bytes)),
            Err(error) if matches!(error.last(), Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has the registry join a cache with what lies at the reference's tag; gives the digest of what lies there then.
    pub async fn join_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
        login: &dyn Login,
    ) -> Result<Option<Digest>, Error> {
        let tag = reference.tag.as_deref().unwrap_or("latest");
        let url = format!("{}/v2/{}/manifests/{tag}?join=cache", self.base(&reference.domain), reference.path);
        let ask = Ask::new(Method::PUT, url, reference, "pull,push");
        let ask = ask.with(media_type, Content::Bytes(bytes.to_vec()));
        let answer = self.send(&ask, login).await?;
        let digest = answer.headers().get("docker-content-digest").and_then(|v| Digest::parse(v.to_str().ok()?).ok());
        Ok(digest)
    }

    /// Tags of the repository that sort after `after`; a registry that can't begin there gives all.
    pub async fn tags(&self, reference: &Reference, after: &str, login: &dyn Login) -> Result<Vec<String>, Error> {
        #[derive(serde::Deserialize)]
        struct Answer {
            tags: Option<Vec<String>>,
        }
        let url =
            format!("{}/v2/{}/tags/list?n=1000&last={}", self.base(&reference.domain), reference.path, escape(after));
        let ask = Ask::new(Method::GET, url.clone(), reference, "pull");
        let failed = |reason: String| Error::Unreachable { url: url.clone(), reason };
        let (bytes, _) = self.read(&ask, LIST, login).await?;
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|e| failed(e.to_string()))?;
        Ok(answer.tags.unwrap_or_default())
    }

    /// Removes a manifest with every tag that names it.
    pub async fn delete_manifest(
        &self,
        reference: &Reference,
        digest: &Digest,
        login: &dyn Login,
    ) -> Result<(), Error> {
        let url = format!("{}/v2/{}/manifests/{digest}", self.base(&reference.domain), reference.path);
        let ask = Ask::new(Method::DELETE, url, reference, "pull,push,delete");
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
        let ask = Ask::new(Method::PUT, url, reference, "pull,push");
        let ask = ask.with(media_type, Content::Bytes(bytes.to_vec()));
        let mut tries = 1;
        loop {
            let sent = self.send(&ask, login).await;
            match &sent {
                // While others push the same blob, docker-registry does not see it for a moment.
                Err(error) if tries < TRIES && is_blob_unknown(error) => {
                    tokio::time::sleep(pause(self.seed(), &ask.url, tries)).await;
                    tries += 1;
                }
                _ => return sent.map(|_| digest),
            }
        }
    }
}

/// Whether another try of an upload may help: it broke off, the registry had trouble, or took what came for something else.
fn may_pass(error: &Error) -> bool {
    match error.last() {
        Error::Unreachable { .. } => true,
        Error::Status { status, body, .. } => {
            *status >= 500 || matches!(status, 408 | 416 | 429) || body.contains("DIGEST_INVALID")
        }
        // The upload is gone.
        Error::NotFound { .. } => true,
        _ => false,
    }
}

/// Whether a registry says that it lacks a blob that a manifest names.
fn is_blob_unknown(error: &Error) -> bool {
    matches!(error.last(), Error::Status { body, .. } if body.contains("MANIFEST_BLOB_UNKNOWN"))
}
