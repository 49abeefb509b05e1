//! What happens in a build, read from BuildKit's status messages: for daemons that do not tell larder's own events.
//! The reverse of `control::status`; what those messages do not say, such as verdicts, stays unknown.

use std::collections::{HashMap, HashSet};

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
    /// Passes on what is new in a message, in the order in which it happened.
    pub fn read(&mut self, message: &StatusResponse, events: &Events) {
        let mut news = Vec::new();
        let mut ended = Vec::new();
        // A vertex may end and begin again: within one message its last state is what counts.
        let last: HashMap<&str, usize> =
            message.vertexes.iter().enumerate().map(|(at, vertex)| (vertex.digest.as_str(), at)).collect();
        for (at, vertex) in message.vertexes.iter().enumerate() {
            let is_last = last.get(vertex.digest.as_str()) == Some(&at);
            self.vertex(vertex, is_last, &mut news, &mut ended);
        }
        let at = |time: Option<&Timestamp>| time.map_or_else(builder::event::now_micros, micros);
        for part in &message.statuses {
            let Ok(step) = Digest::parse(&part.vertex) else { continue };
            let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
            let (current, total, done) = (bytes(part.current), bytes(part.total), part.completed.is_some());
            let what = What::Progress { step, part: part.id.clone(), current, total, done };
            news.push(Event { at: at(part.timestamp.as_ref()), what });
        }
        for log in &message.logs {
            let Ok(step) = Digest::parse(&log.vertex) else { continue };
            let stream = if log.stream == 2 { Stream::Err } else { Stream::Out };
            let what = What::Log { step, stream, bytes: log.msg.clone() };
            news.push(Event { at: at(log.timestamp.as_ref()), what });
        }
        for warning in &message.warnings {
            let Ok(step) = Digest::parse(&warning.vertex) else { continue };
            news.push(Event { at: at(None), what: What::Warning { step, warning: self::warning(warning) } });
        }
        // At the same time, an end comes last.
        news.append(&mut ended);
        news.sort_by_key(|event| event.at);
        news.into_iter().for_each(|event| events.pass(event));
    }

    fn vertex(&mut self, vertex: &Vertex, is_last: bool, news: &mut Vec<Event>, ended: &mut Vec<Event>) {
        let Ok(step) = Digest::parse(&vertex.digest) else { return };
        let at = |time: Option<&Timestamp>| time.map_or_else(builder::event::now_micros, micros);
        let started = || Event { at: at(vertex.started.as_ref()), what: What::Started { step } };
        if self.known.insert(step) {
            let inputs = vertex.inputs.iter().filter_map(|d| Digest::parse(d).ok()).collect();
            let group = vertex.progress_group.as_ref().map(|g| g.name.clone());
            let what = What::Known { step, name: vertex.name.clone(), inputs, group };
            // What is known is known before anything of it happens.
            news.push(Event { at: vertex.started.as_ref().map_or(0, micros), what });
        }
        if vertex.started.is_some() && vertex.completed.is_none() && self.started.insert(step) {
            self.completed.remove(&step);
            news.push(started());
        }
        if is_last && vertex.completed.is_some() && self.completed.insert(step) {
            if self.started.insert(step) {
                news.push(started());
            }
            self.started.remove(&step);
            let error = (!vertex.error.is_empty()).then(|| vertex.error.clone());
            let what = What::Completed { step, cached: vertex.cached, error };
            ended.push(Event { at: at(vertex.completed.as_ref()), what });
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
        level: u32::try_from(warning.level).unwrap_or(0),
        file: info.filename,
        lines: warning.ranges.first().map(|r| (line(&r.start), line(&r.end))),
        text: text(&info.data),
    }
}
