//! Images from registries, OCI layouts and larder's own store: resolved to a digest first, pulled only when files are
//! needed. Manifests and configurations are kept as blobs, so a pinned image that was seen once asks nobody.

use graph::{Kind, Vertex};
use oci::{Digest, ImageConfig, Manifest, ManifestOrIndex, Platform, Reference};
use solver::key;
use store::SnapshotId;
use tokio::sync::OnceCell;

use super::bytes::Origin;
use super::layers::Layers;
use crate::{Error, Work, sources};

/// When a registry is asked although the image is known here (LLB's `image.resolvemode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResolveMode {
    /// What was built or imported here under that name; else the registry. What is named by digest is taken from here.
    #[default]
    Default,
    /// Always the registry.
    Pull,
    /// What is here under that name.
    Local,
}

impl ResolveMode {
    /// BuildKit's words for it; an unknown one is the default.
    pub fn parse(text: &str) -> ResolveMode {
        match text {
            "pull" => ResolveMode::Pull,
            "local" => ResolveMode::Local,
            _ => ResolveMode::Default,
        }
    }
}

/// A reference that was resolved.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What it names: the digest of the index or manifest behind the tag, which pins the reference.
    pub digest: Digest,
    /// The manifest for the platform.
    pub manifest: Digest,
    /// The image's configuration, as its own bytes.
    pub config_bytes: Vec<u8>,
    /// The same, read.
    pub config: ImageConfig,
}

/// Finds out what `reference` is now for `platform`.
pub async fn resolve(
    work: &Work,
    reference: &Reference,
    platform: &Platform,
    mode: ResolveMode,
) -> Result<Resolved, Error> {
    let (origin, digest) = locate(work, reference, mode).await?;
    let found = read(work, &origin, digest, platform, &reference.to_string()).await?;
    let config_bytes = origin.bytes(work, &found.1.config).await?;
    let config = decode(&reference.to_string(), &config_bytes)?;
    Ok(Resolved { digest, manifest: found.0, config_bytes, config })
}

/// Where an image's bytes come from, and what the reference names there.
async fn locate(work: &Work, reference: &Reference, mode: ResolveMode) -> Result<(Origin, Digest), Error> {
    let store = &work.engine.store;
    if let Some(digest) = reference.digest
        && mode != ResolveMode::Pull
        && store.blobs().has(&digest)?
    {
        return Ok((Origin::Registry(reference.clone()), digest));
    }
    if mode != ResolveMode::Pull {
        let name = Reference { digest: None, ..reference.clone() }.or_latest().to_string();
        if let Some(image) = store.images().get(&name)?
            && reference.digest.is_none_or(|digest| digest == image.target.digest)
        {
            return Ok((Origin::Store, image.target.digest));
        }
    }
    if mode == ResolveMode::Local {
        return Err(sources::Error::NotFound { identifier: reference.to_string() }.into());
    }
    let origin = Origin::Registry(reference.clone());
    let digest = origin.resolve(work, reference).await?;
    Ok((origin, digest))
}

/// The manifest for a platform behind a digest: its own digest, and what it says.
pub(super) async fn read(
    work: &Work,
    origin: &Origin,
    digest: Digest,
    platform: &Platform,
    name: &str,
) -> Result<(Digest, Manifest), Error> {
    let mut digest = digest;
    // An index of indexes ends here too.
    for _ in 0..4 {
        let bytes = origin.manifest(work, &digest).await?;
        let document = ManifestOrIndex::decode(&bytes, None);
        match document.map_err(|e| unreadable(name, &e.to_string()))? {
            ManifestOrIndex::Manifest(manifest) => return Ok((digest, manifest)),
            ManifestOrIndex::Index(index) => {
                let have = || index.manifests.iter().filter_map(|d| d.platform.as_ref()).map(ToString::to_string);
                let chosen = index.choose(platform).ok_or_else(|| sources::Error::NoPlatform {
                    identifier: name.to_owned(),
                    wanted: platform.to_string(),
                    have: have().collect::<Vec<_>>().join(", "),
                })?;
                digest = chosen.digest;
            }
        }
    }
    Err(unreadable(name, "its indexes name each other").into())
}

fn unreadable(name: &str, reason: &str) -> sources::Error {
    sources::Error::Unreadable { identifier: name.to_owned(), reason: reason.to_owned() }
}

pub(super) fn decode(name: &str, config: &[u8]) -> Result<ImageConfig, Error> {
    Ok(serde_json::from_slice(config).map_err(|e| unreadable(name, &format!("its configuration: {e}")))?)
}

/// An image that is known by digest and not yet (or already) unpacked.
pub struct Lazy {
    name: String,
    /// What its name is: the manifest, or the index that has it.
    root: Digest,
    manifest_digest: Digest,
    config: ImageConfig,
    platform: Platform,
    layers: Layers,
    /// Only so many of its layers, from the lowest, are wanted (`image.layerlimit`).
    limit: Option<u32>,
    snapshot: OnceCell<Option<SnapshotId>>,
}

