//! What becomes of a build's result: an image in the store or a registry, a tar, a directory.
//! One file each; an exporter reads results and never changes them.

mod archive;
pub(crate) mod assemble;
mod attested;
mod files;
mod history;
mod image;
pub(crate) mod options;
pub(crate) mod tarred;

use std::collections::BTreeMap;
use std::sync::Arc;

use oci::{Descriptor, Digest, ImageConfig, Platform};
use serde::{Deserialize, Serialize};

use crate::attestations::{Attestation, Making};
use crate::caches::export::Done;
use crate::driver::Held;
use crate::{Engine, Events, Work, session};

/// One `--output`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// `image`, `registry`, `oci`, `docker`, `tar`, `local`, `cacheonly`.
    pub kind: String,
    /// BuildKit's attributes.
    pub attributes: BTreeMap<String, String>,
}

impl Request {
    /// Whether it is made of files, and not of layers as they lie elsewhere.
    pub fn takes_files(&self) -> bool {
        let is_set =
            |name: &str| self.attributes.get(name).is_some_and(|value| !matches!(value.as_str(), "false" | "0"));
        matches!(self.kind.as_str(), "local" | "tar") || is_set("force-compression") || is_set("rewrite-timestamp")
    }
}

/// The result for one platform.
pub struct Built {
    /// Its name among several results, as a client knows it; empty for the only one.
    pub name: String,
    /// Platform of the result.
    pub platform: Platform,
    /// Its files.
    pub result: Held,
    /// The image configuration without diff ids, as the frontend made it. Absent for raw graphs.
    pub config: Option<ImageConfig>,
    /// The configuration of the image that it is built on, if there is one.
    pub base: Option<ImageConfig>,
    /// SOURCE_DATE_EPOCH as the frontend settled it, in seconds: the time of everything in it.
    pub epoch: Option<i64>,
    /// How it came about.
    pub making: Making,
    /// What is said about it.
    pub attestations: Vec<Attestation>,
    /// What the frontend wants of outputs, in the words of their attributes: the image's name, annotations.
    pub wishes: BTreeMap<String, String>,
}

impl Built {
    /// A result without configuration and attestations.
    pub fn new(name: String, platform: Platform, result: Held, making: Making) -> Built {
        let (config, base, epoch) = (None, None, None);
        let (attestations, wishes) = (Vec::new(), BTreeMap::new());
        Built { name, platform, result, config, base, epoch, making, attestations, wishes }
    }
}

