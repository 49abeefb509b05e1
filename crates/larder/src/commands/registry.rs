//! `larder registry`: a registry to keep images and caches in, in one command.
//! It serves until a signal ends it; what it keeps is in the folder `registry` of the root.

use std::net::SocketAddr;
use std::path::Path;

use ::registry::server::{Event, Options, Registry};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::Failure;

/// Serve a registry for images and caches (OCI distribution v1.1)
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  larder registry\n  larder registry --addr 127.0.0.1:5000 --root /srv/registry\n\n  \
    skopeo copy --dest-tls-verify=false docker-archive:app.tar docker://127.0.0.1:5000/team/app:1"
)]
pub struct Flags {
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5000")]
    addr: SocketAddr,
}

/// Serves until a signal comes.
pub fn run(root: &Path, flags: &Flags) -> Result<(), Failure> {
    if !flags.addr.ip().is_loopback() {
        return Err(Failure::usage(format!("{} is not on loopback: anybody could push there", flags.addr)));
    }
    let mut options = Options::new(&root.join("registry"));
    options.command = std::env::args().collect::<Vec<_>>().join(" ");
    options.tell = Box::new(|event| match event {
        Event::Failed { what, why } => eprintln!("error: {what}: {why}"),
    });
    let registry = Registry::open(options).map_err(Failure::failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let listener = TcpListener::bind(flags.addr).await;
        let listener = listener.map_err(|error| Failure::failed(format!("can't listen on {}: {error}", flags.addr)))?;
        eprintln!("larder registry is ready on http://{}", listener.local_addr()?);
        tokio::spawn(registry.clone().tend());
        registry.serve(listener, stop).await.map_err(Failure::from)
    })
}
