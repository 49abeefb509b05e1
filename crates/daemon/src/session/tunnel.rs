//! A connection inside a stream: the client is the HTTP/2 server, the daemon its client, and `Control/Session` carries
//! the bytes of both. Bytes only; what is called over it is not known here.

use std::sync::Mutex;

use hyper_util::rt::TokioIo;
use proto::control::BytesMessage;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Bytes that wait in either direction.
const BUFFER: usize = 1 << 20;
/// Largest piece that BuildKit's clients expect.
const PIECE: usize = 32 << 10;
/// HTTP/2 windows: a context of many megabytes must not wait for round trips.
const WINDOW: u32 = 8 << 20;

/// A channel through `incoming` and the returned stream. `guard` is dropped when the client's half ends.
pub fn open(
    incoming: Streaming<BytesMessage>,
    guard: impl Send + 'static,
) -> (Channel, ReceiverStream<Result<BytesMessage, Status>>) {
    let (near, far) = tokio::io::duplex(BUFFER);
    let (reader, writer) = tokio::io::split(far);
    let (send, receive) = mpsc::channel(16);
    tokio::spawn(async move {
        take_in(incoming, writer).await;
        drop(guard);
    });
    tokio::spawn(give_out(reader, send));
    let near = Mutex::new(Some(near));
    // Connects once: a connection that broke is a session that ended.
    let connector = tower::service_fn(move |_| {
        let near = near.lock().ok().and_then(|mut near| near.take()).map(TokioIo::new);
        async move { near.ok_or_else(|| std::io::Error::other("the client's session has ended")) }
    });
    let endpoint = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    (endpoint.connect_with_connector_lazy(connector), ReceiverStream::new(receive))
}

async fn take_in(mut incoming: Streaming<BytesMessage>, mut writer: WriteHalf<DuplexStream>) {
    // Either side's end ends the session; whoever calls over it gets the error.
    while let Ok(Some(message)) = incoming.message().await {
        if writer.write_all(&message.data).await.is_err() {
            break;
        }
    }
    let _ = writer.shutdown().await; // the other half is gone already, or learns of the end by this
}

async fn give_out(mut reader: ReadHalf<DuplexStream>, send: mpsc::Sender<Result<BytesMessage, Status>>) {
    let mut buffer = vec![0; PIECE];
    while let Ok(count @ 1..) = reader.read(&mut buffer).await {
        if send.send(Ok(BytesMessage { data: buffer[..count].to_vec() })).await.is_err() {
            break;
        }
    }
}
