//! Graphs that no honest client sends: each is a clear error of its own build, and the daemon lives on.

use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use prost::Message;
use proto::control::control_client::ControlClient;
use proto::control::{BytesMessage, SolveRequest};
use proto::pb;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::buildx::each;
use crate::kitchen::Kitchen;
use crate::served::Served;

async fn connect(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

/// A graph of these operations, as they come.
fn graph(ops: &[Vec<u8>]) -> pb::Definition {
    pb::Definition { def: ops.to_vec(), ..pb::Definition::default() }
}

fn op(inputs: &[&str], index: i64) -> Vec<u8> {
    let inputs = inputs.iter().map(|d| pb::Input { digest: (*d).to_owned(), index }).collect();
    pb::Op { inputs, ..pb::Op::default() }.encode_to_vec()
}

fn source(identifier: &str) -> Vec<u8> {
    let source = pb::SourceOp { identifier: identifier.to_owned(), ..pb::SourceOp::default() };
    pb::Op { op: Some(pb::op::Op::Source(source)), ..pb::Op::default() }.encode_to_vec()
}

/// What the daemon answers to a graph, in a session that offers nothing.
async fn solve(channel: &Channel, definition: pb::Definition, name: &str) -> Result<(), Status> {
    ask(channel, name, SolveRequest { definition: Some(definition), ..SolveRequest::default() }).await
}

/// The answer to a request in a session whose client is silent.
async fn ask(channel: &Channel, name: &str, request: SolveRequest) -> Result<(), Status> {
    let mut control = ControlClient::new(channel.clone());
    let session = format!("session-{name}");
    let mut opened = Request::new(tokio_stream::pending::<BytesMessage>());
    opened.metadata_mut().insert("x-docker-expose-session-uuid", session.parse().unwrap());
    let _open = control.session(opened).await?;
    control.solve(SolveRequest { r#ref: name.to_owned(), session, ..request }).await.map(drop)
}

#[test]
fn hostile_graphs_are_refused_one_by_one() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    each(|kitchen, daemon| {
        let channel = runtime.block_on(connect(kitchen.path("larder.sock")));
        let here = oci::Digest::of(&source("docker-image://base")).to_string();
        let nowhere = oci::Digest::of(b"nowhere").to_string();
        let mut needing = graph(&[source("docker-image://base"), op(&[&here], 0)]);
        let caps = [("source.teleport".to_owned(), true)].into();
        needing.metadata.insert(here.clone(), pb::OpMetadata { caps, ..pb::OpMetadata::default() });
        let cases = [
            ("garbage", graph(&[vec![0xff; 64], op(&[&nowhere], 0)])),
            ("truncated", graph(&[source("docker-image://base")[..5].to_vec(), op(&[&here], 0)])),
            ("dangling", graph(&[op(&[&nowhere], 0)])),
            ("no digest", graph(&[op(&["not a digest"], 0)])),
            ("no head", graph(&[source("docker-image://base")])),
            (
                "unknown scheme",
                graph(&[source("gopher://x"), op(&[&oci::Digest::of(&source("gopher://x")).to_string()], 0)]),
            ),
            ("negative output", graph(&[source("docker-image://base"), op(&[&here], -7)])),
            ("unknown capability", needing),
        ];
        let asked = cases.map(|(name, definition)| {
            let channel = &channel;
            async move { (name, solve(channel, definition, name).await) }
        });
        for (name, answer) in runtime.block_on(futures_util::future::join_all(asked)) {
            let answer = answer.expect_err(name);
            assert!(!answer.message().is_empty(), "{name}");
            assert!(!matches!(answer.code(), Code::Internal | Code::Unavailable | Code::Cancelled), "{name}: {answer}");
        }
        kitchen.write("Dockerfile", "FROM base\nRUN true\n");
        daemon.build(&[]).ok();
    });
}

/// BuildKit's client closes its session at the answer, and spoils what still comes over it: a call that takes no time is
/// answered after the session's connection has begun, and one day also when the client never says a word.
#[test]
fn no_answer_overtakes_the_session() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let Some(kitchen) = Kitchen::new() else { return };
    let _served = Served::start(&kitchen, None, &[]);
    runtime.block_on(async {
        let channel = connect(kitchen.root().join("larder.sock")).await;
        let describe = ("requestid".to_owned(), "frontend.subrequests.describe".to_owned());
        let request = SolveRequest {
            frontend: "dockerfile.v0".to_owned(),
            frontend_attrs: [describe].into(),
            ..SolveRequest::default()
        };
        let mut answer = std::pin::pin!(ask(&channel, "silent", request));
        let soon = tokio::time::timeout(std::time::Duration::from_millis(300), &mut answer).await;
        assert!(soon.is_err(), "answered before the session's connection has begun: {soon:?}");
        answer.await.unwrap();
    });
}