impl Lazy {
    /// The image that a `docker-image://name@digest` source names. Asks nobody when its manifest and config are here.
    pub async fn identify(work: &Work, vertex: &Vertex) -> Result<Lazy, Error> {
        let (name, platform) = named(vertex, "docker-image://")?;
        let reference = Reference::parse(&name).map_err(|e| unreadable(&name, &e.to_string()))?;
        let mode = match vertex.kind() {
            Some(Kind::Source(op)) if op.attrs.get("image.resolvemode").is_some_and(|m| m == "local") => {
                ResolveMode::Local
            }
            _ => ResolveMode::Default,
        };
        let (origin, digest) = locate(work, &reference, mode).await?;
        if let Some(Kind::Source(op)) = vertex.kind()
            && let Some(expected) = op.attrs.get("image.checksum").filter(|text| !text.is_empty())
            && *expected != digest.to_string()
        {
            let (found, expected) = (digest.to_string(), expected.clone());
            return Err(sources::Error::Checksum { identifier: name, found, expected }.into());
        }
        let limit = match vertex.kind() {
            Some(Kind::Source(op)) => limit(&op.identifier, op.attrs.get("image.layerlimit"))?,
            _ => None,
        };
        let mut lazy = Lazy::new(work, &name, origin, digest, platform).await?;
        if let Some(limit) = limit {
            let limited = usize::try_from(limit).unwrap_or(usize::MAX);
            lazy.layers.list.truncate(limited);
            lazy.config.rootfs.diff_ids.truncate(limited);
            lazy.limit = Some(limit);
        }
        Ok(lazy)
    }

    pub(super) async fn new(
        work: &Work,
        name: &str,
        origin: Origin,
        digest: Digest,
        platform: Platform,
    ) -> Result<Lazy, Error> {
        let (manifest_digest, manifest) = read(work, &origin, digest, &platform, name).await?;
        let config = decode(name, &origin.bytes(work, &manifest.config).await?)?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(unreadable(name, "its manifest and its configuration differ in their layers").into());
        }
        let list = manifest.layers.into_iter().zip(config.rootfs.diff_ids.iter().copied()).collect();
        let layers = Layers { name: format!("pulled from {name}"), origin, list };
        let (name, snapshot) = (name.to_owned(), OnceCell::new());
        Ok(Lazy { name, root: digest, manifest_digest, config, platform, layers, limit: None, snapshot })
    }

    /// Cache digests: by manifest (`solver::key::image_key`), and by chain id (`chain_key`).
    pub fn keys(&self) -> Vec<Digest> {
        let by_manifest = key::image_key(&self.manifest_digest, &self.platform, self.limit);
        std::iter::once(by_manifest).chain(key::chain_key(self.config.chain_ids().last())).collect()
    }

    /// Name as written in the graph, and digest of its manifest: the evidence of `BaseImageMoved`.
    pub fn base(&self) -> (String, Digest) {
        let name = self.name.split('@').next().unwrap_or(&self.name);
        let name = Reference::parse(name).map(|r| r.familiar()).unwrap_or_else(|_| name.to_owned());
        (name, self.manifest_digest)
    }

    /// What its name is: the digest of its manifest or of the index that has it.
    pub fn root(&self) -> Digest {
        self.root
    }

    /// Its layers as they are stored elsewhere.
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Its files as a snapshot, pulled and unpacked now if need be; `None` for an image without layers.
    pub async fn snapshot(&self, work: &Work) -> Result<Option<SnapshotId>, Error> {
        self.snapshot.get_or_try_init(|| self.layers.snapshot(work)).await.copied()
    }
}

/// How many layers an attribute allows.
fn limit(identifier: &str, text: Option<&String>) -> Result<Option<u32>, Error> {
    let Some(text) = text else { return Ok(None) };
    let bad = || sources::Error::BadAttribute {
        identifier: identifier.to_owned(),
        name: "image.layerlimit".to_owned(),
        value: text.clone(),
        reason: "invalid layer limit: expected a number of layers above 0".to_owned(),
    };
    let number = text.parse::<u32>().ok().filter(|n| *n > 0);
    Ok(Some(number.ok_or_else(bad)?))
}

/// Name and platform of a source.
pub(super) fn named(vertex: &Vertex, scheme: &str) -> Result<(String, Platform), Error> {
    let identifier = match vertex.kind() {
        Some(Kind::Source(op)) => op.identifier.clone(),
        _ => String::new(),
    };
    let name = identifier.strip_prefix(scheme);
    let name = name.ok_or_else(|| sources::Error::UnknownScheme { identifier: identifier.clone() })?;
    let platform = vertex.op.platform.as_ref().map(|p| {
        let mut platform = Platform::new(&p.os, &p.architecture, &p.variant);
        platform.os_version.clone_from(&p.os_version);
        platform
    });
    Ok((name.to_owned(), platform.unwrap_or_else(Platform::host)))
}
