//! buildctl's global flags: where the daemon is, and by which certificates both sides know each other.
//! Opens connections; what is asked over them is the verbs'.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::daemon::Address;
use ::daemon::address::ClientTls;
use ::daemon::client::{Client, Error};

use crate::commands::Failure;

/// Where a daemon is looked for when nobody says anything.
const USUAL: &str = "unix:///run/buildkit/buildkitd.sock";
/// Between two tries of `--wait`.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(clap::Args, Debug)]
pub struct Connection {
    /// enable debug output in logs
    #[arg(long, global = true)]
    debug: bool,
    /// buildkitd address [default: $BUILDKIT_HOST, else unix:///run/buildkit/buildkitd.sock]
    #[arg(long, global = true, value_name = "ADDRESS")]
    addr: Option<String>,
    /// log formatter: json or text
    #[arg(long, global = true, value_parser = ["json", "text"], default_value = "text", hide_possible_values = true)]
    log_format: String,
    /// buildkitd server name for certificate validation
    #[arg(long, global = true, value_name = "NAME")]
    tlsservername: Option<String>,
    /// CA certificate for validation
    #[arg(long, global = true, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// client certificate
    #[arg(long, global = true, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// client key
    #[arg(long, global = true, value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// directory with CA certificate, client certificate and client key: (ca.pem, cert.pem, key.pem) or (ca.crt, tls.crt, tls.key)
    #[arg(long, global = true, value_name = "FOLDER")]
    tlsdir: Option<PathBuf>,
    /// timeout backend connection after value seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 5)]
    timeout: u64,
    /// block RPCs until the connection becomes available
    #[arg(long, global = true)]
    wait: bool,
}

impl Connection {
    /// Refuses flags that exclude each other before anything is done.
    pub fn check(&self) -> Result<(), Failure> {
        self.tls().map(drop)
    }

    /// Where the daemon is.
    pub fn address(&self) -> Result<Address, Failure> {
        let variable = std::env::var("BUILDKIT_HOST").ok().filter(|host| !host.is_empty());
        let text = self.addr.clone().or(variable).unwrap_or_else(|| USUAL.to_owned());
        Address::parse(&text).map_err(Failure::usage)
    }

    fn tls(&self) -> Result<Option<ClientTls>, Failure> {
        let (authority, certificate, key) = match &self.tlsdir {
            Some(_) if self.tlscacert.is_some() || self.tlscert.is_some() || self.tlskey.is_some() => {
                return Err(Failure::usage("cannot specify tlsdir and tlscacert/tlscert/tlskey at the same time"));
            }
            Some(folder) => {
                let file = |either, or| one_of(folder, either, or).map(Some);
                (file("ca.pem", "ca.crt")?, file("cert.pem", "tls.crt")?, file("key.pem", "tls.key")?)
            }
            None => (self.tlscacert.clone(), self.tlscert.clone(), self.tlskey.clone()),
        };
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(Failure::usage("--tlscert and --tlskey belong together")),
        };
        let is_asked = authority.is_some() || identity.is_some();
        Ok(is_asked.then(|| ClientTls { authority, identity, name: self.tlsservername.clone() }))
    }

    /// Connects, within the time that was given.
    pub async fn client(&self) -> Result<Client, Failure> {
        let (address, tls) = (self.address()?, self.tls()?);
        let connecting = async {
            loop {
                match Client::connect(&address, tls.as_ref()).await {
                    Err(Error::Unreachable { .. }) if self.wait => tokio::time::sleep(PAUSE).await,
                    connected => return connected.map_err(Failure::from),
                }
            }
        };
        if self.timeout == 0 {
            return connecting.await;
        }
        let late = |_| Failure::failed(format!("no daemon answers on {address} within {} s", self.timeout));
        tokio::time::timeout(Duration::from_secs(self.timeout), connecting).await.map_err(late)?
    }
}

/// The one of two files that is there.
fn one_of(folder: &Path, either: &str, or: &str) -> Result<PathBuf, Failure> {
    let found = [either, or].map(|name| folder.join(name)).into_iter().find(|path| path.exists());
    let missing = || format!("directory did not contain one of the needed files: {either} or {or}");
    found.ok_or_else(|| Failure::usage(missing()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Given {
        #[command(flatten)]
        connection: Connection,
    }

    fn tls(args: &[&str]) -> Result<Option<ClientTls>, String> {
        let given = Given::try_parse_from([&["buildctl"], args].concat()).unwrap();
        given.connection.tls().map_err(|failure| failure.text)
    }

    #[test]
    fn certificates_are_found_by_both_sets_of_names() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().to_str().unwrap();
        for name in ["ca.crt", "tls.crt", "tls.key", "cert.pem"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let found = tls(&["--tlsdir", at]).unwrap().unwrap();
        assert_eq!(found.authority, Some(folder.path().join("ca.crt")));
        assert_eq!(found.identity, Some((folder.path().join("cert.pem"), folder.path().join("tls.key"))));
        std::fs::remove_file(folder.path().join("tls.key")).unwrap();
        assert!(tls(&["--tlsdir", at]).unwrap_err().contains("key.pem or tls.key"));
        assert!(tls(&["--tlsdir", at, "--tlskey", "k"]).unwrap_err().contains("at the same time"));
        assert!(tls(&["--tlscert", "c"]).unwrap_err().contains("belong together"));
        assert_eq!(tls(&[]), Ok(None));
    }
}
