//! The tags of a repository as a board of caches and their parts; a registry that joins caches itself is handed them.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use oci::{Descriptor, Digest, ManifestOrIndex, Reference};
use registry::Content;
use solver::exchange::{CONFIG, Config, Form, Listing};

use super::Error;
use super::export::{MOST, fit, part};
use super::parts::{self, Blobs, Board, Kept, One};
use crate::Work;
use crate::sources::bytes::ClientLogin;

/// Names of the parts that a manifest holds, on that manifest.
const HELD: &str = "dev.larder.cache.parts";

/// Reads what lies at a reference. `None` when there is neither a cache nor a part of one.
pub async fn read(work: &Work, reference: &Reference) -> Result<Option<Kept>, crate::Error> {
    let tags = Tags { work, reference, form: Form::ImageManifest, ours: None };
    parts::read(&tags, reference.tag.as_deref().unwrap_or_default()).await
}

/// What lies where `config` is to be added. Where that very config lies there, it is not fetched.
pub async fn before(work: &Work, reference: &Reference, config: &Config) -> Result<Kept, crate::Error> {
    let config = fit(config, MOST);
    let digest = Digest::of(&config.to_json());
    let tags = Tags { work, reference, form: Form::ImageManifest, ours: Some((digest, &config)) };
    let login = ClientLogin(work.session.clone());
    let name = reference.tag.as_deref().unwrap_or_default();
    let is_there = work.engine.registry.has_blob(reference, &digest, "pull", &login);
    let (read, is_there) = futures_util::future::join(parts::read(&tags, name), is_there).await;
    // A manifest whose config was lost holds nothing: it is written anew.
    let read = read?.unwrap_or_default();
    let lost = !is_there.map_err(Error::from)? && read.head(&config).is_some();
    Ok(if lost { Kept::default() } else { read })
}

/// Adds `config`, whose layers are there already. Gives the manifest at the reference.
pub async fn add(
    work: &Work,
    reference: &Reference,
    config: &Config,
    blobs: &Blobs,
    form: Form,
    before: &Kept,
) -> Result<Descriptor, crate::Error> {
    let tags = Tags { work, reference, form, ours: None };
    let login = ClientLogin(work.session.clone());
    if work.engine.registry.joins(reference, &login).await.map_err(Error::from)? {
        let same = before.holding(config)?.filter(|head| form.media_type() == head.media_type);
        return match same {
            Some(head) => Ok(head.clone()),
            None => tags.hand_over(config, blobs).await,
        };
    }
    parts::add_to(&tags, reference.tag.as_deref().unwrap_or_default(), config, blobs, before).await
}

struct Tags<'a> {
    work: &'a Work,
    /// The cache's own.
    reference: &'a Reference,
    form: Form,
    /// A config that is known already, by its digest.
    ours: Option<(Digest, &'a Config)>,
}

impl Board for Tags<'_> {
    fn most(&self) -> usize {
        MOST
    }

    fn one<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<One>, crate::Error>> {
        self.get(name).boxed()
    }

    fn names<'a>(&'a self, beginning: &'a str) -> BoxFuture<'a, Result<Vec<String>, crate::Error>> {
        async move {
            if self.reference.digest.is_some() {
                return Ok(Vec::new());
            }
            let login = ClientLogin(self.work.session.clone());
            Ok(self.work.engine.registry.tags(self.reference, beginning, &login).await.unwrap_or_default())
        }
        .boxed()
    }

    fn put<'a>(
        &'a self,
        name: &'a str,
        config: &'a Config,
        blobs: &'a Blobs,
        held: Option<String>,
    ) -> BoxFuture<'a, Result<Descriptor, crate::Error>> {
        async move {
            let login = ClientLogin(self.work.session.clone());
            let annotations = held.into_iter().map(|names| (HELD.to_owned(), names)).collect();
            let (manifest, media_type) = self.manifest(config, blobs, annotations).await?;
            let digest = Digest::of(&manifest);
            let kind = if self.form == Form::ImageManifest { "image manifest" } else { "manifest" };
            part(self.work, &format!("writing cache {kind} {digest}"));
            let (registry, reference) = (&self.work.engine.registry, self.at(name));
            registry.push_manifest(&reference, media_type, &manifest, &login).await.map_err(Error::from)?;
            Ok(Descriptor::new(media_type, digest, manifest.len() as u64))
        }
        .boxed()
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), crate::Error>> {
        async move {
            let login = ClientLogin(self.work.session.clone());
            let (registry, part) = (&self.work.engine.registry, self.at(name));
            let Ok((bytes, _)) = registry.manifest(&part, &login).await else { return Ok(()) };
            Ok(registry.delete_manifest(&part, &Digest::of(&bytes), &login).await.map_err(Error::from)?)
        }
        .boxed()
    }
}

