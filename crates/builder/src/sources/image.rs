//! Images from registries and from larder's own store: resolved to a digest first, pulled only when files are needed.

use graph::Vertex;
use oci::{Digest, ImageConfig, Platform, Reference};
use store::SnapshotId;

use crate::{Error, Work};

/// When a registry is asked although the image is known here (LLB's `image.resolvemode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResolveMode {
    /// Ask the registry; what is named by digest is taken from here if it is here.
    #[default]
    Default,
    /// Always ask.
    Pull,
    /// What is here under that name is taken.
    Local,
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

/// Finds out what `reference` is now for `platform`: larder's own images first when `mode` allows, then the registry.
/// Order for [`ResolveMode::Default`]: the registry; when it can't be reached at all, what is here under that name.
pub async fn resolve(
    _work: &Work,
    _reference: &Reference,
    _platform: &Platform,
    _mode: ResolveMode,
) -> Result<Resolved, Error> {
    Err(crate::sources::Error::UnknownScheme { identifier: "docker-image (not built yet)".into() }.into())
}

/// An image that is known by digest and not yet (or already) unpacked.
pub struct Lazy {}

impl Lazy {
    /// The image that a `docker-image://name@digest` source names. Asks nobody when its manifest and config are here.
    pub async fn identify(_work: &Work, _vertex: &Vertex) -> Result<Lazy, Error> {
        Err(crate::sources::Error::UnknownScheme { identifier: "docker-image (not built yet)".into() }.into())
    }

    /// Cache digests: by manifest (`solver::key::image_key`), and by chain id (`chain_key`).
    pub fn keys(&self) -> Vec<Digest> {
        Vec::new()
    }

    /// Name as written in the graph, and digest of its manifest: the evidence of `BaseImageMoved`.
    pub fn base(&self) -> (String, Digest) {
        (String::new(), Digest::of(b""))
    }

    /// Its files as a snapshot, pulled and unpacked now if need be; `None` for an image without layers.
    pub async fn snapshot(&self, _work: &Work) -> Result<Option<SnapshotId>, Error> {
        Err(crate::sources::Error::UnknownScheme { identifier: "docker-image (not built yet)".into() }.into())
    }
}
