//! Where the daemon listens, and the one server behind every door.
//! TCP without TLS is refused here, unless it is on loopback and asked for by name.

use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use proto::bridge::llb_bridge_server::LlbBridgeServer;
use proto::calls::Served;
use proto::content::ContentServer;
use proto::control::control_server::ControlServer;
use proto::trace::TraceServer;
use proto::version::Versioned;
use tokio::sync::watch;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::transport::server::Router;

use crate::address::{self, Address, ServerTls};
use crate::bridge::Bridge;
use crate::content::Content;
use crate::session::MESSAGE;
use crate::{Daemon, workers};

/// Windows of HTTP/2: one client's context must not wait for round trips, and what was not read yet waits in memory.
const WINDOW: u32 = 1 << 20;

/// How long clients may take to end once the daemon is to stop.
const GRACE: Duration = Duration::from_secs(2);

/// Why the daemon can't listen.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Address(#[from] address::Error),
    #[error("can't listen on {address}: {source}")]
    Listen { address: String, source: std::io::Error },
    #[error("a socket that was given to the daemon is neither a listening unix socket nor TCP: {reason}")]
    Given { reason: String },
    #[error("the server on {address} failed: {reason}")]
    Serve { address: String, reason: String },
}

/// One open listening socket.
#[derive(Debug)]
pub struct Door {
    address: Address,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    /// With the file to remove at the end, if it is the daemon's own.
    Unix(UnixListener, Option<PathBuf>),
    Tcp(TcpListener),
}

/// How TCP is guarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// By certificates of both sides.
    Tls(ServerTls),
    /// Not at all: TCP is refused.
    None,
    /// Not at all, and the user asked for that: on loopback only.
    Loopback,
}

impl Guard {
    fn refuse(&self, address: &Address) -> Result<(), Error> {
        let open = |help| Err(address::Error::Open { address: address.to_string(), help }.into());
        match (self, address.is_local()) {
            (Guard::Tls(_), _) | (Guard::Loopback, true) => Ok(()),
            (Guard::Loopback, false) => open("--without-tls is for loopback; give --tlscert, --tlskey and --tlscacert"),
            (Guard::None, true) => open("give --tlscert, --tlskey and --tlscacert, or say --without-tls"),
            (Guard::None, false) => open("give --tlscert, --tlskey and --tlscacert"),
        }
    }
}

/// A socket that appears under its name once it listens, with its mode: whoever waits for the file can connect when it is there.
fn bound(path: &Path) -> std::io::Result<UnixListener> {
    let mut draft = path.as_os_str().to_owned();
    draft.push("~");
    let draft = PathBuf::from(draft);
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&draft)?;
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o660))?;
    std::fs::rename(&draft, path)?;
    Ok(listener)
}

