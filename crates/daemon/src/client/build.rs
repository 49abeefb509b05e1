//! One build through a daemon: a session beside it, its events as they come, and the answer or the error as the same
//! build in this process would give it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use builder::build::{Request as Wanted, Response};
use builder::event::{Event, What};
use builder::session::Shared;
use builder::{Error, Events};
use std::future::ready;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use oci::Digest;
use proto::control::{CacheOptions, CacheOptionsEntry, Exporter, SolveRequest, StatusRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::{Code, Request, Status};

use super::{Client, offer, status};
use crate::questions::Question;
use crate::refusal::{Told, worded};
use crate::session::nearby::{self, Nearby};
use crate::session::tunnel;

/// What the client gives to a build.
pub struct Offered {
    /// Everything, as a build in this process would ask for it.
    pub session: Shared,
    /// Its directories by name. A daemon on this machine that runs as the same user reads them where they are.
    pub directories: BTreeMap<String, PathBuf>,
    /// Names this client's directories between builds, on whichever machine the daemon is.
    pub key: String,
}

/// Why a daemon did not build, as it says it.
#[derive(Debug)]
pub struct Refusal {
    /// For people.
    pub message: String,
    /// Where in the client's file the cause stands.
    pub place: Option<graph::Place>,
}

/// The name of the session of a build.
pub(super) fn session(build: &str) -> String {
    Digest::of(format!("session of {build}").as_bytes()).hex()[..25].to_owned()
}

/// The request in BuildKit's words.
pub fn request(wanted: &Wanted) -> SolveRequest {
    let mut attributes: HashMap<_, _> = wanted.attributes.clone().into_iter().collect();
    if let Some(stages) = &wanted.fail_on_miss {
        attributes.insert("fail-on-miss".to_owned(), stages.join(","));
    }
    if attributes.contains_key("requestid") {
        // The frontend must answer, or pass the question on to the one that the Dockerfile asks for.
        attributes.insert("frontend.caps".to_owned(), "moby.buildkit.frontend.subrequests+forward".to_owned());
    }
    let exporter = |output: &builder::exporters::Request| Exporter {
        r#type: output.kind.clone(),
        attrs: output.attributes.clone().into_iter().collect(),
    };
    let cache = |cache: &builder::caches::Request| CacheOptionsEntry {
        r#type: cache.kind.clone(),
        attrs: cache.attributes.clone().into_iter().collect(),
    };
    let (imports, exports) =
        (wanted.cache_from.iter().map(cache).collect(), wanted.cache_to.iter().map(cache).collect());
    let cache = CacheOptions { imports, exports, ..Default::default() };
    SolveRequest {
        cache: Some(cache),
        r#ref: wanted.id.clone(),
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: attributes,
        exporters: wanted.outputs.iter().map(exporter).collect(),
        entitlements: wanted.entitlements.clone(),
        internal: wanted.internal,
        source_policy: crate::policies::message(&wanted.policies),
        ..Default::default()
    }
}

/// The positions of the caches that are written elsewhere. BuildKit's own daemon tells the manifest of one, and not which:
/// a folder of this machine beside others would get no name for its cache.
fn exports(request: &SolveRequest, is_larder: bool) -> Result<Vec<usize>, Error> {
    let all = request.cache.iter().flat_map(|cache| &cache.exports).enumerate();
    let elsewhere: Vec<_> = all.filter(|(_, export)| export.r#type != "inline").collect();
    if !is_larder && elsewhere.len() > 1 && elsewhere.iter().any(|(_, export)| export.r#type == "local") {
        let text = "a daemon that is not larder can't write --cache-to type=local beside another one: give one of them";
        return Err(Error::Request(text.to_owned()));
    }
    Ok(elsewhere.into_iter().map(|(position, _)| position).collect())
}

/// Ends a task with whoever started it.
pub(super) struct Ended(tokio::task::JoinHandle<()>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// Builds: `request` without its session, which is opened here. Dropped before its end, the build is cancelled.
    pub async fn build(&self, offered: Offered, request: SolveRequest, events: &Events) -> Result<Response, Error> {
        let forbids = request.frontend_attrs.contains_key("fail-on-miss");
        // It only matters to builds that ask for more than BuildKit's API has.
        let matters = forbids || request.cache.iter().any(|cache| !cache.exports.is_empty());
        let is_larder = !matters || self.is_larder().await.map_err(|e| Error::Failed(e.to_string()))?;
        if forbids && !is_larder {
            let text = format!("the daemon on {} is not larder, and knows no --fail-on-miss", self.address);
            return Err(Error::Request(text));
        }
        let (exports, id) = (exports(&request, is_larder)?, request.r#ref.clone());
        match self.run(offered, request, events).await {
            Ok(exporter) => {
                let manifest = exporter.get("cache.manifest").and_then(|json| serde_json::from_str(json).ok());
                if let (false, [position], Some(manifest)) = (is_larder, exports.as_slice(), manifest) {
                    // As larder tells it.
                    events.tell(What::Cache { step: Digest::of(id.as_bytes()), position: *position, manifest });
                }
                Ok(Response { exporter, ..Response::default() })
            }
            Err(status) => Err(self.told(&status)),
        }
    }

    /// A failure as the same build in this process would give it.
    pub(super) fn told(&self, status: &Status) -> Error {
        Told::read(status).unwrap_or_else(|| worded(status, self.said(status)))
    }

    /// The same for any daemon and any request, and a failure as the daemon words it.
    pub async fn solve(
        &self,
        offered: Offered,
        request: SolveRequest,
        events: &Events,
    ) -> Result<BTreeMap<String, String>, Refusal> {
        self.run(offered, request, events).await.map_err(|status| self.refusal(&status))
    }

    pub(super) fn refusal(&self, status: &Status) -> Refusal {
        // As Go's clients word it.
        let message = match status.code() {
            Code::Unknown | Code::Unavailable => self.said(status),
            Code::Cancelled => format!("Canceled: {}", status.message()),
            code => format!("{code:?}: {}", status.message()),
        };
        Refusal { message, place: crate::refusal::place(status) }
    }

    fn said(&self, status: &Status) -> String {
        match status.code() {
            Code::Unavailable => format!("the daemon on {}: {}", self.address, status.message()),
            _ => status.message().to_owned(),
        }
    }

    // Boxed, so that its code is compiled in this crate and not in every one that builds.
    fn run<'a>(
        &'a self,
        offered: Offered,
        request: SolveRequest,
        events: &'a Events,
    ) -> BoxFuture<'a, Result<BTreeMap<String, String>, Status>> {
        Box::pin(async move {
            let id = request.r#ref.clone();
            let session = session(&id);
            let _session = self.open(&session, offered).await?;
            let request = SolveRequest { session, ..request };
            let mut control = self.control();
            let shown = self.show(&id, events);
            tokio::pin!(shown);
            let solving = control.solve(request);
            tokio::pin!(solving);
            let solved = tokio::select! {
                solved = &mut solving => {
                    // Everything that happened is shown before the end.
                    let _ = tokio::time::timeout(super::PATIENCE, shown).await;
                    solved
                }
                () = &mut shown => solving.await,
            };
            Ok(solved?.into_inner().exporter_response.into_iter().collect())
        })
    }

    /// Opens a session that lives as long as the answer.
    pub(super) async fn open(&self, id: &str, offered: Offered) -> Result<Ended, Status> {
        let (send, receive) = mpsc::channel(tunnel::WAITING);
        // Nothing but bytes is ever put in.
        let bytes = ReceiverStream::new(receive).filter_map(|message: Result<_, Status>| ready(message.ok()));
        let mut request = Request::new(bytes);
        let metadata = request.metadata_mut();
        put(metadata, "x-docker-expose-session-uuid", id);
        put(metadata, "x-docker-expose-session-name", "larder");
        put(metadata, "x-docker-expose-session-sharedkey", &offered.key);
        for method in offer::METHODS {
            metadata.append("x-docker-expose-session-grpc-method", MetadataValue::from_static(method));
        }
        let here = Nearby::here(offered.session.project(), offered.directories);
        put(metadata, nearby::HEADER, &here.header());
        let incoming = self.control().session(request).await?.into_inner();
        Ok(Ended(tokio::spawn(offer::serve(offered.session, incoming, send))))
    }

    /// Passes on what happens in the build until nothing more does.
    pub(super) async fn show(&self, id: &str, events: &Events) {
        // A stream that breaks off is no failure of the build, which tells itself how it ended.
        let asked = self.question(&Question::Events { id: id.to_owned() }, stream::empty()).await;
        match asked {
            Ok(mut messages) => {
                while let Ok(Some(message)) = messages.message().await {
                    let lines = message.data.split(|b| *b == b'\n').filter(|line| !line.is_empty());
                    lines.filter_map(|line| serde_json::from_slice::<Event>(line).ok()).for_each(|e| events.pass(e));
                }
            }
            Err(status) if status.code() == Code::Unimplemented => {
                let Ok(answer) = self.control().status(StatusRequest { r#ref: id.to_owned() }).await else { return };
                let (mut messages, mut reader) = (answer.into_inner(), status::Reader::default());
                while let Ok(Some(message)) = messages.message().await {
                    reader.read(&message, events);
                }
            }
            Err(_) => {}
        }
    }
}

/// What can't be metadata is left out: a daemon takes it for not offered.
pub(super) fn put(metadata: &mut MetadataMap, key: &'static str, value: &str) {
    if let (Ok(key), Ok(value)) = (MetadataKey::from_bytes(key.as_bytes()), MetadataValue::try_from(value)) {
        metadata.insert(key, value);
    }
}
