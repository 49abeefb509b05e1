//! `builder::session::Session`, answered from this machine.
//! Directories are handed over where they are: nothing is copied for a build in the same process.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use builder::session::{Content, Credentials, Directory, Draft, Error, Filter, Session, Sink, SshSocket};
use futures_util::future::BoxFuture;
use store::layer::Owners;

use super::content::Folder;
use super::outputs::Destination;
use super::secrets::Secret;
use super::ssh::Agent;

/// Path under which standard input is offered.
pub const STANDARD_INPUT: &str = "/standard-input";

/// What the command line offers to a build.
#[derive(Debug, Default)]
pub struct LocalSession {
    /// Directories by the name that the graph uses.
    pub directories: BTreeMap<String, PathBuf>,
    /// Secrets by id.
    pub secrets: BTreeMap<String, Secret>,
    /// SSH agents by id.
    pub agents: BTreeMap<String, Agent>,
    /// Destinations in the order of the request's outputs.
    pub outputs: Vec<Destination>,
    /// Folders of blobs by BuildKit's names for them: `oci:KEY`, `local:FOLDER`.
    pub content: BTreeMap<String, Folder>,
    /// Names the project when the context is no directory.
    pub project: Option<String>,
    /// What came on standard input, when it is the context.
    pub standard_input: Option<Vec<u8>>,
    /// Docker's client configuration, for registry credentials.
    pub docker_config: Option<PathBuf>,
    /// A Dockerfile that came from elsewhere; it goes with the session.
    pub kept: Option<tempfile::TempDir>,
    /// Whether files written into a directory keep the image's owners; else they are this user's.
    pub keep_owners: bool,
}

impl Session for LocalSession {
    fn project(&self) -> String {
        let named = self.project.clone();
        named
            .or_else(|| self.directories.get("context").map(|root| root.to_string_lossy().into_owned()))
            .unwrap_or_default()
    }

    fn directory<'a>(&'a self, name: &'a str, _wanted: &'a Filter) -> BoxFuture<'a, Result<Directory, Error>> {
        Box::pin(async move {
            let root = self.directories.get(name).ok_or_else(|| Error::NoDirectory { name: name.to_owned() })?;
            let identity = root.to_string_lossy().into_owned();
            Ok(Directory { root: root.clone(), identity, mirror: None, transferred: 0, guard: None })
        })
    }

    fn secret<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, Error>> {
        Box::pin(async move { self.secrets.get(id).map(Secret::read).transpose() })
    }

    fn ssh<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<SshSocket, Error>> {
        Box::pin(async move {
            let agent = self.agents.get(id).ok_or_else(|| Error::NoSshAgent { id: id.to_owned() })?;
            agent.socket(id).await
        })
    }

    fn credentials<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<Credentials>, Error>> {
        Box::pin(async move {
            let Some(path) = self.docker_config.clone() else { return Ok(None) };
            let host = host.to_owned();
            let found = tokio::task::spawn_blocking(move || registry::docker_config::credentials(&path, &host)).await;
            let found = found.map_err(|_| Error::Gone { what: "credentials".into() })?;
            let found = found.map_err(|e| Error::Other(e.to_string()))?;
            Ok(found.map(|(user, secret)| Credentials { user, secret }))
        })
    }

    fn output<'a>(
        &'a self,
        output: usize,
        _response: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<Sink, Error>> {
        let owners = if self.keep_owners { Owners::Kept } else { Owners::Own };
        Box::pin(async move { self.outputs.get(output).ok_or(Error::NoOutput { output })?.open(owners) })
    }

    fn draft(&self, output: usize) -> Result<Option<Box<dyn Draft>>, Error> {
        self.outputs.get(output).ok_or(Error::NoOutput { output })?.draft()
    }

    fn upload<'a>(&'a self, path: &'a str, out: &'a mut (dyn Write + Send)) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let bytes = self.standard_input.as_ref().filter(|_| path == STANDARD_INPUT);
            let bytes = bytes.ok_or_else(|| Error::Other(format!("nothing is offered under {path}")))?;
            out.write_all(bytes).map_err(|e| Error::Other(format!("can't take standard input in: {e}")))
        })
    }

    fn content<'a>(&'a self, _session: &'a str, store: &'a str) -> BoxFuture<'a, Result<Arc<dyn Content>, Error>> {
        Box::pin(async move {
            let folder = self.content.get(store).ok_or_else(|| Error::NoContent { store: store.to_owned() })?;
            Ok(Arc::new(folder.clone()) as Arc<dyn Content>)
        })
    }
}
