//! Where a cache is kept: a repository of a registry, a folder on the client's side. The same few questions to each.
//! What is kept there is not understood here.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use oci::{Descriptor, Digest, Reference};

use super::{Error, Request};
use crate::Work;
use crate::session::Content;
use crate::sources::bytes::{ClientLogin, Origin};

/// So many questions about blobs are on their way at once.
const AT_ONCE: usize = 24;

/// See the module.
#[derive(Clone)]
pub enum Place {
    /// A reference; its tag names the cache.
    Registry(Reference),
    /// A folder of the client's.
    Folder {
        /// As the client wrote it.
        path: String,
        /// Its blobs.
        content: Arc<dyn Content>,
        /// The manifest to read, which the client looked up.
        manifest: Option<Digest>,
    },
}

impl Place {
    /// Where a `--cache-from` is.
    pub async fn to_read(work: &Work, request: &Request) -> Result<Place, Error> {
        match request.kind.as_str() {
            "registry" => Ok(Place::Registry(reference(request)?)),
            "local" => {
                let text = request.required("digest")?;
                let digest = Digest::parse(text).map_err(|e| request.bad("digest", text, &e.to_string()))?;
                folder(work, request.required("src")?, Some(digest)).await
            }
            kind => {
                let (kind, expected) = (kind.to_owned(), "registry or local");
                Err(Error::UnknownKind { kind, doing: "read", expected })
            }
        }
    }

    /// How it is shown to people.
    pub fn shown(&self) -> String {
        match self {
            Place::Registry(reference) => reference.to_string(),
            Place::Folder { path, .. } => format!("local:{path}"),
        }
    }

    /// Where the bytes of its blobs come from.
    pub fn origin(&self) -> Origin {
        match self {
            Place::Registry(reference) => Origin::Registry(reference.clone()),
            Place::Folder { content, .. } => Origin::Content(content.clone()),
        }
    }

    /// The manifest that the cache begins with.
    pub async fn manifest(&self, work: &Work) -> Result<Vec<u8>, crate::Error> {
        match self {
            Place::Registry(reference) => {
                let login = ClientLogin(work.session.clone());
                let read = work.engine.registry.manifest(reference, &login).await;
                Ok(read.map_err(Error::from)?.0)
            }
            Place::Folder { manifest, path, .. } => {
                let reason = "it names no manifest".to_owned();
                let digest = manifest.ok_or_else(|| Error::NoCache { place: path.clone(), reason })?;
                self.bytes(work, &digest).await
            }
        }
    }

    /// A small blob. It is not kept.
    pub async fn bytes(&self, work: &Work, digest: &Digest) -> Result<Vec<u8>, crate::Error> {
        let mut bytes = Vec::new();
        match self {
            Place::Registry(reference) => {
                let login = ClientLogin(work.session.clone());
                let what = Descriptor::new("", *digest, 0);
                let read = work.engine.registry.blob(reference, &what, &login, &mut bytes, &mut |_| {}).await;
                read.map_err(Error::from)?;
            }
            Place::Folder { content, .. } => {
                content.read(digest, &mut bytes).await.map_err(Error::from)?;
                let found = Digest::of(&bytes);
                if found != *digest {
                    let size = bytes.len() as u64;
                    return Err(store::Error::WrongDigest { expected: *digest, found, size }.into());
                }
            }
        }
        Ok(bytes)
    }

    /// Which of these blobs are not there. Asked side by side.
    pub async fn lacks(&self, work: &Work, blobs: BTreeSet<Digest>) -> Result<BTreeSet<Digest>, crate::Error> {
        let answers = stream::iter(blobs).map(|digest| async move { (digest, self.has(work, &digest).await) });
        let mut answers = answers.buffer_unordered(AT_ONCE);
        let mut lacking = BTreeSet::new();
        while let Some((digest, has)) = answers.next().await {
            if !has? {
                lacking.insert(digest);
            }
        }
        Ok(lacking)
    }

    async fn has(&self, work: &Work, digest: &Digest) -> Result<bool, Error> {
        match self {
            Place::Registry(reference) => {
                let login = ClientLogin(work.session.clone());
                Ok(work.engine.registry.has_blob(reference, digest, &login).await?)
            }
            Place::Folder { content, .. } => Ok(content.size(digest).await?.is_some()),
        }
    }
}

fn reference(request: &Request) -> Result<Reference, Error> {
    let text = request.required("ref")?;
    let parsed = Reference::parse(text).map_err(|e| request.bad("ref", text, &e.to_string()))?;
    Ok(parsed.or_latest())
}

async fn folder(work: &Work, path: &str, manifest: Option<Digest>) -> Result<Place, Error> {
    let content = work.session.content("", &format!("local:{path}")).await?;
    Ok(Place::Folder { path: path.to_owned(), content, manifest })
}
