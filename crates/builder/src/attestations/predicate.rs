//! Provenance predicates in BuildKit's shape: SLSA v1 (<https://slsa.dev/spec/v1.0/provenance>) with BuildKit's
//! extensions, and v0.2 made from it. Data and its JSON form only.

use std::collections::BTreeMap;

use oci::Descriptor;
use serde::Serialize;
use serde_json::{Map, Value};

use super::asked::{ConfigSource, Parameters};
use super::capture::Material;

/// Type of a v1 predicate.
pub const V1: &str = "https://slsa.dev/provenance/v1";
/// Type of a v0.2 predicate.
pub const V02: &str = "https://slsa.dev/provenance/v0.2";
const BUILD_TYPE_V1: &str = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_V02: &str = "https://mobyproject.org/buildkit@v1";

/// When a build was, and which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The build's id.
    pub id: String,
    /// RFC 3339.
    pub started: String,
    /// RFC 3339.
    pub finished: String,
}

/// The build's operations in `mode=max`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Operations {
    /// Each with its id `stepN`, inputs first.
    #[serde(rename = "llbDefinition", skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Value>,
    /// Digest to id.
    #[serde(rename = "digestMapping", skip_serializing_if = "BTreeMap::is_empty")]
    pub ids: BTreeMap<String, String>,
}

/// Everything that a predicate tells, whatever its form.
#[derive(Clone, Debug, Default)]
pub struct Provenance {
    /// What went in.
    pub materials: Vec<Material>,
    /// Where the Dockerfile came from.
    pub config: ConfigSource,
    /// What was asked.
    pub request: Parameters,
    /// Only in `mode=max`.
    pub operations: Option<Operations>,
    /// The machine that built.
    pub platform: String,
    /// Version of the Dockerfile's language, when the build had a Dockerfile and its frontend is built in.
    pub dockerfile: String,
    /// What the operator of the builder adds.
    pub custom: Map<String, Value>,
    /// Who built.
    pub builder: String,
    /// Repository and revision of the context, as the client says.
    pub vcs: BTreeMap<String, String>,
    /// The Dockerfile, and which step stands where in it. Only in `mode=max`.
    pub source: Option<Value>,
    /// Layers of the steps that the result is made of. Only in `mode=max`.
    pub layers: BTreeMap<String, Vec<Vec<Descriptor>>>,
    /// Nothing could come from a network.
    pub hermetic: bool,
    /// The whole request is told.
    pub request_complete: bool,
    /// All materials are known by digest.
    pub materials_complete: bool,
    /// The user's word.
    pub reproducible: bool,
}

fn put(object: &mut Map<String, Value>, name: &str, value: impl Serialize) {
    // Our own data always has a JSON form; what is empty is left out, as Go does.
    let value = serde_json::to_value(value).unwrap_or_default();
    let empty = match &value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(_) => false,
    };
    if !empty {
        object.insert(name.to_owned(), value);
    }
}

fn object(fill: impl FnOnce(&mut Map<String, Value>)) -> Value {
    let mut object = Map::new();
    fill(&mut object);
    Value::Object(object)
}

impl Provenance {
    /// The v1 predicate. Without a run it tells no times and no build, and is the same for the same build.
    pub fn v1(&self, run: Option<&Run>) -> Value {
        let definition = object(|o| {
            o.insert("buildType".to_owned(), BUILD_TYPE_V1.into());
            put(o, "resolvedDependencies", &self.materials);
            let external = object(|o| {
                o.insert("configSource".to_owned(), serde_json::to_value(&self.config).unwrap_or_default());
                o.insert("request".to_owned(), serde_json::to_value(&self.request).unwrap_or_default());
            });
            o.insert("externalParameters".to_owned(), external);
            let internal = object(|o| {
                put(o, "buildConfig", &self.operations);
                put(o, "builderPlatform", &self.platform);
                put(o, "dockerfileVersion", &self.dockerfile);
                o.extend(self.custom.clone());
            });
            o.insert("internalParameters".to_owned(), internal);
        });
        let metadata = object(|o| {
            if let Some(run) = run {
                put(o, "invocationId", &run.id);
                put(o, "startedOn", &run.started);
                put(o, "finishedOn", &run.finished);
            }
            o.insert("buildkit_metadata".to_owned(), self.metadata());
            put(o, "buildkit_hermetic", self.hermetic);
            let completeness = object(|o| {
                o.insert("request".to_owned(), self.request_complete.into());
                o.insert("resolvedDependencies".to_owned(), self.materials_complete.into());
            });
            o.insert("buildkit_completeness".to_owned(), completeness);
            put(o, "buildkit_reproducible", self.reproducible);
        });
        serde_json::json!({
            "buildDefinition": definition,
            "runDetails": { "builder": { "id": self.builder }, "metadata": metadata },
        })
    }

    /// The v0.2 predicate.
    pub fn v02(&self, run: Option<&Run>) -> Value {
        in_v02(&self.v1(run))
    }

    fn metadata(&self) -> Value {
        object(|o| {
            put(o, "vcs", &self.vcs);
            put(o, "source", &self.source);
            put(o, "layers", &self.layers);
        })
    }
}

/// A v1 predicate's content in the form of v0.2.
pub fn in_v02(v1: &Value) -> Value {
    let (definition, details) = (&v1["buildDefinition"], &v1["runDetails"]);
    let (external, internal) = (&definition["externalParameters"], &definition["internalParameters"]);
    let (config, run) = (&external["configSource"], &details["metadata"]);
    let source = object(|o| {
        put(o, "uri", &config["uri"]);
        put(o, "digest", &config["digest"]);
        put(o, "entryPoint", &config["path"]);
    });
    let environment = object(|o| {
        o.extend(internal.as_object().cloned().unwrap_or_default());
        o.remove("buildConfig");
        let platform = o.remove("builderPlatform");
        put(o, "platform", platform);
    });
    let yes = |value: &Value| value.as_bool().unwrap_or(false);
    let complete = &run["buildkit_completeness"];
    let metadata = object(|o| {
        put(o, "buildInvocationID", &run["invocationId"]);
        put(o, "buildStartedOn", &run["startedOn"]);
        put(o, "buildFinishedOn", &run["finishedOn"]);
        let completeness = serde_json::json!({
            "parameters": yes(&complete["request"]),
            "environment": true,
            "materials": yes(&complete["resolvedDependencies"]),
        });
        o.insert("completeness".to_owned(), completeness);
        o.insert("reproducible".to_owned(), yes(&run["buildkit_reproducible"]).into());
        let more = run["buildkit_metadata"].as_object().cloned().unwrap_or_default();
        o.insert("https://mobyproject.org/buildkit@v1#metadata".to_owned(), Value::Object(more));
        put(o, "https://mobyproject.org/buildkit@v1#hermetic", yes(&run["buildkit_hermetic"]));
    });
    object(|o| {
        o.insert("builder".to_owned(), details["builder"].clone());
        o.insert("buildType".to_owned(), BUILD_TYPE_V02.into());
        put(o, "materials", &definition["resolvedDependencies"]);
        let invocation = serde_json::json!({
            "configSource": source,
            "parameters": external["request"],
            "environment": environment,
        });
        o.insert("invocation".to_owned(), invocation);
        put(o, "buildConfig", &internal["buildConfig"]);
        o.insert("metadata".to_owned(), metadata);
    })
}
