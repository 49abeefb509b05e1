//! What repositories have: blobs, manifests, tags, referrers. Every change is whole or absent, and there after a power loss.
//! It does not know who asks. A collector works beside it: what is linked anew is made young first, under [`Contents::link`]'s lock.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{OwnedMutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::digest::{Algorithm, ContentDigest};
use super::disk::Entry;
use super::document::{Document, Part, Referrer};
use super::name::{Repository, Tag, Target};
use super::refusal::Refusal;
use super::storage::Storage;
use super::{format, now};

/// Questions to the storage at once, where one request has many.
const AT_ONCE: usize = 8;

/// The contents of all repositories.
#[derive(Debug)]
pub struct Contents {
    /// Where they are.
    pub storage: Storage,
    /// For how long what nothing refers to is left alone.
    pub grace: Duration,
    /// Read by who refers to something, written by who removes something.
    moves: RwLock<()>,
    /// Tags that somebody changes just now, by key.
    held: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// A manifest of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its name.
    pub digest: ContentDigest,
    /// What it was pushed as.
    pub media_type: String,
    /// Exactly as it was pushed.
    pub bytes: Vec<u8>,
}

impl Contents {
    /// The contents of a storage.
    pub fn new(storage: Storage, grace: Duration) -> Contents {
        Contents { storage, grace, moves: RwLock::new(()), held: Mutex::default() }
    }

