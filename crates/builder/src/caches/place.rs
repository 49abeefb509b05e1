//! Where a cache is kept: a repository of a registry, a folder on the client's side, the shelf of another server. The same
//! few questions to each.
//! What is kept there is not understood here.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::{FutureExt, StreamExt, stream};
use oci::{Descriptor, Digest, Reference};
use registry::Content;
use store::Resource;

use super::shelf::Shelf;
use super::{Error, Request, gha, s3};
use crate::Work;
use crate::session;
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
        content: Arc<dyn session::Content>,
        /// The manifest to read, which the client looked up.
        manifest: Option<Digest>,
    },
    /// Another server's.
    Shelf(Arc<dyn Shelf>),
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
            "s3" => Ok(Place::Shelf(Arc::new(s3::Cache::new(&work.engine.registry, request, false)?))),
            "gha" => Ok(Place::Shelf(Arc::new(gha::Cache::new(&work.engine.registry, request)?))),
            kind => {
                let (kind, expected) = (kind.to_owned(), "registry, local, s3 or gha");
                Err(Error::UnknownKind { kind, doing: "read", expected })
            }
        }
    }

    /// Where a `--cache-to` goes.
    pub async fn to_write(work: &Work, request: &Request) -> Result<Place, Error> {
        match request.kind.as_str() {
            "registry" => Ok(Place::Registry(reference(request)?)),
            "local" => folder(work, request.required("dest")?, None).await,
            "s3" => Ok(Place::Shelf(Arc::new(s3::Cache::new(&work.engine.registry, request, true)?))),
            "gha" => Ok(Place::Shelf(Arc::new(gha::Cache::new(&work.engine.registry, request)?))),
            kind => Err(unknown(kind)),
        }
    }

    /// How it is shown to people.
    pub fn shown(&self) -> String {
        match self {
            Place::Registry(reference) => reference.to_string(),
            Place::Folder { path, .. } => format!("local:{path}"),
            Place::Shelf(shelf) => shelf.shown(),
        }
    }

    /// Its reference, when it is kept in a registry.
    pub fn repository(&self) -> Option<&Reference> {
        match self {
            Place::Registry(reference) => Some(reference),
            Place::Folder { .. } | Place::Shelf(_) => None,
        }
    }

    /// Where the bytes of its blobs come from.
    pub fn origin(&self) -> Origin {
        match self {
            Place::Registry(reference) => Origin::Registry(reference.clone()),
            Place::Folder { content, .. } => Origin::Content(content.clone()),
            Place::Shelf(shelf) => Origin::Shelf(shelf.clone()),
        }
    }

    /// Blobs that are sent at once; `usual` where nobody says how many.
    pub fn uploads(&self, usual: usize) -> usize {
        if let Place::Shelf(shelf) = self { shelf.uploads() } else { usual }
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
            Place::Shelf(shelf) => Err(no_documents(shelf.as_ref()).into()),
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
            Place::Shelf(shelf) => {
                let what = Descriptor::new("", *digest, 0);
                shelf.read(&what, &mut bytes, &mut |_| {}).await.map_err(Error::from)?;
            }
        }
        Ok(bytes)
    }

    /// Which of these blobs are not there. Asked side by side.
    pub async fn lacks(&self, work: &Work, blobs: BTreeSet<Digest>) -> Result<BTreeSet<Digest>, crate::Error> {
        let answers = blobs.into_iter().map(|digest| async move { (digest, self.has(work, &digest).await) }.boxed());
        let answers = stream::iter(answers.collect::<Vec<_>>());
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
                Ok(work.engine.registry.has_blob(reference, digest, "pull", &login).await?)
            }
            Place::Folder { content, .. } => Ok(content.size(digest).await?.is_some()),
            Place::Shelf(shelf) => Ok(shelf.has(digest).await?),
        }
    }
}

/// Writing.
impl Place {
    /// Writes a blob that is not there yet: it is taken over from one of the repositories `from`, or sent from the store
    /// once `bring` has made sure that it is in there.
    pub async fn put(
        &self,
        work: &Work,
        blob: &Descriptor,
        from: &[&Reference],
        bring: impl Future<Output = Result<(), crate::Error>>,
    ) -> Result<(), crate::Error> {
        match self {
            Place::Registry(reference) => push_blob(work, reference, blob, from, bring).await,
            Place::Folder { content, .. } => {
                bring.await?;
                let _held = work.engine.store.leases().hold(Resource::Blob(blob.digest))?;
                let file = work.engine.store.blobs().open(&blob.digest)?;
                Ok(content.write(&blob.digest, blob.size, Box::new(file)).await.map_err(Error::from)?)
            }
            Place::Shelf(shelf) => {
                bring.await?;
                let _held = work.engine.store.leases().hold(Resource::Blob(blob.digest))?;
                // Opened for its errors: a blob that is gone or damaged is not offered.
                drop(work.engine.store.blobs().open(&blob.digest)?);
                let content = Content::File(work.engine.store.blobs().path(&blob.digest));
                Ok(shelf.write(blob, content).await.map_err(Error::from)?)
            }
        }
    }

