//! From what a client wants to a result: a graph as it is, or the Dockerfile frontend with its attributes.
//! A result is known by id and not made yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use builder::attestations::Making;
use builder::frontends::questions::Answered;
use builder::frontends::{Elsewhere, Made, Target, is_built_in};
use builder::policy::Policy;
use graph::{Graph, wire};
use prost::Message;
use proto::bridge::{self, Attestations, Ref, RefMap};
use proto::pb;
use proto::refusal::{Detail, status};
use tonic::{Code, Status};

use super::{attestations, frontend};
use crate::jobs::Job;
use crate::{Daemon, refusal, workers};

/// Abilities of a frontend that a client may insist on.
const CAPS: [&str; 4] = [
    "moby.buildkit.frontend.inputs",
    "moby.buildkit.frontend.subrequests",
    "moby.buildkit.frontend.contexts",
    "moby.buildkit.frontend.gitquerystring",
];

/// Names of a result's metadata: the image's configuration, that of its base, the time of everything in it. Of several
/// results, `/PLATFORM` follows.
pub const CONFIG: &str = "containerimage.config";
/// See [`CONFIG`].
pub const BASE_CONFIG: &str = "containerimage.base.config";
/// See [`CONFIG`].
pub const EPOCH: &str = "source.date.epoch";

/// What is wanted.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// `dockerfile.v0`, `gateway.v0`, or nothing for a graph.
    pub frontend: &'a str,
    /// The graph.
    pub definition: Option<&'a pb::Definition>,
    /// The frontend's attributes.
    pub attributes: &'a BTreeMap<String, String>,
    /// Graphs that the frontend may name.
    pub inputs: &'a HashMap<String, pb::Definition>,
    /// What the graph's sources must keep to, beside the build's own policies.
    pub policies: &'a [Policy],
}

/// Finds out what the result is made of.
pub async fn solve(daemon: &Daemon, job: &Arc<Job>, wanted: &Wanted<'_>) -> Result<bridge::Result, Status> {
    let frontends = &daemon.settings.frontends;
    match wanted.frontend {
        "" if wanted.definition.is_none() => Ok(bridge::Result::default()),
        "" => {
            let graph = Arc::new(decode(wanted.definition)?);
            let graph = job.build.let_through(graph, wanted.policies).map_err(|error| refusal::of(&error.into()))?;
            let making = Making { graph, origin: Arc::new(job.build.origin(None)), ..Making::default() };
            Ok(bridge::Result {
                result: Some(bridge::result::Result::Ref(reference(job, making)?)),
                ..Default::default()
            })
        }
        "dockerfile.v0" if frontends.dockerfile => dockerfile(daemon, job, wanted).await,
        "gateway.v0" if frontends.gateway => {
            let source = wanted.attributes.get("source").filter(|s| !s.is_empty());
            let source = source.ok_or_else(|| Status::invalid_argument("gateway.v0 without a source"))?;
            if is_built_in(source) {
                // The client has chosen: what the Dockerfile's own first line asks for does not count.
                let mut attributes = wanted.attributes.clone();
                attributes.entry("cmdline".to_owned()).or_default();
                return dockerfile(daemon, job, &Wanted { attributes: &attributes, ..*wanted }).await;
            }
            frontend::run(daemon, job, source, wanted).await
        }
        name @ ("dockerfile.v0" | "gateway.v0") => {
            Err(Status::permission_denied(format!("the frontend {name} is turned off in this daemon's configuration")))
        }
        other => Err(Status::not_found(format!("there is no frontend {other}: expected dockerfile.v0 or gateway.v0"))),
    }
}

/// The graphs that a frontend is given.
fn graphs(wanted: &Wanted<'_>) -> Result<BTreeMap<String, Arc<Graph>>, Status> {
    let mut inputs = BTreeMap::new();
    for (name, definition) in wanted.inputs {
        if definition.def.is_empty() {
            let text = format!("invalid nil input definition to definition op: the input {name} is empty");
            return Err(Status::invalid_argument(text));
        }
        inputs.insert(name.clone(), Arc::new(decode(Some(definition))?));
    }
    Ok(inputs)
}

/// A message as a graph; both are read from the same bytes, so that digests stay.
pub fn decode(definition: Option<&pb::Definition>) -> Result<Graph, Status> {
    let mut needed = definition.iter().flat_map(|d| d.metadata.values()).flat_map(|m| m.caps.keys());
    if let Some(cap) = needed.find(|cap| !workers::has(cap)) {
        return Err(Status::unimplemented(format!(
            "an operation of the graph needs {cap}, which this larder does not have"
        )));
    }
    let bytes = definition.map(pb::Definition::encode_to_vec).unwrap_or_default();
    let wire = wire::Definition::decode(bytes.as_slice()).map_err(|e| Status::invalid_argument(e.to_string()))?;
    Graph::decode(&wire).map_err(|e| Status::invalid_argument(e.to_string()))
}

/// A graph as a message.
pub fn definition(graph: &Graph) -> Result<pb::Definition, Status> {
    let bytes = graph.encode().encode_to_vec();
    pb::Definition::decode(bytes.as_slice()).map_err(|e| Status::internal(e.to_string()))
}

fn reference(job: &Job, making: Making) -> Result<Ref, Status> {
    let definition = definition(&making.graph)?;
    job.build.produced(&making.graph, &making.origin);
    Ok(Ref { id: job.refs.add(making), def: Some(definition) })
}

