//! Images of OCI layout directories that a client offers.
//! They become [`super::image::Lazy`] like any image; only where their bytes come from differs.

use graph::Vertex;
use oci::Platform;

use super::image::{Lazy, Resolved};
use crate::{Error, Work};

/// Resolves `store` (the client's name for the layout) with an optional `tag` or digest, for `platform`.
pub async fn resolve(_work: &Work, _store: &str, _reference: &str, _platform: &Platform) -> Result<Resolved, Error> {
    Err(crate::sources::Error::UnknownScheme { identifier: "oci-layout (not built yet)".into() }.into())
}

/// The image that an `oci-layout://` source names.
pub async fn identify(_work: &Work, _vertex: &Vertex) -> Result<Lazy, Error> {
    Err(crate::sources::Error::UnknownScheme { identifier: "oci-layout (not built yet)".into() }.into())
}
