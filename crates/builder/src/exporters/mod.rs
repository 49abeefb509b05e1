//! What becomes of a build's result: an image in the store or a registry, a tar, a directory.
//! One file each; an exporter reads results and never changes them.

use std::collections::BTreeMap;

use oci::{ImageConfig, Platform};

use crate::Live;

/// One `--output`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `image`, `oci`, `docker`, `tar`, `local`.
    pub kind: String,
    /// BuildKit's attributes.
    pub attributes: BTreeMap<String, String>,
}

/// The result for one platform.
pub struct Built {
    /// Platform of the result.
    pub platform: Platform,
    /// Its files.
    pub result: Live,
    /// The image configuration without diff ids, as the frontend made it. Absent for raw graphs.
    pub config: Option<ImageConfig>,
}

/// Why an output could not be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("`{kind}` is not an output type: expected image, registry, oci, docker, tar, local or cacheonly")]
    UnknownKind { kind: String },
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Session(#[from] crate::session::Error),
    #[error(transparent)]
    Registry(#[from] registry::Error),
}

/// Writes every output.
pub async fn export(
    _engine: &std::sync::Arc<crate::Engine>,
    _session: &crate::session::Shared,
    _events: &crate::Events,
    _build: &str,
    _outputs: &[Request],
    _results: &[Built],
    _attributes: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, crate::Error> {
    Ok(BTreeMap::new())
}
