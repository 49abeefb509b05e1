//! The configuration file of the daemon, and of builds without one: buildkitd.toml's keys, so that a file made for
//! BuildKit serves.
//! A key that does nothing here is named as a warning, one that can't be kept ends the start (`keys`).

mod collection;
mod keys;
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use collection::GcPolicy;
pub use keys::{Verdict, judge};
pub use values::{Space, Span};

/// What the file says.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "kebab-case")]
pub struct Config {
    /// Folder of the store.
    pub root: Option<PathBuf>,
    /// Entitlements that builds may ask for: `network.host`, `security.insecure`.
    pub insecure_entitlements: Vec<String>,
    /// Folder of JSON files with what provenance tells of this builder beside what it knows itself.
    #[serde(rename = "provenanceEnvDir")]
    pub provenance_folder: Option<PathBuf>,
    /// Where to listen.
    pub grpc: Grpc,
    /// Registries by host.
    pub registry: BTreeMap<String, Registry>,
    /// Larder's own: directories of clients.
    pub context: Context,
    /// Workers by name; there is one in larder.
    pub worker: BTreeMap<String, Worker>,
    /// Names on the network, in steps.
    pub dns: Dns,
    /// Kept builds.
    pub history: History,
    /// Frontends by name.
    pub frontend: BTreeMap<String, Frontend>,
}

/// `[grpc]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Grpc {
    /// `unix:///path`, `tcp://host:port` or `fd://`.
    pub address: Vec<String>,
    /// User that has the sockets.
    pub uid: Option<u32>,
    /// Group that has the sockets, and may use them.
    pub gid: Option<u32>,
    /// Certificates for TCP.
    pub tls: Tls,
}

/// `[grpc.tls]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Tls {
    /// The daemon's certificate.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// Authority of the clients' certificates.
    pub ca: Option<PathBuf>,
}

/// `[context]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Context {
    /// When a client's file counts as unchanged since its last build.
    pub verify: Verify,
}

/// How a file of a client is known to be unchanged.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// By size, time, mode and owner, and by content where it may have changed within the clock's step.
    #[default]
    Stat,
    /// By content, always: every file is sent again and compared.
    Content,
}

/// `[registry."host"]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Registry {
    /// Hosts that are asked first, each perhaps with a path that goes before the image's.
    pub mirrors: Vec<String>,
    /// Whether it speaks plain HTTP; unsaid, on loopback only.
    pub http: Option<bool>,
    /// Its certificate is taken as it is.
    pub insecure: bool,
    /// Authorities that its certificate may come from, beside the machine's. PEM files.
    pub ca: Vec<PathBuf>,
    /// What this client shows.
    pub keypair: Vec<KeyPair>,
    /// Folders with more of both: `*.crt` authorities, `*.cert` and `*.key` pairs.
    pub tlsconfigdir: Vec<PathBuf>,
}

/// `[[registry."host".keypair]]`, PEM files.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct KeyPair {
    /// Private key.
    pub key: PathBuf,
    /// Certificate.
    pub cert: PathBuf,
}

/// `[worker.oci]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct Worker {
    /// Whether it is wanted; unsaid is yes.
    pub enabled: Option<bool>,
    /// Labels that clients see.
    pub labels: BTreeMap<String, String>,
    /// Platforms that clients see, instead of those that this machine runs.
    pub platforms: Vec<String>,
    /// Whether the collector runs by itself.
    pub gc: Option<bool>,
    /// Old name of `reserved_space`.
    #[serde(rename = "gckeepstorage")]
    pub gckeepstorage: Option<Space>,
    /// The usual rules never go below this.
    pub reserved_space: Option<Space>,
    /// The usual rules go down to this.
    pub max_used_space: Option<Space>,
    /// The usual rules go down until so much of the disk is free.
    pub min_free_space: Option<Space>,
    /// Rules instead of the usual ones.
    pub gcpolicy: Vec<GcPolicy>,
    /// Cgroup under which steps run that name none.
    pub default_cgroup_parent: String,
    /// Steps that run at the same time; 0 is no limit.
    #[serde(rename = "max-parallelism")]
    pub max_parallelism: usize,
}

/// `[dns]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct Dns {
    /// Addresses of name servers; none are the machine's.
    pub nameservers: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
    /// Search domains.
    pub search_domains: Vec<String>,
}

/// `[history]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct History {
    /// Builds that ended within this time stay.
    pub max_age: Option<Span>,
    /// So many of the newest stay.
    pub max_entries: Option<usize>,
}

impl History {
    /// Which kept builds stay.
    pub fn retention(&self) -> store::Retention {
        let usual = store::Retention::default();
        store::Retention {
            entries: self.max_entries.unwrap_or(usual.entries),
            age: self.max_age.map_or(usual.age, |span| span.0),
        }
    }
}

/// `[frontend."dockerfile.v0"]`, `[frontend."gateway.v0"]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
pub struct Frontend {
    /// Whether builds may use it; unsaid is yes.
    pub enabled: Option<bool>,
    /// Repositories whose images may be frontends; none are all.
    pub allowed_repositories: Vec<String>,
}

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("can't read the configuration {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the configuration {path} is wrong: {reason}")]
    Wrong { path: PathBuf, reason: String },
}

impl Config {
    /// Reads a file. The second value says what of it is left out, and why.
    pub fn read(path: &Path) -> Result<(Config, Vec<String>), Error> {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Config::parse(&text).map_err(|reason| Error::Wrong { path: path.to_owned(), reason })
    }