impl Tags<'_> {
    fn at(&self, tag: &str) -> Reference {
        if self.reference.tag.as_deref().unwrap_or_default() == tag {
            return self.reference.clone();
        }
        Reference { tag: Some(tag.to_owned()), digest: None, ..self.reference.clone() }
    }

    /// One manifest and its config.
    async fn get(&self, name: &str) -> Result<Option<One>, crate::Error> {
        let (login, reference) = (ClientLogin(self.work.session.clone()), self.at(name));
        let registry = &self.work.engine.registry;
        let (bytes, kind) = match registry.manifest(&reference, &login).await {
            Ok(found) => found,
            Err(error) if matches!(error.last(), registry::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(Error::from(error).into()),
        };
        let Ok(document) = ManifestOrIndex::decode(&bytes, None) else { return Ok(None) };
        let Some(listing) = Listing::read(&document) else { return Ok(None) };
        let mut annotations = match document {
            ManifestOrIndex::Manifest(manifest) => manifest.annotations,
            ManifestOrIndex::Index(index) => index.annotations,
        };
        let config = match self.ours {
            Some((digest, ours)) if digest == listing.config.digest => ours.clone(),
            _ => match self.config(&listing.config).await? {
                Some(config) => config,
                None => return Ok(None),
            },
        };
        let config = config.without(|output| !output.blobs.iter().all(|d| listing.blobs.contains_key(d)));
        let document = Descriptor::new(&kind, Digest::of(&bytes), bytes.len() as u64);
        Ok(Some(One { config, blobs: listing.blobs, held: annotations.remove(HELD), document }))
    }

    /// A config, if it is there.
    async fn config(&self, what: &Descriptor) -> Result<Option<Config>, crate::Error> {
        let login = ClientLogin(self.work.session.clone());
        let mut json = Vec::new();
        match self.work.engine.registry.blob(self.reference, what, &login, &mut json, &mut |_| {}).await {
            Ok(()) => Ok(Some(Config::parse(&json).map_err(Error::from)?)),
            Err(error) if matches!(error.last(), registry::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(Error::from(error).into()),
        }
    }

    /// Lets the registry join it: one manifest, whoever else writes.
    async fn hand_over(&self, config: &Config, blobs: &Blobs) -> Result<Descriptor, crate::Error> {
        let login = ClientLogin(self.work.session.clone());
        let registry = &self.work.engine.registry;
        let (manifest, media_type) = self.manifest(&fit(config, MOST), blobs, BTreeMap::new()).await?;
        part(self.work, "joining the cache at the registry");
        let joined = registry.join_manifest(self.reference, media_type, &manifest, &login).await;
        let digest = joined.map_err(Error::from)?.unwrap_or_else(|| Digest::of(&manifest));
        // What others joined meanwhile is theirs to tell.
        let written = match registry.manifest(self.reference, &login).await {
            Ok((bytes, kind)) if Digest::of(&bytes) == digest => Some((kind, bytes.len())),
            Ok(_) => None,
            Err(error) if matches!(error.last(), registry::Error::NotFound { .. }) => None,
            Err(error) => return Err(Error::from(error).into()),
        };
        let (kind, size) = written.unwrap_or_else(|| (media_type.to_owned(), manifest.len()));
        Ok(Descriptor::new(&kind, digest, size as u64))
    }

    /// A manifest whose config is there already.
    async fn manifest(
        &self,
        config: &Config,
        blobs: &Blobs,
        annotations: BTreeMap<String, String>,
    ) -> Result<(Vec<u8>, &'static str), crate::Error> {
        let login = ClientLogin(self.work.session.clone());
        let registry = &self.work.engine.registry;
        let json = config.to_json();
        let descriptor = Descriptor::new(CONFIG, Digest::of(&json), json.len() as u64);
        part(self.work, &format!("writing config {}", descriptor.digest));
        registry.push_blob(self.reference, &descriptor, Content::Bytes(json), &login).await.map_err(Error::from)?;
        let listing = Listing { config: descriptor, blobs: blobs.clone() };
        Ok(listing.write(config, self.form, annotations).map_err(Error::from)?)
    }
}
