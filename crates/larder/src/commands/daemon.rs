//! `larder daemon`: serves BuildKit's API, so that `docker buildx` builds with larder. Under the name `buildkitd` it
//! takes buildkitd's own flags.
//! It owns the store until it ends; a signal ends it once what runs was cancelled.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ::daemon::address::ServerTls;
use ::daemon::config::{Config, Verify};
use ::daemon::{Address, Daemon, Door, Guard, serve};
use builder::Engine;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, SOCKET, USUAL_SOCKET, open};
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
    /// Configuration file, with buildkitd.toml's keys
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
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

/// buildkitd's command line, as far as larder can mean the same by it.
#[derive(Parser, Debug)]
#[command(name = "buildkitd", version, about = "larder under buildkitd's name: serves BuildKit's API")]
pub struct Buildkitd {
    #[arg(long)]
    addr: Vec<String>,
    #[command(flatten)]
    tls: TlsFlags,
    #[arg(long)]
    allow_insecure_entitlement: Vec<String>,
    #[arg(long)]
    config: Option<PathBuf>,
    #[arg(long, env = "LARDER_ROOT")]
    root: Option<PathBuf>,
    #[arg(long)]
    debug: bool,
    #[arg(long)]
    trace: bool,
    /// There is one worker, whatever its name.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    oci_worker: Option<String>,
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    containerd_worker: Option<String>,
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    oci_worker_gc: Option<bool>,
    #[arg(long)]
    oci_worker_labels: Vec<String>,
    /// Layers are kept as overlays.
    #[arg(long, value_parser = ["auto", "overlayfs"])]
    oci_worker_snapshotter: Option<String>,
    /// Steps share the machine's network or have none.
    #[arg(long, value_parser = ["auto", "host"])]
    oci_worker_net: Option<String>,
}

/// Runs under buildkitd's name.
pub fn buildkitd() -> Result<(), Failure> {
    let given = Buildkitd::parse();
    let mut labels = BTreeMap::new();
    for text in given.oci_worker_labels.iter().flat_map(|labels| labels.split(',')) {
        let wrong = || Failure::usage(format!("--oci-worker-labels {text}: expected NAME=VALUE"));
        let (name, value) = text.split_once('=').ok_or_else(wrong)?;
        labels.insert(name.to_owned(), value.to_owned());
    }
    // buildkitd reads its default file when there is one.
    let usual = Path::new("/etc/buildkit/buildkitd.toml");
    let flags = Flags {
        addr: given.addr,
        tls: given.tls,
        allow_insecure_entitlement: given.allow_insecure_entitlement,
        config: given.config.or_else(|| usual.exists().then(|| usual.to_owned())),
        no_gc: given.oci_worker_gc == Some(false),
        registry: None,
    };
    let root = given.root.unwrap_or_else(|| super::data_folder().join("buildkit"));
    start(&root, &flags, labels, &socket("buildkit/buildkitd.sock"))
}

/// The address of a socket in the folder for sockets.
fn socket(name: &str) -> String {
    format!("unix://{}", super::run_folder().join(name).display())
}

/// Serves until a signal comes.
pub fn run(root: &Path, flags: &Flags) -> Result<(), Failure> {
    start(root, flags, BTreeMap::new(), &socket(USUAL_SOCKET))
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

fn start(root: &Path, flags: &Flags, mut labels: BTreeMap<String, String>, usual: &str) -> Result<(), Failure> {
    ::daemon::syscall::keep_heap_small();
    let config = match &flags.config {
        None => Config::default(),
        Some(path) => {
            let (config, unknown) = Config::read(path).map_err(Failure::usage)?;
            for key in unknown {
                eprintln!("warning: {}: larder does not know `{key}`; it is left out", path.display());
            }
            config
        }
    };
    let usual = [usual.to_owned()];
    let addresses = [&flags.addr, &config.grpc.address].into_iter().find(|list| !list.is_empty());
    let addresses = addresses.map_or(usual.as_slice(), Vec::as_slice);
    let guard = flags.tls.guard(&config)?;
    let worker = config.oci();
    labels.extend(worker.labels);
    let mut allowed = flags.allow_insecure_entitlement.clone();
    allowed.extend(config.insecure_entitlements.iter().cloned());
    let store = open(root)?;
    let doors = doors(root, addresses, &guard)?;
    let sandbox = sandbox::Sandbox::new(sandbox::Config::default()).map_err(Failure::failed)?;
    let registry = registry::Client::new().with_mirrors(config.mirrors()).with_plain(config.plain());
    let provenance = config.provenance().map_err(Failure::usage)?;
    let engine = Engine::with_provenance(store, sandbox, registry, provenance);
    let verify = config.context.verify == Verify::Content;
    let daemon = Daemon::new(engine.clone(), allowed, labels).verifying(verify);
    let collect = !flags.no_gc && worker.gc != Some(false);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        if collect {
            daemon.collect();
        }
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        if let Some(address) = flags.registry {
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
