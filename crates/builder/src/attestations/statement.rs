//! Attestations on their way into outputs, and the in-toto statements that they become
//! (<https://in-toto.io/Statement/v1>). A bundle is a directory of statements that a frontend made; it is read here.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use graph::Graph;
use oci::Descriptor;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::view::{Kind, View};

use super::operations::Steps;
use super::predicate::{self, Provenance, Run};
use super::wanted::Version;
use crate::Error;
use crate::driver::Held;

/// Media type of a statement.
pub const MEDIA: &str = "application/vnd.in-toto+json";
/// Annotation with a statement's type.
pub const PREDICATE: &str = "in-toto.io/predicate-type";
/// Type of an SBOM's predicate.
pub const SPDX: &str = "https://spdx.dev/Document";
/// A statement is no larger than this: bytes.
const LARGEST: u64 = 40 << 20;

/// What a statement is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// By algorithm.
    #[serde(default)]
    pub digest: BTreeMap<String, String>,
}

/// What an attestation is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// The image or the files beside it, under a further name unless that is empty.
    Itself(String),
    /// Something else.
    Other(Subject),
}

/// One attestation of a result.
#[derive(Clone)]
pub struct Attestation {
    /// Name of its file beside a tree.
    pub file: String,
    /// Type of what it says.
    pub predicate: String,
    /// What it is about; nothing is the result itself.
    pub about: Vec<About>,
    /// Only for images that take it along.
    pub inline_only: bool,
    /// It is the SBOM of the result itself, not of something that the result was made with.
    pub core: bool,
    /// What it says.
    pub said: Said,
}

/// What an attestation says.
#[derive(Clone)]
pub enum Said {
    /// Something that a scanner or a client said.
    Fixed(Value),
    /// How the result was built.
    Made(Arc<Made>),
}

/// Provenance before it is known which layers the output has.
#[derive(Debug)]
pub struct Made {
    /// All but the layers.
    pub provenance: Provenance,
    /// Its form.
    pub version: Version,
    /// The result's operations, where their layers are told.
    pub graph: Option<Arc<Graph>>,
    /// When it was built; `None` where the output is to be the same every time.
    pub run: Option<Run>,
}

impl Made {
    /// The predicate. `timed` says when and in which build.
    pub fn predicate(&self, layers: &[Descriptor], timed: bool) -> Value {
        let mut provenance = self.provenance.clone();
        if !timed && let Some(operations) = &mut provenance.operations {
            // Digests of operations that read the client's directories name its session.
            operations.ids.clear();
        }
        if let Some(graph) = &self.graph {
            provenance.layers = Steps::of(graph).layers(graph, layers);
        }
        let run = self.run.as_ref().filter(|_| timed);
        match self.version {
            Version::V1 => provenance.v1(run),
            Version::V02 => provenance.v02(run),
        }
    }

    /// Its type.
    pub fn kind(&self) -> &'static str {
        match self.version {
            Version::V1 => predicate::V1,
            Version::V02 => predicate::V02,
        }
    }
}

impl Attestation {
    /// The statement. `itself` is what the output is; `timed` is of [`Made::predicate`].
    pub fn statement(&self, itself: &[Subject], layers: &[Descriptor], timed: bool) -> Value {
        let mut subjects = Vec::new();
        let alone = [About::Itself(String::new())];
        let about = if self.about.is_empty() { alone.as_slice() } else { &self.about };
        for about in about {
            match about {
                About::Other(subject) => subjects.push(subject.clone()),
                About::Itself(name) => {
                    for subject in itself {
                        subjects.push(subject.clone());
                        if !name.is_empty() {
                            subjects.push(Subject { name: name.clone(), ..subject.clone() });
                        }
                    }
                }
            }
        }
        let predicate = match &self.said {
            Said::Fixed(value) => value.clone(),
            Said::Made(made) => made.predicate(layers, timed),
        };
        serde_json::json!({
            "_type": "https://in-toto.io/Statement/v1",
            "predicateType": self.predicate,
            "subject": subjects,
            "predicate": predicate,
        })
    }
}

/// An attestation that a frontend or a client gives with its result: a file or a directory in another result.
pub struct Given {
    /// A directory of whole statements; else a file with what is said.
    pub bundle: bool,
    /// Where the file or directory is.
    pub result: Held,
    /// Its path there.
    pub path: String,
    /// Type of what is said; of a bundle, what all its statements must be. Empty is any.
    pub predicate: String,
    /// What it is about.
    pub about: Vec<About>,
    /// Only for images that take it along.
    pub inline_only: bool,
    /// The name, without an ending, of the file that is the SBOM of the result itself.
    pub core: Option<String>,
}

/// A statement as a scanner writes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    predicate_type: String,
    /// Go writes an empty list as `null`.
    #[serde(default)]
    subject: Option<Vec<Subject>>,
    #[serde(default)]
    predicate: Value,
}

impl Given {
    /// The attestations in it, read from its result's files.
    pub fn read(&self, view: &View) -> Result<Vec<Attestation>, Error> {
        let path = view.resolve(&Path::new("/").join(graph::pattern::clean(&self.path)))?;
        if !self.bundle {
            let bytes = file(view, &path)?;
            // A file that says nothing is no predicate, and the statement stands all the same.
            let said = if bytes.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(&bytes) };
            let said = said.map_err(|e| wrong(&path, &e.to_string()))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Ok(vec![self.attestation(name, self.predicate.clone(), self.about.clone(), said)?]);
        }
        let mut found = Vec::new();
        for node in view.list(&path)? {
            let at = path.join(&node.name);
            let document: Document =
                serde_json::from_slice(&file(view, &at)?).map_err(|e| wrong(&at, &e.to_string()))?;
            if !self.predicate.is_empty() && document.predicate_type != self.predicate {
                let text = format!("it says it is {}, expected {}", document.predicate_type, self.predicate);
                return Err(wrong(&at, &text));
            }
            let about = document.subject.unwrap_or_default().into_iter().map(About::Other).collect();
            let name = node.name.to_string_lossy().into_owned();
            found.push(self.attestation(name, document.predicate_type, about, document.predicate)?);
        }
        Ok(found)
    }

    fn attestation(
        &self,
        file: String,
        predicate: String,
        about: Vec<About>,
        said: Value,
    ) -> Result<Attestation, Error> {
        if predicate.starts_with("https://slsa.dev/provenance/") {
            let text = format!("{file} is provenance: only the builder itself says how something was built");
            return Err(Error::Failed(text));
        }
        let stem = file.split('.').next();
        let core = predicate == SPDX && stem.is_some() && stem == self.core.as_deref();
        Ok(Attestation { file, predicate, about, inline_only: self.inline_only, core, said: Said::Fixed(said) })
    }
}

fn wrong(path: &Path, reason: &str) -> Error {
    Error::Failed(format!("{} can't be used as an attestation: {reason}", path.display()))
}

fn file(view: &View, path: &Path) -> Result<Vec<u8>, Error> {
    let node = view.lookup(path)?.filter(|node| node.kind == Kind::File);
    let node = node.ok_or_else(|| wrong(path, "it is no regular file"))?;
    let mut bytes = Vec::new();
    let failed = |source| crate::session::Error::Read { path: node.source.clone(), source };
    std::fs::File::open(&node.source).map_err(failed)?.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(wrong(path, &format!("it is larger than {LARGEST} bytes")));
    }
    Ok(bytes)
}
