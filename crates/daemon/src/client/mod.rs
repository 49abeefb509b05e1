//! A client of a running daemon, over BuildKit's API: builds, and the questions that a command asks. A daemon that is
//! larder is asked for more (`questions`); one that is BuildKit serves as far as its API goes.

mod build;
mod content;
mod control;
mod frontend;
mod offer;
mod outputs;
mod provenance;
mod status;

use std::path::Path;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use hyper_util::rt::TokioIo;
use proto::control::control_client::ControlClient;
use proto::control::{
    BytesMessage, DiskUsageRequest, InfoRequest, ListWorkersRequest, PruneRequest, UpdateBuildHistoryRequest,
    UsageRecord,
};
use tokio::net::UnixStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Streaming};

pub use build::{Offered, Refusal, request};
pub use proto::control::{CacheOptions, CacheOptionsEntry, Exporter, SolveRequest};
pub use proto::pb::Definition;
pub use proto::worker::WorkerRecord;

use crate::address::{Address, ClientTls};
use crate::questions::{ASK, Question};
use crate::session::MESSAGE;

/// How this client names itself.
pub const USER_AGENT: &str = "larder";
/// How long a daemon may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// Windows of HTTP/2.
const WINDOW: u32 = 8 << 20;
/// Largest header: an error carries the Dockerfile that it is about.
const HEADER: u32 = 16 << 20;

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Address(#[from] crate::address::Error),
    #[error("can't make sockets for a daemon in this process: {0}")]
    Private(std::io::Error),
    #[error("no daemon answers on {address}: {reason}")]
    Unreachable { address: String, reason: String },
    #[error("the daemon on {address} refused: {reason}")]
    Refused { address: String, reason: String },
    #[error("the daemon on {address} is not larder, and knows nothing of this")]
    NotLarder { address: String },
}

/// A connection to a daemon. Clones are the same connection.
#[derive(Clone)]
pub struct Client {
    address: String,
    channel: Channel,
}

/// What a prune removes, in BuildKit's words.
#[derive(Clone, Debug, Default)]
pub struct Prune {
    /// BuildKit's filters; one must match.
    pub filter: Vec<String>,
    /// Also internal records and what named images share.
    pub all: bool,
    /// Only what was not used for so long.
    pub keep_duration: Duration,
    /// Keep at least so many bytes.
    pub reserved_space: u64,
    /// Go down to so many bytes.
    pub max_used_space: u64,
    /// Go down until so many bytes of the disk are free.
    pub min_free_space: u64,
}

impl From<Prune> for PruneRequest {
    fn from(prune: Prune) -> PruneRequest {
        let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        PruneRequest {
            filter: prune.filter,
            all: prune.all,
            keep_duration: i64::try_from(prune.keep_duration.as_nanos()).unwrap_or(i64::MAX),
            reserved_space: bytes(prune.reserved_space),
            max_used_space: bytes(prune.max_used_space),
            min_free_space: bytes(prune.min_free_space),
        }
    }
}

/// What a connection without a host on a network is asked for.
const LOCAL: &str = "http://localhost";

fn endpoint(uri: &str) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(uri.to_owned())?.user_agent(USER_AGENT)?;
    let endpoint = endpoint.connect_timeout(PATIENCE).tcp_nodelay(true).http2_max_header_list_size(HEADER);
    Ok(endpoint.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW))
}

fn unreachable(address: &impl ToString, error: &tonic::transport::Error) -> Error {
    let reason = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    Error::Unreachable { address: address.to_string(), reason }
}

impl Client {
    /// Connects. TCP that others can reach wants `tls`.
    pub async fn connect(address: &Address, tls: Option<&ClientTls>) -> Result<Client, Error> {
        let unreachable = |e| unreachable(address, &e);
        let channel = match address {
            Address::Unix(path) => {
                let path: Box<Path> = path.as_path().into();
                let connector = tower::service_fn(move |_| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                let endpoint = endpoint(LOCAL).map_err(unreachable)?;
                endpoint.connect_with_connector(connector).await
            }
            Address::Tcp(place) => {
                address.refuse_open(tls.is_some(), "name certificates (ca.pem, cert.pem, key.pem)")?;
                let scheme = if tls.is_some() { "https" } else { "http" };
                let mut endpoint = endpoint(&format!("{scheme}://{place}")).map_err(unreachable)?;
                if let Some(tls) = tls {
                    endpoint = endpoint.tls_config(tls.config()?).map_err(unreachable)?;
                }
                endpoint.connect().await
            }
            Address::Given => {
                let reason = "fd:// is where a daemon listens, not where it is found".to_owned();
                return Err(Error::Unreachable { address: address.to_string(), reason });
            }
        };
        Ok(Client { address: address.to_string(), channel: channel.map_err(unreachable)? })
    }

    /// The client at the other end of a connection that is there already. It is not made anew when it breaks.
    pub(crate) async fn over(socket: UnixStream) -> Result<Client, Error> {
        let address = "a socket of this process".to_owned();
        let socket = std::sync::Mutex::new(Some(socket));
        let connector = tower::service_fn(move |_| {
            let socket = socket.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            async move { socket.map(TokioIo::new).ok_or_else(|| std::io::Error::other("its connection has ended")) }
        });
        let unreachable = |e| unreachable(&address, &e);
        let channel = endpoint(LOCAL).map_err(unreachable)?.connect_with_connector(connector).await;
        let channel = channel.map_err(unreachable)?;
        Ok(Client { address, channel })
    }

    fn control(&self) -> ControlClient<Channel> {
        let control = ControlClient::new(self.channel.clone());
        control.max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE)
    }

