//! A cache with many writers at any registry. Each writer first leaves what it made as a part of its own, under a tag that
//! nobody else writes; then it puts the join of everything it can see under the reference itself, and looks again until it
//! sees no part that is not in there. So whoever writes last has read what all others left, and a reader between them reads
//! the parts too. The manifest at the reference says which parts it holds; old ones are removed.
//!
//! BuildKit reads the reference alone, and where it writes there itself, the parts bring back what it wrote over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use oci::{Descriptor, Digest, ManifestOrIndex, Reference};
use registry::Content;
use solver::exchange::{CONFIG, Config, Form, Listing};

use super::Error;
use super::export::{fit, part};
use crate::Work;
use crate::event::now_millis;
use crate::sources::bytes::ClientLogin;

/// Names of the parts that a manifest holds, on that manifest.
const HELD: &str = "dev.larder.cache.parts";
/// A part of this age, in seconds, was seen by every writer that began before it.
const OLD: u64 = 3_600;
/// Rounds in which a part that can't be read is waited for.
const PATIENCE: u32 = 6;
/// Rounds after which others will have to go on.
const ROUNDS: u32 = 24;
/// Parts read at once.
const AT_ONCE: usize = 8;

/// A cache as it lies at a reference, with its parts.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The join of all of it.
    pub config: Config,
    /// Descriptors of its layers.
    pub blobs: BTreeMap<Digest, Descriptor>,
    /// What the reference itself says.
    head: Option<Config>,
    /// The parts that the reference's manifest holds.
    held: BTreeSet<String>,
    /// The parts that are in here: read just now, or held by the manifest.
    seen: BTreeSet<String>,
    /// Parts that are listed and could not be read: perhaps they are being written.
    unread: BTreeSet<String>,
}

/// One manifest of a cache.
struct One {
    config: Config,
    blobs: BTreeMap<Digest, Descriptor>,
    annotations: BTreeMap<String, String>,
}

/// The tag that a part of `tag` begins with.
fn prefix(tag: &str) -> String {
    // A tag has at most 128 characters.
    let stem = if tag.len() <= 90 { tag.to_owned() } else { format!("larder-{}", Digest::of(tag.as_bytes()).short()) };
    format!("{stem}.part-")
}

