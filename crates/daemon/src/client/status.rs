//! What happens in a build, read from BuildKit's status messages: for daemons that do not tell larder's own events.
//! The reverse of `control::status`; what those messages do not say, such as verdicts, stays unknown.

use std::collections::HashSet;

use builder::Events;
use builder::event::{Event, Stream, Warning, What};
use oci::Digest;
use proto::Timestamp;
use proto::control::{StatusResponse, Vertex, VertexWarning};

/// Reads messages; knows what it has passed on before, because each message of a vertex tells all of it.
#[derive(Default)]
pub struct Reader {
    known: HashSet<Digest>,
    started: HashSet<Digest>,
    completed: HashSet<Digest>,
}

impl Reader {
    /// Passes on what is new in a message.
    pub fn read(&mut self, message: &StatusResponse, events: &Events) {
        let tell = |at: Option<&Timestamp>, what| {
            events.pass(Event { at: at.map_or_else(builder::event::now_micros, micros), what });
        };
        for vertex in &message.vertexes {
            self.vertex(vertex, &tell);
        }
        for part in &message.statuses {
            let Ok(step) = Digest::parse(&part.vertex) else { continue };
            let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
            let (current, total, done) = (bytes(part.current), bytes(part.total), part.completed.is_some());
            tell(part.timestamp.as_ref(), What::Progress { step, part: part.id.clone(), current, total, done });
        }
        for log in &message.logs {
            let Ok(step) = Digest::parse(&log.vertex) else { continue };
            let stream = if log.stream == 2 { Stream::Err } else { Stream::Out };
            tell(log.timestamp.as_ref(), What::Log { step, stream, bytes: log.msg.clone() });
        }
        for warning in &message.warnings {
            let Ok(step) = Digest::parse(&warning.vertex) else { continue };
            tell(None, What::Warning { step, warning: self::warning(warning) });
        }
    }

    fn vertex(&mut self, vertex: &Vertex, tell: &impl Fn(Option<&Timestamp>, What)) {
        let Ok(step) = Digest::parse(&vertex.digest) else { return };
        if self.known.insert(step) {
            let inputs = vertex.inputs.iter().filter_map(|d| Digest::parse(d).ok()).collect();
            let group = vertex.progress_group.as_ref().map(|g| g.name.clone());
            tell(vertex.started.as_ref(), What::Known { step, name: vertex.name.clone(), inputs, group });
        }
        if vertex.started.is_some() && vertex.completed.is_none() && self.started.insert(step) {
            self.completed.remove(&step);
            tell(vertex.started.as_ref(), What::Started { step });
        }
        if vertex.completed.is_some() && self.completed.insert(step) {
            if self.started.insert(step) {
                tell(vertex.started.as_ref(), What::Started { step });
            }
            self.started.remove(&step);
            let error = (!vertex.error.is_empty()).then(|| vertex.error.clone());
            tell(vertex.completed.as_ref(), What::Completed { step, cached: vertex.cached, error });
        }
    }
}

fn micros(time: &Timestamp) -> u64 {
    let seconds = u64::try_from(time.seconds).unwrap_or(0);
    seconds * 1_000_000 + u64::try_from(time.nanos).unwrap_or(0) / 1000
}

fn warning(warning: &VertexWarning) -> Warning {
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let line = |p: &Option<proto::pb::Position>| p.and_then(|p| u32::try_from(p.line).ok()).unwrap_or(0);
    let info = warning.info.clone().unwrap_or_default();
    Warning {
        short: text(&warning.short),
        detail: warning.detail.iter().map(text).collect(),
        url: warning.url.clone(),
        file: info.filename,
        lines: warning.ranges.first().map(|r| (line(&r.start), line(&r.end))),
        text: text(&info.data),
    }
}
