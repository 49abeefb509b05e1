//! `Solve`: one build. Either the request says what to build, or its client drives the build over the bridge and this
//! call waits for what it returns; then outputs are written. The build ends when this call does.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use builder::build::{Build, Request, Response};
use builder::{caches, exporters};
use prost::Message;
use proto::control::{CacheOptionsEntry, SolveRequest, SolveResponse};
use tonic::Status;

use crate::jobs::{Job, Log, Running};
use crate::session::{Client, Form, Port};
use crate::{Daemon, bridge, history, refusal};

/// Builds.
pub async fn solve(daemon: &Daemon, request: SolveRequest, traceparent: String) -> Result<SolveResponse, Status> {
    if request.r#ref.is_empty() {
        return Err(Status::invalid_argument("a build without a reference"));
    }
    if !request.source_policy_session.is_empty() {
        return Err(Status::unimplemented(
            "sessions that decide on sources are not built yet: larder will not ignore one",
        ));
    }
    refuse(daemon, &request.entitlements)?;
    let client = daemon.sessions.find(&request.session).await?;
    let answer = build(daemon, client.clone(), request, traceparent).await;
    client.settled().await;
    answer
}

async fn build(
    daemon: &Daemon,
    client: Arc<Client>,
    request: SolveRequest,
    traceparent: String,
) -> Result<SolveResponse, Status> {
    let wanted = Request { traceparent, ..wanted(&request)? };
    let elsewhere = wanted
        .attributes
        .iter()
        .filter_map(|(name, value)| name.strip_prefix("local-sessionid:").map(|name| (name.to_owned(), value.clone())));
    let forms = wanted.outputs.iter().map(form).collect();
    let port = Port::new(client, daemon.sessions.clone(), daemon.engine.store.clone(), elsewhere.collect(), forms);
    let log = Log::default();
    let begun = Build::begin(&daemon.engine, Arc::new(port), log.events(), wanted);
    let build = begun.map_err(|error| refusal::of(&error))?;
    let (running, returned) = daemon.jobs.begin(&request.r#ref, &request.session, log, build)?;
    let job = running.job.clone();
    let _under_way = UnderWay { running: Some(running), daemon };
    history::began(daemon, &job);
    // A graph of nothing is a graph: only a client that gives none drives the build itself.
    let outcome = if request.frontend.is_empty() && request.definition.is_none() {
        match returned.await {
            Ok(Ok(result)) => bridge::result::export(&job, &result).await,
            Ok(Err(status)) => Err(status),
            Err(_) => Err(Status::cancelled("the client ended without a result")),
        }
    } else {
        direct(daemon, &job, &request).await
    };
    if outcome.is_err() {
        // What succeeded is not lost; the failure is what counts.
        let _shown = job.build.export_caches(false).await;
    }
    let ended = match &outcome {
        Ok(response) => Ok(response.clone()),
        Err(status) => {
            let told = proto::refusal::whole(status);
            let kept = job.build.tell_failure(told.code, &told.encode_to_vec());
            kept.map_err(|error| refusal::of(&error))?;
            Err(builder::Error::Failed(status.message().to_owned()))
        }
    };
    let finish = move || job.build.finish(&ended);
    builder::blocking("ended a build", finish).await.map_err(|error| refusal::of(&error))?;
    let response = outcome?;
    Ok(SolveResponse { exporter_response: response.exporter.into_iter().collect() })
}

/// A build under way: when it ends, however that is, whoever follows the history is told.
struct UnderWay<'a> {
    running: Option<Running>,
    daemon: &'a Daemon,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        let job = running.job.clone();
        drop(running);
        if !job.build.request().internal {
            history::ended(self.daemon, &job.id);
        }
    }
}

fn refuse(daemon: &Daemon, entitlements: &[String]) -> Result<(), Status> {
    for entitlement in entitlements {
        if !daemon.settings.allowed.contains(entitlement) {
            let text = format!(
                "entitlement {entitlement} is not allowed: start the daemon with --allow-insecure-entitlement {entitlement}"
            );
            return Err(Status::permission_denied(text));
        }
    }
    Ok(())
}

