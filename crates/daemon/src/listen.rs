//! Where the daemon listens, and the one server behind every address.
//! TCP without TLS is refused here, unless it is on loopback and asked for by name.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::bridge::llb_bridge_server::LlbBridgeServer;
use proto::content::ContentServer;
use proto::control::control_server::ControlServer;
use proto::trace::TraceServer;
use proto::version::Versioned;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::transport::server::Router;

use crate::bridge::Bridge;
use crate::content::Content;
use crate::session::MESSAGE;
use crate::{Daemon, workers};

/// Windows of HTTP/2: one client's context must not wait for round trips.
const WINDOW: u32 = 8 << 20;

/// How long clients may take to end once the daemon is to stop.
const GRACE: Duration = Duration::from_secs(2);

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket file.
    Unix(PathBuf),
    /// A port on loopback, without TLS.
    Loopback(SocketAddr),
}

/// Why the daemon can't listen.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("`{address}` is no address: expected unix:///PATH or tcp://127.0.0.1:PORT")]
    Unreadable { address: String },
    #[error(
        "{address} is not on loopback: TCP with TLS is not built yet, and without it others could build here; use a unix socket over ssh"
    )]
    Open { address: String },
    #[error("can't listen on {address}: {source}")]
    Listen { address: String, source: std::io::Error },
    #[error("the server on {address} failed: {source}")]
    Serve { address: String, source: tonic::transport::Error },
}

impl Address {
    /// Reads `unix:///path` or `tcp://host:port`.
    pub fn parse(text: &str) -> Result<Address, Error> {
        let unreadable = || Error::Unreadable { address: text.to_owned() };
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') { Ok(Address::Unix(path.into())) } else { Err(unreadable()) };
        }
        let address: SocketAddr = text.strip_prefix("tcp://").and_then(|a| a.parse().ok()).ok_or_else(unreadable)?;
        if address.ip().is_loopback() {
            Ok(Address::Loopback(address))
        } else {
            Err(Error::Open { address: text.to_owned() })
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Loopback(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// Serves until `stop` is ready. `ready` is called once the address is open.
pub async fn serve(
    daemon: Daemon,
    address: Address,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let failed = |source| Error::Listen { address: address.to_string(), source };
    let stopping = Arc::new(Notify::new());
    let told = stopping.clone();
    let stop = async move {
        stop.await;
        told.notify_one();
    };
    // Builds that still run after the grace are cancelled with their connections.
    let overdue = async move {
        stopping.notified().await;
        tokio::time::sleep(GRACE).await;
    };
    let router = router(daemon);
    let served = match &address {
        Address::Unix(path) => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(failed)?;
            }
            // Whoever holds the store is the one daemon: a socket that lies here was left by a dead one.
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
            let listener = UnixListener::bind(path).map_err(failed)?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(failed)?;
            ready();
            let served =
                within(router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop), overdue).await;
            let _ = std::fs::remove_file(path); // the next start removes it as well
            served
        }
        Address::Loopback(socket) => {
            let listener = TcpListener::bind(socket).await.map_err(failed)?;
            ready();
            let incoming = TcpListenerStream::new(listener);
            let incoming = futures_util::StreamExt::map(incoming, |stream| {
                // Small messages go back and forth: waiting to join them costs 40 ms each.
                stream.and_then(|s| s.set_nodelay(true).map(|()| s))
            });
            within(router.serve_with_incoming_shutdown(incoming, stop), overdue).await
        }
    };
    served.map_err(|source| Error::Serve { address: address.to_string(), source })
}

/// What `serving` comes to, unless `overdue` is ready before.
async fn within<E>(serving: impl Future<Output = Result<(), E>>, overdue: impl Future<Output = ()>) -> Result<(), E> {
    tokio::select! {
        served = serving => served,
        () = overdue => Ok(()),
    }
}

fn router(daemon: Daemon) -> Router {
    let control =
        ControlServer::new(daemon.clone()).max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE);
    let control = Versioned { inner: control, version: workers::full_version() };
    let content = ContentServer::new(Content(daemon.engine.clone()));
    let traces = TraceServer::new(daemon.traces.clone());
    let bridge = LlbBridgeServer::new(Bridge::Clients(daemon))
        .max_decoding_message_size(MESSAGE)
        .max_encoding_message_size(MESSAGE);
    let health = proto::health::health_server::HealthServer::new(crate::control::health::Health);
    Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .add_service(control)
        .add_service(bridge)
        .add_service(health)
        .add_service(content)
        .add_service(traces)
}
