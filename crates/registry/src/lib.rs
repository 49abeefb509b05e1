//! The distribution protocol (OCI distribution-spec). The client's side: resolve, fetch and push, with authentication; it
//! knows images as bytes and descriptors, keeps nothing on disk and never unpacks. The server's side is in `server`.

mod ask;
mod attend;
mod auth;
mod client;
pub mod docker_config;
mod download;
pub mod filter;
pub mod gha;
mod hosts;
mod pieces;
mod push;
pub mod s3;
pub mod server;
mod trust;

pub use ask::Content;
pub use auth::Login;
pub use client::Client;
pub use download::{Download, Headers, host_of};
pub use hosts::Host;
pub use push::Upload;
pub use trust::Trust;

/// Why a registry could not be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("{url} can't be reached: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{reference} is not there ({host} says {status})")]
    NotFound { host: String, reference: String, status: u16 },
    #[error(
        "{host} refuses access to {reference} ({status}): log in with `docker login {host}`, or ask for the right to it"
    )]
    Denied { host: String, reference: String, status: u16 },
    #[error("{host} answered {status} for {what}: {body}")]
    Status { host: String, what: String, status: u16, body: String },
    #[error("the header {name} can't be sent: it has bytes that no header may have")]
    Header { name: String },
    #[error("{what} from {host} is damaged: expected {expected}, got {found}")]
    WrongDigest { host: String, what: String, expected: String, found: String },
    #[error("no credentials for {host}: {reason}")]
    Login { host: String, reason: String },
    #[error("{host} gave no token for {scope}: {reason}")]
    Token { host: String, scope: String, reason: String },
    #[error("can't read {path}: {reason}")]
    Config { path: std::path::PathBuf, reason: String },
    #[error("{host} refuses access to {what} ({status}): {reason}")]
    Forbidden { host: String, what: String, status: u16, reason: String },
    #[error("there are no credentials for AWS: tried {tried}")]
    NoKeys { tried: String },
    #[error("can't keep {what}: {source}")]
    Write { what: String, source: std::io::Error },
    /// The last failure of several.
    #[error("{last} (after {tries} tries)")]
    Tried { tries: u32, last: Box<Error> },
}

impl Error {
    /// The same, when it was not the first try.
    fn after(self, tries: u32) -> Error {
        if tries > 1 { Error::Tried { tries, last: Box::new(self) } } else { self }
    }

    /// How often it was tried.
    pub fn tries(&self) -> u32 {
        if let Error::Tried { tries, .. } = self { *tries } else { 1 }
    }

    /// The failure itself.
    pub fn last(&self) -> &Error {
        if let Error::Tried { last, .. } = self { last.last() } else { self }
    }
}