    /// Writes a small blob from memory.
    pub async fn put_bytes(&self, work: &Work, blob: &Descriptor, bytes: Vec<u8>) -> Result<(), crate::Error> {
        if self.has(work, &blob.digest).await? {
            return Ok(());
        }
        match self {
            Place::Registry(reference) => {
                let login = ClientLogin(work.session.clone());
                let put = work.engine.registry.upload_blob(reference, blob, Content::Bytes(bytes), &login).await;
                Ok(put.map_err(Error::from)?)
            }
            Place::Folder { content, .. } => {
                let from = Box::new(std::io::Cursor::new(bytes));
                Ok(content.write(&blob.digest, blob.size, from).await.map_err(Error::from)?)
            }
            Place::Shelf(shelf) => Ok(shelf.write(blob, Content::Bytes(bytes)).await.map_err(Error::from)?),
        }
    }

    /// Writes the manifest, under the place's name where it has one.
    pub async fn put_manifest(&self, work: &Work, manifest: &Descriptor, bytes: Vec<u8>) -> Result<(), crate::Error> {
        match self {
            Place::Registry(reference) => {
                let login = ClientLogin(work.session.clone());
                let put = work.engine.registry.push_manifest(reference, &manifest.media_type, &bytes, &login).await;
                Ok(put.map(drop).map_err(Error::from)?)
            }
            Place::Folder { .. } => self.put_bytes(work, manifest, bytes).await,
            Place::Shelf(shelf) => Err(no_documents(shelf.as_ref()).into()),
        }
    }
}

/// A shelf has configs by name, and nothing that describes them.
fn no_documents(shelf: &dyn Shelf) -> Error {
    Error::NoCache { place: shelf.shown(), reason: "there are no manifests on a shelf".to_owned() }
}

/// A kind of cache that is not written.
pub fn unknown(kind: &str) -> Error {
    Error::UnknownKind { kind: kind.to_owned(), doing: "write", expected: "registry, local, s3, gha or inline" }
}

/// The reference that names a cache in a registry.
pub fn reference(request: &Request) -> Result<Reference, Error> {
    let text = request.required("ref")?;
    let parsed = Reference::parse(text).map_err(|e| request.bad("ref", text, &e.to_string()))?;
    Ok(parsed.or_latest())
}

/// Gives a repository a blob that it does not have: one that it can take over from one of the repositories `from`, or sent
/// from the store once `bring` has made sure that it is in there.
pub async fn push_blob(
    work: &Work,
    reference: &Reference,
    blob: &Descriptor,
    from: &[&Reference],
    bring: impl Future<Output = Result<(), crate::Error>>,
) -> Result<(), crate::Error> {
    let (registry, login) = (&work.engine.registry, ClientLogin(work.session.clone()));
    // Each registry that does not take a blob over begins an upload: the last one is used, the others are given up.
    let mut upload = None;
    for other in from.iter().filter(|r| r.domain == reference.domain && r.path != reference.path) {
        let next = registry.begin_upload(reference, &blob.digest, Some(&other.path), &login).await;
        give_up(work, reference, upload.take()).await;
        upload = next.map_err(Error::from)?;
        if upload.is_none() {
            return Ok(());
        }
    }
    let sent = async {
        bring.await?;
        let _held = work.engine.store.leases().hold(Resource::Blob(blob.digest))?;
        // Opened for its errors: a blob that is gone or damaged is not offered.
        drop(work.engine.store.blobs().open(&blob.digest)?);
        let content = Content::File(work.engine.store.blobs().path(&blob.digest));
        let sent = match upload.take() {
            Some(upload) => registry.finish_upload(reference, blob, upload, content, &login).await,
            None => registry.upload_blob(reference, blob, content, &login).await,
        };
        Ok(sent.map_err(Error::from)?)
    };
    let sent: Result<(), crate::Error> = sent.await;
    give_up(work, reference, upload).await;
    sent
}

/// A registry that can't be told forgets the upload by itself, some day.
async fn give_up(work: &Work, reference: &Reference, upload: Option<registry::Upload>) {
    if let Some(upload) = upload {
        let _ = work.engine.registry.give_up(reference, upload, &ClientLogin(work.session.clone())).await;
    }
}

async fn folder(work: &Work, path: &str, manifest: Option<Digest>) -> Result<Place, Error> {
    let content = work.session.content("", &format!("local:{path}")).await?;
    Ok(Place::Folder { path: path.to_owned(), content, manifest })
}
