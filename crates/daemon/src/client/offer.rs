//! The client's half of a session: a builder's `Session` port, served as BuildKit's services over the daemon's stream.
//! It is the mirror image of `session::Port`: what a client gives in its own process, it gives here to any daemon.

use std::collections::HashMap;
use std::sync::Arc;

use builder::session::{Error, Filter, Shared, SshSocket};
use futures_util::stream::{self, BoxStream, StreamExt};
use proto::calls::Served;
use proto::control::BytesMessage;
use proto::files::Packet;
use proto::files::packet::PacketType;
use proto::filesync::auth_server::{Auth, AuthServer};
use proto::filesync::file_sync_server::{FileSync, FileSyncServer};
use proto::filesync::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse, GetTokenAuthorityRequest,
    GetTokenAuthorityResponse, VerifyTokenAuthorityRequest, VerifyTokenAuthorityResponse,
};
use proto::health::health_server::HealthServer;
use proto::secrets::secrets_server::{Secrets, SecretsServer};
use proto::secrets::{GetSecretRequest, GetSecretResponse};
use proto::ssh::ssh_server::{Ssh, SshServer};
use proto::ssh::{CheckAgentRequest, CheckAgentResponse};
use proto::upload::upload_server::{Upload, UploadServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{OnceCell, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::content::Content;
use super::outputs::FileSend;
use crate::session::tunnel::{self, Tunnel};
use crate::session::{MESSAGE, value};
use crate::transfer::Entries;

/// Methods that a daemon may call, as it is told of them.
pub const METHODS: [&str; 13] = [
    proto::content::INFO,
    proto::content::READ,
    proto::content::WRITE,
    proto::content::ABORT,
    "/moby.filesync.v1.FileSync/DiffCopy",
    "/moby.filesync.v1.FileSend/DiffCopy",
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.buildkit.secrets.v1.Secrets/GetSecret",
    "/moby.sshforward.v1.SSH/CheckAgent",
    "/moby.sshforward.v1.SSH/ForwardAgent",
    "/moby.upload.v1.Upload/Pull",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];

/// Bytes of an upload or of an agent's message at most.
const PIECE: usize = 1 << 20;

type Items<T> = BoxStream<'static, Result<T, Status>>;

/// See the module. Cheap to clone.
#[derive(Clone)]
struct Offer {
    session: Shared,
    /// Sockets of agents that were asked for: one agent serves all connections of a build.
    agents: Arc<std::sync::Mutex<HashMap<String, Arc<OnceCell<SshSocket>>>>>,
}

/// Serves `session` on the bytes that come from the daemon; what the daemon is to get goes into `outgoing`.
pub async fn serve(
    session: Shared,
    incoming: Streaming<BytesMessage>,
    outgoing: mpsc::Sender<Result<BytesMessage, Status>>,
) {
    let near = Tunnel::new(incoming, outgoing, CancellationToken::new(), ());
    let offer = Offer { session: session.clone(), agents: Arc::default() };
    let sync = FileSyncServer::new(offer.clone()).max_decoding_message_size(MESSAGE);
    let serving = Server::builder()
        .initial_stream_window_size(tunnel::WINDOW)
        .initial_connection_window_size(tunnel::WINDOW)
        .add_service(HealthServer::new(crate::control::health::Health))
        .add_service(sync)
        .add_service(Served(Content(session.clone())))
        .add_service(Served(FileSend(session)))
        .add_service(AuthServer::new(offer.clone()))
        .add_service(SecretsServer::new(offer.clone()))
        .add_service(SshServer::new(offer.clone()))
        .add_service(UploadServer::new(offer).max_encoding_message_size(MESSAGE))
        // One connection, and no end before it ends.
        .serve_with_incoming(stream::iter([Ok::<_, std::io::Error>(near)]).chain(stream::pending()));
    // A session that broke off fails whatever the daemon asks of it, and the build says so.
    drop(serving.await);
}

/// The session's error as a daemon reads it.
pub fn status(error: &Error) -> Status {
    match error {
        Error::NoContent { store } => Status::not_found(format!("unknown store {store}")),
        Error::NoBlob { .. } => Status::not_found(error.to_string()),
        Error::NoDirectory { .. } | Error::NoSshAgent { .. } | Error::NoOutput { .. } => {
            Status::not_found(error.to_string())
        }
        error => Status::unknown(error.to_string()),
    }
}

/// A list in metadata; escaped when its flag says so.
fn list(metadata: &MetadataMap, key: &str) -> Vec<String> {
    let encoded = value(metadata, &format!("{key}-encoded")) == "1";
    let texts = metadata.get_all(key).into_iter().filter_map(|v| v.to_str().ok());
    texts.map(|text| if encoded { unescaped(text) } else { text.to_owned() }).collect()
}

/// Takes URL query escaping back.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |digit: Option<u8>| digit.and_then(|d| char::from(d).to_digit(16));
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut after = rest.clone();
                match (hex(after.next()), hex(after.next())) {
                    (Some(high), Some(low)) => {
                        rest = after;
                        (high * 16 + low) as u8
                    }
                    _ => b'%',
                }
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[async_trait]
impl FileSync for Offer {
    type DiffCopyStream = Items<Packet>;

    async fn diff_copy(&self, request: Request<Streaming<Packet>>) -> Result<Response<Self::DiffCopyStream>, Status> {
        let metadata = request.metadata();
        let name = list(metadata, "dir-name").into_iter().next().unwrap_or_default();
        let wanted = Filter {
            include: list(metadata, "include-patterns"),
            exclude: list(metadata, "exclude-patterns"),
            follow: list(metadata, "followpaths"),
            hint: String::new(),
        };
        let directory = self.session.directory(&name, &wanted).await.map_err(|e| status(&e))?;
        let filter = store::tree::Filter { include: wanted.include, exclude: wanted.exclude, follow: wanted.follow };
        let root = directory.root.clone();
        let look = move || {
            let view = store::tree::look(&root, &filter).map_err(|e| e.to_string())?;
            Entries::of(&view).map_err(|e| format!("can't read {}: {e}", root.display()))
        };
        let entries = tokio::task::spawn_blocking(look).await;
        let entries = entries.map_err(|_| Status::internal("a thread that read a directory ended early"))?;
        let entries = entries.map_err(Status::unknown)?;
        let (out, receive) = mpsc::channel(64);
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            if let Err(status) = entries.begin(out.clone()).serve(&mut incoming).await {
                let data = status.message().as_bytes().to_vec();
                let failed = Packet { r#type: PacketType::PacketErr as i32, data, ..Packet::default() };
                let _ = out.send(failed).await; // a daemon that is gone knows that it failed
            }
            drop(directory);
        });
        Ok(Response::new(ReceiverStream::new(receive).map(Ok).boxed()))
    }

    type TarStreamStream = Items<Packet>;

    async fn tar_stream(&self, _: Request<Streaming<Packet>>) -> Result<Response<Self::TarStreamStream>, Status> {
        Err(Status::unimplemented("directories are sent as packets only"))
    }
}

#[async_trait]
impl Auth for Offer {
    async fn credentials(&self, request: Request<CredentialsRequest>) -> Result<Response<CredentialsResponse>, Status> {
        let found = self.session.credentials(&request.get_ref().host).await.map_err(|e| status(&e))?;
        let found = found.unwrap_or_default();
        Ok(Response::new(CredentialsResponse { username: found.user, secret: found.secret }))
    }

    async fn fetch_token(&self, _: Request<FetchTokenRequest>) -> Result<Response<FetchTokenResponse>, Status> {
        Err(Status::unimplemented("the daemon fetches tokens itself"))
    }

    async fn get_token_authority(
        &self,
        _: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("the daemon fetches tokens itself"))
    }

    async fn verify_token_authority(
        &self,
        _: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("the daemon fetches tokens itself"))
    }
}

