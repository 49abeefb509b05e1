//! `buildctl dial-stdio`: the connection that docker-buildx's drivers carry through an exec into a container.
//! Passes bytes on, and understands none of them.

use ::daemon::Address;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::commands::Failure;

/// Bytes both ways until either side ends.
pub async fn run(address: &Address) -> Result<(), Failure> {
    let unreachable = |e: std::io::Error| Failure::failed(format!("no daemon answers on {address}: {e}"));
    match address {
        Address::Unix(path) => {
            let (reader, writer) = UnixStream::connect(path).await.map_err(unreachable)?.into_split();
            carry(reader, writer).await
        }
        Address::Tcp(place) => {
            // Small messages go back and forth: waiting to join them costs 40 ms each.
            let stream = TcpStream::connect(place).await.map_err(unreachable)?;
            stream.set_nodelay(true).map_err(unreachable)?;
            let (reader, writer) = stream.into_split();
            carry(reader, writer).await
        }
        Address::Given => Err(Failure::usage("fd:// is where a daemon listens, not where it is found")),
    }
}

async fn carry(mut reader: impl AsyncRead + Unpin, mut writer: impl AsyncWrite + Unpin) -> Result<(), Failure> {
    let (mut input, mut output) = (tokio::io::stdin(), tokio::io::stdout());
    let outgoing = async {
        tokio::io::copy(&mut input, &mut writer).await?;
        writer.shutdown().await
    };
    let incoming = async {
        // Each piece at once: the other side waits for it.
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = reader.read(&mut buffer).await?;
            if count == 0 {
                return Ok::<_, std::io::Error>(());
            }
            output.write_all(&buffer[..count]).await?;
            output.flush().await?;
        }
    };
    tokio::pin!(outgoing, incoming);
    let mut sending = true;
    loop {
        tokio::select! {
            sent = &mut outgoing, if sending => { unless_hung_up(sent)?; sending = false; }
            got = &mut incoming => return Ok(unless_hung_up(got)?),
        }
    }
}

/// A side that hung up has ended the connection: that is no failure.
fn unless_hung_up(done: std::io::Result<()>) -> std::io::Result<()> {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    done.or_else(|e| if matches!(e.kind(), BrokenPipe | ConnectionReset) { Ok(()) } else { Err(e) })
}
