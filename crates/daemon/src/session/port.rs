//! `builder::session::Session`, answered by a client over its session.
//! Nothing is asked of the client before the builder asks, and each directory is synced once a build.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use builder::session::{self, Credentials, Directory, Error, Filter, Session, Sink, SshSocket};
use futures_util::future::BoxFuture;
use proto::filesync::CredentialsRequest;
use proto::filesync::auth_client::AuthClient;
use proto::secrets::GetSecretRequest;
use proto::secrets::secrets_client::SecretsClient;
use proto::upload::upload_client::UploadClient;
use tempfile::NamedTempFile;
use tokio::sync::OnceCell;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use super::content::Content;
use super::{Client, MESSAGE, Sessions, agent, mirror, send};

type Synced = Arc<OnceCell<Directory>>;

/// How an output goes to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One stream of bytes.
    Stream,
    /// Files and folders.
    Directory,
    /// Blobs, into the client's content store `export`.
    Content,
}

/// The client of one build.
pub struct Port {
    /// The session that the build was asked for with.
    pub client: Arc<Client>,
    /// All sessions: a directory may be another session's.
    pub sessions: Sessions,
    /// Where mirrors are kept.
    pub store: store::Store,
    /// Sessions of directories that are not the build's own (`local-sessionid:NAME`).
    pub elsewhere: BTreeMap<String, String>,
    /// For each output, how it goes to the client.
    pub outputs: Vec<Form>,
    synced: Mutex<HashMap<(String, Filter), Synced>>,
    uploads: Mutex<HashMap<String, Arc<OnceCell<NamedTempFile>>>>,
}

impl Port {
    /// The client's side of one build.
    pub fn new(
        client: Arc<Client>,
        sessions: Sessions,
        store: store::Store,
        elsewhere: BTreeMap<String, String>,
        outputs: Vec<Form>,
    ) -> Port {
        Port { client, sessions, store, elsewhere, outputs, synced: Mutex::default(), uploads: Mutex::default() }
    }

    /// Brings an upload into a file of its own.
    async fn pull(&self, path: &str) -> Result<NamedTempFile, Error> {
        let failed = |reason: &str| Error::Other(format!("the client does not upload {path}: {reason}"));
        let mut request = Request::new(tokio_stream::pending());
        let value = MetadataValue::try_from(path).map_err(|e| failed(&e.to_string()))?;
        request.metadata_mut().insert("urlpath", value);
        request.metadata_mut().insert("urlhost", MetadataValue::from_static("buildkit-session"));
        let mut service = UploadClient::new(self.client.channel()).max_decoding_message_size(MESSAGE);
        let answer = service.pull(request).await.map_err(|s| failed(s.message()))?;
        let mut parts = answer.into_inner();
        let mut file = NamedTempFile::new().map_err(|e| failed(&e.to_string()))?;
        while let Some(part) = parts.message().await.map_err(|s| failed(s.message()))? {
            file.write_all(&part.data).map_err(|e| failed(&e.to_string()))?;
        }
        Ok(file)
    }

    async fn sync(&self, name: &str, wanted: &Filter) -> Result<Directory, Error> {
        let client = match self.elsewhere.get(name) {
            None => self.client.clone(),
            Some(id) => self.sessions.find(id).await.map_err(|s| Error::Other(s.message().to_owned()))?,
        };
        if let Some(root) = client.nearby.as_ref().and_then(|nearby| nearby.directory(name)) {
            let identity = root.to_string_lossy().into_owned();
            return Ok(Directory { root: root.to_owned(), identity, mirror: None, transferred: 0, guard: None });
        }
        if !client.offers("/moby.filesync.v1.FileSync/DiffCopy") {
            return Err(Error::NoDirectory { name: name.to_owned() });
        }
        mirror::sync(&self.store, &client, name, wanted).await
    }
}

impl Session for Port {
    fn project(&self) -> String {
        let nearby = self.client.nearby.as_ref().map(|nearby| nearby.project.clone());
        nearby.unwrap_or_else(|| self.client.shared_key.clone())
    }

    fn directory<'a>(&'a self, name: &'a str, wanted: &'a Filter) -> BoxFuture<'a, Result<Directory, Error>> {
        Box::pin(async move {
            let cell = {
                let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
                synced.entry((name.to_owned(), wanted.clone())).or_default().clone()
            };
            cell.get_or_try_init(|| self.sync(name, wanted)).await.cloned()
        })
    }

    fn secret<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, Error>> {
        Box::pin(async move {
            if !self.client.offers("/moby.buildkit.secrets.v1.Secrets/GetSecret") {
                return Ok(None);
            }
            let request = GetSecretRequest { id: id.to_owned(), annotations: HashMap::new() };
            match SecretsClient::new(self.client.channel()).get_secret(request).await {
                Ok(response) => Ok(Some(response.into_inner().data)),
                Err(status) if matches!(status.code(), Code::NotFound | Code::Unimplemented) => Ok(None),
                Err(status) => Err(Error::Other(format!("can't get the secret {id}: {}", status.message()))),
            }
        })
    }

    fn ssh<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<SshSocket, Error>> {
        Box::pin(agent::socket(&self.client, id))
    }

    fn credentials<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<Credentials>, Error>> {
        Box::pin(async move {
            if !self.client.offers("/moby.filesync.v1.Auth/Credentials") {
                return Ok(None);
            }
            let request = CredentialsRequest { host: host.to_owned() };
            let answer = AuthClient::new(self.client.channel()).credentials(request).await;
            let answer =
                answer.map_err(|s| Error::Other(format!("can't get credentials for {host}: {}", s.message())))?;
            let answer = answer.into_inner();
            let found = !(answer.username.is_empty() && answer.secret.is_empty());
            Ok(found.then_some(Credentials { user: answer.username, secret: answer.secret }))
        })
    }

    fn output<'a>(
        &'a self,
        output: usize,
        response: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<Sink, Error>> {
        Box::pin(async move {
            let form = self.outputs.get(output).copied().ok_or(Error::NoOutput { output })?;
            match form {
                Form::Content => Ok(Sink::Content(self.content("", "export").await?)),
                form => send::sink(&self.client, output, form == Form::Directory, response),
            }
        })
    }

    fn upload<'a>(&'a self, path: &'a str, out: &'a mut (dyn Write + Send)) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let cell = {
                let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
                uploads.entry(path.to_owned()).or_default().clone()
            };
            // A client gives an upload once, and a build may need it twice.
            let file = cell.get_or_try_init(|| self.pull(path)).await?;
            let failed = |e: std::io::Error| Error::Other(format!("can't read the upload {path} again: {e}"));
            let mut file = file.reopen().map_err(failed)?;
            std::io::copy(&mut file, out).map(drop).map_err(failed)
        })
    }

    fn content<'a>(
        &'a self,
        session: &'a str,
        store: &'a str,
    ) -> BoxFuture<'a, Result<Arc<dyn session::Content>, Error>> {
        Box::pin(async move {
            // A graph made by a build that is over may name that build's session.
            let other = if session.is_empty() { None } else { self.sessions.present(session) };
            let client = other.unwrap_or_else(|| self.client.clone());
            Ok(Arc::new(Content::of(client, store)?) as Arc<dyn session::Content>)
        })
    }
}
