//! Traces of builds: the steps that ran here, and the spans that clients send (OpenTelemetry), written as BuildKit's
//! clients read them: one JSON object a span. Spans of clients are held in memory until the build's trace is finished.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use builder::event::{Event, What};
use builder::history::Summary;
use oci::Digest;
use proto::trace::{AnyValue, Collector, ExportRequest, KeyValue, Resource, Scope, Span, Value};
use serde_json::json;

/// So many traces are held at most; the oldest goes first.
const TRACES: usize = 64;
/// So many spans of one trace are held at most.
const SPANS: usize = 4096;

type TraceId = Vec<u8>;

/// Spans of clients. Cheap to clone.
#[derive(Clone, Default)]
pub struct Traces(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    traces: HashMap<TraceId, Vec<Foreign>>,
    order: VecDeque<TraceId>,
}

/// A span with what its process and its library say of themselves.
#[derive(Clone)]
struct Foreign {
    resource: Arc<Resource>,
    scope: Arc<Scope>,
    span: Span,
}

impl Traces {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, trace: &[u8]) -> Vec<Foreign> {
        self.lock().traces.get(trace).cloned().unwrap_or_default()
    }
}

impl Collector for Traces {
    fn take(&self, sent: ExportRequest) {
        let mut held = self.lock();
        for process in sent.resource_spans {
            let resource = Arc::new(process.resource.unwrap_or_default());
            for library in process.scope_spans {
                let scope = Arc::new(library.scope.unwrap_or_default());
                for span in library.spans.into_iter().filter(|s| s.trace_id.len() == 16 && s.span_id.len() == 8) {
                    held.keep(Foreign { resource: resource.clone(), scope: scope.clone(), span });
                }
            }
        }
    }
}

impl Held {
    fn keep(&mut self, foreign: Foreign) {
        let id = foreign.span.trace_id.clone();
        if !self.traces.contains_key(&id) {
            if self.order.len() == TRACES
                && let Some(oldest) = self.order.pop_front()
            {
                self.traces.remove(&oldest);
            }
            self.order.push_back(id.clone());
        }
        let spans = self.traces.entry(id).or_default();
        if spans.len() < SPANS {
            spans.push(foreign);
        }
    }
}

/// Where a build stands in its client's trace.
struct Place {
    trace: Vec<u8>,
    /// The client's span that asked for the build; empty is none.
    parent: Vec<u8>,
}

impl Place {
    /// Reads a W3C `traceparent`; a build without one has a trace of its own.
    fn of(build: &str, traceparent: &str) -> Place {
        let parts: Vec<&str> = traceparent.split('-').collect();
        if let [_, trace, parent, ..] = parts.as_slice()
            && let (Some(trace), Some(parent)) = (unhex(trace, 16), unhex(parent, 8))
        {
            return Place { trace, parent };
        }
        Place { trace: Digest::of(build.as_bytes()).bytes()[..16].to_vec(), parent: Vec::new() }
    }
}

