//! Outputs on their way to the client (`FileSend`): one stream of bytes, or a directory as packets.
//! Exporters write from threads that may block; what they write waits here until the client took it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use builder::session::{Error, Folder, Output, Sink};
use proto::files::Packet;
use proto::filesync::file_send_client::FileSendClient;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataKey, MetadataValue};
use tonic::{Request, Status};

use store::view::View;

use super::Client;
use crate::transfer::Entries;

/// Bytes a message: well under the client's limit of 4 MiB.
const PIECE: usize = 1 << 20;
/// Path of the method, for both forms.
const METHOD: &str = "/moby.filesync.v1.FileSend/DiffCopy";

/// The place for output `index`.
pub fn sink(
    client: &Arc<Client>,
    index: usize,
    directory: bool,
    response: &BTreeMap<String, String>,
) -> Result<Sink, Error> {
    if !client.offers(METHOD) {
        return Err(Error::NoOutput { output: index });
    }
    if directory {
        let made = tempfile::Builder::new().prefix("larder-output-").tempdir();
        let folder = made.map_err(|e| Error::Other(format!("can't make a folder for an output: {e}")))?;
        return Ok(Sink::Directory(Box::new(Outgoing {
            folder,
            client: client.clone(),
            index,
            handle: Handle::current(),
        })));
    }
    let (send, receive) = mpsc::channel(4);
    let mut request = Request::new(ReceiverStream::new(receive));
    describe(&mut request, index, response);
    let mut service = FileSendClient::new(client.channel());
    let answer = tokio::spawn(async move {
        let mut incoming = service.diff_copy(request).await?.into_inner();
        // The client ends its half when everything is written down on its side.
        while incoming.message().await?.is_some() {}
        Ok(())
    });
    Ok(Sink::Stream(Box::new(Bytes {
        send: Some(send),
        buffer: Vec::new(),
        answer: Some(answer),
        had: false,
        handle: Handle::current(),
    })))
}

fn describe<T>(request: &mut Request<T>, index: usize, response: &BTreeMap<String, String>) {
    let metadata = request.metadata_mut();
    if let Ok(value) = MetadataValue::try_from(index.to_string()) {
        metadata.insert("buildkit-attachable-exporter-id", value);
    }
    for (key, value) in response {
        // What can't be metadata is not told: it is in the build's response as well.
        let key = MetadataKey::from_bytes(format!("exporter-md-{key}").to_lowercase().as_bytes());
        if let (Ok(key), Ok(value)) = (key, MetadataValue::try_from(value.as_str())) {
            metadata.insert(key, value);
        }
    }
}

type Answer = tokio::task::JoinHandle<Result<(), Status>>;

struct Bytes {
    send: Option<mpsc::Sender<proto::filesync::BytesMessage>>,
    buffer: Vec<u8>,
    answer: Option<Answer>,
    /// The client has the output already, and takes nothing.
    had: bool,
    handle: Handle,
}

impl Bytes {
    fn pass(&mut self) -> io::Result<()> {
        let data = std::mem::take(&mut self.buffer);
        if self.had {
            return Ok(());
        }
        let sent = self.send.as_ref().map(|s| s.blocking_send(proto::filesync::BytesMessage { data }));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => {
                self.outcome()?;
                if self.had { Ok(()) } else { Err(io::Error::other("the client takes no more bytes")) }
            }
        }
    }

    fn outcome(&mut self) -> io::Result<()> {
        self.send = None;
        let Some(answer) = self.answer.take() else { return Ok(()) };
        let ended = self.handle.block_on(answer);
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) if status.code() == tonic::Code::AlreadyExists => {
                self.had = true;
                Ok(())
            }
            Ok(Err(status)) => Err(io::Error::other(format!("the client: {}", status.message()))),
            Err(_) => Err(io::Error::other("sending to the client was interrupted")),
        }
    }
}

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let take = bytes.len().min(PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..take]);
        if self.buffer.len() == PIECE {
            self.pass()?;
        }
        Ok(take)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for Bytes {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.pass()?;
        }
        self.outcome()
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // Dropped before its end: the client must not take half an image for a whole one.
        if let Some(answer) = self.answer.take() {
            answer.abort();
        }
    }
}

/// A directory that is sent when it is whole.
struct Outgoing {
    folder: tempfile::TempDir,
    client: Arc<Client>,
    index: usize,
    handle: Handle,
}

impl Folder for Outgoing {
    fn path(&self) -> &Path {
        self.folder.path()
    }
    fn owners(&self) -> store::layer::Owners {
        // The client is told, and decides.
        store::layer::Owners::Kept
    }
    fn finish(self: Box<Self>) -> io::Result<()> {
        let entries = Entries::of(&View::of_dir(self.folder.path().to_owned()))?;
        let sent = self.handle.block_on(send(self.client.clone(), self.index, entries));
        sent.map_err(|status| io::Error::other(format!("the client: {}", status.message())))
    }
}

async fn send(client: Arc<Client>, index: usize, entries: Entries) -> Result<(), Status> {
    let (out, receive) = mpsc::channel::<Packet>(64);
    let sending = entries.begin(out);
    let mut request = Request::new(ReceiverStream::new(receive));
    describe(&mut request, index, &BTreeMap::new());
    // All platforms come at once: a client may remove whatever is not among it (`mode=delete`).
    request.metadata_mut().insert("buildkit-exporter-multi-platform", MetadataValue::from_static("1"));
    let mut grpc = tonic::client::Grpc::new(client.channel());
    grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(METHOD);
    let codec = tonic_prost::ProstCodec::<Packet, Packet>::default();
    let mut incoming = grpc.streaming(request, path, codec).await?.into_inner();
    sending.serve(&mut incoming).await?;
    while incoming.message().await?.is_some() {}
    Ok(())
}
