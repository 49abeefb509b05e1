//! `larder registry`: a registry to keep images and caches in, in one command, and the verbs that look after it.
//! It serves until a signal ends it; what it keeps is in the folder `registry` of the root.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::registry::s3::{Address, Bucket};
use ::registry::server::{Action, Event, Mirrors, Options, Place, Registry, Retention, Rule, Tls, Users};
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, aws, size};

/// Serve a registry for images and caches (OCI distribution v1.1)
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
#[command(
    after_help = "Examples:\n  larder registry\n  larder registry --addr 127.0.0.1:5000 --root /srv/registry\n  \
    larder registry --addr 0.0.0.0:443 --tls-cert cert.pem --tls-key key.pem --htpasswd users\n  \
    skopeo copy --dest-tls-verify=false docker-archive:app.tar docker://127.0.0.1:5000/team/app:1"
)]
pub struct Flags {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5000")]
    addr: SocketAddr,
    /// Certificate chain for TLS, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Users and their passwords: lines of `htpasswd -B`. Without it anybody may do everything
    #[arg(long, value_name = "FILE")]
    htpasswd: Option<PathBuf>,
    /// Who may do what where, such as `ci=team/*:pull,push`, `*=*:pull` (any user) or `anonymous=public/*:pull`; may be
    /// repeated. Without it every user may do everything
    #[arg(long, value_name = "USER=REPOSITORIES:ACTIONS", requires = "htpasswd", value_parser = rule)]
    allow: Vec<Rule>,
    /// Address at which clients reach this registry, where a proxy stands before it
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Serve anybody on an address that is not loopback, or send passwords without TLS
    #[arg(long)]
    insecure: bool,
    /// Hours for which what nothing refers to is left alone
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    grace: u64,
    /// Which tags stay, such as `team/*:pr-*=newest:10,pushed:30d,pulled:7d`: any of these keeps a tag, the others that
    /// the pattern is for go. May be repeated: the first that is for a tag decides. Tags that none is for stay
    #[arg(long, value_name = "REPOSITORIES:TAGS=CONDITIONS", value_parser = retention)]
    keep: Vec<Retention>,
    /// Mirror another registry: `hub=docker.io` gives `hub/library/debian` from there, by the credentials of docker's
    /// configuration. May be repeated
    #[arg(long, value_name = "NAME=HOST", value_parser = mirrored)]
    mirror: Vec<(String, String)>,
    #[command(flatten)]
    storage: Storage,
}

/// Where everything is kept.
#[derive(clap::Args, Debug)]
struct Storage {
    /// Keep everything in a bucket, and only uploads that go on in the folder:
    /// `s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&path_style=true]`, by the credentials that AWS's tools would use
    #[arg(long, value_name = "URL", value_parser = bucket)]
    storage: Option<(Address, String)>,
}

impl Storage {
    /// The part of a bucket that is meant, if any.
    fn place(&self) -> Result<Option<Place>, Failure> {
        let Some((address, prefix)) = &self.storage else { return Ok(None) };
        let ambient = aws::ambient();
        let mut address = address.clone();
        if address.region.is_empty() {
            address.region = ambient.region().unwrap_or_else(|| "us-east-1".to_owned());
        }
        let client = ::registry::Client::new().with_ambient(ambient);
        let bucket = Bucket::new(&client, &address, None, None).map_err(Failure::failed)?;
        Ok(Some(Place { bucket, prefix: prefix.clone() }))
    }

    async fn open(&self, options: Options) -> Result<Arc<Registry>, Failure> {
        match self.place()? {
            None => Registry::open(options).map_err(Failure::failed),
            Some(place) => Registry::open_in(options, place).await.map_err(Failure::failed),
        }
    }
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Remove what nothing refers to; a registry that serves does so by itself
    Gc {
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
        /// Hours for which what nothing refers to is left alone
        #[arg(long, value_name = "HOURS", default_value_t = 24)]
        grace: u64,
        /// Which tags stay, as `larder registry --keep` takes it; says why each stays or goes
        #[arg(long, value_name = "REPOSITORIES:TAGS=CONDITIONS", value_parser = retention)]
        keep: Vec<Retention>,
        #[command(flatten)]
        storage: Storage,
    },
    /// Read everything again, also while it is served, and say what the disk has changed or lost; exit code 1 if anything
    Scrub {
        #[command(flatten)]
        storage: Storage,
    },
}

