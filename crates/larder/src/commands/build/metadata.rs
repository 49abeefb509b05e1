//! `--metadata-file`: what a build answered, as buildx writes it. Its descriptor is an object, and beside it stands how each
//! result was built, as much of that as `BUILDX_METADATA_PROVENANCE` says.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use builder::Events;
use builder::attestations::predicate::in_v02;
use builder::build::Response;
use builder::event::What;
use serde_json::{Map, Value};

use super::csv;
use crate::progress::raw;

/// How much of the provenance is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// None of it.
    Nothing,
    /// All but operations and times.
    Brief,
    /// All.
    All,
}

impl Told {
    /// What the user wants.
    pub fn wanted() -> Told {
        Told::read(&std::env::var("BUILDX_METADATA_PROVENANCE").unwrap_or_default())
    }

    fn read(text: &str) -> Told {
        match text {
            "max" => Told::All,
            "disabled" | "0" | "f" | "F" | "false" | "False" | "FALSE" => Told::Nothing,
            _ => Told::Brief,
        }
    }
}

/// Warnings of a build, as they come.
#[derive(Clone, Default)]
pub struct Warned(Arc<Mutex<Vec<Value>>>);

impl Warned {
    /// Notes warnings where the user wants them in the file, and passes everything on.
    pub fn listening(&self, events: Events) -> Events {
        let wanted = std::env::var("BUILDX_METADATA_WARNINGS").unwrap_or_default();
        if !csv::truth("BUILDX_METADATA_WARNINGS", &wanted).unwrap_or(false) {
            return events;
        }
        let warned = self.0.clone();
        Events::new(move |event| {
            if let What::Warning { step, warning } = &event.what {
                warned.lock().unwrap_or_else(PoisonError::into_inner).push(raw::warning(*step, warning));
            }
            events.pass(event);
        })
    }
}

/// The content of the file of the build `id`. Its reference has buildx's form: builder, node, build.
pub fn of(response: &Response, id: &str, warned: &Warned) -> Value {
    let mut value = written(response, Told::wanted());
    value["buildx.build.ref"] = format!("larder/larder/{id}").into();
    let warnings = warned.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if !warnings.is_empty() {
        value["buildx.build.warnings"] = warnings.into();
    }
    value
}

fn written(response: &Response, told: Told) -> Value {
    let mut object = Map::new();
    for (key, value) in &response.exporter {
        let decoded = (key == "containerimage.descriptor")
            .then(|| base64::engine::general_purpose::STANDARD.decode(value).ok())
            .flatten()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        object.insert(key.clone(), decoded.unwrap_or_else(|| Value::String(value.clone())));
    }
    for (name, predicate) in response.provenance.iter().filter(|_| told != Told::Nothing) {
        // An older BuildKit has told it in the older form already.
        let mut predicate =
            if predicate.get("buildDefinition").is_some() { in_v02(predicate) } else { predicate.clone() };
        if let (Told::Brief, Some(fields)) = (told, predicate.as_object_mut()) {
            fields.retain(|name, _| name != "buildConfig" && name != "metadata");
        }
        let suffix = if name.is_empty() { String::new() } else { format!("/{name}") };
        object.insert(format!("buildx.build.provenance{suffix}"), predicate);
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn as_much_as_is_wanted() {
        let predicate = json!({
            "buildDefinition": { "internalParameters": { "buildConfig": { "x": 1 }, "builderPlatform": "linux/amd64" } },
            "runDetails": { "builder": { "id": "" }, "metadata": { "invocationId": "b" } },
        });
        let provenance = [(String::new(), predicate)].into();
        let response = Response { provenance, ..Response::default() };
        let told = |text: &str| written(&response, Told::read(text));
        assert_eq!(told("disabled"), json!({}));
        assert_eq!(told("false"), json!({}));
        let brief = &told("")["buildx.build.provenance"];
        assert_eq!(brief["invocation"]["environment"]["platform"], "linux/amd64");
        assert!(brief.get("buildConfig").is_none() && brief.get("metadata").is_none());
        let all = &told("max")["buildx.build.provenance"];
        assert_eq!((&all["buildConfig"]["x"], &all["metadata"]["buildInvocationID"]), (&json!(1), &json!("b")));
    }
}