#[async_trait]
impl Secrets for Offer {
    async fn get_secret(&self, request: Request<GetSecretRequest>) -> Result<Response<GetSecretResponse>, Status> {
        let id = &request.get_ref().id;
        let found = self.session.secret(id).await.map_err(|e| status(&e))?;
        let data = found.ok_or_else(|| Status::not_found(format!("there is no secret {id}")))?;
        Ok(Response::new(GetSecretResponse { data }))
    }
}

impl Offer {
    /// A connection to the agent `id`.
    async fn agent(&self, id: &str) -> Result<UnixStream, Status> {
        let cell = {
            let mut agents = self.agents.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            agents.entry(id.to_owned()).or_default().clone()
        };
        let socket = cell.get_or_try_init(|| self.session.ssh(id)).await.map_err(|e| status(&e))?;
        let connected = UnixStream::connect(&socket.path).await;
        connected
            .map_err(|e| Status::unavailable(format!("the SSH agent {} does not answer: {e}", socket.path.display())))
    }
}

#[async_trait]
impl Ssh for Offer {
    async fn check_agent(&self, request: Request<CheckAgentRequest>) -> Result<Response<CheckAgentResponse>, Status> {
        self.agent(named(&request.get_ref().id)).await?;
        Ok(Response::new(CheckAgentResponse {}))
    }

    type ForwardAgentStream = Items<proto::ssh::BytesMessage>;

    async fn forward_agent(
        &self,
        request: Request<Streaming<proto::ssh::BytesMessage>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let id = value(request.metadata(), "buildkit.ssh.id");
        let (mut reader, mut writer) = self.agent(named(&id)).await?.into_split();
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                if writer.write_all(&message.data).await.is_err() {
                    break;
                }
            }
        });
        let (send, receive) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut buffer = vec![0; 32 << 10];
            while let Ok(count @ 1..) = reader.read(&mut buffer).await {
                if send.send(Ok(proto::ssh::BytesMessage { data: buffer[..count].to_vec() })).await.is_err() {
                    break;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive).boxed()))
    }
}

/// An agent without a name is the default one.
fn named(id: &str) -> &str {
    if id.is_empty() { "default" } else { id }
}

#[async_trait]
impl Upload for Offer {
    type PullStream = Items<proto::upload::BytesMessage>;

    async fn pull(
        &self,
        request: Request<Streaming<proto::upload::BytesMessage>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let path = value(request.metadata(), "urlpath");
        let mut bytes = Vec::new();
        self.session.upload(&path, &mut bytes).await.map_err(|e| status(&e))?;
        let pieces: Vec<_> =
            bytes.chunks(PIECE).map(|data| Ok(proto::upload::BytesMessage { data: data.to_vec() })).collect();
        Ok(Response::new(stream::iter(pieces).boxed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_taken_back() {
        assert_eq!(unescaped("a+b%2Fc%C3%A4"), "a b/cä");
        assert_eq!(unescaped("100%"), "100%");
        assert_eq!(unescaped("%zz"), "%zz");
    }
}
