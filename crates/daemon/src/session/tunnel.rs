//! A connection inside a stream: the client is the HTTP/2 server, the daemon its client, and `Control/Session` carries
//! the bytes of both. Bytes only; what is called over it is not known here.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use hyper_util::rt::TokioIo;
use proto::control::BytesMessage;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, PollSender, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Largest piece that BuildKit's clients expect.
const PIECE: usize = 32 << 10;
/// Pieces that wait for the client.
pub const WAITING: usize = 16;
/// HTTP/2 windows: a context of many megabytes must not wait for round trips, and waits in memory when the disk is slow.
pub const WINDOW: u32 = 1 << 20;

/// A channel through `incoming` and the returned stream. `given_up` ends the connection, and with it every call on it;
/// `guard` is dropped when it ends.
pub fn open(
    incoming: Streaming<BytesMessage>,
    given_up: CancellationToken,
    guard: impl Send + Unpin + 'static,
) -> (Channel, ReceiverStream<Result<BytesMessage, Status>>) {
    let (send, receive) = mpsc::channel(WAITING);
    let tunnel = Tunnel::new(incoming, send, given_up, guard);
    let tunnel = Mutex::new(Some(tunnel));
    // Connects once: a connection that broke is a session that ended.
    let connector = tower::service_fn(move |_| {
        let tunnel = tunnel.lock().ok().and_then(|mut tunnel| tunnel.take()).map(TokioIo::new);
        async move { tunnel.ok_or_else(|| io::Error::other("the client's session has ended")) }
    });
    let endpoint = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    (endpoint.connect_with_connector_lazy(connector), ReceiverStream::new(receive))
}

/// The stream's messages as bytes.
pub struct Tunnel<G> {
    incoming: Streaming<BytesMessage>,
    /// The message that is being read, and how far it was.
    message: Vec<u8>,
    read: usize,
    outgoing: PollSender<Result<BytesMessage, Status>>,
    given_up: Pin<Box<WaitForCancellationFutureOwned>>,
    _guard: G,
}

impl<G> Tunnel<G> {
    /// What comes, and where what goes is to be put; `guard` is dropped with it.
    pub fn new(
        incoming: Streaming<BytesMessage>,
        outgoing: mpsc::Sender<Result<BytesMessage, Status>>,
        given_up: CancellationToken,
        guard: G,
    ) -> Tunnel<G> {
        let outgoing = PollSender::new(outgoing);
        let given_up = Box::pin(given_up.cancelled_owned());
        Tunnel { incoming, message: Vec::new(), read: 0, outgoing, given_up, _guard: guard }
    }
}

impl<G> Connected for Tunnel<G> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl<G: Unpin> AsyncRead for Tunnel<G> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let tunnel = self.get_mut();
        if tunnel.given_up.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not answer any more")));
        }
        while tunnel.read == tunnel.message.len() {
            match ready!(Pin::new(&mut tunnel.incoming).poll_next(cx)) {
                Some(Ok(message)) => (tunnel.message, tunnel.read) = (message.data, 0),
                // Either side's end ends the session; whoever calls over it gets the error.
                Some(Err(_)) | None => return Poll::Ready(Ok(())),
            }
        }
        let end = tunnel.message.len().min(tunnel.read + buffer.remaining());
        buffer.put_slice(&tunnel.message[tunnel.read..end]);
        tunnel.read = end;
        Poll::Ready(Ok(()))
    }
}

impl<G: Unpin> AsyncWrite for Tunnel<G> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// A frame's head and its payload go as one message.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outgoing = &mut self.get_mut().outgoing;
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(outgoing.poll_reserve(cx)).map_err(gone)?;
        let mut data = Vec::new();
        for slice in slices {
            let take = slice.len().min(PIECE - data.len());
            data.extend_from_slice(&slice[..take]);
        }
        let written = data.len();
        outgoing.send_item(Ok(BytesMessage { data })).map_err(gone)?;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().outgoing.close();
        Poll::Ready(Ok(()))
    }
}
