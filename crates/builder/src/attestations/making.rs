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

#[cfg(test)]
mod tests {
    use graph::wire::{self, op};
    use graph::{Edge, GraphBuilder};
    use oci::Digest;

    use super::super::asked::Call;
    use super::super::capture::Pin;
    use super::*;

    fn source(builder: &mut GraphBuilder, identifier: &str, attrs: &[(&str, &str)]) -> Digest {
        let attrs = attrs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let source = wire::SourceOp { identifier: identifier.to_owned(), attrs };
        let op = wire::Op { op: Some(op::Op::Source(source)), ..wire::Op::default() };
        builder.add(op, wire::OpMetadata::default()).unwrap()
    }

    /// A graph that has a secret wherever one can be.
    fn making() -> (Making, Pins) {
        let mut builder = GraphBuilder::default();
        let git = [("git.fullurl", "https://me:hush@h/x.git"), ("git.authtokensecret", "GIT_AUTH_TOKEN")];
        let git = source(&mut builder, "git://h/x.git#refs/heads/main:sub", &git);
        let web = [("http.header.authorization", "Bearer hush")];
        let web = source(&mut builder, "https://me:hush@h/file", &web);
        let proxy = wire::ProxyEnv { http_proxy: "http://me:hush@proxy".to_owned(), ..wire::ProxyEnv::default() };
        let env = vec!["API_TOKEN=hush".to_owned(), "PLAIN=shown".to_owned()];
        let meta = wire::Meta { env, proxy_env: Some(proxy), ..wire::Meta::default() };
        let input = |digest: Digest| wire::Input { digest: digest.to_string(), index: 0 };
        let exec = wire::ExecOp { meta: Some(meta), ..wire::ExecOp::default() };
        let op = wire::Op { inputs: vec![input(git), input(web)], op: Some(op::Op::Exec(exec)), ..wire::Op::default() };
        let vertex = builder.add(op, wire::OpMetadata::default()).unwrap();
        let graph = Arc::new(builder.finish(Some(Edge { vertex, output: 0 }), None));
        let pins = Pins::from([(git, Pin::Git("a".repeat(40))), (web, Pin::Http(Digest::of(b"x")))]);
        let attributes = [
            ("context", "https://me:hush@h/x.git#main:sub"),
            ("context:other", "https://me:hush@h/other"),
            ("build-arg:NPM_TOKEN", "hush"),
            ("build-arg:PLAIN", "shown"),
            ("vcs:source", "https://me:hush@h/x.git"),
        ];
        let attributes = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let call = Call { frontend: "dockerfile.v0".to_owned(), attributes, ..Call::default() };
        let origin = Arc::new(Origin { call: Some(call.clone()), root: call });
        (Making { graph, origin, read: Read::default() }, pins)
    }

    fn said(wanted: &wanted::Provenance) -> Value {
        let (making, pins) = making();
        let run = Run { id: "b".to_owned(), started: "s".to_owned(), finished: "f".to_owned() };
        making.provenance(wanted, &pins, run, &Map::new()).unwrap().predicate(&[], true)
    }

    #[test]
    fn nothing_secret_is_told() {
        for version in [wanted::Version::V1, wanted::Version::V02] {
            let text = said(&wanted::Provenance { version, ..wanted::Provenance::default() }).to_string();
            assert!(!text.contains("hush"), "{text}");
            assert!(text.contains("PLAIN=shown") && text.contains("https://xxxxx:xxxxx@h/x.git"), "{text}");
        }
    }

    #[test]
    fn materials_and_where_the_dockerfile_came_from() {
        let said = said(&wanted::Provenance { min: true, complete: true, ..wanted::Provenance::default() });
        let definition = &said["buildDefinition"];
        let used: Vec<_> = definition["resolvedDependencies"].as_array().unwrap().iter().collect();
        assert_eq!(used[0]["uri"], "https://xxxxx:xxxxx@h/x.git#main");
        assert_eq!(used[0]["digest"]["sha1"], "a".repeat(40));
        assert_eq!(used[1]["digest"]["sha256"], Digest::of(b"x").hex());
        let external = &definition["externalParameters"];
        assert_eq!(external["configSource"]["uri"], "https://xxxxx:xxxxx@h/x.git#main:sub");
        assert_eq!(external["configSource"]["digest"], used[0]["digest"]);
        let args = external["request"]["args"].as_object().unwrap();
        assert_eq!(args.keys().collect::<Vec<_>>(), ["context:other"]);
        assert_eq!(said["runDetails"]["metadata"]["buildkit_completeness"]["resolvedDependencies"], true);
        assert!(definition["internalParameters"].get("buildConfig").is_none());
    }

    #[test]
    fn what_is_not_known_by_digest_is_said() {
        let (mut making, pins) = making();
        making.read.locals.insert("context".to_owned());
        let wanted = wanted::Provenance { complete: true, ..wanted::Provenance::default() };
        let refused = making.provenance(&wanted, &pins, Run::default(), &Map::new());
        assert!(refused.unwrap_err().to_string().contains("directories of the client (context)"));
        let made = making.provenance(&wanted::Provenance::default(), &Pins::new(), Run::default(), &Map::new());
        assert!(!made.unwrap().provenance.materials_complete);
    }
}