async fn dockerfile(daemon: &Daemon, job: &Arc<Job>, wanted: &Wanted<'_>) -> Result<bridge::Result, Status> {
    for cap in wanted.attributes.get("frontend.caps").iter().flat_map(|caps| caps.split(',')) {
        let name = cap.trim_end_matches("+forward");
        if !name.is_empty() && !CAPS.contains(&name) {
            let text = format!("the frontend has no {name}");
            return Err(status(Code::Unimplemented, &text, &[Detail::FrontendCap(name.to_owned())]));
        }
    }
    let inputs = graphs(wanted)?;
    if let Some(question) = wanted.attributes.get("requestid").filter(|q| !q.is_empty()) {
        return ask(daemon, job, question, wanted, &inputs).await;
    }
    let targets = job.build.dockerfile(wanted.attributes, &inputs).await;
    let targets = match targets.map_err(|error| refusal::of(&error))? {
        Made::Targets(targets) => targets,
        Made::Elsewhere(image) => return elsewhere(daemon, job, wanted, image).await,
    };
    let call = job.build.call("dockerfile.v0", &own(wanted.attributes), &inputs);
    let origin = Arc::new(job.build.origin(Some(call)));
    let several = targets.len() > 1 || wanted.attributes.get("multi-platform").is_some_and(|v| v == "true");
    let mut result = bridge::Result::default();
    let mut refs = HashMap::new();
    let mut platforms = Vec::new();
    for target in targets {
        let id = target.platform.to_string();
        let suffix = if several { format!("/{id}") } else { String::new() };
        describe(&mut result, &target, &suffix)?;
        let platform = serde_json::to_value(&target.platform).map_err(|e| Status::internal(e.to_string()))?;
        platforms.push(serde_json::json!({ "ID": id, "Platform": platform }));
        if let Some(scan) = target.scan {
            // Its files are a bundle: attestations of this result.
            let making = Making { graph: scan, ..Making::default() };
            let bundle = attestations::scan(reference(job, making)?);
            result.attestations.insert(id.clone(), Attestations { attestation: vec![bundle] });
        }
        let (graph, read) = (Arc::new(target.lowered.graph), target.read);
        refs.insert(id, reference(job, Making { graph, origin: origin.clone(), read })?);
    }
    let list = serde_json::json!({ "Platforms": platforms }).to_string();
    result.metadata.insert("refs.platforms".to_owned(), list.into_bytes());
    result.result = Some(match (several, refs.len()) {
        (false, 1) => bridge::result::Result::Ref(refs.into_values().next().unwrap_or_default()),
        _ => bridge::result::Result::Refs(RefMap { refs }),
    });
    Ok(result)
}

/// The frontend that the Dockerfile's first line asks for.
async fn elsewhere(
    daemon: &Daemon,
    job: &Arc<Job>,
    wanted: &Wanted<'_>,
    image: Elsewhere,
) -> Result<bridge::Result, Status> {
    let Elsewhere { line, place } = image;
    let source = line.split_whitespace().next().unwrap_or_default().to_owned();
    let mut attributes = wanted.attributes.clone();
    attributes.extend([("cmdline".to_owned(), line), ("source".to_owned(), source.clone())]);
    let made = frontend::run(daemon, job, &source, &Wanted { attributes: &attributes, ..*wanted }).await;
    made.map_err(|status| match place {
        Some(place) => refusal::placed(status, &place),
        None => status,
    })
}

/// The attributes without those that chose this frontend.
fn own(attributes: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut own = attributes.clone();
    own.retain(|name, _| name != "source" && name != "cmdline");
    own
}

fn describe(result: &mut bridge::Result, target: &Target, suffix: &str) -> Result<(), Status> {
    let json = |config| serde_json::to_vec(config).map_err(|e| Status::internal(e.to_string()));
    let config = json(&target.lowered.config)?;
    result.metadata.insert(format!("{CONFIG}{suffix}"), config);
    if let Some(base) = &target.lowered.base_config {
        result.metadata.insert(format!("{BASE_CONFIG}{suffix}"), json(base)?);
    }
    if let Some(seconds) = target.lowered.epoch {
        result.metadata.insert(format!("{EPOCH}{suffix}"), seconds.to_string().into_bytes());
    }
    Ok(())
}

/// Questions that a frontend answers instead of building (`docker buildx build --call`).
async fn ask(
    daemon: &Daemon,
    job: &Arc<Job>,
    question: &str,
    wanted: &Wanted<'_>,
    inputs: &BTreeMap<String, Arc<Graph>>,
) -> Result<bridge::Result, Status> {
    let answer = job.build.question(question, wanted.attributes, inputs).await;
    match answer.map_err(|error| refusal::of(&error))? {
        Answered::Told(answer) => Ok(bridge::Result { metadata: answer.into_iter().collect(), ..Default::default() }),
        Answered::Elsewhere(image) => elsewhere(daemon, job, wanted, image).await,
        Answered::Unknown => {
            let text = format!("unsupported request {question}");
            Err(status(Code::Unimplemented, &text, &[Detail::Subrequest(question.to_owned())]))
        }
    }
}

/// The platform of a message.
pub fn platform(message: Option<&pb::Platform>) -> oci::Platform {
    message.map_or_else(oci::Platform::host, |p| {
        let mut platform = oci::Platform::new(&p.os, &p.architecture, &p.variant);
        platform.os_version.clone_from(&p.os_version);
        platform
    })
}
