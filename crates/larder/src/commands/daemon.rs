//! `larder daemon`: serves BuildKit's API, so that `docker buildx` builds with larder.
//! It owns the store until it ends; a signal ends it once what runs was cancelled.

use std::path::Path;

use ::daemon::{Address, Daemon, serve};
use builder::Engine;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, open};

/// Serve BuildKit's API for docker buildx
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  larder daemon\n  larder daemon --addr unix:///run/larder/larderd.sock\n\n\
    docker buildx create --name larder --driver remote unix:///run/larder/larderd.sock --use")]
pub struct Flags {
    /// Where to listen: unix:///PATH, or tcp://127.0.0.1:PORT
    #[arg(long, value_name = "ADDRESS", default_value = "unix:///run/larder/larderd.sock")]
    addr: String,
    /// Let builds ask for `network.host` or `security.insecure`
    #[arg(long, value_name = "NAME", value_parser = ["network.host", "security.insecure"])]
    allow_insecure_entitlement: Vec<String>,
}

/// Serves until a signal comes.
pub fn run(root: &Path, flags: &Flags) -> Result<(), Failure> {
    let address = Address::parse(&flags.addr).map_err(Failure::usage)?;
    let store = open(root)?;
    let sandbox = sandbox::Sandbox::new(sandbox::Config::default()).map_err(Failure::failed)?;
    let engine = Engine::new(store, sandbox, registry::Client::new());
    let daemon = Daemon::new(engine.clone(), flags.allow_insecure_entitlement.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let shown = address.to_string();
        let ready = move || eprintln!("larder daemon is ready on {shown}");
        serve(daemon, address, ready, stop).await.map_err(Failure::failed)
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(10));
    engine.store.flush()?;
    served
}