impl Door {
    /// Opens an address. A socket file that lies there is taken over: whoever holds the store is the one daemon.
    pub fn open(address: &Address, guard: &Guard) -> Result<Door, Error> {
        let failed = |source| Error::Listen { address: address.to_string(), source };
        let socket = match address {
            Address::Unix(path) => {
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder).map_err(failed)?;
                }
                let listener = bound(path).map_err(failed)?;
                Socket::Unix(listener, Some(path.clone()))
            }
            Address::Tcp(place) => {
                guard.refuse(address)?;
                Socket::Tcp(TcpListener::bind(place).map_err(failed)?)
            }
            Address::Given => {
                return Err(Error::Given { reason: "none was given: start the daemon by its socket unit".to_owned() });
            }
        };
        Ok(Door { address: address.clone(), socket })
    }

    /// A listening socket that whoever started the daemon has opened.
    pub fn given(fd: OwnedFd, guard: &Guard) -> Result<Door, Error> {
        use rustix::net::AddressFamily;
        let reason = |e: &dyn std::fmt::Display| Error::Given { reason: e.to_string() };
        let listens = rustix::net::sockopt::socket_acceptconn(fd.as_fd()).map_err(|e| reason(&e))?;
        if !listens {
            return Err(reason(&"it does not listen"));
        }
        let name = rustix::net::getsockname(fd.as_fd()).map_err(|e| reason(&e))?;
        let family = name.address_family();
        if family == AddressFamily::UNIX {
            return Ok(Door { address: Address::Given, socket: Socket::Unix(fd.into(), None) });
        }
        if family != AddressFamily::INET && family != AddressFamily::INET6 {
            return Err(reason(&"it is of another family"));
        }
        let listener: TcpListener = fd.into();
        let place = listener.local_addr().map_err(|e| reason(&e))?;
        guard.refuse(&Address::Tcp(place.to_string()))?;
        Ok(Door { address: Address::Tcp(place.to_string()), socket: Socket::Tcp(listener) })
    }

    /// Gives the daemon's own socket file to a user and a group of this machine.
    pub fn give_to(&self, uid: Option<u32>, gid: Option<u32>) -> Result<(), Error> {
        match &self.socket {
            Socket::Unix(_, Some(path)) if uid.is_some() || gid.is_some() => {
                let given = std::os::unix::fs::chown(path, uid, gid);
                given.map_err(|source| Error::Listen { address: self.address.to_string(), source })
            }
            _ => Ok(()),
        }
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    async fn serve(self, daemon: Daemon, guard: Guard, mut stop: watch::Receiver<bool>) -> Result<(), Error> {
        let address = self.address.to_string();
        let failed = |reason: &dyn std::error::Error| Error::Serve {
            address: address.clone(),
            reason: reason.source().map_or_else(|| reason.to_string(), |source| format!("{reason}: {source}")),
        };
        let mut overdue = stop.clone();
        let stopped = async move { drop(stop.wait_for(|stopped| *stopped).await) };
        // Builds that still run after the grace are cancelled with their connections.
        let overdue = async move {
            drop(overdue.wait_for(|stopped| *stopped).await);
            tokio::time::sleep(GRACE).await;
        };
        match self.socket {
            Socket::Unix(listener, file) => {
                listener.set_nonblocking(true).map_err(|e| failed(&e))?;
                let listener = tokio::net::UnixListener::from_std(listener).map_err(|e| failed(&e))?;
                let router = router(daemon, Server::builder());
                let serving = router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped);
                let served = within(serving, overdue).await;
                if let Some(path) = file {
                    let _ = std::fs::remove_file(path); // the next start removes it as well
                }
                served.map_err(|e| failed(&e))
            }
            Socket::Tcp(listener) => {
                listener.set_nonblocking(true).map_err(|e| failed(&e))?;
                let listener = tokio::net::TcpListener::from_std(listener).map_err(|e| failed(&e))?;
                let incoming = TcpListenerStream::new(listener).map(|stream| {
                    // Small messages go back and forth: waiting to join them costs 40 ms each.
                    stream.and_then(|s| s.set_nodelay(true).map(|()| s))
                });
                let server = match &guard {
                    Guard::Tls(tls) => Server::builder().tls_config(tls.config()?).map_err(|e| failed(&e))?,
                    _ => Server::builder(),
                };
                let serving = router(daemon, server).serve_with_incoming_shutdown(incoming, stopped);
                within(serving, overdue).await.map_err(|e| failed(&e))
            }
        }
    }
}

/// Serves behind every door until `stop` is ready.
pub async fn serve(
    daemon: Daemon,
    doors: Vec<Door>,
    guard: &Guard,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let (tell, told) = watch::channel(false);
    let mut serving = behind(daemon, doors, guard, told);
    tokio::select! {
        served = &mut serving => return served,
        () = stop => {}
    }
    tell.send_replace(true);
    serving.await
}

/// Boxed, so that the code of all services is compiled in this crate and not in the one that calls [`serve`].
fn behind(
    daemon: Daemon,
    doors: Vec<Door>,
    guard: &Guard,
    told: watch::Receiver<bool>,
) -> BoxFuture<'static, Result<(), Error>> {
    let guard = guard.clone();
    Box::pin(async move {
        let serving = doors.into_iter().map(|door| door.serve(daemon.clone(), guard.clone(), told.clone()));
        futures_util::future::try_join_all(serving).await.map(drop)
    })
}

/// What `serving` comes to, unless `overdue` is ready before.
async fn within<E>(serving: impl Future<Output = Result<(), E>>, overdue: impl Future<Output = ()>) -> Result<(), E> {
    tokio::select! {
        served = serving => served,
        () = overdue => Ok(()),
    }
}

/// Every service, for whichever connections.
pub(crate) fn router(daemon: Daemon, server: Server) -> Router {
    let control =
        ControlServer::new(daemon.clone()).max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE);
    let control = Versioned { inner: control, version: workers::full_version() };
    let content = Served(ContentServer::new(Content(daemon.engine.clone())));
    let traces = Served(TraceServer::new(daemon.traces.clone()));
    let questions = Served(crate::questions::Questions(daemon.clone()));
    let bridge = LlbBridgeServer::new(Bridge::Clients(daemon))
        .max_decoding_message_size(MESSAGE)
        .max_encoding_message_size(MESSAGE);
    let health = proto::health::health_server::HealthServer::new(crate::control::health::Health);
    server
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .add_service(control)
        .add_service(bridge)
        .add_service(questions)
        .add_service(health)
        .add_service(content)
        .add_service(traces)
}
