//! Caches that several write at once: what is pushed to be joined is added to what the tag has, and nothing is lost
//! whatever the order. The manifest at the tag stays one that BuildKit reads. An extension of larder's, by its name:
//! `PUT /v2/<name>/manifests/<tag>?join=cache`, and `GET /v2/<name>/_larder/cache/filter/<tag-or-digest>`.

use std::collections::{BTreeMap, HashSet};

use hyper::StatusCode;
use oci::{Descriptor, Digest, ManifestOrIndex};
use solver::exchange::{CONFIG, Config, Form, Listing};

use super::Registry;
use super::answer::{Answer, With, json};
use super::contents::{Contents, Manifest};
use super::digest::{Algorithm, ContentDigest};
use super::document::Document;
use super::format;
use super::name::{Repository, Tag, Target};
use super::refusal::Refusal;
use crate::filter::{Filter, MEDIA_TYPE};

/// What an answer's header `larder-extensions` says, so that a client knows before it relies on them.
pub const EXTENSIONS: &str = "cache-join, cache-filter";

/// Tries of a join whose layers somebody deletes.
const TRIES: u32 = 8;

/// A cache as its manifest and its config say it.
struct Cache {
    listing: Listing,
    config: Config,
    form: Form,
}

/// What a tag must point to so that it has both what it had and what was pushed.
struct Joined {
    /// The manifest; its config is in the repository.
    manifest: Manifest,
    /// The manifest that the tag had and that nobody needs any more once this one has replaced it.
    superseded: Option<ContentDigest>,
}

/// Points a tag, and others beside it, to a pushed cache joined with the one that it had: gives the result's name, and that
/// of the manifest that nobody needs any more. The caller holds the tags.
pub async fn put(
    contents: &Contents,
    name: &Repository,
    tag: &Tag,
    pushed: Manifest,
    tags: &[Tag],
) -> Result<(ContentDigest, Option<ContentDigest>), Refusal> {
    let mut tries = 0;
    loop {
        tries += 1;
        let Joined { manifest, superseded } = join(contents, name, tag, pushed.clone()).await?;
        let digest = manifest.digest.clone();
        match contents.put_manifest(name, manifest, tags).await {
            // A layer of the old cache was deleted meanwhile: the next try leaves it out. One of the pushed cache is told.
            Err(refusal) if refusal.code == "MANIFEST_BLOB_UNKNOWN" && tries < TRIES => {}
            done => return done.map(|_| (digest, superseded)),
        }
    }
}

/// Joins a pushed cache with the one at a tag.
async fn join(contents: &Contents, name: &Repository, tag: &Tag, pushed: Manifest) -> Result<Joined, Refusal> {
    contents.check_parts(name, &Document::read(&pushed.bytes, &pushed.media_type)?).await?;
    let Some(new) = Cache::read(contents, &pushed).await? else {
        return Err(Refusal::manifest_invalid("only a cache can be joined, and this is none"));
    };
    let current = contents.manifest(name, &Target::Tag(tag.clone())).await?;
    let Some(current) = current else { return Ok(Joined { manifest: pushed, superseded: None }) };
    // What can't be read as a cache would be of no use to anybody: it is replaced, as by any push.
    let Some(old) = Cache::read(contents, &current).await? else {
        return Ok(Joined { manifest: pushed, superseded: None });
    };
    let manifest = new.joined(contents, name, &old).await?;
    let superseded = (manifest.digest != current.digest).then_some(current.digest);
    Ok(Joined { manifest, superseded })
}

impl Cache {
    /// Reads a cache; `None` for what is none.
    async fn read(contents: &Contents, manifest: &Manifest) -> Result<Option<Cache>, Refusal> {
        let Ok(document) = ManifestOrIndex::decode(&manifest.bytes, Some(&manifest.media_type)) else {
            return Ok(None);
        };
        let form = match &document {
            ManifestOrIndex::Manifest(_) => Form::ImageManifest,
            ManifestOrIndex::Index(_) => Form::Index { docker: manifest.media_type == oci::media::DOCKER_INDEX },
        };
        let Some(listing) = Listing::read(&document) else { return Ok(None) };
        let config = contents.storage.read(format::blob(&ContentDigest::from(&listing.config.digest))).await?;
        let config = config.and_then(|bytes| Config::parse(&bytes).ok());
        Ok(config.map(|config| Cache { listing, config, form }))
    }

    /// The cache with everything that `old` has and whose layers are still here.
    async fn joined(mut self, contents: &Contents, name: &Repository, old: &Cache) -> Result<Manifest, Refusal> {
        let mut here = HashSet::new();
        for digest in old.listing.blobs.keys() {
            if contents.blob(name, &digest.into()).await?.is_some() {
                here.insert(*digest);
            }
        }
        let old_config = old.config.without(|output| !output.blobs.iter().all(|blob| here.contains(blob)));
        let failed =
            |error: solver::exchange::Error| Refusal::manifest_invalid(format!("the caches can't be joined: {error}"));
        let config = Config::join([&old_config, &self.config]).map_err(failed)?;
        self.listing.join_blobs(&old.listing);
        let bytes = config.to_json();
        let digest = Digest::of(&bytes);
        self.listing.config = Descriptor::new(CONFIG, digest, bytes.len() as u64);
        contents.put_blob(name, &(&digest).into(), bytes).await?;
        let (bytes, media_type) = self.listing.write(&config, self.form, BTreeMap::new()).map_err(failed)?;
        let digest = ContentDigest::of(Algorithm::Sha256, &bytes);
        Ok(Manifest { digest, media_type: media_type.to_owned(), bytes })
    }
}

/// `GET` of a cache's filter: which keys may be in it.
pub async fn filter(registry: &Registry, name: &Repository, target: &Target) -> Result<Answer, Refusal> {
    let unknown = || Refusal::manifest_unknown(format!("{name} has no cache {target}"));
    let manifest = registry.contents.manifest(name, target).await?.ok_or_else(unknown)?;
    let cache = Cache::read(&registry.contents, &manifest).await?.ok_or_else(unknown)?;
    let keys: Vec<Digest> = cache.config.records().iter().map(|record| record.digest).collect();
    let answer = json(StatusCode::OK, MEDIA_TYPE, Filter::of(&keys).to_bytes());
    Ok(answer.with("docker-content-digest", &manifest.digest.to_string()))
}
