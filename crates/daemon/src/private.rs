//! A daemon for one client in its own process: a pair of connected sockets and nothing else. No file names it, nobody else
//! reaches it, and it ends with the runtime.

use futures_util::{StreamExt, stream};
use tokio::net::UnixStream;
use tonic::transport::Server;

use crate::client::{Client, Error};
use crate::{Daemon, listen};

impl Daemon {
    /// Serves in the background; the answer is the only client that it will have.
    pub async fn private(self) -> Result<Client, Error> {
        let (near, far) = UnixStream::pair().map_err(Error::Private)?;
        // One connection; the server lives until it is dropped.
        let incoming = stream::iter([Ok::<_, std::io::Error>(far)]).chain(stream::pending());
        let serving = listen::router(self, Server::builder()).serve_with_incoming(incoming);
        // A connection that breaks is seen by the client.
        tokio::spawn(async move { drop(serving.await) });
        Client::over(near).await
    }
}