/// What became of the outputs.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// BuildKit's exporter response.
    pub response: BTreeMap<String, String>,
    /// What images became, by the position of their outputs.
    pub images: BTreeMap<usize, Descriptor>,
    /// Their blobs that are no layers.
    pub small: Vec<Digest>,
    /// Layers of each result, as the last image has them.
    pub layers: Vec<Vec<Descriptor>>,
    /// Statements in images, by what they say but for when.
    pub statements: BTreeMap<Digest, Digest>,
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
    #[error("{kind} can't hold attestations: {reason}")]
    Attestations { kind: String, reason: &'static str },
    #[error("the docker exporter does not export manifest lists: choose one platform, or use type=oci")]
    OneImage,
    #[error("cannot overwrite {} from {first} with {second} when split option is disabled", .file.display())]
    Overwrite { file: std::path::PathBuf, first: String, second: String },
    #[error("can't write {what}: {source}")]
    Write { what: String, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Session(#[from] session::Error),
    #[error(transparent)]
    Registry(#[from] registry::Error),
}

impl Error {
    /// Whether the output is wrong as it was asked for.
    pub fn is_request(&self) -> bool {
        use Error::{Attestations, BadAttribute, Missing, OneImage, UnknownKind};
        matches!(self, UnknownKind { .. } | BadAttribute { .. } | Missing { .. } | Attestations { .. } | OneImage)
    }
}

/// What an exporter works with.
pub(crate) struct Export<'a> {
    pub work: Work,
    /// The output's position in the request.
    pub index: usize,
    pub request: &'a Request,
    pub results: &'a [Built],
    /// The client's SOURCE_DATE_EPOCH where it is a time, or says that there is none.
    pub epoch: Option<Option<i64>>,
    /// Statements that were made before.
    pub statements: BTreeMap<Digest, Digest>,
    /// What the build did, where images are to hold the cache of their own layers.
    pub inline: Option<&'a Done>,
    /// Repositories that have layers of this build.
    pub near: &'a [oci::Reference],
}

impl Export<'_> {
    /// The time of everything in a result, in seconds: the output's own attribute (empty: none), the client's build
    /// argument, what the frontend found.
    pub fn epoch(&self, built: &Built) -> Result<Option<i64>, Error> {
        const NAME: &str = "source-date-epoch";
        let Some(text) = self.request.attributes.get(NAME) else { return Ok(self.epoch.unwrap_or(built.epoch)) };
        seconds(text).ok_or_else(|| Error::BadAttribute {
            kind: self.request.kind.clone(),
            name: NAME.to_owned(),
            value: text.clone(),
            reason: "expected seconds".to_owned(),
        })
    }
}

/// A time as clients write it, or the empty text for none.
fn seconds(text: &str) -> Option<Option<i64>> {
    if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
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

/// The repositories that images are pushed to.
pub(crate) fn pushed(outputs: &[Request]) -> Vec<oci::Reference> {
    let pushes = |o: &&Request| {
        o.kind == "registry" || o.attributes.get("push").is_some_and(|v| matches!(v.as_str(), "" | "true" | "1"))
    };
    let names = outputs.iter().filter(pushes).filter_map(|o| o.attributes.get("name"));
    names.flat_map(|list| list.split(',')).filter_map(|name| oci::Reference::parse(name).ok()).collect()
}

#[allow(clippy::too_many_arguments)] // what a build has, once
/// Writes every output, one after the other, and gives BuildKit's exporter response.
pub async fn export(
    engine: &Arc<Engine>,
    session: &session::Shared,
    events: &Events,
    build: &str,
    outputs: &[Request],
    results: &[Built],
    attributes: &BTreeMap<String, String>,
    inline: Option<&Done>,
    near: &[oci::Reference],
) -> Result<Written, crate::Error> {
    let mut all = Written::default();
    let is_image = |output: &Request| matches!(output.kind.as_str(), "image" | "registry" | "oci" | "docker");
    let attested = results.iter().any(|built| !built.attestations.is_empty()) && outputs.iter().any(is_image);
    let statements = if attested { crate::history::statements(&engine.store)? } else { BTreeMap::new() };
    let epoch = attributes.get("build-arg:SOURCE_DATE_EPOCH").and_then(|text| seconds(text));
    for (index, request) in outputs.iter().enumerate() {
        let Some(name) = title(&request.kind)? else { continue };
        let task = events.begin(&format!("{build}-export-{index}"), name);
        let cancel = sandbox::Cancel::new().map_err(crate::ops::Error::from)?;
        let (engine, session, events) = (engine.clone(), session.clone(), events.clone());
        // What is written comes from results: no source is asked for here.
        let work = Work { engine, session, seen: Arc::default(), events, step: task.step, cancel };
        let statements = statements.clone();
        let export = Export { work, index, request, results, epoch, statements, inline, near };
        let written = match request.kind.as_str() {
            "image" | "registry" => image::export(&export).await,
            "oci" | "docker" => archive::export(&export).await,
            _ => files::export(&export).await,
        };
        let written: Written = task.finish(written)?;
        all.response.extend(written.response);
        all.images.extend(written.images);
        all.small.extend(written.small);
        all.statements.extend(written.statements);
        if !written.layers.is_empty() {
            all.layers = written.layers;
        }
    }
    Ok(all)
}
