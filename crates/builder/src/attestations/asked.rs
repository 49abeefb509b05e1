//! What a build was asked for, as provenance tells it: the frontend and its attributes, without what is only about this
//! machine, with credentials and whatever looks like a secret hidden; and where graphs that it was given came from.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use graph::Graph;
use graph::git::GitUrl;
use oci::Digest;
use serde::{Deserialize, Serialize};

use super::capture::{Capture, Material};
use super::redact;

/// Where the Dockerfile came from, when not from the client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigSource {
    /// Its address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// By algorithm.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digest: BTreeMap<String, String>,
    /// The file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
}

/// A secret or an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Id {
    /// Its id.
    pub id: String,
    /// Whether the build goes on without it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// A directory of the client's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// The client's name for it.
    pub name: String,
}

/// What a frontend was asked (BuildKit's `Parameters`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parameters {
    /// Its name; empty for a graph of the client's own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub frontend: String,
    /// Its attributes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
    /// Secrets that were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Id>,
    /// SSH agents that were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<Id>,
    /// Directories of the client's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locals: Vec<Local>,
    /// How the graphs that it was given were made.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Asked>,
    /// What the user asked, where that is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Box<Asked>>,
}

/// A request, as it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Where its Dockerfile came from.
    #[serde(rename = "configSource")]
    pub config: ConfigSource,
    /// The request.
    pub request: Parameters,
}

/// A request as it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The frontend; empty for a graph.
    pub frontend: String,
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// How the graphs that it was given were made, as far as known.
    pub inputs: BTreeMap<String, Asked>,
}

/// Where a result came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The request that made it; `None` is a graph of the client's own.
    pub call: Option<Call>,
    /// What the client asked the builder at first.
    pub root: Call,
}

/// Attributes that say something about this machine or this client only.
const OURS: [&str; 4] = ["cgroup-parent", "image-resolve-mode", "platform", "cache-imports"];

impl Call {
    /// Whether it says anything.
    fn is_empty(&self) -> bool {
        self.frontend.is_empty() && self.attributes.is_empty() && self.inputs.is_empty()
    }

    /// As it is told; `captured` knows what addresses turned out to be.
    fn told(&self, captured: &Capture) -> Asked {
        let mut args = BTreeMap::new();
        for (name, value) in &self.attributes {
            if OURS.contains(&name.as_str()) || name.starts_with("attest:") {
                continue;
            }
            let value =
                if name.starts_with("context:") || name == "vcs:source" { redact(value) } else { value.clone() };
            args.insert(name.clone(), solver::shown(name, &value));
        }
        let set = |name: &str| self.attributes.get(name).filter(|v| !v.is_empty());
        let key = match (set("contextkey"), set("input:context")) {
            (Some(key), _) => key.as_str(),
            (None, Some(_)) => "input:context",
            _ => "context",
        };
        let mut config = set(key).map(|address| source(address, captured)).unwrap_or_default();
        if set(key).is_some() {
            args.remove(key);
        }
        if let Some(path) = set("filename") {
            config.path.clone_from(path);
            args.remove("filename");
        }
        let (frontend, inputs) = (self.frontend.clone(), self.inputs.clone());
        Asked { config, request: Parameters { frontend, args, inputs, ..Parameters::default() } }
    }
}

impl Origin {
    /// As it is told.
    pub fn told(&self, captured: &Capture) -> Asked {
        let Some(call) = &self.call else { return Asked::default() };
        let mut asked = call.told(captured);
        let root = self.root.told(captured);
        if !self.root.is_empty() && root != asked && root.request != Parameters::default() {
            asked.request.root = Some(Box::new(root));
        }
        asked
    }
}

impl Parameters {
    /// Takes out what `mode=min` does not tell; whether something was taken that the build depended on.
    pub fn minimise(&mut self) -> bool {
        let before = self.args.len();
        self.args.retain(|name, _| !name.starts_with("build-arg:") && !name.starts_with("label:"));
        let mut less = self.args.len() < before;
        self.secrets.clear();
        self.ssh.clear();
        for asked in self.inputs.values_mut().chain(self.root.as_deref_mut()) {
            less |= asked.request.minimise();
        }
        less
    }
}

/// An address of a context, with the digest of what it was.
fn source(address: &str, captured: &Capture) -> ConfigSource {
    let uri = redact(address);
    let material = match GitUrl::parse(&uri) {
        Some(git) => {
            let whole =
                if git.reference.is_empty() { git.remote.clone() } else { format!("{}#{}", git.remote, git.reference) };
            captured.find(&whole)
        }
        None => captured.find(&uri),
    };
    let digest = material.map(|Material { digest, .. }| digest.clone()).unwrap_or_default();
    ConfigSource { uri, digest, path: String::new() }
}

/// Graphs that frontends made in builds that go on, by their heads: a client may give them to another build.
#[derive(Clone, Default)]
pub struct Producers(Arc<Mutex<Known>>);

type Known = HashMap<Digest, Vec<(String, Asked)>>;

impl Producers {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `build` made a graph.
    pub fn note(&self, build: &str, graph: &Graph, asked: Asked) {
        if let Some(head) = graph.head {
            self.lock().entry(head.vertex).or_default().push((build.to_owned(), asked));
        }
    }

    /// How a graph was made; `None` when that is not known, or when it was made in several ways.
    pub fn find(&self, graph: &Graph) -> Option<Asked> {
        let known = self.lock();
        let mut all = known.get(&graph.head?.vertex)?.iter().map(|(_, asked)| {
            let mut asked = asked.clone();
            asked.request.root = None;
            asked
        });
        let first = all.next()?;
        all.all(|other| other == first).then_some(first)
    }

    /// Forgets what a build made.
    pub fn forget(&self, build: &str) {
        self.lock().retain(|_, list| {
            list.retain(|(of, _)| of != build);
            !list.is_empty()
        });
    }
}
