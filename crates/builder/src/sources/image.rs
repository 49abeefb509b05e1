//! Images from registries and from larder's own store: resolved to a digest first, pulled only when files are needed.

use store::SnapshotId;

use crate::{Error, Work};

/// An image that is known by digest and not yet (or already) unpacked.
pub struct Lazy {}

impl Lazy {
    /// Its files as a snapshot, pulled and unpacked now if need be; `None` for an image without layers.
    pub async fn snapshot(&self, _work: &Work) -> Result<Option<SnapshotId>, Error> {
        Err(crate::sources::Error::UnknownScheme { identifier: "docker-image (not built yet)".into() }.into())
    }
}
