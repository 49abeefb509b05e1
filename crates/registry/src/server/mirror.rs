//! A mirror of other registries: what is asked for and not here is fetched from there, verified, kept and given on. Tags are
//! asked for anew after a while; what is kept is given when the other registry can't be reached. That something is absent
//! there is remembered for a moment, so that many who ask do not all ask there. Nothing can be pushed to a mirror.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use oci::{Descriptor, Reference};

use super::contents::Manifest;
use super::digest::{Algorithm, ContentDigest};
use super::name::{Repository, Target};
use super::refusal::Refusal;
use super::uploads::Upload;
use super::{Registry, random};
use crate::{Client, Error, Login};

/// For how long a tag counts as fresh.
const FRESH: Duration = Duration::from_secs(300);

/// For how long an absence is remembered: half to one and a half times this, so that not all end at once.
const ABSENT: Duration = Duration::from_secs(60);

/// Whose repositories are mirrored.
pub struct Mirrors {
    /// First part of a repository's name, and the host that it stands for.
    pub hosts: Vec<(String, String)>,
    /// Asks them.
    pub client: Client,
    /// Who this registry is to them.
    pub login: Box<dyn Login>,
}

/// What is remembered of other registries.
#[derive(Default)]
pub struct Memory {
    absent: Mutex<HashMap<String, Instant>>,
    fresh: Mutex<HashMap<String, Instant>>,
    /// What is being fetched: whoever wants the same waits.
    running: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Memory {
    fn is_noted(map: &Mutex<HashMap<String, Instant>>, key: &str) -> bool {
        let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        map.retain(|_, until| *until > now);
        map.contains_key(key)
    }

    fn note(map: &Mutex<HashMap<String, Instant>>, key: &str, time: Duration) {
        map.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), Instant::now() + time);
    }

    fn turn(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, turn| Arc::strong_count(turn) > 1);
        running.entry(key.to_owned()).or_default().clone()
    }
}

/// Where a repository is mirrored from.
pub fn source(registry: &Registry, name: &Repository) -> Option<Reference> {
    let mirrors = registry.mirrors.as_ref()?;
    let (first, path) = name.as_str().split_once('/')?;
    let (_, host) = mirrors.hosts.iter().find(|(prefix, _)| prefix == first)?;
    Some(Reference { domain: host.clone(), path: path.to_owned(), tag: None, digest: None })
}

/// Makes sure that a manifest is here if the other registry has it.
pub async fn manifest(registry: &Arc<Registry>, name: &Repository, target: &Target) -> Result<(), Refusal> {
    let (Some(mirrors), Some(mut reference)) = (&registry.mirrors, source(registry, name)) else { return Ok(()) };
    let key = format!("{name}@{target}");
    let memory = &registry.memory;
    let turn = memory.turn(&key);
    let _turn = turn.lock().await;
    let here = registry.contents.manifest(name, target).await?.is_some();
    match target {
        Target::Digest(_) if here => return Ok(()),
        Target::Tag(_) if here && Memory::is_noted(&memory.fresh, &key) => return Ok(()),
        Target::Digest(digest) => reference.digest = digest.sha256(),
        Target::Tag(tag) => reference.tag = Some(tag.to_string()),
    }
    if reference.tag.is_none() && reference.digest.is_none() || Memory::is_noted(&memory.absent, &key) {
        return Err(absent(&key));
    }
    match mirrors.client.manifest(&reference, mirrors.login.as_ref()).await {
        Ok((bytes, media_type)) => {
            let digest = ContentDigest::of(Algorithm::Sha256, &bytes);
            let manifest = Manifest { digest, media_type: super::document::bare(&media_type).to_owned(), bytes };
            let tags = match target {
                Target::Tag(tag) => std::slice::from_ref(tag),
                Target::Digest(_) => &[],
            };
            registry.contents.keep_manifest(name, manifest, tags).await?;
            Memory::note(&memory.fresh, &key, FRESH);
            Ok(())
        }
        Err(error) if is_absent(&error) => {
            Memory::note(&memory.absent, &key, jittered());
            Err(absent(&key))
        }
        // What was kept is better than nothing.
        Err(_) if here => Ok(()),
        Err(error) => Err(Refusal::upstream(error.to_string())),
    }
}

/// Makes sure that a blob is here if the other registry has it.
pub async fn blob(registry: &Arc<Registry>, name: &Repository, digest: &ContentDigest) -> Result<(), Refusal> {
    let (Some(mirrors), Some(reference)) = (&registry.mirrors, source(registry, name)) else { return Ok(()) };
    let Some(digest256) = digest.sha256() else { return Ok(()) };
    let key = format!("{name}@{digest}");
    let memory = &registry.memory;
    let turn = memory.turn(&key);
    let _turn = turn.lock().await;
    if registry.contents.blob(name, digest).await?.is_some() || Memory::is_noted(&memory.absent, &key) {
        return Ok(());
    }
    let upload = registry.uploads.start(name, Algorithm::Sha256)?;
    let what = Descriptor::new("application/octet-stream", digest256, 0);
    let mut out = Appending(upload.clone());
    let fetched = mirrors.client.blob(&reference, &what, mirrors.login.as_ref(), &mut out, &mut |_| {}).await;
    let kept = match fetched {
        Ok(()) => finish(registry, name, digest, &upload).await,
        Err(error) if is_absent(&error) => {
            Memory::note(&memory.absent, &key, jittered());
            Ok(())
        }
        Err(error) => Err(Refusal::upstream(error.to_string())),
    };
    registry.uploads.end(&upload)?;
    kept
}

/// Keeps what was fetched.
async fn finish(
    registry: &Arc<Registry>,
    name: &Repository,
    digest: &ContentDigest,
    upload: &Arc<Upload>,
) -> Result<(), Refusal> {
    let (finishing, wanted) = (upload.clone(), digest.clone());
    let file = tokio::task::spawn_blocking(move || finishing.finish(&wanted)).await;
    match file.map_err(|error| Refusal::failed(error.to_string()))? {
        Ok(file) => Ok(registry.contents.keep_blob(name, digest, file).await?),
        Err(found) => Err(Refusal::upstream(format!("expected the bytes of {digest}, got {}", found?))),
    }
}

fn jittered() -> Duration {
    let chance = random().map_or(0, u64::from_le_bytes) % ABSENT.as_millis() as u64;
    ABSENT / 2 + Duration::from_millis(chance)
}

fn is_absent(error: &Error) -> bool {
    matches!(error.last(), Error::NotFound { .. })
}

fn absent(what: &str) -> Refusal {
    Refusal::manifest_unknown(format!("{what} is not in the registry that is mirrored"))
}

/// Refuses to change what is a mirror.
pub fn refuse_push(registry: &Registry, name: &Repository) -> Result<(), Refusal> {
    match source(registry, name) {
        None => Ok(()),
        Some(from) => Err(Refusal::unsupported(format!("{name} is a mirror of {}: push there", from.repository()))),
    }
}

/// Puts what comes at the end of an upload.
struct Appending(Arc<Upload>);

impl Write for Appending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(&[Bytes::copy_from_slice(bytes)])?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
