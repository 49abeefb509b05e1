//! How one result came about: its operations, who asked, what was read to find out; and provenance made of that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use graph::Graph;
use oci::Platform;
use serde_json::{Map, Value};

use super::asked::{Id, Local, Origin};
use super::capture::{Capture, Pins};
use super::operations::Steps;
use super::predicate::{Provenance, Run};
use super::statement::Made;
use super::{redact, wanted};
use crate::Error;
use crate::frontends::LANGUAGE;

/// What a frontend read to find out what is to be built.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// Directories of the client's.
    pub locals: BTreeSet<String>,
    /// Results of graphs: a remote context, a stage that was scanned.
    pub graphs: Vec<Arc<Graph>>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Making {
    /// Its operations.
    pub graph: Arc<Graph>,
    /// Who asked for it.
    pub origin: Arc<Origin>,
    /// What was read beside.
    pub read: Read,
}

impl Making {
    /// Provenance as it is wanted. `run` says when it was built.
    pub fn provenance(
        &self,
        wanted: &wanted::Provenance,
        pins: &Pins,
        run: Run,
        custom: &Map<String, Value>,
    ) -> Result<Made, Error> {
        let mut captured = Capture::default();
        captured.add(&self.graph, pins);
        self.read.graphs.iter().for_each(|graph| captured.add(graph, pins));
        captured.locals.extend(self.read.locals.iter().cloned());
        if wanted.complete && !captured.is_complete() {
            return Err(incomplete(&captured));
        }
        let asked = self.origin.told(&captured);
        let mut request = asked.request;
        let vcs = vcs(&mut request.args);
        let ids = |ids: &BTreeMap<String, bool>| {
            ids.iter().map(|(id, optional)| Id { id: id.clone(), optional: *optional }).collect()
        };
        (request.secrets, request.ssh) = (ids(&captured.secrets), ids(&captured.agents));
        let mut request_complete = !request.frontend.is_empty();
        if wanted.min && request.minimise() {
            request_complete = false;
        }
        request.locals = captured.locals.iter().map(|name| Local { name: name.clone() }).collect();
        let steps = (!wanted.min).then(|| Steps::of(&self.graph));
        let dockerfile = if request.frontend == "dockerfile.v0" { LANGUAGE } else { "" };
        let provenance = Provenance {
            materials: captured.materials().cloned().collect(),
            config: asked.config,
            request,
            operations: steps.as_ref().map(|steps| steps.operations(&self.graph)),
            platform: Platform::host().to_string(),
            dockerfile: dockerfile.to_owned(),
            custom: custom.clone(),
            builder: wanted.builder.clone(),
            vcs,
            source: steps.as_ref().and_then(|steps| steps.source(&self.graph)),
            layers: BTreeMap::new(),
            hermetic: captured.is_complete() && !captured.network,
            request_complete,
            materials_complete: captured.is_complete(),
            reproducible: wanted.reproducible,
        };
        let graph = steps.map(|_| self.graph.clone());
        Ok(Made { provenance, version: wanted.version, graph, run: Some(run) })
    }
}

/// Takes what the client says of its repository out of the attributes.
fn vcs(args: &mut BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut vcs = BTreeMap::new();
    args.retain(|name, value| {
        let Some(key) = name.strip_prefix("vcs:") else { return true };
        if !value.is_empty() {
            vcs.insert(key.to_owned(), redact(value));
        }
        false
    });
    vcs
}

fn incomplete(captured: &Capture) -> Error {
    let locals: Vec<&str> = captured.locals.iter().map(String::as_str).collect();
    let locals = if locals.is_empty() { "none".to_owned() } else { locals.join(", ") };
    Error::Request(format!(
        "provenance materials are incomplete, and complete-materials asks for all of them: directories of the client \
         ({locals}) have no digest; build from a git or http context"
    ))
}