/// Reads what lies at a reference. `None` when there is neither a cache nor a part of one.
pub async fn read(work: &Work, reference: &Reference) -> Result<Option<Kept>, crate::Error> {
    let tag = reference.tag.clone().unwrap_or_default();
    let (head, tags) = futures_util::future::join(one(work, reference), tags(work, reference)).await;
    let head = head?;
    let is_part = |t: &String| reference.digest.is_none() && t.starts_with(&prefix(&tag));
    let there: BTreeSet<String> = tags.into_iter().filter(is_part).collect();
    let held: BTreeSet<String> =
        head.iter().filter_map(|h| h.annotations.get(HELD)).flat_map(|l| names(l, &tag)).collect();
    let new: Vec<Reference> = there.difference(&held).map(|t| tagged(reference, t)).collect();
    let reading = new.iter().map(|part| async move { (part, one(work, part).await) }.boxed());
    let mut parts = stream::iter(reading.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
    let seen = there.intersection(&held).cloned().collect();
    let mut kept = Kept { held, seen, ..Kept::default() };
    let mut configs = Vec::new();
    while let Some((reference, part)) = parts.next().await {
        let tag = reference.tag.clone().unwrap_or_default();
        let Some(part) = part? else {
            kept.unread.insert(tag);
            continue;
        };
        kept.seen.insert(tag);
        kept.take_blobs(&part);
        configs.push(part.config);
    }
    if let Some(head) = head {
        kept.take_blobs(&head);
        configs.push(head.config.clone());
        kept.head = Some(head.config);
    }
    if configs.is_empty() {
        return Ok(None);
    }
    kept.config = Config::join(&configs).map_err(Error::from)?;
    Ok(Some(kept))
}

impl Kept {
    fn take_blobs(&mut self, one: &One) {
        for (digest, blob) in &one.blobs {
            self.blobs.entry(*digest).or_insert_with(|| blob.clone());
        }
    }
}

/// Tags of the parts, as short as a list of them can be.
fn names(list: &str, tag: &str) -> Vec<String> {
    list.split(',').filter(|n| !n.is_empty()).map(|n| format!("{}{n}", prefix(tag))).collect()
}

fn tagged(reference: &Reference, tag: &str) -> Reference {
    Reference { tag: Some(tag.to_owned()), digest: None, ..reference.clone() }
}

/// All tags after the beginning of the parts' names. A registry that can't list has no parts that could be found.
async fn tags(work: &Work, reference: &Reference) -> Vec<String> {
    let login = ClientLogin(work.session.clone());
    let after = prefix(reference.tag.as_deref().unwrap_or_default());
    work.engine.registry.tags(reference, &after, &login).await.unwrap_or_default()
}

/// One manifest and its config; `None` when there is none, or something that is no cache.
async fn one(work: &Work, reference: &Reference) -> Result<Option<One>, crate::Error> {
    let login = ClientLogin(work.session.clone());
    let bytes = match work.engine.registry.manifest(reference, &login).await {
        Ok((bytes, _)) => bytes,
        Err(error) if matches!(error.last(), registry::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(Error::from(error).into()),
    };
    let Ok(document) = ManifestOrIndex::decode(&bytes, None) else { return Ok(None) };
    let Some(listing) = Listing::read(&document) else { return Ok(None) };
    let annotations = match document {
        ManifestOrIndex::Manifest(manifest) => manifest.annotations,
        ManifestOrIndex::Index(index) => index.annotations,
    };
    let mut json = Vec::new();
    let read = work.engine.registry.blob(reference, &listing.config, &login, &mut json, &mut |_| {}).await;
    match read {
        Ok(()) => {}
        Err(error) if matches!(error.last(), registry::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(Error::from(error).into()),
    }
    let config = Config::parse(&json).map_err(Error::from)?;
    let config = config.without(|output| !output.blobs.iter().all(|d| listing.blobs.contains_key(d)));
    Ok(Some(One { config, blobs: listing.blobs, annotations }))
}

/// Adds `config`, whose layers are there already. Gives the manifest at the reference, and whether anything was written.
pub async fn add(
    work: &Work,
    reference: &Reference,
    config: &Config,
    blobs: &BTreeMap<Digest, Descriptor>,
    form: Form,
) -> Result<Descriptor, crate::Error> {
    let own = Writer { work, reference, form };
    let login = ClientLogin(work.session.clone());
    if work.engine.registry.joins(reference, &login).await.map_err(Error::from)? {
        return own.hand_over(config, blobs).await;
    }
    let before = read(work, reference).await?.unwrap_or_default();
    let joined = Config::join([config, &before.config]).map_err(Error::from)?;
    if before.head.as_ref() == Some(&joined) && before.seen.is_subset(&before.held) && before.unread.is_empty() {
        // There is nothing to add: the manifest stays what it is.
        if let Some(head) = head(work, reference).await? {
            return Ok(head);
        }
    }
    let part_tag = own.leave(config, blobs).await?;
    let mut pause = Duration::from_millis(20);
    let mut round = 0;
    loop {
        let mut kept = read(work, reference).await?.unwrap_or_default();
        round += 1;
        for (digest, blob) in blobs {
            kept.blobs.entry(*digest).or_insert_with(|| blob.clone());
        }
        let all = Config::join([config, &kept.config]).map_err(Error::from)?;
        let mut held = kept.seen.clone();
        held.insert(part_tag.clone());
        let fitted = fit(&all);
        // A part that stays unread is nobody's any more.
        let all_seen = kept.unread.is_empty() || round > PATIENCE;
        let is_there = kept.head.as_ref() == Some(&fitted) && held.is_subset(&kept.held);
        if is_there && all_seen {
            own.tidy(&kept).await;
            return own.head_or(&fitted, &kept.blobs, &held).await;
        }
        if !is_there {
            let written = own.put_head(&fitted, &kept.blobs, &held).await?;
            if round >= ROUNDS {
                return Ok(written);
            }
        }
        // Others may have written meanwhile, before or after: it is looked at again.
        tokio::time::sleep(pause).await;
        pause =
            (pause * 3 / 2).min(Duration::from_millis(500)) + Duration::from_millis(u64::from(std::process::id() % 17));
    }
}

/// The manifest that lies at a reference.
async fn head(work: &Work, reference: &Reference) -> Result<Option<Descriptor>, crate::Error> {
    let login = ClientLogin(work.session.clone());
    match work.engine.registry.manifest(reference, &login).await {
        Ok((bytes, kind)) => Ok(Some(Descriptor::new(&kind, Digest::of(&bytes), bytes.len() as u64))),
        Err(error) if matches!(error.last(), registry::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(Error::from(error).into()),
    }
}

/// Writes manifests of one cache.
struct Writer<'a> {
    work: &'a Work,
    reference: &'a Reference,
    form: Form,
}

impl Writer<'_> {
    /// Leaves a part; gives its tag.
    async fn leave(&self, config: &Config, blobs: &BTreeMap<Digest, Descriptor>) -> Result<String, crate::Error> {
        let tag = self.reference.tag.clone().unwrap_or_default();
        let seconds = now_millis() / 1000;
        // The same part from two writers is one.
        let tag = format!("{}{seconds:08x}{}", prefix(&tag), Digest::of(&config.to_json()).short());
        self.put(&tagged(self.reference, &tag), config, blobs, BTreeMap::new()).await?;
        Ok(tag)
    }

    async fn put_head(
        &self,
        config: &Config,
        blobs: &BTreeMap<Digest, Descriptor>,
        held: &BTreeSet<String>,
    ) -> Result<Descriptor, crate::Error> {
        let prefix = prefix(self.reference.tag.as_deref().unwrap_or_default());
        let names: Vec<&str> = held.iter().filter_map(|tag| tag.strip_prefix(&prefix)).collect();
        let annotations = BTreeMap::from([(HELD.to_owned(), names.join(","))]);
        self.put(self.reference, config, blobs, annotations).await
    }

    /// Lets the registry join it: one manifest, whoever else writes.
    async fn hand_over(
        &self,
        config: &Config,
        blobs: &BTreeMap<Digest, Descriptor>,
    ) -> Result<Descriptor, crate::Error> {
        let login = ClientLogin(self.work.session.clone());
        let (manifest, media_type) = self.manifest(self.reference, &fit(config), blobs, BTreeMap::new()).await?;
        part(self.work, "joining the cache at the registry");
        let joined = self.work.engine.registry.join_manifest(self.reference, media_type, &manifest, &login).await;
        let digest = joined.map_err(Error::from)?.unwrap_or_else(|| Digest::of(&manifest));
        let head = head(self.work, self.reference).await?.filter(|head| head.digest == digest);
        Ok(head.unwrap_or_else(|| Descriptor::new(media_type, digest, manifest.len() as u64)))
    }

    /// The manifest at the reference as it was just read.
    async fn head_or(
        &self,
        config: &Config,
        blobs: &BTreeMap<Digest, Descriptor>,
        held: &BTreeSet<String>,
    ) -> Result<Descriptor, crate::Error> {
        match head(self.work, self.reference).await? {
            Some(head) => Ok(head),
            None => self.put_head(config, blobs, held).await,
        }
    }

    async fn put(
        &self,
        reference: &Reference,
        config: &Config,
        blobs: &BTreeMap<Digest, Descriptor>,
        annotations: BTreeMap<String, String>,
    ) -> Result<Descriptor, crate::Error> {
        let login = ClientLogin(self.work.session.clone());
        let (manifest, media_type) = self.manifest(reference, config, blobs, annotations).await?;
        let digest = Digest::of(&manifest);
        let kind = if self.form == Form::ImageManifest { "image manifest" } else { "manifest" };
        part(self.work, &format!("writing cache {kind} {digest}"));
        let registry = &self.work.engine.registry;
        registry.push_manifest(reference, media_type, &manifest, &login).await.map_err(Error::from)?;
        Ok(Descriptor::new(media_type, digest, manifest.len() as u64))
    }

    /// A manifest whose config is there already.
    async fn manifest(
        &self,
        reference: &Reference,
        config: &Config,
        blobs: &BTreeMap<Digest, Descriptor>,
        annotations: BTreeMap<String, String>,
    ) -> Result<(Vec<u8>, &'static str), crate::Error> {
        let login = ClientLogin(self.work.session.clone());
        let registry = &self.work.engine.registry;
        let json = config.to_json();
        let descriptor = Descriptor::new(CONFIG, Digest::of(&json), json.len() as u64);
        part(self.work, &format!("writing config {}", descriptor.digest));
        registry.push_blob(reference, &descriptor, Content::Bytes(json), &login).await.map_err(Error::from)?;
        let listing = Listing { config: descriptor, blobs: blobs.clone() };
        Ok(listing.write(config, self.form, annotations).map_err(Error::from)?)
    }

    /// Removes old parts that the reference holds, where the registry lets us. It is tried, and no more.
    async fn tidy(&self, kept: &Kept) {
        let login = ClientLogin(self.work.session.clone());
        let registry = &self.work.engine.registry;
        let oldest = (now_millis() / 1000).saturating_sub(OLD);
        let is_old = |tag: &&String| written(tag).is_some_and(|written| written < oldest);
        for tag in kept.seen.intersection(&kept.held).filter(is_old) {
            let part = tagged(self.reference, tag);
            let Ok((bytes, _)) = registry.manifest(&part, &login).await else { continue };
            if registry.delete_manifest(&part, &Digest::of(&bytes), &login).await.is_err() {
                // A registry that removes nothing removes no other part either.
                return;
            }
        }
    }
}

/// When a part was written, in seconds since 1970.
fn written(tag: &str) -> Option<u64> {
    let (_, name) = tag.rsplit_once(".part-")?;
    u64::from_str_radix(name.get(..8)?, 16).ok()
}
