//! The client's SSH agent as a socket on this machine: each connection to it is forwarded over the session.
//! Keys never come here; only the agent's protocol passes through, unread.

use std::sync::Arc;

use builder::session::{Error, SshSocket};
use proto::ssh::ssh_client::SshClient;
use proto::ssh::{BytesMessage, CheckAgentRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::metadata::MetadataValue;

use super::Client;

/// Ends the forwarding and removes the socket when dropped.
struct Forwarding {
    task: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A socket that reaches the client's agent `id`.
pub async fn socket(client: &Arc<Client>, id: &str) -> Result<SshSocket, Error> {
    let missing = || Error::NoSshAgent { id: id.to_owned() };
    if !client.offers("/moby.sshforward.v1.SSH/CheckAgent") {
        return Err(missing());
    }
    let check = CheckAgentRequest { id: id.to_owned() };
    SshClient::new(client.channel()).check_agent(check).await.map_err(|_| missing())?;
    let other = |e: std::io::Error| Error::Other(format!("can't make a socket for the SSH agent: {e}"));
    let folder = tempfile::Builder::new().prefix("larder-ssh-").tempdir().map_err(other)?;
    let path = folder.path().join("agent");
    let listener = UnixListener::bind(&path).map_err(other)?;
    let (client, id) = (client.clone(), id.to_owned());
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (client, id) = (client.clone(), id.clone());
            // A connection that fails is seen by the process that made it.
            tokio::spawn(async move { forward(&client, &id, stream).await });
        }
    });
    Ok(SshSocket { path, guard: Box::new(Forwarding { task, _folder: folder }) })
}

async fn forward(client: &Client, id: &str, stream: UnixStream) -> Option<()> {
    let (mut reader, mut writer) = stream.into_split();
    let (send, receive) = mpsc::channel(16);
    let mut request = Request::new(ReceiverStream::new(receive));
    request.metadata_mut().insert("buildkit.ssh.id", MetadataValue::try_from(id).ok()?);
    let outgoing = tokio::spawn(async move {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            if send.send(BytesMessage { data: buffer[..count].to_vec() }).await.is_err() {
                break;
            }
        }
    });
    let mut incoming = SshClient::new(client.channel()).forward_agent(request).await.ok()?.into_inner();
    while let Ok(Some(message)) = incoming.message().await {
        writer.write_all(&message.data).await.ok()?;
    }
    outgoing.abort();
    Some(())
}