    /// Reads a text as [`Config::read`] reads a file.
    pub fn parse(text: &str) -> Result<(Config, Vec<String>), String> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.to_string())?;
        let left_out = keys::review(&table)?;
        let config = Config::deserialize(toml::Value::Table(table)).map_err(|e| e.to_string())?;
        if config.is_without_worker() {
            return Err("no worker is left: larder is one, and serves as worker.oci or worker.containerd".to_owned());
        }
        Ok((config, left_out))
    }

    /// Whether every worker is turned off by name.
    fn is_without_worker(&self) -> bool {
        ["oci", "containerd"].iter().all(|name| self.worker.get(*name).is_some_and(|w| w.enabled == Some(false)))
    }

    /// What provenance tells of this builder: the objects of all JSON files in its folder.
    pub fn provenance(&self) -> Result<serde_json::Map<String, serde_json::Value>, Error> {
        let usual = Path::new("/etc/buildkit/provenance.d");
        let folder = self.provenance_folder.as_deref().or(usual.exists().then_some(usual));
        let Some(folder) = folder else { return Ok(serde_json::Map::new()) };
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Read { path, source }
        };
        let entries = std::fs::read_dir(folder).map_err(failed(folder))?;
        let mut paths = entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(failed(folder))?;
        paths.retain(|path| path.extension().is_some_and(|e| e == "json"));
        paths.sort();
        let mut told = serde_json::Map::new();
        for path in paths {
            let text = std::fs::read(&path).map_err(failed(&path))?;
            let object = serde_json::from_slice::<serde_json::Map<_, _>>(&text);
            told.extend(object.map_err(|e| Error::Wrong { path, reason: e.to_string() })?);
        }
        Ok(told)
    }

    /// What is particular about registries' hosts, as the registry client takes it.
    pub fn hosts(&self) -> Result<BTreeMap<String, registry::Host>, Error> {
        let mut hosts = BTreeMap::new();
        for (name, section) in &self.registry {
            let mut trust = registry::Trust {
                insecure: section.insecure,
                authorities: section.ca.clone(),
                identities: section.keypair.iter().map(|pair| (pair.cert.clone(), pair.key.clone())).collect(),
            };
            for folder in &section.tlsconfigdir {
                read_folder(folder, &mut trust)?;
            }
            let host = registry::Host { mirrors: section.mirrors.clone(), http: section.http, trust };
            hosts.insert(name.clone(), host);
        }
        Ok(hosts)
    }

    /// The worker's section: that of `oci`, unless it is turned off and `containerd` is not.
    pub fn oci(&self) -> Worker {
        let is_on = |worker: &&Worker| worker.enabled != Some(false);
        let (oci, containerd) = (self.worker.get("oci"), self.worker.get("containerd"));
        oci.filter(is_on).or(containerd.filter(is_on)).or(oci).cloned().unwrap_or_default()
    }

    /// Which frontends builds may use.
    pub fn frontends(&self) -> Frontends {
        let of = |name: &str| self.frontend.get(name).cloned().unwrap_or_default();
        let (dockerfile, gateway) = (of("dockerfile.v0"), of("gateway.v0"));
        Frontends {
            dockerfile: dockerfile.enabled != Some(false),
            gateway: gateway.enabled != Some(false),
            repositories: gateway.allowed_repositories,
        }
    }
}

/// Adds the certificates of a folder, as Docker has them in `certs.d`.
fn read_folder(folder: &Path, trust: &mut registry::Trust) -> Result<(), Error> {
    let failed = |source| Error::Read { path: folder.to_owned(), source };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let mut paths = entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    paths.sort();
    for path in paths {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => trust.authorities.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                trust.identities.push((path, key));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Which frontends builds may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontends {
    /// `dockerfile.v0`.
    pub dockerfile: bool,
    /// `gateway.v0`, and with it frontends in images.
    pub gateway: bool,
    /// Repositories whose images may be frontends; none are all.
    pub repositories: Vec<String>,
}

impl Default for Frontends {
    fn default() -> Frontends {
        Frontends { dockerfile: true, gateway: true, repositories: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_made_for_buildkit_is_read() {
        let text = r#"
            debug = true
            insecure-entitlements = ["network.host"]
            [grpc]
              address = ["unix:///run/x.sock"]
            [worker.oci]
              gc = false
              [worker.oci.labels]
                "a" = "b"
            [registry."docker.io"]
              mirrors = ["127.0.0.1:5000"]
            [registry."127.0.0.1:5000"]
              http = true
            [context]
              verify = "content"
            [otel]
              socketPath = "/x"
        "#;
        let (config, left_out) = Config::parse(text).unwrap();
        let hosts = config.hosts().unwrap();
        assert_eq!((&hosts["docker.io"].mirrors[..], hosts["docker.io"].http), (&["127.0.0.1:5000".into()][..], None));
        assert_eq!(hosts["127.0.0.1:5000"].http, Some(true));
        assert_eq!((config.oci().gc, config.oci().labels["a"].as_str()), (Some(false), "b"));
        assert_eq!(config.insecure_entitlements, ["network.host"]);
        assert_eq!(left_out.len(), 2, "{left_out:?}"); // debug and otel
        assert_eq!((config.context.verify, Context::default().verify), (Verify::Content, Verify::Stat));
        let disabled = "[worker.oci]\nenabled = false\n";
        assert!(Config::parse(&format!("{disabled}[worker.containerd]\nenabled = false")).is_err());
        let (other, _) = Config::parse(&format!("{disabled}[worker.containerd]\ngc = true")).unwrap();
        assert_eq!(other.oci().gc, Some(true));
        let (limited, _) =
            Config::parse("[frontend.\"gateway.v0\"]\nenabled = false\n[history]\nmaxEntries = 3").unwrap();
        assert_eq!((limited.frontends().gateway, limited.history.retention().entries), (false, 3));
        assert!(Config::parse("root = 3").is_err());
        assert!(Config::parse("[context]\nverify = \"size\"").is_err());
    }
}
