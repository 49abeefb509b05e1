//! Directories of the client's, scanned in place: one lstat a file when nothing changed.

use store::SnapshotId;

use crate::{Error, Work};

/// A scanned directory.
pub struct Tree {}

impl Tree {
    /// The (filtered) directory as a snapshot, for processes that mount it.
    pub async fn snapshot(&self, _work: &Work) -> Result<Option<SnapshotId>, Error> {
        Err(crate::sources::Error::UnknownScheme { identifier: "local (not built yet)".into() }.into())
    }
}
