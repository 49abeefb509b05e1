//! The distribution protocol (OCI distribution-spec), the client's side: resolve, fetch and push, with authentication.
//! It knows images as bytes and descriptors; it keeps nothing on disk and never unpacks.

/// A client for all registries. (being built)
#[derive(Debug, Default)]
pub struct Client {}

/// Why a registry could not be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("{0}")]
    Other(String),
}
