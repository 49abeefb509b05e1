//! Caches that travel: read from elsewhere before a build, written elsewhere after it, in BuildKit's formats.
//! What a cache says is `solver::exchange`'s; here is where it is kept, what of it is there, and when its bytes move.
//! Whatever goes wrong elsewhere costs steps that run, never the build.

mod collect;
mod early;
pub mod export;
pub mod gha;
mod import;
mod known;
mod of_build;
mod parts;
mod place;
mod remote;
pub mod s3;
pub mod shelf;
mod tags;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::Duration;

use solver::Cause;

pub use early::Early;
pub use import::{Import, Imports, Outcome, import};
pub use known::Known;
pub use of_build::OfBuild;
pub(crate) use place::push_blob;
pub use remote::Remote;

/// One `--cache-from` or `--cache-to`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `registry`, `local`, `inline`, `s3`, `gha`.
    pub kind: String,
    /// BuildKit's attributes.
    pub attributes: BTreeMap<String, String>,
}

impl Request {
    /// Where it is, for people: BuildKit's words.
    pub fn shown(&self) -> String {
        let place = ["ref", "src", "dest"].iter().find_map(|name| self.attribute(name)).unwrap_or_default();
        let parsed = oci::Reference::parse(place).map(|r| r.or_latest().to_string());
        match self.kind.as_str() {
            "registry" => parsed.unwrap_or_else(|_| place.to_owned()),
            "s3" => {
                let part = |name: &str| self.attribute(name).unwrap_or_default();
                let name = self.attribute("name").unwrap_or("buildkit");
                format!("s3://{}/{}{name}", part("bucket"), part("prefix"))
            }
            "gha" => format!("gha:{}", self.attribute("scope").unwrap_or("buildkit")),
            kind => format!("{kind}:{place}"),
        }
    }

    /// An attribute that says something.
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    fn required(&self, name: &'static str) -> Result<&str, Error> {
        self.attribute(name).ok_or_else(|| Error::Missing { kind: self.kind.clone(), name })
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, Error> {
        match self.attribute(name) {
            None => Ok(default),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(value) => Err(self.bad(name, value, "expected true or false")),
        }
    }

    fn duration(&self, name: &str, default: Duration) -> Result<Duration, Error> {
        let Some(value) = self.attribute(name) else { return Ok(default) };
        let nanos = oci::time::duration(value).and_then(|nanos| u64::try_from(nanos).ok());
        nanos.map(Duration::from_nanos).ok_or_else(|| self.bad(name, value, "expected a duration such as 10m or 24h"))
    }

    fn bad(&self, name: &str, value: &str, reason: &str) -> Error {
        let (kind, name, value) = (self.kind.clone(), name.to_owned(), value.to_owned());
        Error::BadAttribute { kind, name, value, reason: reason.to_owned() }
    }
}

/// Why a cache could not be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("`{kind}` is not a cache that larder can {doing}: expected {expected}")]
    UnknownKind { kind: String, doing: &'static str, expected: &'static str },
    #[error("a cache of the type {kind} needs {name}=…")]
    Missing { kind: String, name: &'static str },
    #[error("{name}={value} is no attribute of a cache of the type {kind}: {reason}")]
    BadAttribute { kind: String, name: String, value: String, reason: String },
    #[error("{place} holds no cache: {reason}")]
    NoCache { place: String, reason: String },
    #[error(transparent)]
    Exchange(#[from] solver::exchange::Error),
    #[error(transparent)]
    Registry(#[from] registry::Error),
    #[error(transparent)]
    Session(#[from] crate::session::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// Whether the cache is wrong as it was asked for.
    pub fn is_request(&self) -> bool {
        matches!(self, Error::UnknownKind { .. } | Error::Missing { .. } | Error::BadAttribute { .. })
    }
}

/// What a failure to get something from `backend` means for the steps that needed it.
fn cause(backend: &str, error: &crate::Error) -> Cause {
    let looked = vec![backend.to_owned()];
    let unavailable = |error: &crate::Error, tries: u32| {
        let (backend, error) = (backend.to_owned(), error.to_string());
        Cause::BackendUnavailable { backend, error, tries }
    };
    match (error, fault(error)) {
        (crate::Error::Blob { digest, .. }, Fault::Missing) => {
            Cause::BlobMissing { digest: digest.to_string(), looked }
        }
        (crate::Error::Blob { digest, .. }, Fault::Corrupt) => {
            Cause::BlobCorrupt { digest: digest.to_string(), looked }
        }
        (error, Fault::Unreachable(tries)) => unavailable(error, tries),
        (error, Fault::Missing | Fault::Corrupt) => unavailable(error, 1),
    }
}

/// What kind of failure it is.
enum Fault {
    Missing,
    Corrupt,
    /// After so many tries.
    Unreachable(u32),
}

fn fault(error: &crate::Error) -> Fault {
    use crate::sources::Error as Source;
    let registry = |error: &registry::Error| match error.last() {
        registry::Error::NotFound { .. } => Fault::Missing,
        registry::Error::WrongDigest { .. } => Fault::Corrupt,
        _ => Fault::Unreachable(error.tries()),
    };
    match error {
        crate::Error::Source(Source::Registry(error)) | crate::Error::Cache(Error::Registry(error)) => registry(error),
        crate::Error::Session(crate::session::Error::NoBlob { .. })
        | crate::Error::Cache(Error::Session(crate::session::Error::NoBlob { .. })) => Fault::Missing,
        crate::Error::Blob { error, .. } => fault(error),
        // Bytes that came and are not those asked for, or no layer. That they can't be kept is not their fault.
        crate::Error::Store(store::Error::Io { source, .. })
            if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::PermissionDenied) =>
        {
            Fault::Unreachable(1)
        }
        crate::Error::Store(_) | crate::Error::Source(Source::Store(_) | Source::WrongSize { .. }) => Fault::Corrupt,
        _ => Fault::Unreachable(1),
    }
}
