//! Kept builds, as BuildKit's clients list, read and remove them.
//! The records are the builder's; this file only shows them.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};

use builder::event::Event;
use builder::history::Summary;
use futures_util::stream::{self, BoxStream, StreamExt};
use proto::control::{
    BuildHistoryEvent, BuildHistoryRecord, BuildHistoryRequest, StatusResponse, UpdateBuildHistoryRequest,
};
use proto::rpc;
use store::{HistoryEntry, Store};
use tonic::Status;

use super::status::{Translator, timestamp};
use crate::Daemon;
use crate::jobs::Job;

/// Events that are turned into one message when a kept build is shown again.
const TOGETHER: usize = 256;
const STARTED: i32 = 0;
const COMPLETE: i32 = 1;

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

/// Builds as the client asks for them: those that go on, then those that are kept, then whatever happens.
pub fn listen(
    daemon: &Daemon,
    request: BuildHistoryRequest,
) -> Result<BoxStream<'static, Result<BuildHistoryEvent, Status>>, Status> {
    if request.filter.iter().any(|f| !f.is_empty()) {
        return Err(Status::unimplemented("filters of the build history are not built yet"));
    }
    let wanted = |id: &str| request.r#ref.is_empty() || request.r#ref == id;
    let active: Vec<_> = daemon.jobs.active().into_iter().filter(|job| shown(job) && wanted(&job.id)).collect();
    let event = |kind, record| BuildHistoryEvent { r#type: kind, record: Some(record) };
    let mut events: Vec<_> = active.iter().map(|job| event(STARTED, going(job))).collect();
    let mut known: HashSet<String> = active.iter().map(|job| job.id.clone()).collect();
    if !request.active_only {
        let mut kept = daemon.engine.store.history().list().map_err(failed)?;
        kept.retain(|entry| wanted(&entry.id) && !known.contains(&entry.id));
        kept.sort_by_key(|entry| std::cmp::Reverse(entry.created));
        let limit = usize::try_from(request.limit).ok().filter(|n| *n > 0).unwrap_or(usize::MAX);
        kept.truncate(limit);
        for entry in &kept {
            known.insert(entry.id.clone());
            events.push(event(COMPLETE, record(entry)?));
        }
    }
    let first = stream::iter(events.into_iter().map(Ok));
    if request.early_exit {
        return Ok(first.boxed());
    }
    let store = daemon.engine.store.clone();
    let follow = stream::iter(active).then(move |job| {
        let store = store.clone();
        async move {
            job.over().await;
            let entry = store.history().get(&job.id).map_err(failed)?;
            let entry = entry.ok_or_else(|| Status::not_found(format!("the build {} was not kept", job.id)))?;
            Ok(BuildHistoryEvent { r#type: COMPLETE, record: Some(record(&entry)?) })
        }
    });
    Ok(first.chain(follow).boxed())
}

/// A client's own questions are no builds for people.
fn shown(job: &Job) -> bool {
    !job.build.request().internal
}

fn going(job: &Job) -> BuildHistoryRecord {
    BuildHistoryRecord {
        r#ref: job.id.clone(),
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: job.build.request().attributes.clone().into_iter().collect(),
        created_at: Some(timestamp(job.build.started() * 1000)),
        ..Default::default()
    }
}

fn record(entry: &HistoryEntry) -> Result<BuildHistoryRecord, Status> {
    let summary: Summary = serde_json::from_slice(&entry.summary).map_err(failed)?;
    let count = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let error = summary.error.map(|message| rpc::Status { code: 2, message, details: Vec::new() });
    Ok(BuildHistoryRecord {
        r#ref: entry.id.clone(),
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: summary.attributes.into_iter().collect(),
        exporters: Vec::new(),
        error,
        created_at: Some(timestamp(entry.created * 1000)),
        completed_at: Some(timestamp(entry.completed * 1000)),
        logs: None,
        exporter_response: summary.response.into_iter().collect(),
        result: None,
        results: HashMap::new(),
        generation: 0,
        trace: None,
        pinned: entry.pinned,
        num_cached_steps: count(summary.cached),
        num_total_steps: count(summary.steps),
        num_completed_steps: count(summary.steps),
        external_error: None,
        num_warnings: count(summary.warnings),
    })
}

/// Pins, unpins or removes a kept build.
pub fn update(daemon: &Daemon, request: &UpdateBuildHistoryRequest) -> Result<(), Status> {
    let history = daemon.engine.store.history();
    let known = history.get(&request.r#ref).map_err(failed)?.is_some();
    if !known {
        return Err(Status::not_found(format!("there is no kept build {}", request.r#ref)));
    }
    if request.delete {
        history.remove(&request.r#ref).map_err(failed)?;
    } else if !request.finalize {
        history.pin(&request.r#ref, request.pinned).map_err(failed)?;
    }
    daemon.engine.store.flush().map_err(failed)
}

/// What happened in a kept build, again; `None` when there is no such build.
pub fn replay(store: &Store, id: &str) -> Result<Option<Vec<StatusResponse>>, Status> {
    if store.history().get(id).map_err(failed)?.is_none() {
        return Ok(None);
    }
    let lines = BufReader::new(store.history().events(id).map_err(failed)?).lines();
    let mut events: Vec<Event> = Vec::new();
    for line in lines {
        events.push(serde_json::from_str(&line.map_err(failed)?).map_err(failed)?);
    }
    let mut translator = Translator::default();
    Ok(Some(events.chunks(TOGETHER).map(|some| translator.translate(some)).collect()))
}