/// The request in the builder's words.
pub fn wanted(request: &SolveRequest) -> Result<Request, Status> {
    let mut outputs: Vec<exporters::Request> = Vec::new();
    for exporter in &request.exporters {
        let attributes = exporter.attrs.clone().into_iter().collect();
        outputs.push(exporters::Request { kind: exporter.r#type.clone(), attributes });
    }
    // Old clients know one output, in fields of its own.
    if outputs.is_empty() && !request.exporter_deprecated.is_empty() {
        let attributes = request.exporter_attrs_deprecated.clone().into_iter().collect();
        outputs.push(exporters::Request { kind: request.exporter_deprecated.clone(), attributes });
    }
    let mut inputs = BTreeMap::new();
    for (name, definition) in &request.frontend_inputs {
        inputs.insert(name.clone(), Arc::new(bridge::solve::decode(Some(definition))?));
    }
    let mut attributes: BTreeMap<String, String> = request.frontend_attrs.clone().into_iter().collect();
    // larder's own: BuildKit has no such question.
    let fail_on_miss = attributes.remove("fail-on-miss");
    let told = request.cache.iter().flat_map(|cache| &cache.imports).map(cache).collect();
    let stages = |list: String| list.split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect();
    Ok(Request {
        id: request.r#ref.clone(),
        frontend: request.frontend.clone(),
        inputs,
        attributes,
        outputs,
        cache_from: if request.internal { Vec::new() } else { cache_from(told, &request.frontend_attrs) },
        cache_to: request.cache.iter().filter(|_| !request.internal).flat_map(|c| &c.exports).map(cache).collect(),
        fail_on_miss: fail_on_miss.map(stages),
        entitlements: request.entitlements.clone(),
        policies: crate::policies::read(request.source_policy.as_slice())?,
        internal: request.internal,
        traceparent: String::new(),
    })
}

/// The caches to read. Some clients tell only the frontend of them.
pub fn cache_from(told: Vec<caches::Request>, attributes: &HashMap<String, String>) -> Vec<caches::Request> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        r#type: String,
        #[serde(default)]
        attrs: BTreeMap<String, String>,
    }
    let attribute = attributes.get("cache-imports").filter(|_| told.is_empty());
    let entries: Vec<Entry> = attribute.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let entries = entries.into_iter().map(|e| caches::Request { kind: e.r#type, attributes: e.attrs });
    // An older attribute: references of registries.
    let old = attributes.get("cache-from").filter(|_| told.is_empty() && attribute.is_none());
    let references = old.iter().flat_map(|list| list.split(',')).filter(|reference| !reference.is_empty());
    let references: Vec<caches::Request> = references.map(of_registry).collect();
    told.into_iter().chain(entries).chain(references).collect()
}

fn of_registry(reference: &str) -> caches::Request {
    let attributes = BTreeMap::from([("ref".to_owned(), reference.to_owned())]);
    caches::Request { kind: "registry".to_owned(), attributes }
}

fn cache(entry: &CacheOptionsEntry) -> caches::Request {
    caches::Request { kind: entry.r#type.clone(), attributes: entry.attrs.clone().into_iter().collect() }
}

/// How an output goes to the client.
fn form(output: &exporters::Request) -> Form {
    let untarred = output.attributes.get("tar").is_some_and(|tar| tar == "false");
    match output.kind.as_str() {
        "local" => Form::Directory,
        "oci" | "docker" if untarred => Form::Content,
        _ => Form::Stream,
    }
}

/// A request that says itself what to build.
async fn direct(daemon: &Daemon, job: &Arc<Job>, request: &SolveRequest) -> Result<Response, Status> {
    let attributes: BTreeMap<String, String> = request.frontend_attrs.clone().into_iter().collect();
    let inputs = &request.frontend_inputs;
    let wanted = bridge::solve::Wanted {
        frontend: &request.frontend,
        definition: request.definition.as_ref(),
        attributes: &attributes,
        inputs,
        policies: &[],
    };
    let result = bridge::solve::solve(daemon, job, &wanted).await?;
    bridge::result::export(job, &result).await
}
