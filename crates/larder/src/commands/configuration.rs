//! The configuration file: where it is, and what the daemon and a build without one take from it alike.
//! Its keys are `daemon::config`'s.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use builder::Engine;
use daemon::Settings;
use daemon::config::{Config, Dns, Verify};
use sandbox::Sandbox;
use store::Store;

use super::{Failure, aws};

/// The file that a user named, or else the usual one where it exists; no file says nothing.
pub fn find(named: Option<&Path>) -> Result<Config, Failure> {
    match named {
        Some(path) => read(path),
        None => usual().filter(|path| path.exists()).map_or_else(|| Ok(Config::default()), |path| read(&path)),
    }
}

/// The machine's file for root, else the user's.
fn usual() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/etc/larder/larder.toml"));
    }
    let given = std::env::var_os("XDG_CONFIG_HOME").filter(|d| !d.is_empty()).map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".config"));
    given.or_else(home).map(|folder| folder.join("larder/larder.toml"))
}

/// Reads a file, and says what of it does nothing.
pub fn read(path: &Path) -> Result<Config, Failure> {
    let (config, left_out) = Config::read(path).map_err(Failure::usage)?;
    left_out.iter().for_each(|text| eprintln!("warning: {}: {text}", path.display()));
    Ok(config)
}

/// What the file sets for a daemon; nothing collects.
pub fn settings(config: &Config) -> Result<Settings, Failure> {
    let worker = config.oci();
    let host = oci::Platform::host();
    let platforms = worker.platforms.iter().map(|text| oci::Platform::parse(text, &host));
    Ok(Settings {
        allowed: config.insecure_entitlements.clone(),
        labels: worker.labels.clone(),
        platforms: platforms.collect::<Result<_, _>>().map_err(Failure::usage)?,
        verify: config.context.verify == Verify::Content,
        collector: None,
        frontends: config.frontends(),
    })
}

/// What builds: the store, with registries and whatever else the file sets for every build.
pub fn engine(config: &Config, store: Store, sandbox: Sandbox) -> Result<Arc<Engine>, Failure> {
    let registry =
        registry::Client::new().with_ambient(aws::ambient()).with_hosts(config.hosts().map_err(Failure::usage)?);
    let Dns { nameservers, options, search_domains } = config.dns.clone();
    let settings = builder::Settings {
        provenance: config.provenance().map_err(Failure::usage)?,
        retention: config.history.retention(),
        parallelism: config.oci().max_parallelism,
        dns: sandbox::Dns { nameservers, options, search: search_domains },
    };
    Ok(Engine::with_settings(store, sandbox, registry, settings))
}
