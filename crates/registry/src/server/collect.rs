//! Removing what nothing refers to, while clients push and pull: there is no time in which the registry only reads.
//! A blob's link goes when no manifest of its repository names it, its bytes when no repository has it, and both only
//! when nobody pushed, mounted or asked for it within the grace. Each is decided again under the lock that keeps anybody
//! from referring to it, by its time: whoever refers to something makes it young first.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use super::contents::Contents;
use super::digest::{Algorithm, ContentDigest};
use super::document::Document;
use super::name::Repository;
use super::{Registry, format, now};

/// New files have the time of the kernel's last tick, so they may seem this much older than they are (milliseconds).
const TICK: u64 = 20;

/// Uploads that nobody went on with for so long are given up.
const UPLOAD: Duration = Duration::from_secs(24 * 3600);

/// What a collection removed, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs that a repository does not have any more, by repository.
    pub unlinked: Vec<(String, ContentDigest)>,
    /// Blobs whose bytes are gone, and their lengths.
    pub removed: Vec<(ContentDigest, u64)>,
    /// Uploads that were given up.
    pub uploads: usize,
    /// Repositories of which nothing was removed, as a manifest can't be read, and which.
    pub unsure: Vec<(String, ContentDigest)>,
}

impl Collected {
    /// Bytes freed.
    pub fn bytes(&self) -> u64 {
        self.removed.iter().map(|(_, size)| size).sum()
    }
}

/// Collects; `dry` says what would go and removes nothing.
pub async fn collect(registry: &Registry, dry: bool) -> io::Result<Collected> {
    let contents = &registry.contents;
    let before = now().saturating_sub(contents.grace.as_millis() as u64 + TICK);
    let mut done = Collected::default();
    let mut used = HashSet::new();
    for name in contents.repositories().await? {
        for entry in contents.storage.list(format::all_superseded(&name)).await? {
            if let Some(digest) = format::parse_dashed(&entry.name)
                && entry.modified < before
                && !dry
            {
                contents.remove_superseded(&name, &digest).await?;
            }
        }
        let unused = unused(contents, &name, before, &mut used, &mut done).await?;
        for digest in unused {
            if dry || unlink(contents, &name, &digest, before).await? {
                done.unlinked.push((name.to_string(), digest));
            } else {
                used.insert(digest);
            }
        }
        if !dry {
            remove_empty(contents, &name).await?;
        }
    }
    for algorithm in Algorithm::ALL {
        for folder in contents.storage.list(format::all_blobs(algorithm)).await? {
            for entry in contents.storage.list(format::blobs(algorithm, &folder.name)).await? {
                let Some(digest) = ContentDigest::from_parts(algorithm, &entry.name) else { continue };
                let old = entry.modified < before && !used.contains(&digest);
                if old && (dry || remove(contents, format::blob(&digest), before).await?) {
                    done.removed.push((digest, entry.size));
                }
            }
        }
    }
    if !dry {
        let age = UPLOAD.max(contents.grace);
        done.uploads = registry.uploads.expire(age)?;
    }
    Ok(done)
}

/// The blobs of a repository that no manifest of it names. What it has otherwise is added to `used`.
async fn unused(
    contents: &Contents,
    name: &Repository,
    before: u64,
    used: &mut HashSet<ContentDigest>,
    done: &mut Collected,
) -> io::Result<Vec<ContentDigest>> {
    // Blobs first: a manifest that is pushed meanwhile names only what is in this list or younger.
    let blobs = contents.blobs(name).await?;
    let mut named = HashSet::new();
    let mut unsure = false;
    for (digest, _) in contents.manifests(name).await? {
        match read(contents, name, &digest).await? {
            Some(document) => named.extend(document.parts.into_iter().map(|part| part.digest)),
            None => {
                unsure = true;
                done.unsure.push((name.to_string(), digest.clone()));
            }
        }
        used.insert(digest);
    }
    let (old, kept): (Vec<_>, Vec<_>) =
        blobs.into_iter().partition(|(digest, modified)| !unsure && *modified < before && !named.contains(digest));
    used.extend(kept.into_iter().map(|(digest, _)| digest));
    Ok(old.into_iter().map(|(digest, _)| digest).collect())
}

/// A manifest, read; `None` when its bytes are gone or can't be read. One that was deleted meanwhile names nothing.
pub(super) async fn read(
    contents: &Contents,
    name: &Repository,
    digest: &ContentDigest,
) -> io::Result<Option<Document>> {
    let Some(kind) = contents.storage.read(format::manifest(name, digest)).await? else {
        return Ok(Some(Document::default()));
    };
    let Some(bytes) = contents.storage.read(format::blob(digest)).await? else { return Ok(None) };
    Ok(Document::read(&bytes, &String::from_utf8_lossy(&kind)).ok())
}

/// Takes a blob from a repository, if it is still as old as it was; `false` when it is not.
async fn unlink(contents: &Contents, name: &Repository, digest: &ContentDigest, before: u64) -> io::Result<bool> {
    remove(contents, format::link(name, digest), before).await
}

/// Removes what is under a key, if it is still as old as it was.
async fn remove(contents: &Contents, key: String, before: u64) -> io::Result<bool> {
    let _remove = contents.remove().await;
    match contents.storage.look(key.clone()).await? {
        Some(entry) if entry.modified < before => contents.storage.remove(key).await,
        _ => Ok(false),
    }
}

/// Removes a repository's folders that hold nothing any more.
async fn remove_empty(contents: &Contents, name: &Repository) -> io::Result<()> {
    let _remove = contents.remove().await;
    let mut folders = vec![format::tags(name), format::pulls(name), format::all_superseded(name)];
    for algorithm in Algorithm::ALL {
        folders.extend([format::links(name, algorithm), format::manifests(name, algorithm)]);
    }
    for folder in folders {
        contents.storage.remove_empty(folder, format::REPOSITORIES).await?;
    }
    Ok(())
}
