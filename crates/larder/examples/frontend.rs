//! A frontend for the tests, small but whole: it calls the bridge over its standard input and output and asks the Dockerfile
//! frontend for the target `inner`. With the option `fail` it returns an error, with `quit` nothing at all; `cache` is a
//! reference whose cache it gives with what it asks for, `resolve` a source that it looks at before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use std::collections::HashMap;

use hyper_util::rt::TokioIo;
use proto::bridge::llb_bridge_client::LlbBridgeClient;
use proto::bridge::{CacheOptionsEntry, PingRequest, ResolveSourceMetaRequest, ReturnRequest, SolveRequest};
use tonic::transport::{Channel, Endpoint};

/// `BUILDKIT_FRONTEND_OPT_N=name=value`.
fn options() -> HashMap<String, String> {
    let given = std::env::vars().filter(|(name, _)| name.starts_with("BUILDKIT_FRONTEND_OPT_"));
    given.filter_map(|(_, option)| option.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()))).collect()
}

/// A connection over standard input and output.
async fn connect() -> Channel {
    let stdio = std::sync::Mutex::new(Some(TokioIo::new(tokio::io::join(tokio::io::stdin(), tokio::io::stdout()))));
    let connector = tower::service_fn(move |_| {
        let stdio = stdio.lock().unwrap().take();
        async move { stdio.ok_or_else(|| std::io::Error::other("connected already")) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut options = options();
    if options.contains_key("build-arg:quit") {
        return;
    }
    assert!(!std::env::var("BUILDKIT_SESSION_ID").unwrap().is_empty());
    let mut bridge = LlbBridgeClient::new(connect().await);
    let pong = bridge.ping(PingRequest {}).await.unwrap().into_inner();
    assert!(!pong.frontend_api_caps.is_empty() && !pong.workers.is_empty());
    eprintln!("the frontend speaks");
    let mut answer = ReturnRequest::default();
    if options.contains_key("build-arg:fail") {
        let message = "the frontend does not want to".to_owned();
        answer.error = Some(proto::rpc::Status { code: 2, message, details: Vec::new() });
    } else {
        if let Some(identifier) = options.get("build-arg:resolve").cloned() {
            let source = Some(proto::pb::SourceOp { identifier, ..Default::default() });
            let request = ResolveSourceMetaRequest { source, ..Default::default() };
            bridge.resolve_source_meta(request).await.unwrap();
        }
        options.insert("target".to_owned(), "inner".to_owned());
        let cache = options.get("build-arg:cache").map(|reference| CacheOptionsEntry {
            r#type: "registry".to_owned(),
            attrs: HashMap::from([("ref".to_owned(), reference.clone())]),
        });
        let request = SolveRequest {
            cache_imports: cache.into_iter().collect(),
            frontend: "dockerfile.v0".to_owned(),
            frontend_opt: options,
            allow_result_return: true,
            allow_result_array_ref: true,
            ..Default::default()
        };
        answer.result = bridge.solve(request).await.unwrap().into_inner().result;
    }
    bridge.r#return(answer).await.unwrap();
    // A runtime that waits for a thread that reads standard input would not end.
    std::process::exit(0);
}
