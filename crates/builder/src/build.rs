//! One build from its request to its response, whoever asks: `larder build` in this process, a client over gRPC.
//! A request is what BuildKit's Solve takes: frontend attributes, outputs. Everything else is asked of the session.

use std::collections::BTreeMap;
use std::sync::Arc;

use solver::Cause;

use crate::driver::Order;
use crate::frontends::Target;
use crate::frontends::dockerfile::Frontend;
use crate::history::Keeper;
use crate::{Engine, Error, Events, Live, exporters, session};

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Names the build in the history. Unique.
    pub id: String,
    /// BuildKit's attributes of the Dockerfile frontend: `filename`, `target`, `build-arg:NAME`, `label:NAME`,
    /// `platform`, `no-cache` (empty: all; else comma list of stages), `context:NAME`, `add-hosts`, `shm-size`, `ulimit`,
    /// `cgroup-parent`, `force-network-mode`, `image-resolve-mode` (`pull`), `multi-platform`, `source` …
    /// The context is the session's directory `context`, the Dockerfile's the directory `dockerfile`, unless the
    /// attribute `context` is a URL.
    pub attributes: BTreeMap<String, String>,
    /// Where results go.
    pub outputs: Vec<exporters::Request>,
    /// Fail when a step of these stages (empty list: any) must run, before it runs.
    pub fail_on_miss: Option<Vec<String>>,
    /// Granted to the build: `network.host`, `security.insecure`.
    pub entitlements: Vec<String>,
}

/// What became of it.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// BuildKit's exporter response: `containerimage.digest`, `containerimage.config.digest`,
    /// `containerimage.descriptor`, `image.name` …
    pub exporter: BTreeMap<String, String>,
}

/// Steps that had to run although `fail_on_miss` forbids it: display name and cause.
pub type Misses = Vec<(String, Cause)>;

/// A failed Dockerfile: the text, its name, and what is wrong where.
#[derive(Clone, Debug)]
pub struct Faulty {
    /// Name of the file as the client knows it.
    pub filename: String,
    /// Its text.
    pub text: String,
    /// What is wrong.
    pub diagnostics: Vec<dockerfile::Diagnostic>,
}

/// Builds. Writes the build's history itself (see [`crate::history`]).
pub async fn build(
    engine: &Arc<Engine>,
    session: session::Shared,
    events: Events,
    request: Request,
) -> Result<Response, Error> {
    let identity = match session.directory("context", &session::Filter::default()).await {
        Ok(directory) => directory.identity,
        Err(_) => request.attributes.get("context").cloned().unwrap_or_default(),
    };
    let keeper = Keeper::begin(&engine.store, &request, &identity)?;
    let events = keeper.listen(events);
    let outcome = run(engine, &session, &events, &request, &identity).await;
    keeper.finish(&engine.store, &outcome)?;
    engine.store.flush()?;
    outcome
}

async fn run(
    engine: &Arc<Engine>,
    session: &session::Shared,
    events: &Events,
    request: &Request,
    identity: &str,
) -> Result<Response, Error> {
    let frontend = Frontend { engine, session, events, request };
    let targets = frontend.targets().await?;
    for target in &targets {
        refuse(&target.lowered.graph, &request.entitlements)?;
    }
    let built = targets.into_iter().map(|target| async {
        let Target { platform, lowered } = target;
        let result = match lowered.graph.head {
            None => Live::Scratch,
            Some(head) => {
                let order = Order {
                    graph: Arc::new(lowered.graph.below(head)),
                    wanted: vec![head],
                    session: session.clone(),
                    events: events.clone(),
                    id: request.id.clone(),
                    project: identity.to_owned(),
                    target: request.attributes.get("target").cloned().unwrap_or_default(),
                    fail_on_miss: request.fail_on_miss.clone(),
                };
                let results = engine.driver.build(order).await?;
                results.into_iter().next().unwrap_or(Live::Scratch)
            }
        };
        Ok::<_, Error>(exporters::Built { platform, result, config: Some(lowered.config) })
    });
    let results = futures_util::future::try_join_all(built).await?;
    let exporter =
        exporters::export(engine, session, events, &request.id, &request.outputs, &results, &request.attributes)
            .await?;
    Ok(Response { exporter })
}

/// What a step may only do when the client grants it.
fn refuse(graph: &graph::Graph, entitlements: &[String]) -> Result<(), Error> {
    for vertex in graph.vertices() {
        let Some(graph::Kind::Exec(op)) = vertex.kind() else { continue };
        let needed = match (op.network, op.security) {
            (1, _) => "network.host",
            (_, 1) => "security.insecure",
            _ => continue,
        };
        if !entitlements.iter().any(|e| e == needed) {
            let name = vertex.name();
            return Err(Error::Request(format!("{name} needs {needed}, which is not granted: pass --allow {needed}")));
        }
    }
    Ok(())
}
