//! One build from its request to its response, whoever asks: `larder build` in this process, a client over gRPC.
//! A request is what BuildKit's Solve takes: frontend attributes, outputs. Everything else is asked of the session.

use std::collections::BTreeMap;
use std::sync::Arc;

use solver::Cause;

use crate::{Engine, Error, Events, exporters, session};

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
    _engine: &Arc<Engine>,
    _session: session::Shared,
    _events: Events,
    _request: Request,
) -> Result<Response, Error> {
    Err(Error::Cancelled)
}
