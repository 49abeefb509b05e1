//! The image configuration: how a container of the image runs, and how the image came to be.
//! OCI image-spec `config`, with Docker's additions (Healthcheck, OnBuild, Shell, StopTimeout). Fields that are not known
//! here are kept and written back, because images from elsewhere carry them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Digest, Platform};

/// An image configuration document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// RFC 3339 time of creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// GOARCH.
    #[serde(default)]
    pub architecture: String,
    /// CPU variant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// GOOS.
    #[serde(default)]
    pub os: String,
    /// Operating system version.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Operating system features.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// How a container runs.
    #[serde(default)]
    pub config: ContainerConfig,
    /// The layers by their uncompressed digests.
    #[serde(default)]
    pub rootfs: RootFs,
    /// One entry an instruction.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "null_is_default")]
    pub history: Option<Vec<History>>,
    /// Everything else, kept as it was.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The `config` part: defaults for a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `user`, `uid`, `user:group`…
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `80/tcp`…
    #[serde(default, skip_serializing_if = "no_entries")]
    pub exposed_ports: Option<BTreeMap<String, Map<String, Value>>>,
    /// `NAME=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// Words before the command.
    #[serde(default, skip_serializing_if = "no_words")]
    pub entrypoint: Option<Vec<String>>,
    /// Default command, or default words for the entrypoint.
    #[serde(default, skip_serializing_if = "no_words")]
    pub cmd: Option<Vec<String>>,
    /// Paths that are volumes at run time.
    #[serde(default, skip_serializing_if = "no_entries")]
    pub volumes: Option<BTreeMap<String, Map<String, Value>>>,
    /// Directory that a container starts in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "no_entries")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Signal that stops it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Windows: the command is already escaped.
    #[serde(default, skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    /// How to tell that it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Value>,
    /// Triggers for images built on this one.
    #[serde(default, skip_serializing_if = "no_words")]
    pub on_build: Option<Vec<String>>,
    /// Shell for the shell forms.
    #[serde(default, skip_serializing_if = "no_words")]
    pub shell: Option<Vec<String>>,
    /// Everything else, kept as it was.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What is empty is left out, as by Go's programs: `CMD []` is no `Cmd` at all.
fn no_words(words: &Option<Vec<String>>) -> bool {
    words.as_ref().is_none_or(Vec::is_empty)
}

/// The same of names with values.
fn no_entries<T>(entries: &Option<BTreeMap<String, T>>) -> bool {
    entries.as_ref().is_none_or(BTreeMap::is_empty)
}

/// Layers of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers, lowest first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> RootFs {
        RootFs { kind: "layers".into(), diff_ids: Vec::new() }
    }
}

/// One line of an image's history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// RFC 3339 time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Author.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Which tool.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether it made no layer.
    #[serde(default, skip_serializing_if = "is_false")]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// The platform that the configuration states, in normal form.
    pub fn platform(&self) -> Platform {
        let mut platform = Platform::new(&self.os, &self.architecture, &self.variant);
        platform.os_version.clone_from(&self.os_version);
        platform.os_features.clone_from(&self.os_features);
        platform
    }

    /// Chain ids of the layers, lowest first (image-spec "Layer ChainID").
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::new();
        for diff in &self.rootfs.diff_ids {
            let id = match chain.last() {
                None => *diff,
                Some(parent) => Digest::of(format!("{parent} {diff}").as_bytes()),
            };
            chain.push(id);
        }
        chain
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_it_does_not_know() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"NetworkDisabled":true},"rootfs":{"type":"layers","diff_ids":[]},"docker_version":"20"}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        let back = serde_json::to_value(&config).unwrap();
        assert_eq!(back, serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn leaves_out_what_is_empty() {
        let text = r#"{"Cmd":[],"Entrypoint":[],"Labels":{},"Volumes":{},"ExposedPorts":{},"OnBuild":[],"Shell":[]}"#;
        let config: ContainerConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.cmd, Some(Vec::new()));
        assert_eq!(serde_json::to_string(&config).unwrap(), "{}");
    }
}
