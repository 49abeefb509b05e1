//! larder under buildctl's name: what docker-buildx's drivers start inside an image, and a look at the daemon.
//! It builds nothing itself.

use ::daemon::Address;
use ::daemon::client::{Client, Prune};
use clap::{Parser, Subcommand};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use super::{Failure, size, table};

/// larder under buildctl's name: asks a daemon
#[derive(Parser, Debug)]
#[command(name = "buildctl", version)]
struct Buildctl {
    /// Where the daemon listens
    #[arg(long, global = true, env = "BUILDKIT_HOST", default_value = "unix:///run/buildkit/buildkitd.sock")]
    addr: String,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Carry a connection to the daemon over standard input and output
    DialStdio,
    /// Look into the daemon
    #[command(subcommand)]
    Debug(Debug),
    /// Show what the daemon holds
    Du {
        #[arg(long, short)]
        filter: Vec<String>,
    },
    /// Remove what nobody needs
    Prune {
        #[arg(long, short)]
        filter: Vec<String>,
        #[arg(long)]
        all: bool,
    },
}

#[derive(Subcommand, Debug)]
enum Debug {
    /// List workers
    Workers,
}

/// Runs under buildctl's name.
pub fn run() -> Result<(), Failure> {
    let given = Buildctl::parse();
    let address = Address::parse(&given.addr).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        match given.verb {
            Verb::DialStdio => dial(&address).await,
            Verb::Debug(Debug::Workers) => {
                let workers = Client::connect(&address, None).await?.workers(Vec::new()).await?;
                let name = |p: &proto::pb::Platform| oci::Platform::new(&p.os, &p.architecture, &p.variant).to_string();
                let on =
                    |w: &::daemon::client::WorkerRecord| w.platforms.iter().map(name).collect::<Vec<_>>().join(",");
                let rows: Vec<_> = workers.iter().map(|w| vec![w.id.clone(), on(w)]).collect();
                table(&["ID", "PLATFORMS"], &rows);
                Ok(())
            }
            Verb::Du { filter } => {
                let records = Client::connect(&address, None).await?.usage(filter).await?;
                let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
                let row = |r: &_| {
                    let r: &proto::control::UsageRecord = r;
                    vec![r.id.clone(), (!r.in_use).to_string(), size(bytes(r.size)), r.description.clone()]
                };
                table(&["ID", "RECLAIMABLE", "SIZE", "DESCRIPTION"], &records.iter().map(row).collect::<Vec<_>>());
                println!("Total:\t{}", size(records.iter().map(|r| bytes(r.size)).sum()));
                Ok(())
            }
            Verb::Prune { filter, all } => {
                let client = Client::connect(&address, None).await?;
                let prune = Prune { filter, all, ..Prune::default() };
                let mut gone = client.prune(prune).await?;
                let mut total = 0;
                while let Some(record) = gone.next().await {
                    total += u64::try_from(record?.size).unwrap_or(0);
                }
                println!("Total:\t{}", size(total));
                Ok(())
            }
        }
    });
    // A read of standard input can't be taken back: it must not hold the end up.
    runtime.shutdown_background();
    done
}

/// Bytes both ways until either side ends.
async fn dial(address: &Address) -> Result<(), Failure> {
    let (mut input, mut output) = (tokio::io::stdin(), tokio::io::stdout());
    let unreachable = |e: std::io::Error| Failure::failed(format!("no daemon answers on {address}: {e}"));
    match address {
        Address::Unix(path) => {
            let stream = tokio::net::UnixStream::connect(path).await.map_err(unreachable)?;
            let (mut reader, mut writer) = stream.into_split();
            let outgoing = async {
                tokio::io::copy(&mut input, &mut writer).await?;
                writer.shutdown().await
            };
            let incoming = async {
                // Each piece at once: the other side waits for it.
                let mut buffer = vec![0; 64 << 10];
                loop {
                    let count = tokio::io::AsyncReadExt::read(&mut reader, &mut buffer).await?;
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
        _ => Err(Failure::usage("dial-stdio carries unix sockets only: pass --addr unix:///PATH")),
    }
}

/// A side that hung up has ended the connection: that is no failure.
fn unless_hung_up(done: std::io::Result<()>) -> std::io::Result<()> {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    done.or_else(|e| if matches!(e.kind(), BrokenPipe | ConnectionReset) { Ok(()) } else { Err(e) })
}
