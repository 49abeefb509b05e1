//! Reading everything that is kept, to find what a disk has lost or changed: each blob is digested again, and every
//! manifest and link must have its bytes. It says what is wrong and changes nothing.

use std::collections::BTreeSet;
use std::io;

use super::contents::Contents;
use super::digest::{Algorithm, ContentDigest};
use super::format;

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Blobs read.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs whose bytes are not those of their name, and whose bytes they are.
    pub damaged: Vec<(ContentDigest, ContentDigest)>,
    /// Repositories and what they name that has no bytes.
    pub missing: BTreeSet<(String, ContentDigest)>,
}

impl Scrubbed {
    /// Whether everything is as it was pushed.
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty() && self.missing.is_empty()
    }
}

/// Reads everything.
pub async fn scrub(contents: &Contents) -> io::Result<Scrubbed> {
    let mut found = Scrubbed::default();
    for algorithm in Algorithm::ALL {
        for folder in contents.storage.list(format::all_blobs(algorithm)).await? {
            for entry in contents.storage.list(format::blobs(algorithm, &folder.name)).await? {
                let Some(digest) = ContentDigest::from_parts(algorithm, &entry.name) else { continue };
                let key = format::blob(&digest);
                // One that was collected meanwhile is not there.
                let Some((is, size)) = contents.storage.hash(key, algorithm).await? else { continue };
                found.blobs += 1;
                found.bytes += size;
                if is != digest {
                    found.damaged.push((digest, is));
                }
            }
        }
    }
    for name in contents.repositories().await? {
        let links = contents.blobs(&name).await?.into_iter().chain(contents.manifests(&name).await?);
        for (digest, _) in links {
            if contents.storage.size(&digest).await?.is_some() {
                continue;
            }
            // Whoever serves the folder meanwhile removes what names bytes before the bytes, and writes it after them.
            let mut named = false;
            for key in [format::link(&name, &digest), format::manifest(&name, &digest)] {
                named |= contents.storage.look(key).await?.is_some();
            }
            if named && contents.storage.size(&digest).await?.is_none() {
                found.missing.insert((name.to_string(), digest));
            }
        }
    }
    Ok(found)
}