    fn refused(&self, status: &tonic::Status) -> Error {
        Error::Refused { address: self.address.clone(), reason: status.message().to_owned() }
    }

    /// Whether the daemon is larder.
    pub async fn is_larder(&self) -> Result<bool, Error> {
        let info = self.control().info(InfoRequest {}).await.map_err(|s| self.refused(&s))?;
        Ok(info.into_inner().buildkit_version.is_some_and(|v| v.package == "larder"))
    }

    /// Its workers.
    pub async fn workers(&self, filter: Vec<String>) -> Result<Vec<WorkerRecord>, Error> {
        let answer = self.control().list_workers(ListWorkersRequest { filter }).await;
        Ok(answer.map_err(|s| self.refused(&s))?.into_inner().record)
    }

    /// What it holds, by BuildKit's filters.
    pub async fn usage(&self, filter: Vec<String>) -> Result<Vec<UsageRecord>, Error> {
        let answer = self.control().disk_usage(DiskUsageRequest { filter, age_limit: 0 }).await;
        Ok(answer.map_err(|s| self.refused(&s))?.into_inner().record)
    }

    /// Removes what nobody needs, and gives it one by one.
    pub async fn prune(&self, prune: Prune) -> Result<BoxStream<'_, Result<UsageRecord, Error>>, Error> {
        let gone = self.control().prune(PruneRequest::from(prune)).await.map_err(|s| self.refused(&s))?.into_inner();
        Ok(gone.map(|record| record.map_err(|s| self.refused(&s))).boxed())
    }

    /// Forgets kept builds: one by its id, or all of them.
    pub async fn forget(&self, id: Option<&str>) -> Result<(), Error> {
        let ids = match id {
            Some(id) => vec![id.to_owned()],
            None => self.kept().await?,
        };
        for id in ids {
            let request = UpdateBuildHistoryRequest { r#ref: id, delete: true, ..Default::default() };
            self.control().update_build_history(request).await.map_err(|s| self.refused(&s))?;
        }
        Ok(())
    }

    async fn kept(&self) -> Result<Vec<String>, Error> {
        let request = proto::control::BuildHistoryRequest { early_exit: true, ..Default::default() };
        let answer = self.control().listen_build_history(request).await.map_err(|s| self.refused(&s))?;
        let mut events = answer.into_inner();
        let mut ids = Vec::new();
        while let Some(event) = events.message().await.map_err(|s| self.refused(&s))? {
            let ended = event.record.filter(|r| r.completed_at.is_some());
            ids.extend(ended.map(|record| record.r#ref));
        }
        Ok(ids)
    }

    /// Asks larder's own question: the whole answer, message by message.
    pub async fn ask(&self, question: &Question) -> Result<Vec<Vec<u8>>, Error> {
        let mut messages = self.ask_with(question, stream::empty()).await?;
        let mut answer = Vec::new();
        while let Some(message) = messages.message().await.map_err(|s| self.refused(&s))? {
            answer.push(message.data);
        }
        Ok(answer)
    }

    /// Asks larder's own question, with the bytes that belong to it. The answer is read as it comes.
    pub async fn ask_with(
        &self,
        question: &Question,
        bytes: impl stream::Stream<Item = Vec<u8>> + Send + 'static,
    ) -> Result<Streaming<BytesMessage>, Error> {
        let asked = self.question(question, bytes).await;
        asked.map_err(|status| match status.code() {
            Code::Unimplemented => Error::NotLarder { address: self.address.clone() },
            _ => self.refused(&status),
        })
    }

    async fn question(
        &self,
        question: &Question,
        bytes: impl stream::Stream<Item = Vec<u8>> + Send + 'static,
    ) -> Result<Streaming<BytesMessage>, tonic::Status> {
        let failed = |e: &dyn std::fmt::Display| tonic::Status::internal(e.to_string());
        let first = serde_json::to_vec(question).map_err(|e| failed(&e))?;
        let messages = stream::iter([first]).chain(bytes).map(|data| BytesMessage { data });
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE);
        grpc.ready().await.map_err(|e| failed(&e))?;
        let codec = tonic_prost::ProstCodec::<BytesMessage, BytesMessage>::default();
        let path = PathAndQuery::from_static(ASK);
        Ok(grpc.streaming(Request::new(messages), path, codec).await?.into_inner())
    }
}
