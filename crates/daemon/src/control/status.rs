//! What happens in a build, as BuildKit's clients draw it: vertices, their parts, logs and warnings.
//! The cause of a miss is a log line of its step, so that every client shows it.

use std::collections::{BTreeMap, HashMap};

use builder::event::{Event, Stream, What};
use oci::Digest;
use proto::Timestamp;
use proto::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use proto::pb::{Position, ProgressGroup, Range, SourceInfo};
use solver::Verdict;

/// Longest piece of a log in one message.
const LOG_PIECE: usize = 1 << 20;

/// Turns events into messages; knows what it has told before, because each message of a vertex tells all of it.
#[derive(Default)]
pub struct Translator {
    vertices: HashMap<Digest, Vertex>,
    causes: HashMap<Digest, String>,
    parts: BTreeMap<(Digest, String), Timestamp>,
}

impl Translator {
    /// One message of several events.
    pub fn translate<'a>(&mut self, events: impl IntoIterator<Item = &'a Event>) -> StatusResponse {
        let mut response = StatusResponse::default();
        for event in events {
            self.one(event, &mut response);
        }
        response
    }

    /// The end of the stream: what is still open was cancelled.
    pub fn finish(&mut self, now: u64) -> StatusResponse {
        let open = self.vertices.values_mut().filter(|v| v.started.is_some() && v.completed.is_none());
        let vertexes = open.map(|v| {
            v.completed = Some(timestamp(now));
            "context canceled".clone_into(&mut v.error);
            v.clone()
        });
        StatusResponse { vertexes: vertexes.collect(), ..Default::default() }
    }

    fn one(&mut self, event: &Event, out: &mut StatusResponse) {
        let at = timestamp(event.at);
        match &event.what {
            What::Known { step, name, inputs, group } => {
                let vertex = Vertex {
                    digest: step.to_string(),
                    inputs: inputs.iter().map(ToString::to_string).collect(),
                    name: name.clone(),
                    progress_group: group.as_ref().map(|name| {
                        let id = Digest::of(name.as_bytes()).to_string();
                        ProgressGroup { id, name: name.clone(), weak: false }
                    }),
                    ..Default::default()
                };
                out.vertexes.push(vertex.clone());
                self.vertices.insert(*step, vertex);
            }
            What::Started { step } => {
                let Some(vertex) = self.vertices.get_mut(step) else { return };
                vertex.started = Some(at);
                vertex.completed = None;
                vertex.error.clear();
                out.vertexes.push(vertex.clone());
                if let Some(cause) = self.causes.remove(step) {
                    log(out, step, at, 1, format!("{cause}\n").as_bytes());
                }
            }
            What::Completed { step, cached, error } => {
                let Some(vertex) = self.vertices.get_mut(step) else { return };
                vertex.started.get_or_insert(at);
                vertex.completed = Some(at);
                vertex.cached = *cached;
                vertex.error = error.clone().unwrap_or_default();
                out.vertexes.push(vertex.clone());
            }
            What::Verdict { step, verdict: Verdict::Miss { cause } } => {
                self.causes.insert(*step, cause.to_string());
            }
            What::Verdict { .. } | What::Cache { .. } => {}
            What::Log { step, stream, bytes } => log(out, step, at, if *stream == Stream::Out { 1 } else { 2 }, bytes),
            What::Progress { step, part, current, total, done } => {
                let key = (*step, part.clone());
                let started = *self.parts.entry(key.clone()).or_insert(at);
                if *done {
                    self.parts.remove(&key);
                }
                out.statuses.push(VertexStatus {
                    id: part.clone(),
                    vertex: step.to_string(),
                    name: if part.starts_with("transferring ") { "transferring".to_owned() } else { String::new() },
                    current: i64::try_from(*current).unwrap_or(i64::MAX),
                    total: i64::try_from(*total).unwrap_or(i64::MAX),
                    timestamp: Some(at),
                    started: Some(started),
                    completed: done.then_some(at),
                });
            }
            What::Warning { step, warning } => {
                let line = |n: u32| Some(Position { line: i32::try_from(n).unwrap_or(0), character: 0 });
                let info = (!warning.file.is_empty()).then(|| SourceInfo {
                    filename: warning.file.clone(),
                    data: warning.text.clone().into_bytes(),
                    definition: None,
                    language: "Dockerfile".to_owned(),
                });
                out.warnings.push(VertexWarning {
                    vertex: step.to_string(),
                    level: i64::from(warning.level.max(1)),
                    short: warning.short.clone().into_bytes(),
                    detail: warning.detail.iter().map(|d| d.clone().into_bytes()).collect(),
                    url: warning.url.clone(),
                    info,
                    ranges: warning.lines.iter().map(|(a, b)| Range { start: line(*a), end: line(*b) }).collect(),
                });
            }
        }
    }
}

fn log(out: &mut StatusResponse, step: &Digest, at: Timestamp, stream: i64, bytes: &[u8]) {
    for piece in bytes.chunks(LOG_PIECE) {
        out.logs.push(VertexLog { vertex: step.to_string(), timestamp: Some(at), stream, msg: piece.to_vec() });
    }
}

/// A time of microseconds since 1970.
pub fn timestamp(micros: u64) -> Timestamp {
    Timestamp { seconds: (micros / 1_000_000) as i64, nanos: ((micros % 1_000_000) * 1000) as i32 }
}
