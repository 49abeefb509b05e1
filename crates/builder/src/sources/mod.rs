//! Where trees come from outside a build: images, OCI layouts, git, HTTP, the client's directories.
//! One file each; a source says first what it is (its key), and brings bytes only when somebody needs them.

pub mod git;
pub mod http;
pub mod image;
pub mod local;
pub mod oci_layout;

/// Why a source can't be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(
        "`{identifier}` is not a source that larder knows: expected docker-image://, oci-layout://, git://, http(s):// or local://"
    )]
    UnknownScheme { identifier: String },
    #[error("source `{identifier}` has a bad attribute {name}={value}: {reason}")]
    BadAttribute { identifier: String, name: String, value: String, reason: String },
    #[error(transparent)]
    Registry(#[from] registry::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Session(#[from] crate::session::Error),
}