    /// While it is held nothing is removed.
    pub async fn link(&self) -> RwLockReadGuard<'_, ()> {
        self.moves.read().await
    }

    /// While it is held nobody refers to anything new.
    pub async fn remove(&self) -> RwLockWriteGuard<'_, ()> {
        self.moves.write().await
    }

    /// A blob's length if the repository has it. Asking keeps it from the collector for the time of grace: a client that
    /// hears "it is here" does not push it.
    pub async fn blob(&self, name: &Repository, digest: &ContentDigest) -> io::Result<Option<u64>> {
        let key = format::link(name, digest);
        let Some(entry) = self.storage.look(key.clone()).await? else { return Ok(None) };
        if !self.is_old(&entry) {
            return self.storage.size(digest).await;
        }
        let _link = self.link().await;
        // A collector may have taken it since.
        if self.storage.look(key.clone()).await?.is_none() {
            return Ok(None);
        }
        self.storage.touch(key).await?;
        self.storage.touch(format::blob(digest)).await?;
        self.storage.size(digest).await
    }

    /// Whether its age nears the end of the grace.
    fn is_old(&self, entry: &Entry) -> bool {
        now().saturating_sub(entry.modified) > self.grace.as_millis() as u64 / 2
    }

    /// Gives the repository a blob that was written to a local file, synced and verified.
    pub async fn keep_blob(&self, name: &Repository, digest: &ContentDigest, file: PathBuf) -> io::Result<()> {
        // What takes long comes before anybody has to wait for it.
        self.storage.bring(&file, digest).await?;
        let _link = self.link().await;
        self.storage.keep(file, digest, format::link(name, digest)).await
    }

    /// Gives the repository a blob that is in memory. The caller vouches for the digest.
    pub async fn put_blob(&self, name: &Repository, digest: &ContentDigest, bytes: Vec<u8>) -> io::Result<()> {
        let _link = self.link().await;
        self.storage.put(digest, bytes).await?;
        self.storage.write(format::link(name, digest), Vec::new()).await
    }

    /// Gives the repository a blob that the repository `from` has, or any where none is named; `false` when it is not there.
    pub async fn mount(
        &self,
        name: &Repository,
        digest: &ContentDigest,
        from: Option<&Repository>,
    ) -> io::Result<bool> {
        let _link = self.link().await;
        if let Some(from) = from
            && self.storage.look(format::link(from, digest)).await?.is_none()
        {
            return Ok(false);
        }
        if self.storage.size(digest).await?.is_none() {
            return Ok(false);
        }
        self.storage.touch(format::blob(digest)).await?;
        self.storage.write(format::link(name, digest), Vec::new()).await?;
        Ok(true)
    }

    /// Gives the repository the bytes of a local file that must not change any more, without copying them where possible.
    /// The caller vouches for the digest.
    pub async fn adopt(&self, name: &Repository, digest: &ContentDigest, file: PathBuf) -> io::Result<()> {
        let _link = self.link().await;
        if self.storage.size(digest).await?.is_none() {
            self.storage.link(file, digest).await?;
        }
        // A second name for an old file is as old as the file.
        self.storage.touch(format::blob(digest)).await?;
        self.storage.write(format::link(name, digest), Vec::new()).await
    }

    /// Takes a blob from the repository; `false` when it has none. Its bytes go when no repository has them.
    pub async fn forget_blob(&self, name: &Repository, digest: &ContentDigest) -> io::Result<bool> {
        let _remove = self.remove().await;
        self.storage.remove(format::link(name, digest)).await
    }

    /// The digest that a tag points to.
    pub async fn tagged(&self, name: &Repository, tag: &Tag) -> io::Result<Option<ContentDigest>> {
        let text = self.storage.read(format::tag(name, tag)).await?;
        Ok(text.and_then(|text| ContentDigest::parse(std::str::from_utf8(&text).ok()?.trim())))
    }

    /// The digest that a target means, if it is a digest or a tag that exists.
    pub async fn resolve(&self, name: &Repository, target: &Target) -> io::Result<Option<ContentDigest>> {
        match target {
            Target::Digest(digest) => Ok(Some(digest.clone())),
            Target::Tag(tag) => self.tagged(name, tag).await,
        }
    }

    /// A manifest.
    pub async fn manifest(&self, name: &Repository, target: &Target) -> io::Result<Option<Manifest>> {
        let Some(digest) = self.resolve(name, target).await? else { return Ok(None) };
        let Some(kind) = self.storage.read(format::manifest(name, &digest)).await? else { return Ok(None) };
        let Some(bytes) = self.storage.read(format::blob(&digest)).await? else { return Ok(None) };
        Ok(Some(Manifest { digest, media_type: String::from_utf8_lossy(&kind).into_owned(), bytes }))
    }

    /// Waits until no other request changes one of these tags.
    pub async fn hold(&self, name: &Repository, tags: &[Tag]) -> Vec<OwnedMutexGuard<()>> {
        let mut wanted: Vec<_> = tags.iter().map(|tag| format::tag(name, tag)).collect();
        // In one order for all, so that no two wait for each other.
        wanted.sort_unstable();
        wanted.dedup();
        let locks: Vec<_> = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.retain(|_, lock| Arc::strong_count(lock) > 1);
            wanted.into_iter().map(|key| held.entry(key).or_default().clone()).collect()
        };
        let mut guards = Vec::new();
        for lock in locks {
            guards.push(lock.lock_owned().await);
        }
        guards
    }

    /// Keeps a manifest and points tags to it, once everything that it names is here. Returns its subject.
    pub async fn put_manifest(
        &self,
        name: &Repository,
        manifest: Manifest,
        tags: &[Tag],
    ) -> Result<Option<ContentDigest>, Refusal> {
        let document = Document::read(&manifest.bytes, &manifest.media_type)?;
        let _link = self.link().await;
        self.check_parts(name, &document).await?;
        self.write_manifest(name, manifest, document, tags).await
    }

    /// Keeps a manifest of a mirror: what it names may come later.
    pub async fn keep_manifest(&self, name: &Repository, manifest: Manifest, tags: &[Tag]) -> Result<(), Refusal> {
        let document = Document::read(&manifest.bytes, &manifest.media_type)?;
        let _link = self.link().await;
        self.write_manifest(name, manifest, document, tags).await.map(drop)
    }

    async fn write_manifest(
        &self,
        name: &Repository,
        manifest: Manifest,
        document: Document,
        tags: &[Tag],
    ) -> Result<Option<ContentDigest>, Refusal> {
        let Manifest { digest, media_type, bytes } = manifest;
        let size = bytes.len() as u64;
        self.storage.put(&digest, bytes).await?;
        self.storage.write(format::manifest(name, &digest), media_type.clone().into_bytes()).await?;
        if let Some(subject) = &document.subject {
            let Document { artifact_type, annotations, .. } = document;
            let entry = Referrer { media_type, digest: digest.to_string(), size, artifact_type, annotations };
            let entry = serde_json::to_vec(&entry).map_err(io::Error::other)?;
            self.storage.write(format::referrer(name, subject, &digest), entry).await?;
        }
        for tag in tags {
            self.storage.write(format::tag(name, tag), digest.to_string().into_bytes()).await?;
        }
        Ok(document.subject)
    }

    /// Refuses a manifest that names what the repository does not have.
    pub async fn check_parts(&self, name: &Repository, document: &Document) -> Result<(), Refusal> {
        let parts = document.parts.iter().filter(|part| part.required);
        let checks: Vec<_> = parts.map(|part| self.check_part(name, part).boxed()).collect();
        stream::iter(checks).buffered(AT_ONCE).try_collect().await
    }

    async fn check_part(&self, name: &Repository, part: &Part) -> Result<(), Refusal> {
        let mut here = None;
        let keys = [format::link(name, &part.digest), format::manifest(name, &part.digest)];
        for key in keys.into_iter().take(if part.manifest { 2 } else { 1 }) {
            let Some(entry) = self.storage.look(key.clone()).await? else { continue };
            if self.is_old(&entry) {
                self.storage.touch(key).await?;
                self.storage.touch(format::blob(&part.digest)).await?;
            }
            here = self.storage.size(&part.digest).await?;
            break;
        }
        match here {
            None => {
                let why = format!("the manifest names {}, which {name} does not have", part.digest);
                Err(Refusal::manifest_blob_unknown(why))
            }
            Some(size) if size != part.size => {
                let why = format!("the manifest says that {} has {} bytes, it has {size}", part.digest, part.size);
                Err(Refusal::manifest_invalid(why))
            }
            Some(_) => Ok(()),
        }
    }

    /// Removes a tag; `false` when there is none.
    pub async fn untag(&self, name: &Repository, tag: &Tag) -> io::Result<bool> {
        let _remove = self.remove().await;
        self.storage.remove(format::tag(name, tag)).await
    }

    /// Removes a manifest and the tags that point to it; `false` when there is none.
    pub async fn remove_manifest(&self, name: &Repository, digest: &ContentDigest) -> io::Result<bool> {
        let _remove = self.remove().await;
        for tag in self.tags_of(name, digest).await? {
            self.storage.remove(format::tag(name, &tag)).await?;
        }
        self.forget_manifest(name, digest).await
    }

    /// Removes a manifest that was superseded, unless a tag points to it after all.
    pub async fn remove_superseded(&self, name: &Repository, digest: &ContentDigest) -> io::Result<bool> {
        let _remove = self.remove().await;
        let removed = self.tags_of(name, digest).await?.is_empty() && self.forget_manifest(name, digest).await?;
        self.storage.remove(format::superseded(name, digest)).await?;
        Ok(removed)
    }

    /// Removes a manifest, unless a tag points to it or it became younger than `before` (milliseconds since 1970).
    pub async fn remove_untagged(&self, name: &Repository, digest: &ContentDigest, before: u64) -> io::Result<bool> {
        let _remove = self.remove().await;
        let entry = self.storage.look(format::manifest(name, digest)).await?;
        let old = entry.is_some_and(|entry| entry.modified < before);
        Ok(old && self.tags_of(name, digest).await?.is_empty() && self.forget_manifest(name, digest).await?)
    }

    /// The tags that point to a manifest.
    async fn tags_of(&self, name: &Repository, digest: &ContentDigest) -> io::Result<Vec<Tag>> {
        let mut found = Vec::new();
        for tag in self.tags(name).await? {
            if self.tagged(name, &tag).await?.as_ref() == Some(digest) {
                found.push(tag);
            }
        }
        Ok(found)
    }

    async fn forget_manifest(&self, name: &Repository, digest: &ContentDigest) -> io::Result<bool> {
        let key = format::manifest(name, digest);
        let Some(kind) = self.storage.read(key.clone()).await? else { return Ok(false) };
        if let Some(bytes) = self.storage.read(format::blob(digest)).await?
            && let Ok(Document { subject: Some(subject), .. }) = Document::read(&bytes, &String::from_utf8_lossy(&kind))
        {
            self.storage.remove(format::referrer(name, &subject, digest)).await?;
        }
        self.storage.remove(key).await
    }

    /// All tags, by name.
    pub async fn tags(&self, name: &Repository) -> io::Result<Vec<Tag>> {
        let entries = self.storage.list(format::tags(name)).await?;
        Ok(entries.iter().filter_map(|entry| Tag::parse(&entry.name)).collect())
    }

    /// All manifests of a repository, with when they were last pushed.
    pub async fn manifests(&self, name: &Repository) -> io::Result<Vec<(ContentDigest, u64)>> {
        self.digests(|algorithm| format::manifests(name, algorithm)).await
    }

    /// All blobs of a repository, with when they were last pushed or asked for.
    pub async fn blobs(&self, name: &Repository) -> io::Result<Vec<(ContentDigest, u64)>> {
        self.digests(|algorithm| format::links(name, algorithm)).await
    }

    async fn digests(&self, folder: impl Fn(Algorithm) -> String) -> io::Result<Vec<(ContentDigest, u64)>> {
        let mut found = Vec::new();
        for algorithm in Algorithm::ALL {
            let entries = self.storage.list(folder(algorithm)).await?;
            found.extend(
                entries.iter().filter_map(|e| Some((ContentDigest::from_parts(algorithm, &e.name)?, e.modified))),
            );
        }
        Ok(found)
    }

    /// The entries of a subject's list of referrers, by digest.
    pub async fn referrers(&self, name: &Repository, subject: &ContentDigest) -> io::Result<Vec<Referrer>> {
        let folder = format::referrers(name, subject);
        let mut found = Vec::new();
        for entry in self.storage.list(folder.clone()).await? {
            let text = self.storage.read(format!("{folder}/{}", entry.name)).await?;
            found.extend(text.and_then(|text| serde_json::from_slice(&text).ok()));
        }
        Ok(found)
    }

    /// Whether there is such a repository.
    pub async fn exists(&self, name: &Repository) -> io::Result<bool> {
        let entries = self.storage.list(format::repository(name)).await?;
        Ok(entries.iter().any(|entry| entry.folder && entry.name.starts_with('_')))
    }

    /// All repositories, by name.
    pub async fn repositories(&self) -> io::Result<Vec<Repository>> {
        let mut found = Vec::new();
        let mut open = vec![String::new()];
        while let Some(prefix) = open.pop() {
            let folder = format!("{}{}{prefix}", format::REPOSITORIES, if prefix.is_empty() { "" } else { "/" });
            let entries = self.storage.list(folder).await?;
            if entries.iter().any(|entry| entry.folder && entry.name.starts_with('_')) {
                found.extend(Repository::parse(&prefix).ok());
            }
            let below = entries.iter().filter(|entry| entry.folder && !entry.name.starts_with('_'));
            open.extend(below.map(|entry| match prefix.as_str() {
                "" => entry.name.clone(),
                prefix => format!("{prefix}/{}", entry.name),
            }));
        }
        found.sort();
        Ok(found)
    }
}
