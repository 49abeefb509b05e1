//! Where trees come from outside a build: images, OCI layouts, git, HTTP, the client's directories.
//! One file each; a source says first what it is (its key), and brings bytes only when somebody needs them.

pub mod bytes;
pub mod git;
pub mod http;
pub mod image;
pub mod layers;
pub mod local;
pub mod oci_layout;
pub mod remote;
mod seen;

use std::sync::Arc;

use graph::Vertex;
use oci::Digest;
use solver::Part;

use crate::attestations::{Pin, redact};
use crate::{Live, Work};

pub use seen::Seen;

/// A source that is known: what it is now, not necessarily its files.
pub enum Source {
    /// An image of a registry, of the store or of an OCI layout.
    Image(Arc<image::Lazy>),
    /// A commit.
    Git(git::Pinned),
    /// A file from the web.
    Http(http::Pinned),
    /// A directory of the client's: nothing is known of it before it is scanned.
    Local,
}

impl Source {
    /// Finds out what a source is now.
    pub async fn identify(work: &Work, vertex: &Vertex) -> Result<Source, crate::Error> {
        let identifier = match vertex.kind() {
            Some(graph::Kind::Source(op)) => op.identifier.as_str(),
            _ => "",
        };
        let scheme = identifier.split_once("://").map_or("", |(scheme, _)| scheme);
        Ok(match scheme {
            "docker-image" => Source::Image(Arc::new(image::Lazy::identify(work, vertex).await?)),
            "oci-layout" => Source::Image(Arc::new(oci_layout::identify(work, vertex).await?)),
            "git" => Source::Git(git::Pinned::identify(work, vertex).await?),
            "http" | "https" => Source::Http(http::Pinned::identify(work, vertex).await?),
            "local" => Source::Local,
            _ => return Err(Error::UnknownScheme { identifier: identifier.to_owned() }.into()),
        })
    }

    /// Cache digests, the most exact first; none where only content names it.
    pub fn keys(&self) -> Vec<Digest> {
        match self {
            Source::Image(image) => image.keys(),
            Source::Git(git) => git.keys(),
            Source::Http(file) => file.keys(),
            Source::Local => Vec::new(),
        }
    }

    /// What it turned out to be; `None` for a directory, which nothing but its content names.
    pub fn pin(&self) -> Option<Pin> {
        Some(match self {
            Source::Image(image) => Pin::Image(image.root()),
            Source::Git(git) => Pin::Git(git.commit().to_owned()),
            Source::Http(file) => Pin::Http(file.digest()),
            Source::Local => return None,
        })
    }

    /// What a step that reads it is made of: its name, and what that is now.
    pub fn part(&self) -> Option<Part> {
        Some(match self {
            Source::Image(image) => {
                let (reference, digest) = image.base();
                Part::Base { reference, digest }
            }
            Source::Git(git) => Part::Source { name: git.shown(), version: git.commit().to_owned() },
            Source::Http(file) => Part::Source { name: redact(file.shown()), version: file.digest().to_string() },
            Source::Local => return None,
        })
    }

    /// Its files, as late as can be.
    pub async fn live(&self, work: &Work, vertex: &Vertex) -> Result<Live, crate::Error> {
        Ok(match self {
            Source::Image(image) => Live::Image(image.clone()),
            Source::Git(git) => Live::Snapshot(git.snapshot(work).await?),
            Source::Http(file) => Live::Snapshot(file.snapshot(work).await?),
            Source::Local => Live::Local(Arc::new(local::Tree::scan(work, vertex).await?)),
        })
    }
}

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
    #[error("there is no image `{identifier}` here: build or import it, or allow the registry to be asked")]
    NotFound { identifier: String },
    #[error("image digest {found} for {identifier} does not match expected checksum {expected}")]
    Checksum { identifier: String, found: String, expected: String },
    #[error("{identifier} has no image for {wanted}: it has {have}")]
    NoPlatform { identifier: String, wanted: String, have: String },
    #[error("it has {size} bytes, and is said to have {expected}")]
    WrongSize { expected: u64, size: u64 },
    #[error("{identifier} can't be read as an image: {reason}")]
    Unreadable { identifier: String, reason: String },
    #[error(transparent)]
    Git(#[from] git::Error),
    #[error(transparent)]
    Registry(#[from] registry::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Session(#[from] crate::session::Error),
}
