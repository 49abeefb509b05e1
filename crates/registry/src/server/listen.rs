//! Listening: connections come in, each is served by a task until it ends or the registry is to stop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{Registry, service};

/// How long requests may take to end once the registry is to stop.
const GRACE: Duration = Duration::from_secs(10);

/// How long a client may take to send the head of a request.
const HEAD: Duration = Duration::from_secs(60);

/// Bytes that are read from a connection at once, at most.
const BUFFER: usize = 256 << 10;

impl Registry {
    /// Serves until `stop` is ready.
    pub async fn serve(self: Arc<Registry>, listener: TcpListener, stop: impl Future<Output = ()>) -> io::Result<()> {
        let mut server = Builder::new(TokioExecutor::new());
        server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(BUFFER);
        server.http2().timer(TokioTimer::new()).initial_stream_window_size(1 << 20).max_concurrent_streams(100);
        let running = GracefulShutdown::new();
        let tls = self.tls.as_ref().map(|tls| TlsAcceptor::from(tls.0.clone()));
        tokio::pin!(stop);
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    // Out of files, or a client that was gone at once: both pass.
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    }
                },
                () = &mut stop => break,
            };
            // Answers are short and clients wait for them.
            let _ = stream.set_nodelay(true);
            let tls = tls.clone();
            let (registry, server, watcher) = (self.clone(), server.clone(), running.watcher());
            tokio::spawn(async move {
                let answer = service_fn(move |request| service::answer(registry.clone(), request));
                // How a connection ends is the client's affair.
                match &tls {
                    None => {
                        let connection = server.serve_connection(TokioIo::new(stream), answer);
                        drop(watcher.watch(connection).await);
                    }
                    Some(tls) => {
                        let shaken = tokio::time::timeout(HEAD, tls.accept(stream)).await;
                        let Ok(Ok(stream)) = shaken else { return };
                        let connection = server.serve_connection(TokioIo::new(stream), answer);
                        drop(watcher.watch(connection).await);
                    }
                }
            });
        }
        let _ = tokio::time::timeout(GRACE, running.shutdown()).await;
        Ok(())
    }
}