/// Reads `USER=REPOSITORIES:ACTIONS`.
fn rule(text: &str) -> Result<Rule, String> {
    let parts = text.split_once('=').and_then(|(user, rest)| Some((user, rest.rsplit_once(':')?)));
    let (user, (repositories, actions)) = parts.ok_or("expected USER=REPOSITORIES:ACTIONS")?;
    let action = |word: &str| Action::parse(word).ok_or(format!("`{word}` is none of pull, push, delete"));
    let actions = actions.split(',').map(action).collect::<Result<_, _>>()?;
    Ok(Rule { user: user.to_owned(), repositories: repositories.to_owned(), actions })
}

/// Reads `REPOSITORIES:TAGS=CONDITION,…`.
fn retention(text: &str) -> Result<Retention, String> {
    let parts = text.split_once('=').and_then(|(what, rest)| Some((what.rsplit_once(':')?, rest)));
    let ((repositories, tags), conditions) = parts.ok_or("expected REPOSITORIES:TAGS=CONDITIONS")?;
    let mut rule = Retention { repositories: repositories.to_owned(), tags: tags.to_owned(), ..Retention::default() };
    for condition in conditions.split(',').filter(|condition| !condition.is_empty()) {
        let wrong = || format!("`{condition}` is none of newest:NUMBER, pushed:AGE, pulled:AGE (such as 12h, 30d)");
        match condition.split_once(':').ok_or_else(wrong)? {
            ("newest", count) => rule.newest = Some(count.parse().map_err(|_| wrong())?),
            ("pushed", text) => rule.pushed = Some(age(text).ok_or_else(wrong)?),
            ("pulled", text) => rule.pulled = Some(age(text).ok_or_else(wrong)?),
            _ => return Err(wrong()),
        }
    }
    Ok(rule)
}

/// Reads `NAME=HOST`.
fn mirrored(text: &str) -> Result<(String, String), String> {
    let (name, host) = text.split_once('=').ok_or("expected NAME=HOST")?;
    if !oci::is_repository_component(name) {
        return Err(format!("`{name}` can't be the first part of a repository's name"));
    }
    Ok((name.to_owned(), host.to_owned()))
}

/// Reads `s3://BUCKET[/PREFIX][?NAME=VALUE&…]`: the bucket, and what its keys begin with.
fn bucket(text: &str) -> Result<(Address, String), String> {
    let rest = text.strip_prefix("s3://").ok_or("expected s3://BUCKET[/PREFIX]")?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (name, prefix) = path.split_once('/').unwrap_or((path, ""));
    let mut address = Address { bucket: name.to_owned(), ..Address::default() };
    if name.is_empty() {
        return Err("expected the name of a bucket after s3://".to_owned());
    }
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        match name {
            "region" => address.region = value.to_owned(),
            "endpoint" if value.starts_with("http://") || value.starts_with("https://") => {
                address.endpoint = Some(value.to_owned());
            }
            "path_style" if matches!(value, "true" | "false") => address.path_style = value == "true",
            _ => return Err(format!("`{name}={value}` is none of region=NAME, endpoint=URL, path_style=true")),
        }
    }
    let prefix = prefix.trim_matches('/');
    Ok((address, if prefix.is_empty() { String::new() } else { format!("{prefix}/") }))
}

/// Reads `12h` or `30d`.
fn age(text: &str) -> Option<Duration> {
    let hours = match text.strip_suffix('d') {
        Some(days) => days.parse::<u64>().ok()?.checked_mul(24)?,
        None => text.strip_suffix('h')?.parse().ok()?,
    };
    Some(Duration::from_secs(hours.checked_mul(3600)?))
}

/// Serves until a signal comes, or does what the verb says.
pub fn run(root: &Path, flags: &Flags) -> Result<(), Failure> {
    let root = root.join("registry");
    match &flags.verb {
        None => serve(&root, flags),
        Some(Verb::Gc { dry_run, grace, keep, storage }) => collect(&root, storage, *dry_run, *grace, keep),
        Some(Verb::Scrub { storage }) => scrub(&root, storage),
    }
}

/// Who this registry is to those that it mirrors: what docker's configuration says.
struct Docker;

impl ::registry::Login for Docker {
    fn credentials<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<(String, String)>, String>> {
        let host = host.to_owned();
        Box::pin(async move {
            let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
            let usual = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".docker");
            let path = folder.unwrap_or_else(usual).join("config.json");
            // It may run a helper, which blocks.
            let found = tokio::task::spawn_blocking(move || ::registry::docker_config::credentials(&path, &host)).await;
            found.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
        })
    }
}

/// A registry in this folder, as usual.
pub fn options(root: &Path) -> Options {
    let mut options = Options::new(root);
    options.command = std::env::args().collect::<Vec<_>>().join(" ");
    options.tell = Box::new(|event| match event {
        Event::Failed { what, why } => eprintln!("error: registry: {what}: {why}"),
    });
    options
}

