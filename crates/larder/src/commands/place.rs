//! Where a command's answers come from: the store itself, or the daemon that has it. Both give the same.
//! A daemon is asked as any client asks it; what BuildKit's API lacks is asked of larder alone.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use builder::event::Event;
use builder::history::Summary;
use builder::images::Listed;
use daemon::address::ClientTls;
use daemon::client::{Client, Error, Prune};
use daemon::questions::{PIECE, Question};
use daemon::{Address, usage};
use futures_util::StreamExt;
use proto::control::{DiskUsageRequest, PruneRequest, UsageRecord};
use store::Store;
use tokio::runtime::Runtime;

use super::{Failure, Root};

/// How long a try to open the store may take before the daemon that has it is looked for again.
const TRY: Duration = Duration::from_millis(200);

// Not a doc comment: clap would show it as what each verb is about.
// A daemon to ask instead of the store here.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct At {
    /// Daemon to ask: unix:///PATH or tcp://HOST:PORT [default: the one that has the store, if one runs]
    #[arg(long, value_name = "ADDRESS", env = "LARDER_ADDR", hide_env_values = true)]
    addr: Option<String>,
    /// Folder with ca.pem, cert.pem and key.pem, for a daemon on TCP
    #[arg(long, value_name = "FOLDER", env = "LARDER_TLS_DIR", hide_env_values = true)]
    tls_dir: Option<PathBuf>,
}

/// See the module.
pub enum Place {
    /// The store is ours.
    Here(Store),
    /// A daemon has it.
    There(There),
}

/// A daemon, and what calls it.
pub struct There {
    pub runtime: Runtime,
    pub client: Client,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::failed(error)
    }
}

impl Place {
    /// Finds the daemon that was named or has the store; opens the store if there is none.
    pub fn find(root: &Root, at: &At) -> Result<Place, Failure> {
        let tls = at.tls_dir.as_deref().map(certificates);
        if let Some(address) = &at.addr {
            let address = Address::parse(address).map_err(Failure::usage)?;
            return Ok(Place::There(There::connect(&address, tls.as_ref())?));
        }
        let (mut told, mut entered) = (false, false);
        loop {
            // A socket that nobody answers on was left by a daemon that is gone. It is tried without a thread.
            let answers = |socket: &&PathBuf| std::os::unix::net::UnixStream::connect(socket).is_ok();
            if let Some(socket) = root.sockets.iter().find(answers) {
                return Ok(Place::There(There::connect(&Address::Unix(socket.clone()), None)?));
            }
            if !std::mem::replace(&mut entered, true) {
                super::enter()?;
            }
            match super::open_within(&root.path, TRY, &mut told)? {
                Some(store) => return Ok(Place::Here(store)),
                None => continue,
            }
        }
    }

    /// Kept builds, newest first.
    pub fn builds(&self) -> Result<Vec<Summary>, Failure> {
        match self {
            Place::Here(store) => builder::history::builds(store).map_err(Failure::failed),
            Place::There(there) => there.ask(&Question::Builds),
        }
    }

    /// The build that a text means; without one, the newest.
    pub fn build(&self, build: Option<&str>) -> Result<Summary, Failure> {
        let all = self.builds()?;
        let Some(text) = build else {
            return all.into_iter().next().ok_or_else(|| Failure::failed("no build was kept yet"));
        };
        let mut found = all.into_iter().filter(|s| s.id.starts_with(text));
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (Some(one), Some(_)) if one.id == text => Ok(one),
            (Some(_), Some(_)) => {
                Err(Failure::usage(format!("several builds begin with `{text}`: give more of the id")))
            }
            (None, _) => Err(Failure::usage(format!("there is no build `{text}`: see `larder history ls`"))),
        }
    }

    /// The events of a build.
    pub fn events(&self, id: &str) -> Result<Vec<Event>, Failure> {
        match self {
            Place::Here(store) => builder::history::events(store, id).map_err(Failure::failed),
            Place::There(there) => {
                let bytes = there.bytes(&Question::Events { id: id.to_owned() })?.concat();
                let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
                lines.map(|line| serde_json::from_slice(line).map_err(unreadable)).collect()
            }
        }
    }

    /// Forgets builds.
    pub fn forget(&self, ids: &[String]) -> Result<(), Failure> {
        match self {
            Place::Here(store) => {
                ids.iter().try_for_each(|id| store.history().remove(id))?;
                Ok(store.flush()?)
            }
            Place::There(there) => {
                ids.iter().try_for_each(|id| there.bytes(&Question::Forget { id: id.clone() }).map(drop))
            }
        }
    }

    /// What the store holds, by BuildKit's filters.
    pub fn usage(&self, filter: Vec<String>) -> Result<Vec<UsageRecord>, Failure> {
        match self {
            Place::Here(store) => {
                let found = usage::list(store, &DiskUsageRequest { filter, age_limit: 0 });
                Ok(found.map_err(|status| Failure::failed(status.message()))?.record)
            }
            Place::There(there) => Ok(there.runtime.block_on(there.client.usage(filter))?),
        }
    }

    /// Removes what nobody needs.
    pub fn prune(&self, prune: Prune) -> Result<Vec<UsageRecord>, Failure> {
        match self {
            Place::Here(store) => {
                let gone = usage::prune(store, &PruneRequest::from(prune), "larder prune", || None);
                gone.map_err(|status| Failure::failed(status.message()))
            }
            Place::There(there) => there.runtime.block_on(async {
                let mut gone = there.client.prune(prune).await?;
                let mut records = Vec::new();
                while let Some(record) = gone.next().await {
                    records.push(record?);
                }
                Ok(records)
            }),
        }
    }

    /// Images of the store.
    pub fn images(&self) -> Result<Vec<Listed>, Failure> {
        match self {
            Place::Here(store) => builder::images::list(store).map_err(Failure::failed),
            Place::There(there) => there.ask(&Question::Images),
        }
    }

    /// Takes a name away.
    pub fn remove_image(&self, name: &str) -> Result<(), Failure> {
        match self {
            Place::Here(store) => builder::images::remove(store, name).map_err(Failure::failed),
            Place::There(there) => there.bytes(&Question::RemoveImage { name: name.to_owned() }).map(drop),
        }
    }

    /// Writes an image as an OCI archive.
    pub fn save_image(&self, name: &str, out: &mut dyn Write) -> Result<(), Failure> {
        match self {
            Place::Here(store) => builder::images::save(store, name, out).map_err(Failure::failed),
            Place::There(there) => there.runtime.block_on(async {
                let question = Question::SaveImage { name: name.to_owned() };
                let mut pieces = there.client.ask_with(&question, futures_util::stream::empty()).await?;
                while let Some(piece) = pieces.message().await.map_err(|s| Failure::failed(s.message()))? {
                    out.write_all(&piece.data)?;
                }
                Ok(())
            }),
        }
    }

    /// Takes in an image from a folder or a tar.
    pub fn import_image(&self, name: &str, from: &Path, env: &[String]) -> Result<(), Failure> {
        match self {
            Place::Here(store) => builder::images::import(store, name, from, env).map_err(Failure::failed),
            Place::There(there) => there.import(name, from, env),
        }
    }
}

