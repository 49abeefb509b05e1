//! A frontend in an image, asked for a result: it calls the bridge over its standard input and output, as a client does
//! over its connection, and what it returns is the result.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use builder::frontends::image::{Ends, Image, Process};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use proto::bridge::llb_bridge_server::LlbBridgeServer;
use proto::bridge::{self, result};
use proto::pb;
use proto::refusal::{Detail, status};
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::{Code, Status};

use super::Bridge;
use super::solve::{Wanted, definition};
use crate::config::Frontends;
use crate::jobs::{Containers, Job, Returned};
use crate::session::MESSAGE;
use crate::{Daemon, refusal, workers};

/// Bytes that wait between the process and the server.
const BUFFER: usize = 256 << 10;

/// What a running frontend may refer to.
pub struct Hosted {
    /// The daemon.
    pub daemon: Daemon,
    /// The build that it works for.
    pub job: Arc<Job>,
    /// Graphs that it was given.
    pub inputs: HashMap<String, pb::Definition>,
    /// Containers that it started.
    pub containers: Containers,
    returned: Mutex<Option<oneshot::Sender<Returned>>>,
}

impl Hosted {
    /// Ends the frontend's work. Only the first time counts.
    pub fn give_back(&self, returned: Returned) {
        let sender = self.returned.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            let _ = sender.send(returned); // whoever waited is gone: the build was cancelled
        }
    }
}

/// Refuses images that the operator does not want as frontends.
fn allow(frontends: &Frontends, source: &str) -> Result<(), Status> {
    let refused =
        |why: &str| Err(Status::permission_denied(format!("'{source}' is not an allowed gateway source{why}")));
    if !frontends.gateway {
        return refused(": frontends in images are turned off in this daemon's configuration");
    }
    let repository = |name: &str| oci::Reference::parse(name).ok().map(|r| (r.domain, r.path));
    let is_named = frontends.repositories.iter().any(|allowed| repository(allowed) == repository(source));
    if frontends.repositories.is_empty() || (is_named && repository(source).is_some()) { Ok(()) } else { refused("") }
}

/// Runs the frontend of the image `source` for what is wanted.
pub fn run<'a>(
    daemon: &'a Daemon,
    job: &'a Arc<Job>,
    source: &'a str,
    wanted: &'a Wanted<'_>,
) -> BoxFuture<'a, Result<bridge::Result, Status>> {
    Box::pin(async move {
        allow(&daemon.settings.frontends, source)?;
        let image = Image::find(&job.build, source).await.map_err(|e| refusal::of(&e))?;
        let caps = wanted.attributes.get("frontend.caps").map(String::as_str).unwrap_or_default();
        let inputs = if wanted.inputs.is_empty() { "" } else { "moby.buildkit.frontend.inputs" };
        if let Some(cap) = image.lacks(caps.split(',').chain([inputs])) {
            let text = format!("the frontend {source} has no {cap}");
            return Err(status(Code::Unimplemented, &text, &[Detail::FrontendCap(cap)]));
        }
        let started = image.start(&job.build, environment(daemon, job, wanted)).await;
        let (process, ends) = started.map_err(|e| refusal::of(&e))?;
        let (send, returned) = oneshot::channel();
        let hosted = Hosted {
            daemon: daemon.clone(),
            job: job.clone(),
            inputs: wanted.inputs.clone(),
            containers: Containers::default(),
            returned: Mutex::new(Some(send)),
        };
        let mut result = talk(process, ends, hosted, returned).await?;
        fill(job, &mut result)?;
        Ok(result)
    })
}

/// BuildKit's variables for frontends.
fn environment(daemon: &Daemon, job: &Job, wanted: &Wanted<'_>) -> Vec<String> {
    let options = wanted.attributes.iter().enumerate();
    let mut env: Vec<String> =
        options.map(|(i, (name, value))| format!("BUILDKIT_FRONTEND_OPT_{i}={name}={value}")).collect();
    env.push(format!("BUILDKIT_SESSION_ID={}", job.session));
    env.push(format!("BUILDKIT_WORKERS={}", workers::json(daemon)));
    env.push("BUILDKIT_EXPORTEDPRODUCT=buildkit".to_owned());
    env
}

/// Serves the bridge over the process' input and output until it has ended.
async fn talk(
    mut process: Process,
    ends: Ends,
    hosted: Hosted,
    mut returned: oneshot::Receiver<Returned>,
) -> Result<bridge::Result, Status> {
    let (near, mut far) = tokio::io::duplex(BUFFER);
    let mut ends = tokio::io::join(ends.output, ends.input);
    let bridge = LlbBridgeServer::new(Bridge::Frontend(Arc::new(hosted)))
        .max_decoding_message_size(MESSAGE)
        .max_encoding_message_size(MESSAGE);
    let health = proto::health::health_server::HealthServer::new(crate::control::health::Health);
    // One connection; the server lives until it is dropped.
    let incoming = stream::iter([Ok::<_, std::io::Error>(near)]).chain(stream::pending());
    let server = Server::builder().add_service(bridge).add_service(health).serve_with_incoming(incoming);
    let passing = tokio::io::copy_bidirectional(&mut far, &mut ends);
    let serving = async { tokio::join!(server, passing) };
    let ended = tokio::select! {
        ended = process.end() => ended,
        _ = serving => Err(builder::Error::Failed("the frontend's connection broke".to_owned())),
    };
    match (returned.try_recv(), ended) {
        (Ok(Err(refused)), _) => Err(refused),
        (_, Err(error)) => Err(refusal::of(&error)),
        (Ok(Ok(result)), Ok(())) => Ok(result),
        (Err(_), Ok(())) => Err(Status::unknown("the frontend ended without a result")),
    }
}

/// A frontend names its results by id; whoever asked for them gets their graphs as well.
fn fill(job: &Job, result: &mut bridge::Result) -> Result<(), Status> {
    let fill = |one: &mut bridge::Ref| -> Result<(), Status> {
        let missing = || Status::not_found(format!("the frontend returned a result {} that it never made", one.id));
        let found = job.refs.get(&one.id).ok_or_else(missing)?;
        one.def = Some(definition(&found.making.graph)?);
        Ok(())
    };
    let whole = |id: String| bridge::Ref { id, def: None };
    result.result = match result.result.take() {
        Some(result::Result::RefDeprecated(id)) => Some(result::Result::Ref(whole(id))),
        Some(result::Result::RefsDeprecated(all)) => {
            let refs = all.refs.into_iter().map(|(name, id)| (name, whole(id))).collect();
            Some(result::Result::Refs(bridge::RefMap { refs }))
        }
        other => other,
    };
    match &mut result.result {
        Some(result::Result::Ref(one)) => fill(one),
        Some(result::Result::Refs(all)) => all.refs.values_mut().try_for_each(fill),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_frontends_that_the_operator_wants() {
        let mut frontends = Frontends::default();
        assert!(allow(&frontends, "docker/dockerfile:1").is_ok());
        frontends.repositories = vec!["docker.io/docker/dockerfile".to_owned()];
        assert!(allow(&frontends, "docker/dockerfile:1@sha256:bad").is_err());
        assert!(allow(&frontends, "docker/dockerfile:1").is_ok());
        for other in ["docker/dockerfile-upstream", "registry.example/docker/dockerfile", "", ":"] {
            assert!(allow(&frontends, other).is_err(), "{other}");
        }
        frontends.gateway = false;
        assert!(allow(&frontends, "docker/dockerfile:1").is_err());
    }
}