fn serve(root: &Path, flags: &Flags) -> Result<(), Failure> {
    let mut options = options(root);
    options.grace = Duration::from_secs(flags.grace * 3600);
    options.url.clone_from(&flags.url);
    options.retention.clone_from(&flags.keep);
    if !flags.mirror.is_empty() {
        let (hosts, client) = (flags.mirror.clone(), ::registry::Client::new());
        options.mirrors = Some(Mirrors { hosts, client, login: Box::new(Docker) });
    }
    if let (Some(certificate), Some(key)) = (&flags.tls_cert, &flags.tls_key) {
        options.tls = Some(Tls::read(certificate, key).map_err(Failure::usage)?);
    }
    if let Some(file) = &flags.htpasswd {
        options.users = Some(Users::read(file, flags.allow.clone()).map_err(Failure::usage)?);
    }
    let lacks = match (&options.users, &options.tls) {
        (None, _) => Some("anybody could push there: name its users with --htpasswd"),
        (Some(_), None) => Some("passwords would be read on the way: give it --tls-cert and --tls-key"),
        (Some(_), Some(_)) => None,
    };
    if let Some(lacks) = lacks.filter(|_| !flags.addr.ip().is_loopback() && !flags.insecure) {
        let why = format!("{} is not on loopback, and {lacks}; --insecure serves all the same", flags.addr);
        return Err(Failure::usage(why));
    }
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let registry = flags.storage.open(options).await?;
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let listener = listen(flags.addr).await?;
        eprintln!("larder registry is ready on {scheme}://{}", listener.local_addr()?);
        tokio::spawn(registry.clone().tend());
        let served = registry.clone().serve(listener, stop).await.map_err(Failure::from);
        registry.close().await;
        served
    })
}

/// Opens the port.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| Failure::failed(format!("can't listen on {address}: {error}")))
}

/// Opens the registry and does something with it.
fn with<T>(
    options: Options,
    storage: &Storage,
    work: impl AsyncFnOnce(Arc<Registry>) -> std::io::Result<T>,
) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let registry = storage.open(options).await?;
        let done = work(registry.clone()).await;
        registry.close().await;
        Ok(done?)
    })
}

fn collect(root: &Path, storage: &Storage, dry_run: bool, grace: u64, keep: &[Retention]) -> Result<(), Failure> {
    let mut options = options(root);
    options.grace = Duration::from_secs(grace * 3600);
    options.retention = keep.to_vec();
    let (expired, done) = with(options, storage, async |registry| {
        Ok((registry.expire(dry_run).await?, registry.collect(dry_run).await?))
    })?;
    for (name, tag, reason) in &expired.tags {
        println!("{name}:{tag} {reason}");
    }
    for (name, digest) in &expired.manifests {
        println!("{name}: no tag leads to the manifest {digest}");
    }
    for (name, digest) in &done.unlinked {
        println!("{name}: no manifest names {digest}");
    }
    for (digest, bytes) in &done.removed {
        println!("{digest}: no repository has it ({})", size(*bytes));
    }
    for (name, digest) in &done.unsure {
        eprintln!("warning: {name}: its manifest {digest} can't be read, so that nothing of it was removed");
    }
    let verb = if dry_run { "would remove" } else { "removed" };
    println!("{verb} {} blobs, {}, and {} uploads", done.removed.len(), size(done.bytes()), done.uploads);
    Ok(())
}

fn scrub(root: &Path, storage: &Storage) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let found = match storage.place()? {
        None => runtime.block_on(Registry::scrub(root)),
        Some(place) => runtime.block_on(Registry::scrub_in(place)),
    };
    let found = found.map_err(Failure::failed)?;
    for (digest, is) in &found.damaged {
        println!("{digest}: damaged, its bytes are those of {is}");
    }
    for (name, digest) in &found.missing {
        println!("{name}: the bytes of {digest} are missing");
    }
    println!("read {} blobs, {}", found.blobs, size(found.bytes));
    if found.is_clean() {
        return Ok(());
    }
    Err(Failure::failed("the registry is damaged: push what is named above again, or restore it"))
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn storage_in_a_bucket() {
        let (address, prefix) = bucket("s3://b/a/c/?endpoint=http://127.0.0.1:9000&path_style=true&region=x").unwrap();
        assert_eq!((address.bucket.as_str(), address.region.as_str(), prefix.as_str()), ("b", "x", "a/c/"));
        assert_eq!((address.endpoint.as_deref(), address.path_style), (Some("http://127.0.0.1:9000"), true));
        assert_eq!(bucket("s3://b").unwrap().1, "");
        for bad in ["b", "s3://", "s3:///x", "s3://b?endpoint=host", "s3://b?x=y"] {
            assert!(bucket(bad).is_err(), "{bad}");
        }
    }
}
