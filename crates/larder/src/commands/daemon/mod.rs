//! `larder daemon`: serves BuildKit's API, so that `docker buildx` builds with larder.
//! It owns the store until it ends; a signal ends it once what runs was cancelled.

pub mod buildkitd;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ::daemon::address::ServerTls;
use ::daemon::config::Config;
use ::daemon::{Address, Daemon, Door, Guard, serve};
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, SOCKET, USUAL_SOCKET, configuration, open};
use crate::systemd;

/// Serve BuildKit's API for docker buildx
#[derive(clap::Args, Debug, Default)]
#[command(after_help = "Examples:\n  larder daemon\n  larder daemon --addr unix:///run/larder/larderd.sock\n\n  \
    docker buildx create --name larder --driver remote unix:///run/larder/larderd.sock --use\n\n  \
    larder daemon --addr tcp://0.0.0.0:1234 --tlscert cert.pem --tlskey key.pem --tlscacert clients.pem")]
pub struct Flags {
    /// Where to listen: unix:///PATH, tcp://HOST:PORT, or fd:// for sockets of systemd; may be given several times
    /// [default: unix:///run/larder/larderd.sock as root, otherwise unix://$XDG_RUNTIME_DIR/larder/larderd.sock]
    #[arg(long, value_name = "ADDRESS")]
    addr: Vec<String>,
    #[command(flatten)]
    tls: TlsFlags,
    /// Let builds ask for `network.host` or `security.insecure`
    #[arg(long, value_name = "NAME", value_parser = ["network.host", "security.insecure"])]
    allow_insecure_entitlement: Vec<String>,
    /// Never collect by itself
    #[arg(long)]
    no_gc: bool,
    /// Serve a registry at this address of loopback as well: what is built here is pushed to it without a copy
    #[arg(long, value_name = "HOST:PORT")]
    registry: Option<SocketAddr>,
}

#[derive(clap::Args, Debug, Default)]
struct TlsFlags {
    /// Certificate of the daemon, for TCP
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// Private key of the daemon's certificate
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// Authority whose clients may build
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// Listen on TCP without TLS, on loopback only: every user of this machine may then build
    #[arg(long)]
    without_tls: bool,
}

impl TlsFlags {
    /// How TCP is guarded, by the flags or else the configuration.
    fn guard(&self, config: &Config) -> Result<Guard, Failure> {
        let or = |flag: &Option<PathBuf>, configured: &Option<PathBuf>| flag.clone().or_else(|| configured.clone());
        let tls = &config.grpc.tls;
        match (or(&self.tlscert, &tls.cert), or(&self.tlskey, &tls.key), or(&self.tlscacert, &tls.ca)) {
            (Some(certificate), Some(key), Some(clients)) => Ok(Guard::Tls(ServerTls { certificate, key, clients })),
            (None, None, None) if self.without_tls => Ok(Guard::Loopback),
            (None, None, None) => Ok(Guard::None),
            _ => Err(Failure::usage(
                "TLS needs all of --tlscert, --tlskey and --tlscacert: without the last, anybody could build here",
            )),
        }
    }
}

/// What both names of the daemon have beside the configuration.
struct Options {
    addresses: Vec<String>,
    tls: TlsFlags,
    no_gc: bool,
    registry: Option<SocketAddr>,
}

/// The address of a socket in the folder for sockets.
fn socket(name: &str) -> String {
    format!("unix://{}", super::run_folder().join(name).display())
}

/// Serves until a signal comes.
pub fn run(root: &Path, mut config: Config, flags: Flags) -> Result<(), Failure> {
    config.insecure_entitlements.extend(flags.allow_insecure_entitlement);
    let Flags { addr, tls, no_gc, registry, .. } = flags;
    let options = Options { addresses: addr, tls, no_gc, registry };
    start(root, config, &options, &socket(USUAL_SOCKET))
}

