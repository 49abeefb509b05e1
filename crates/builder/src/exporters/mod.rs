//! What becomes of a build's result: an image in the store or a registry, a tar, a directory.
//! One file each; an exporter reads results and never changes them.

mod archive;
mod assemble;
mod files;
mod image;
mod options;

use std::collections::BTreeMap;
use std::sync::Arc;

use oci::{ImageConfig, Platform};

use crate::driver::Held;
use crate::{Engine, Events, Work, session};

/// One `--output`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `image`, `registry`, `oci`, `docker`, `tar`, `local`, `cacheonly`.
    pub kind: String,
    /// BuildKit's attributes.
    pub attributes: BTreeMap<String, String>,
}

/// The result for one platform.
pub struct Built {
    /// Platform of the result.
    pub platform: Platform,
    /// Its files.
    pub result: Held,
    /// The image configuration without diff ids, as the frontend made it. Absent for raw graphs.
    pub config: Option<ImageConfig>,
}

/// Why an output could not be written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("`{kind}` is not an output type: expected image, registry, oci, docker, tar, local or cacheonly")]
    UnknownKind { kind: String },
    #[error("{name}={value} is no attribute of the output {kind}: {reason}")]
    BadAttribute { kind: String, name: String, value: String, reason: String },
    #[error("the output {kind} needs {what}")]
    Missing { kind: String, what: &'static str },
    #[error("can't write {what}: {source}")]
    Write { what: String, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Session(#[from] session::Error),
    #[error(transparent)]
    Registry(#[from] registry::Error),
}

/// What an exporter works with.
pub(crate) struct Export<'a> {
    pub work: Work,
    /// The output's position in the request.
    pub index: usize,
    pub request: &'a Request,
    pub results: &'a [Built],
    /// SOURCE_DATE_EPOCH of the build, in seconds.
    pub epoch: Option<i64>,
}

/// What a kind of output is called while it is written; `None` for the one that writes nothing.
fn title(kind: &str) -> Result<Option<&'static str>, Error> {
    Ok(Some(match kind {
        "image" | "registry" => "exporting to image",
        "oci" => "exporting to oci image format",
        "docker" => "exporting to docker image format",
        "tar" => "exporting to client tarball",
        "local" => "exporting to client directory",
        "cacheonly" => return Ok(None),
        other => return Err(Error::UnknownKind { kind: other.to_owned() }),
    }))
}

/// Refuses outputs of an unknown kind: before anything is built for them.
pub(crate) fn check(outputs: &[Request]) -> Result<(), Error> {
    outputs.iter().try_for_each(|output| title(&output.kind).map(drop))
}

/// Writes every output, one after the other, and gives BuildKit's exporter response.
pub async fn export(
    engine: &Arc<Engine>,
    session: &session::Shared,
    events: &Events,
    build: &str,
    outputs: &[Request],
    results: &[Built],
    attributes: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, crate::Error> {
    let mut response = BTreeMap::new();
    let epoch = attributes.get("build-arg:SOURCE_DATE_EPOCH").and_then(|v| v.parse().ok());
    for (index, request) in outputs.iter().enumerate() {
        let Some(name) = title(&request.kind)? else { continue };
        let task = events.begin(&format!("{build}-export-{index}"), name);
        let cancel = sandbox::Cancel::new().map_err(crate::ops::Error::from)?;
        let work =
            Work { engine: engine.clone(), session: session.clone(), events: events.clone(), step: task.step, cancel };
        let export = Export { work, index, request, results, epoch };
        let written = match request.kind.as_str() {
            "image" | "registry" => image::export(&export).await,
            "oci" | "docker" => archive::export(&export).await,
            _ => files::export(&export).await,
        };
        response.extend(task.finish(written)?);
    }
    Ok(response)
}
