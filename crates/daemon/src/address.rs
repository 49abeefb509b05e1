//! Where a daemon is, and how both sides of TCP know each other: certificates. TCP without them is for loopback only.

use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// An address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket file.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
    /// Sockets that whoever started the daemon has opened (systemd's socket activation).
    Given,
}

/// Why an address can't be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("`{address}` is no address: expected unix:///PATH, tcp://HOST:PORT or fd://")]
    Unreadable { address: String },
    #[error("{address} has no TLS, and whoever reaches it could build here: {help}")]
    Open { address: String, help: &'static str },
    #[error("can't read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
}

impl Address {
    /// Reads `unix:///path`, `tcp://host:port` or `fd://`.
    pub fn parse(text: &str) -> Result<Address, Error> {
        let unreadable = || Error::Unreadable { address: text.to_owned() };
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') { Ok(Address::Unix(path.into())) } else { Err(unreadable()) };
        }
        if text.starts_with("fd://") {
            return Ok(Address::Given);
        }
        let place = text.strip_prefix("tcp://").ok_or_else(unreadable)?;
        let (host, port) = place.rsplit_once(':').ok_or_else(unreadable)?;
        if host.is_empty() || host.contains('/') || port.parse::<u16>().is_err() {
            return Err(unreadable());
        }
        Ok(Address::Tcp(place.to_owned()))
    }

    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Unix(_) | Address::Given => true,
            Address::Tcp(place) => {
                let host = place.rsplit_once(':').map_or(place.as_str(), |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        }
    }

    /// Refuses TCP that is open to others.
    pub(crate) fn refuse_open(&self, has_tls: bool, help: &'static str) -> Result<(), Error> {
        if has_tls || self.is_local() {
            return Ok(());
        }
        Err(Error::Open { address: self.to_string(), help })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp(place) => write!(f, "tcp://{place}"),
            Address::Given => write!(f, "fd://"),
        }
    }
}

/// A daemon's certificate, and the authority whose clients it lets in. PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// The daemon's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authority of the clients' certificates: who has none is refused.
    pub clients: PathBuf,
}

/// What a client knows a daemon by, and is known by. PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// Authority of the daemon's certificate.
    pub authority: Option<PathBuf>,
    /// The client's certificate and private key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Name in the daemon's certificate; without it the address' host.
    pub name: Option<String>,
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

impl ServerTls {
    pub(crate) fn config(&self) -> Result<ServerTlsConfig, Error> {
        let identity = Identity::from_pem(read(&self.certificate)?, read(&self.key)?);
        let clients = Certificate::from_pem(read(&self.clients)?);
        Ok(ServerTlsConfig::new().identity(identity).client_ca_root(clients))
    }
}

impl ClientTls {
    pub(crate) fn config(&self) -> Result<ClientTlsConfig, Error> {
        let mut config = ClientTlsConfig::new();
        if let Some(path) = &self.authority {
            config = config.ca_certificate(Certificate::from_pem(read(path)?));
        }
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        if let Some(name) = &self.name {
            config = config.domain_name(name);
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_could_reach_needs_tls() {
        for open in ["tcp://0.0.0.0:1234", "tcp://[::]:1", "tcp://builder.example:1234"] {
            let address = Address::parse(open).unwrap();
            assert!(address.refuse_open(false, "").is_err(), "{open}");
            assert!(address.refuse_open(true, "").is_ok(), "{open}");
        }
        for local in ["tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://localhost:1", "unix:///x", "fd://"] {
            assert!(Address::parse(local).unwrap().refuse_open(false, "").is_ok(), "{local}");
        }
        for wrong in ["tcp://:1", "tcp://x", "tcp://x:99999", "unix://relative", "http://x:1", "", "tcp://a/b:1"] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }
}