fn unreadable(error: serde_json::Error) -> Failure {
    Failure::failed(format!("the daemon's answer can't be read: {error}"))
}

/// A runtime for a client of a daemon.
pub fn several_threads() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

impl There {
    /// Connects.
    pub fn connect(address: &Address, tls: Option<&ClientTls>) -> Result<There, Error> {
        let failed = |e: std::io::Error| Error::Unreachable { address: address.to_string(), reason: e.to_string() };
        let runtime = several_threads().map_err(failed)?;
        let client = runtime.block_on(Client::connect(address, tls))?;
        Ok(There { runtime, client })
    }

    fn bytes(&self, question: &Question) -> Result<Vec<Vec<u8>>, Failure> {
        Ok(self.runtime.block_on(self.client.ask(question))?)
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, question: &Question) -> Result<Vec<T>, Failure> {
        self.bytes(question)?.iter().map(|item| serde_json::from_slice(item).map_err(unreadable)).collect()
    }

    /// A folder goes as a tar of itself.
    fn import(&self, name: &str, from: &Path, env: &[String]) -> Result<(), Failure> {
        let cant = |e: std::io::Error| Failure::failed(format!("can't read {}: {e}", from.display()));
        let mut file = if from.is_dir() {
            let mut tar = tar::Builder::new(tempfile::tempfile()?);
            tar.append_dir_all("", from).map_err(cant)?;
            let mut file = tar.into_inner()?;
            std::io::Seek::rewind(&mut file)?;
            file
        } else {
            std::fs::File::open(from).map_err(cant)?
        };
        let question = Question::ImportImage { name: name.to_owned(), env: env.to_vec() };
        let (send, receive) = tokio::sync::mpsc::channel::<Vec<u8>>(4);
        let reading = std::thread::spawn(move || {
            loop {
                let mut piece = vec![0; PIECE];
                let count = file.read(&mut piece)?;
                piece.truncate(count);
                // Whoever takes no more has failed, and says why.
                if count == 0 || send.blocking_send(piece).is_err() {
                    return Ok::<_, std::io::Error>(());
                }
            }
        });
        let pieces =
            futures_util::stream::unfold(receive, |mut receive| async { Some((receive.recv().await?, receive)) });
        self.runtime.block_on(async {
            let mut answer = self.client.ask_with(&question, pieces).await?;
            while answer.message().await.map_err(|s| Failure::failed(s.message()))?.is_some() {}
            Ok::<_, Failure>(())
        })?;
        reading.join().map_err(|_| Failure::failed("a thread that read the image ended early"))?.map_err(cant)
    }
}

/// Certificates by Docker's names in a folder.
fn certificates(folder: &Path) -> ClientTls {
    ClientTls {
        authority: Some(folder.join("ca.pem")),
        identity: Some((folder.join("cert.pem"), folder.join("key.pem"))),
        name: None,
    }
}

/// What the client gives to a build through a daemon.
pub fn offered(session: std::sync::Arc<crate::client::LocalSession>) -> daemon::client::Offered {
    let directories = session.directories.clone();
    let key = key(&builder::session::Session::project(session.as_ref()));
    daemon::client::Offered { session, directories, key }
}

/// Names this machine's project on any daemon. Two machines may have different files at one path.
fn key(project: &str) -> String {
    let machine = std::fs::read("/etc/machine-id").unwrap_or_default();
    let name = rustix::system::uname().nodename().to_bytes().to_vec();
    let user = rustix::process::geteuid().as_raw().to_string();
    let parts = [machine.as_slice(), &name, user.as_bytes(), project.as_bytes()];
    oci::Digest::of(&parts.join(&b'\0')).hex().to_owned()
}
