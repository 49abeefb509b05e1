//! What can go wrong in a store: what was tried, on which file, and what to do.
//! It never decides what a failure means for a build: the solver and the builder do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use oci::Digest;

use crate::lock::Owner;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process owns the store and the time to wait is over.
    #[error("the store {} is in use by {owner}; waited {waited:?}: wait for it to end, or use another --root", root.display())]
    Locked {
        /// The store.
        root: PathBuf,
        /// Who holds it.
        owner: Owner,
        /// How long this process waited.
        waited: Duration,
    },
    /// The store was written by another version of larder.
    #[error("{} is a store of format {found}, this larder reads format {expected}: use the larder that wrote it, or another --root", path.display())]
    Version {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What this program reads.
        expected: u32,
    },
    /// A file of the store does not hold what it must.
    #[error("{} is damaged: {what}; move the file away to start without what it held", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The metadata database failed.
    #[error("the metadata in {} failed: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What the database said.
        source: Box<redb::Error>,
    },
    /// A blob that should be there is not.
    #[error("blob {digest} is missing from the store")]
    BlobMissing {
        /// Its name.
        digest: Digest,
    },
    /// A blob's file does not hold the bytes of its name.
    #[error("blob {digest} is damaged: {what} ({})", path.display())]
    BlobCorrupt {
        /// Its name.
        digest: Digest,
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Bytes arrived that are not those that were announced.
    #[error("expected the bytes of {expected}, got {found} ({size} bytes)")]
    WrongDigest {
        /// What was announced.
        expected: Digest,
        /// What came.
        found: Digest,
        /// How many bytes came.
        size: u64,
    },
    /// A tree has no such path.
    #[error("\"{path}\": not found")]
    NoPath {
        /// The path as it was asked for.
        path: String,
    },
    /// The named thing does not exist.
    #[error("there is no {kind} `{name}` in the store")]
    NotFound {
        /// What kind of thing.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The thing is being removed, or is gone.
    #[error("{what} was removed from the store meanwhile")]
    Gone {
        /// What.
        what: String,
    },
    /// Somebody needs the thing, so it cannot be removed.
    #[error("{what} is in use")]
    InUse {
        /// What.
        what: String,
    },
    /// A filter expression that cannot be read.
    #[error("cannot read the filter `{text}`: {why} at character {at}")]
    Filter {
        /// The whole expression.
        text: String,
        /// Where reading stopped (character, from 1).
        at: usize,
        /// What was expected.
        why: String,
    },
}

/// Shorthand of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds what was tried to an I/O error.
pub(crate) trait Doing<T> {
    /// `self`, or an error that says that `doing` failed on `path`.
    fn doing(self, doing: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { doing, path: path.to_owned(), source: source.into() })
    }
}
