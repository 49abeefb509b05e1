//! Results that exist while builds run, from nothing at all to a mounted directory's worth of files.
//! A result is as lazy as it can be: a base image is a digest until somebody needs its files.

use std::sync::Arc;

use store::SnapshotId;

use crate::caches::Remote;
use crate::sources::{image, local};
use crate::{Error, Work};

/// One output of one vertex.
#[derive(Clone)]
pub enum Live {
    /// An empty tree.
    Scratch,
    /// A tree in the store.
    Snapshot(SnapshotId),
    /// An image by digest, pulled when its files are needed.
    Image(Arc<image::Lazy>),
    /// A result of a cache from elsewhere, brought when its files are needed.
    Remote(Arc<Remote>),
    /// A directory of the client's, scanned; copied into the store only where a process needs it mounted.
    Local(Arc<local::Tree>),
}

impl Live {
    /// The tree in the store, made now if need be. `None` is the empty tree.
    pub async fn snapshot(&self, work: &Work) -> Result<Option<SnapshotId>, Error> {
        Ok(match self {
            Live::Scratch => None,
            Live::Snapshot(id) => Some(*id),
            Live::Image(image) => image.snapshot(work).await?,
            Live::Remote(remote) => remote.snapshot(work).await?,
            Live::Local(tree) => tree.snapshot(work).await?,
        })
    }
}