/// Opens every door. Where the store is, a command finds its daemon, so there is always one there too.
fn doors(root: &Path, addresses: &[String], guard: &Guard) -> Result<Vec<Door>, Failure> {
    let mut doors = Vec::new();
    for address in addresses {
        match Address::parse(address).map_err(Failure::usage)? {
            Address::Given => {
                let given = systemd::sockets()?;
                if given.is_empty() {
                    return Err(Failure::usage(
                        "fd:// needs sockets from systemd: start the daemon by its socket unit",
                    ));
                }
                for socket in given {
                    doors.push(Door::given(socket, guard).map_err(Failure::failed)?);
                }
            }
            address => doors.push(Door::open(&address, guard).map_err(Failure::failed)?),
        }
    }
    let own = Address::Unix(root.join(SOCKET));
    if !doors.iter().any(|door| *door.address() == own) {
        match Door::open(&own, guard) {
            Ok(door) => doors.push(door),
            // A path may be too long for a socket. Clients that name another address are served all the same.
            Err(error) => eprintln!("warning: {error}; commands find this daemon by --addr only"),
        }
    }
    Ok(doors)
}

fn start(root: &Path, config: Config, options: &Options, usual: &str) -> Result<(), Failure> {
    ::daemon::syscall::keep_heap_small();
    let usual = [usual.to_owned()];
    let addresses = [&options.addresses, &config.grpc.address].into_iter().find(|list| !list.is_empty());
    let addresses = addresses.map_or(usual.as_slice(), Vec::as_slice);
    let guard = options.tls.guard(&config)?;
    let worker = config.oci();
    // What can't be read is the operator's mistake, and is said now.
    worker.policy(store::lifecycle::Disk::default()).map_err(Failure::usage)?;
    let collects = !options.no_gc && worker.gc != Some(false);
    let collector = collects.then(|| worker.clone());
    let settings = ::daemon::Settings { collector, ..configuration::settings(&config)? };
    let store = open(root)?;
    let doors = doors(root, addresses, &guard)?;
    for door in &doors {
        door.give_to(config.grpc.uid, config.grpc.gid).map_err(Failure::failed)?;
    }
    let cgroup_parent = Some(worker.default_cgroup_parent.clone()).filter(|parent| !parent.is_empty());
    let sandbox = sandbox::Config { cgroup_parent, ..sandbox::Config::default() };
    let sandbox = sandbox::Sandbox::new(sandbox);
    let engine = configuration::engine(&config, store, sandbox)?;
    let daemon = Daemon::new(engine.clone(), settings);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        daemon.collect();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        if let Some(address) = options.registry {
            serve_registry(root, address, &engine.store).await?;
        }
        let shown: Vec<_> = doors.iter().map(|door| door.address().to_string()).collect();
        eprintln!("larder daemon is ready on {}", shown.join(", "));
        systemd::tell_ready();
        serve(daemon, doors, &guard, stop).await.map_err(Failure::failed)
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(10));
    engine.store.flush()?;
    served
}

/// Serves a registry in the background, on the same blobs: those of the store are taken by a second name for their files.
async fn serve_registry(root: &Path, address: SocketAddr, store: &store::Store) -> Result<(), Failure> {
    if !address.ip().is_loopback() {
        let why = "is not on loopback: `larder registry` serves other machines, with users and TLS";
        return Err(Failure::usage(format!("--registry {address} {why}")));
    }
    let mut options = super::registry::options(&root.join("registry"));
    let store = store.clone();
    options.neighbour = Some(Box::new(move |digest| {
        let blobs = store.blobs();
        // What the store can't say is pushed as anything else.
        blobs.has(digest).unwrap_or(false).then(|| blobs.path(digest))
    }));
    let registry = ::registry::server::Registry::open(options).map_err(Failure::failed)?;
    let listener = super::registry::listen(address).await?;
    eprintln!("larder registry is ready on http://{}", listener.local_addr()?);
    tokio::spawn(registry.clone().tend());
    // It ends with the daemon: what it has not acknowledged is pushed again.
    tokio::spawn(registry.serve(listener, std::future::pending()));
    Ok(())
}
