//! The few questions that a command asks of a running daemon: who it is, what it holds. A client of the same API.

use std::path::Path;

use hyper_util::rt::TokioIo;
use proto::control::control_client::ControlClient;
use proto::control::{DiskUsageRequest, ListWorkersRequest, PruneRequest, UsageRecord};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::Address;

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("no daemon answers on {address}: {reason}")]
    Unreachable { address: String, reason: String },
    #[error("the daemon on {address} refused: {reason}")]
    Refused { address: String, reason: String },
}

/// One worker of a daemon: its id, and its platforms.
pub type Worker = (String, Vec<String>);

/// A connection to a daemon.
pub struct Client {
    address: String,
    control: ControlClient<Channel>,
}

impl Client {
    /// Connects.
    pub async fn connect(address: &Address) -> Result<Client, Error> {
        let unreachable = |e: tonic::transport::Error| Error::Unreachable {
            address: address.to_string(),
            reason: std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string),
        };
        let channel = match address {
            Address::Unix(path) => {
                let path: Box<Path> = path.as_path().into();
                let connector = tower::service_fn(move |_| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                Endpoint::from_static("http://localhost").connect_with_connector(connector).await
            }
            Address::Loopback(socket) => match Endpoint::from_shared(format!("http://{socket}")) {
                Ok(endpoint) => endpoint.connect().await,
                Err(error) => Err(error),
            },
        };
        let control = ControlClient::new(channel.map_err(unreachable)?);
        Ok(Client { address: address.to_string(), control })
    }

    fn refused(&self, status: &tonic::Status) -> Error {
        Error::Refused { address: self.address.clone(), reason: status.message().to_owned() }
    }

    /// Its workers.
    pub async fn workers(&mut self) -> Result<Vec<Worker>, Error> {
        let answer = self.control.list_workers(ListWorkersRequest { filter: Vec::new() }).await;
        let answer = answer.map_err(|s| self.refused(&s))?.into_inner();
        let name = |p: &proto::pb::Platform| oci::Platform::new(&p.os, &p.architecture, &p.variant).to_string();
        Ok(answer.record.into_iter().map(|w| (w.id, w.platforms.iter().map(name).collect())).collect())
    }

    /// What it holds, by BuildKit's filters.
    pub async fn usage(&mut self, filter: Vec<String>) -> Result<Vec<UsageRecord>, Error> {
        let answer = self.control.disk_usage(DiskUsageRequest { filter, age_limit: 0 }).await;
        Ok(answer.map_err(|s| self.refused(&s))?.into_inner().record)
    }

    /// Removes what nobody needs, and gives it.
    pub async fn prune(&mut self, filter: Vec<String>, all: bool) -> Result<Vec<UsageRecord>, Error> {
        let request = PruneRequest { filter, all, ..PruneRequest::default() };
        let mut gone = self.control.prune(request).await.map_err(|s| self.refused(&s))?.into_inner();
        let mut records = Vec::new();
        while let Some(record) = gone.message().await.map_err(|s| self.refused(&s))? {
            records.push(record);
        }
        Ok(records)
    }
}