fn unhex(text: &str, bytes: usize) -> Option<Vec<u8>> {
    if text.len() != bytes * 2 || !text.is_ascii() {
        return None;
    }
    (0..bytes).map(|i| u8::from_str_radix(&text[i * 2..i * 2 + 2], 16).ok()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The trace of a build. `now` (microseconds since 1970) ends what has no end.
pub fn write(summary: &Summary, events: &[Event], traces: &Traces, now: u64) -> String {
    let place = Place::of(&summary.id, &summary.traceparent);
    let foreign = traces.of(&place.trace);
    let mut text = String::new();
    let mut put = |value: serde_json::Value| {
        text.push_str(&value.to_string());
        text.push('\n');
    };
    foreign.iter().map(of_client).for_each(&mut put);
    steps(summary, events, &place, now).into_iter().for_each(&mut put);
    text
}

/// A span of ours.
struct Own<'a> {
    name: &'a str,
    id: &'a [u8],
    parent: &'a [u8],
    kind: u8,
    /// Microseconds since 1970.
    times: (u64, u64),
    attributes: Vec<serde_json::Value>,
    error: Option<&'a str>,
}

fn steps(summary: &Summary, events: &[Event], place: &Place, now: u64) -> Vec<serde_json::Value> {
    let root = Digest::of(format!("{} span", summary.id).as_bytes());
    let root = &root.bytes()[..8];
    let (started, completed) = (summary.started * 1000, summary.completed * 1000);
    let all = Own {
        name: "moby.buildkit.v1.Control/Solve",
        id: root,
        parent: &place.parent,
        kind: 2,
        times: (started, if completed == 0 { now } else { completed }),
        attributes: vec![string("build", &summary.id)],
        error: summary.error.as_deref(),
    };
    let mut spans = vec![own(place, &all)];
    let mut names: HashMap<Digest, &str> = HashMap::new();
    let mut open: HashMap<Digest, u64> = HashMap::new();
    for (number, event) in events.iter().enumerate() {
        match &event.what {
            What::Known { step, name, .. } => drop(names.insert(*step, name)),
            What::Started { step } => drop(open.insert(*step, event.at)),
            What::Completed { step, cached, error } => {
                let name = names.get(step).copied().unwrap_or_default();
                let begun = open.remove(step).unwrap_or(event.at);
                let id = Digest::of(format!("{} {step} {number}", summary.id).as_bytes());
                let cached = json!({ "Key": "cached", "Value": { "Type": "BOOL", "Value": cached } });
                spans.push(own(
                    place,
                    &Own {
                        name,
                        id: &id.bytes()[..8],
                        parent: root,
                        kind: 1,
                        times: (begun, event.at),
                        attributes: vec![string("vertex", &step.to_string()), cached],
                        error: error.as_deref(),
                    },
                ));
            }
            _ => {}
        }
    }
    spans
}

fn string(key: &str, value: &str) -> serde_json::Value {
    json!({ "Key": key, "Value": { "Type": "STRING", "Value": value } })
}

fn context(trace: &[u8], span: &[u8], remote: bool) -> serde_json::Value {
    let none = span.is_empty();
    json!({
        "TraceID": if none { "0".repeat(32) } else { hex(trace) },
        "SpanID": if none { "0".repeat(16) } else { hex(span) },
        "TraceFlags": if none { "00" } else { "01" },
        "TraceState": "",
        "Remote": remote,
    })
}

fn own(place: &Place, span: &Own<'_>) -> serde_json::Value {
    json!({
        "Name": span.name,
        "SpanContext": context(&place.trace, span.id, false),
        "Parent": context(&place.trace, span.parent, span.kind == 2),
        "SpanKind": span.kind,
        "StartTime": oci::time::rfc3339_micros(span.times.0),
        "EndTime": oci::time::rfc3339_micros(span.times.1.max(span.times.0)),
        "Attributes": span.attributes,
        "Events": null,
        "Links": null,
        "Status": match span.error {
            Some(error) => json!({ "Code": "Error", "Description": error }),
            None => json!({ "Code": "Unset", "Description": "" }),
        },
        "DroppedAttributes": 0,
        "DroppedEvents": 0,
        "DroppedLinks": 0,
        "ChildSpanCount": 0,
        "Resource": [string("service.name", "larder")],
        "InstrumentationLibrary": { "Name": "larder", "Version": env!("CARGO_PKG_VERSION"), "SchemaURL": "" },
    })
}

fn of_client(foreign: &Foreign) -> serde_json::Value {
    let Foreign { resource, scope, span } = foreign;
    let time = |nanos: u64| oci::time::rfc3339_micros(nanos / 1000);
    let events = span.events.iter().map(|event| {
        json!({
            "Name": event.name,
            "Attributes": attributes(&event.attributes),
            "DroppedAttributeCount": event.dropped_attributes_count,
            "Time": time(event.time_unix_nano),
        })
    });
    let links = span.links.iter().map(|link| {
        json!({
            "SpanContext": context(&link.trace_id, &link.span_id, false),
            "Attributes": attributes(&link.attributes),
            "DroppedAttributeCount": link.dropped_attributes_count,
        })
    });
    let status = span.status.clone().unwrap_or_default();
    let code = ["Unset", "Ok", "Error"].get(usize::try_from(status.code).unwrap_or(0)).unwrap_or(&"Unset");
    json!({
        "Name": span.name,
        "SpanContext": context(&span.trace_id, &span.span_id, false),
        "Parent": context(&span.trace_id, &span.parent_span_id, false),
        "SpanKind": span.kind,
        "StartTime": time(span.start_time_unix_nano),
        "EndTime": time(span.end_time_unix_nano),
        "Attributes": attributes(&span.attributes),
        "Events": events.collect::<Vec<_>>(),
        "Links": links.collect::<Vec<_>>(),
        "Status": { "Code": code, "Description": status.message },
        "DroppedAttributes": span.dropped_attributes_count,
        "DroppedEvents": span.dropped_events_count,
        "DroppedLinks": span.dropped_links_count,
        "ChildSpanCount": 0,
        "Resource": attributes(&resource.attributes),
        "InstrumentationLibrary": { "Name": scope.name, "Version": scope.version, "SchemaURL": "" },
    })
}

fn attributes(all: &[KeyValue]) -> Vec<serde_json::Value> {
    let one = |attribute: &KeyValue| {
        let (kind, value) = value(attribute.value.as_ref()?.value.as_ref()?);
        Some(json!({ "Key": attribute.key, "Value": { "Type": kind, "Value": value } }))
    };
    all.iter().filter_map(one).collect()
}

/// A value's type and itself. What has no type of its own there becomes text.
fn value(value: &Value) -> (&'static str, serde_json::Value) {
    match value {
        Value::String(text) => ("STRING", json!(text)),
        Value::Bool(flag) => ("BOOL", json!(flag)),
        Value::Int(number) => ("INT64", json!(number)),
        Value::Double(number) => ("FLOAT64", json!(number)),
        Value::Array(list) => ("STRINGSLICE", list.values.iter().map(text).collect()),
        Value::List(_) | Value::Bytes(_) => ("STRING", json!(text_of(value))),
    }
}

fn text(value: &AnyValue) -> serde_json::Value {
    json!(value.value.as_ref().map(text_of).unwrap_or_default())
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => flag.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Bytes(bytes) => hex(bytes),
        Value::Array(list) => serde_json::Value::from_iter(list.values.iter().map(text)).to_string(),
        Value::List(list) => serde_json::Value::from(attributes(&list.values)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::trace::{ResourceSpans, ScopeSpans};

    #[test]
    fn a_clients_spans_and_the_steps_are_one_trace() {
        let traces = Traces::default();
        let span = Span { trace_id: vec![0xab; 16], span_id: vec![1; 8], name: "theirs".to_owned(), ..Span::default() };
        let scope_spans = vec![ScopeSpans { scope: None, spans: vec![span] }];
        traces.take(ExportRequest { resource_spans: vec![ResourceSpans { resource: None, scope_spans }] });
        let traceparent = format!("00-{}-{}-01", "ab".repeat(16), "01".repeat(8));
        let summary = Summary { id: "b".to_owned(), traceparent, started: 1, completed: 5, ..Summary::default() };
        let step = Digest::of(b"step");
        let known = What::Known { step, name: "RUN x".to_owned(), inputs: Vec::new(), group: None };
        let events = [
            Event { at: 2000, what: known },
            Event { at: 2000, what: What::Started { step } },
            Event { at: 4000, what: What::Completed { step, cached: false, error: Some("no".to_owned()) } },
        ];
        let text = write(&summary, &events, &traces, 0);
        let spans: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let names: Vec<_> = spans.iter().map(|span| span["Name"].as_str().unwrap()).collect();
        assert_eq!(names, ["theirs", "moby.buildkit.v1.Control/Solve", "RUN x"]);
        assert!(spans.iter().all(|span| span["SpanContext"]["TraceID"] == "ab".repeat(16)));
        assert_eq!(spans[1]["Parent"]["SpanID"], spans[0]["SpanContext"]["SpanID"]);
        assert_eq!(spans[2]["Parent"]["SpanID"], spans[1]["SpanContext"]["SpanID"]);
        assert_eq!(spans[2]["Status"]["Code"], "Error");
        assert_eq!(spans[2]["EndTime"], "1970-01-01T00:00:00.004000Z");
    }

    #[test]
    fn few_traces_are_held() {
        let traces = Traces::default();
        for number in 0..TRACES as u8 + 9 {
            let span = Span { trace_id: vec![number; 16], span_id: vec![1; 8], ..Span::default() };
            let scope_spans = vec![ScopeSpans { scope: None, spans: vec![span] }];
            traces.take(ExportRequest { resource_spans: vec![ResourceSpans { resource: None, scope_spans }] });
        }
        assert_eq!(traces.lock().traces.len(), TRACES);
        assert!(traces.of(&[0; 16]).is_empty() && traces.of(&[TRACES as u8 + 8; 16]).len() == 1);
    }
}
