//! Blobs on the client's side (`containerd.services.content.v1`): read and written over its session by digest.
//! What the blobs mean, and whether what was read is what was asked for, is the builder's.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use builder::session::{self, Error};
use futures_util::future::BoxFuture;
use oci::Digest;
use prost::Message;
use proto::content::{
    ABORT, AbortRequest, INFO, InfoRequest, InfoResponse, READ, ReadRequest, ReadResponse, STORE, WRITE, WriteAction,
    WriteRequest, WriteResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::{Client, MESSAGE};

/// Bytes a message: well under the client's limit of 4 MiB.
const PIECE: usize = 1 << 20;

/// Names each write: two of the same blob at a time must not meet on the client's side.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// One of a client's content stores.
pub struct Content {
    client: Arc<Client>,
    store: String,
}

impl Content {
    /// The store that the client keeps under that name. Whether it has one shows with the first call.
    pub fn of(client: Arc<Client>, store: &str) -> Result<Content, Error> {
        if !client.offers(READ) {
            return Err(Error::NoContent { store: store.to_owned() });
        }
        Ok(Content { client, store: store.to_owned() })
    }

    fn request<T>(&self, message: T) -> Result<Request<T>, Error> {
        let mut request = Request::new(message);
        let value = MetadataValue::try_from(&self.store);
        let value = value.map_err(|_| Error::NoContent { store: self.store.clone() })?;
        request.metadata_mut().insert(STORE, value);
        Ok(request)
    }

    async fn grpc(&self) -> Result<tonic::client::Grpc<Channel>, Error> {
        let mut grpc = tonic::client::Grpc::new(self.client.channel()).max_decoding_message_size(MESSAGE);
        let gone = |_| Error::Gone { what: format!("the content {}", self.store) };
        grpc.ready().await.map_err(gone)?;
        Ok(grpc)
    }

    /// A call with one question and one answer.
    async fn ask<Q, A>(&self, path: &'static str, question: Q) -> Result<Result<A, Status>, Error>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        let codec = ProstCodec::<Q, A>::default();
        let asked = self.request(question)?;
        let answer = self.grpc().await?.unary(asked, PathAndQuery::from_static(path), codec).await;
        Ok(answer.map(tonic::Response::into_inner))
    }

    fn failed(&self, doing: &str, digest: &Digest, status: &Status) -> Error {
        match status.code() {
            // The client says so of a store that it does not have, too.
            Code::NotFound if status.message().contains("unknown store") => {
                Error::NoContent { store: self.store.clone() }
            }
            Code::NotFound => Error::NoBlob { store: self.store.clone(), digest: *digest },
            _ => {
                let store = &self.store;
                Error::Other(format!("can't {doing} {digest} in the client's content {store}: {}", status.message()))
            }
        }
    }

    async fn read_into(&self, digest: &Digest, out: &mut (dyn Write + Send)) -> Result<(), Error> {
        let asked = self.request(ReadRequest { digest: digest.to_string(), offset: 0, size: 0 })?;
        let codec = ProstCodec::<ReadRequest, ReadResponse>::default();
        let failed = |status: Status| self.failed("read", digest, &status);
        let path = PathAndQuery::from_static(READ);
        let mut parts = self.grpc().await?.server_streaming(asked, path, codec).await.map_err(failed)?.into_inner();
        while let Some(part) = parts.message().await.map_err(failed)? {
            let written = out.write_all(&part.data);
            written.map_err(|e| Error::Other(format!("can't keep {digest} of the client's content: {e}")))?;
        }
        Ok(())
    }

    async fn write_from(&self, digest: &Digest, size: u64, from: Box<dyn Read + Send>) -> Result<(), Error> {
        let name = format!("larder-{}-{digest}", WRITES.fetch_add(1, Ordering::Relaxed));
        let written = self.transfer(&name, digest, size, from).await;
        match written {
            Ok(()) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => {
                // What was sent is of no use to anybody; a client that can't remove it is told of enough by the failure.
                let _: Result<(), Status> = self.ask(ABORT, AbortRequest { r#ref: name }).await?;
                Err(self.failed("write", digest, &status))
            }
        }
    }

    /// Asks for the write, sends the bytes, and waits until the client has them under their digest.
    async fn transfer(&self, name: &str, digest: &Digest, size: u64, from: Box<dyn Read + Send>) -> Result<(), Status> {
        let total = i64::try_from(size).map_err(|_| Status::out_of_range(format!("{size} bytes")))?;
        let first = WriteRequest {
            action: WriteAction::Stat as i32,
            r#ref: name.to_owned(),
            total,
            expected: digest.to_string(),
            ..WriteRequest::default()
        };
        let (send, receive) = mpsc::channel(4);
        send.send(first).await.map_err(|_| Status::internal("a channel closed early"))?;
        let asked = self.request(ReceiverStream::new(receive)).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let mut grpc = self.grpc().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let codec = ProstCodec::<WriteRequest, WriteResponse>::default();
        let mut answers = grpc.streaming(asked, PathAndQuery::from_static(WRITE), codec).await?.into_inner();
        // The first answer comes before any byte is sent: a client that has the blob refuses the write here.
        answers.message().await?;
        let expected = digest.to_string();
        let sending = tokio::task::spawn_blocking(move || pieces(from, total, &expected, &send));
        loop {
            match answers.message().await? {
                Some(answer) if answer.action == WriteAction::Commit as i32 => break,
                Some(_) => {}
                None => {
                    let sent = sending.await.map_err(|_| Status::internal("a sending thread ended early"))?;
                    sent.map_err(|e| Status::internal(e.to_string()))?;
                    return Err(Status::internal("the client ended the write before it was whole"));
                }
            }
        }
        let sent = sending.await.map_err(|_| Status::internal("a sending thread ended early"))?;
        sent.map_err(|e| Status::internal(e.to_string()))
    }
}

/// Sends `total` bytes, then the commit.
fn pieces(
    mut from: Box<dyn Read + Send>,
    total: i64,
    expected: &str,
    send: &mpsc::Sender<WriteRequest>,
) -> std::io::Result<()> {
    let mut offset = 0;
    while offset < total {
        let mut data = Vec::with_capacity(PIECE);
        let count = from.by_ref().take(PIECE as u64).read_to_end(&mut data)?;
        if count == 0 {
            return Err(std::io::Error::other(format!("it ended after {offset} of {total} bytes")));
        }
        let piece = WriteRequest { action: WriteAction::Write as i32, offset, data, ..WriteRequest::default() };
        offset += count as i64;
        // Whoever answers no more has said why.
        if send.blocking_send(piece).is_err() {
            return Ok(());
        }
    }
    let commit = WriteRequest {
        action: WriteAction::Commit as i32,
        offset,
        total,
        expected: expected.to_owned(),
        ..WriteRequest::default()
    };
    // As above.
    let _ = send.blocking_send(commit);
    Ok(())
}

impl session::Content for Content {
    fn size<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<u64>, Error>> {
        Box::pin(async move {
            let answer: Result<InfoResponse, _> = self.ask(INFO, InfoRequest { digest: digest.to_string() }).await?;
            let error = match answer {
                Ok(answer) => return Ok(answer.info.and_then(|info| u64::try_from(info.size).ok())),
                Err(status) => self.failed("look for", digest, &status),
            };
            if matches!(error, Error::NoBlob { .. }) { Ok(None) } else { Err(error) }
        })
    }

    fn read<'a>(&'a self, digest: &'a Digest, out: &'a mut (dyn Write + Send)) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.read_into(digest, out))
    }

    fn write<'a>(
        &'a self,
        digest: &'a Digest,
        size: u64,
        from: Box<dyn Read + Send>,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.write_from(digest, size, from))
    }
}
