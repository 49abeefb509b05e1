//! One JSON object a line, with the fields of buildx's `--progress=rawjson` (BuildKit's SolveStatus), and larder's verdicts.

use std::io::Write;

use builder::event::{Event, Stream, Warning, What};
use serde_json::{Value, json};

use super::Display;
use super::steps::Steps;

pub struct Raw<W> {
    out: W,
    steps: Steps,
    inputs: std::collections::HashMap<oci::Digest, Vec<oci::Digest>>,
}

impl<W: Write + Send> Raw<W> {
    pub fn new(out: W) -> Raw<W> {
        Raw { out, steps: Steps::default(), inputs: Default::default() }
    }

    fn vertex(&self, step: oci::Digest) -> Value {
        let Some(known) = self.steps.get(&step) else { return Value::Null };
        let mut vertex = json!({ "digest": step, "name": known.name });
        if let Some(inputs) = self.inputs.get(&step).filter(|i| !i.is_empty()) {
            vertex["inputs"] = json!(inputs);
        }
        for (key, at) in [("started", known.started), ("completed", known.completed)] {
            if let Some(at) = at {
                vertex[key] = json!(oci::time::rfc3339_micros(at));
            }
        }
        if known.cached {
            vertex["cached"] = json!(true);
        }
        if let Some(error) = &known.error {
            vertex["error"] = json!(error);
        }
        vertex
    }
}

/// A warning with the fields of BuildKit's, whose texts are bytes.
pub fn warning(step: oci::Digest, warning: &Warning) -> Value {
    let bytes = |text: &String| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    let detail: Vec<String> = warning.detail.iter().map(bytes).collect();
    let mut told =
        json!({ "vertex": step, "level": warning.level.max(1), "short": bytes(&warning.short), "detail": detail });
    if !warning.url.is_empty() {
        told["url"] = json!(warning.url);
    }
    if let Some((first, last)) = warning.lines {
        let data = bytes(&warning.text);
        told["sourceInfo"] = json!({ "filename": warning.file, "data": data, "language": "Dockerfile" });
        told["range"] = json!([{ "start": { "line": first }, "end": { "line": last } }]);
    }
    told
}

impl<W: Write + Send> Display for Raw<W> {
    fn show(&mut self, event: &Event) {
        self.steps.take(event);
        if let What::Known { step, inputs, .. } = &event.what {
            self.inputs.insert(*step, inputs.clone());
        }
        let time = oci::time::rfc3339_micros(event.at);
        let line = match &event.what {
            What::Cache { step, manifest, .. } => json!({ "caches": [{ "vertex": step, "manifest": manifest }] }),
            What::Known { step, .. } | What::Started { step } | What::Completed { step, .. } => {
                json!({ "vertexes": [self.vertex(*step)] })
            }
            What::Log { step, stream, bytes } => {
                let stream = if *stream == Stream::Out { 1 } else { 2 };
                let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
                json!({ "logs": [{ "vertex": step, "stream": stream, "data": data, "timestamp": time }] })
            }
            What::Progress { step, part, current, total, done } => {
                let mut status = json!({ "id": part, "vertex": step, "current": current, "timestamp": time });
                if *total > 0 {
                    status["total"] = json!(total);
                }
                if *done {
                    status["completed"] = json!(time);
                }
                json!({ "statuses": [status] })
            }
            What::Warning { step, warning } => {
                json!({ "warnings": [self::warning(*step, warning)] })
            }
            What::Verdict { step, verdict } => json!({ "verdicts": [{ "vertex": step, "verdict": verdict }] }),
        };
        // Nobody reads any more (a closed pipe): the build goes on without its display.
        drop(writeln!(self.out, "{line}"));
    }
}
