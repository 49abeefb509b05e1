//! The daemon's configuration file: buildkitd.toml's keys, so that a file made for BuildKit serves.
//! A key that larder does not know is named as a warning, never silently dropped.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;

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
    /// Workers; larder reads `oci` and, if that is absent, `containerd`.
    pub worker: BTreeMap<String, Worker>,
}

/// `[grpc]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Grpc {
    /// `unix:///path`, `tcp://host:port` or `fd://`.
    pub address: Vec<String>,
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
    /// Hosts that are asked first.
    pub mirrors: Vec<String>,
    /// It speaks plain HTTP.
    pub http: bool,
}

/// `[worker.oci]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Worker {
    /// Labels that clients see.
    pub labels: BTreeMap<String, String>,
    /// Whether the collector runs by itself.
    pub gc: Option<bool>,
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
    /// Reads a file. The second value names keys that are not known.
    pub fn read(path: &Path) -> Result<(Config, Vec<String>), Error> {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Config::parse(&text).map_err(|reason| Error::Wrong { path: path.to_owned(), reason })
    }

    fn parse(text: &str) -> Result<(Config, Vec<String>), String> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.to_string())?;
        let known = [
            "provenanceEnvDir",
            "root",
            "insecure-entitlements",
            "grpc",
            "registry",
            "context",
            "worker",
            "debug",
            "trace",
        ];
        let unknown = table.keys().filter(|key| !known.contains(&key.as_str())).cloned().collect();
        let config = Config::deserialize(toml::Value::Table(table)).map_err(|e| e.to_string())?;
        Ok((config, unknown))
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

    /// Mirrors by host, as the registry client takes them.
    pub fn mirrors(&self) -> HashMap<String, Vec<String>> {
        let with = self.registry.iter().filter(|(_, registry)| !registry.mirrors.is_empty());
        with.map(|(host, registry)| (host.clone(), registry.mirrors.clone())).collect()
    }

    /// Hosts that speak plain HTTP.
    pub fn plain(&self) -> Vec<String> {
        self.registry.iter().filter(|(_, registry)| registry.http).map(|(host, _)| host.clone()).collect()
    }

    /// The worker's section.
    pub fn oci(&self) -> Worker {
        self.worker.get("oci").or_else(|| self.worker.get("containerd")).cloned().unwrap_or_default()
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
        let (config, unknown) = Config::parse(text).unwrap();
        assert_eq!(config.mirrors(), HashMap::from([("docker.io".into(), vec!["127.0.0.1:5000".into()])]));
        assert_eq!(config.plain(), ["127.0.0.1:5000"]);
        assert_eq!((config.oci().gc, config.oci().labels["a"].as_str()), (Some(false), "b"));
        assert_eq!(config.insecure_entitlements, ["network.host"]);
        assert_eq!(unknown, ["otel"]);
        assert_eq!((config.context.verify, Context::default().verify), (Verify::Content, Verify::Stat));
        assert!(Config::parse("root = 3").is_err());
        assert!(Config::parse("[context]\nverify = \"size\"").is_err());
    }
}
