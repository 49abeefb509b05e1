//! The manifest around a config: which blobs a cache is made of. An OCI image manifest since BuildKit 0.21, before that an
//! index whose entries are blobs; both are read, either is written. An image with an inline cache is told apart here.

use std::collections::BTreeMap;

use oci::{Descriptor, Digest, Index, Manifest, ManifestOrIndex, media};

use super::{CONFIG, Config, Error};

/// Annotation of a layer's descriptor: digest of its uncompressed tar (containerd's name).
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// How a cache's manifest is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An OCI image manifest.
    ImageManifest,
    /// An index that lists blobs.
    Index {
        /// With Docker's media types.
        docker: bool,
    },
}

impl Form {
    /// The manifest's media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Form::ImageManifest => media::OCI_MANIFEST,
            Form::Index { docker: true } => media::DOCKER_INDEX,
            Form::Index { docker: false } => media::OCI_INDEX,
        }
    }
}

/// The blobs of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The config.
    pub config: Descriptor,
    /// Layers of results, by digest.
    pub blobs: BTreeMap<Digest, Descriptor>,
}

impl Listing {
    /// Reads the manifest of a cache. `None` when it is the manifest or index of an image, which may hold an inline cache.
    pub fn read(document: &ManifestOrIndex) -> Option<Listing> {
        let by_digest = |list: &[Descriptor]| list.iter().map(|d| (d.digest, d.clone())).collect();
        match document {
            ManifestOrIndex::Manifest(manifest) if manifest.config.media_type == CONFIG => {
                Some(Listing { config: manifest.config.clone(), blobs: by_digest(&manifest.layers) })
            }
            ManifestOrIndex::Manifest(_) => None,
            ManifestOrIndex::Index(index) => {
                let (config, blobs): (Vec<_>, Vec<_>) =
                    index.manifests.iter().cloned().partition(|d| d.media_type == CONFIG);
                let config = config.into_iter().next_back()?;
                Some(Listing { config, blobs: by_digest(&blobs) })
            }
        }
    }

    /// What both list. Where they describe a blob differently, one of the two is taken whatever the order.
    pub fn join_blobs(&mut self, other: &Listing) {
        let text = |d: &Descriptor| serde_json::to_string(d).unwrap_or_default();
        for (digest, new) in &other.blobs {
            let known = self.blobs.entry(*digest).or_insert_with(|| new.clone());
            if text(known) < text(new) {
                *known = new.clone();
            }
        }
    }

    /// Writes a manifest of what `config` needs of the blobs, with annotations of its own (Docker has none); gives its bytes and media type. Its order is that of digests.
    ///
    /// # Errors
    /// [`Error::NoCache`] when the config needs a blob that is not listed.
    pub fn write(
        &self,
        config: &Config,
        form: Form,
        annotations: BTreeMap<String, String>,
    ) -> Result<(Vec<u8>, &'static str), Error> {
        let docker = form == Form::Index { docker: true };
        let mut layers = BTreeMap::new();
        for digest in config.blobs() {
            let missing = || Error::NoCache { digest, reason: "its descriptor is not known".to_owned() };
            let mut layer = self.blobs.get(&digest).ok_or_else(missing)?.clone();
            layer.media_type = media_of(&layer.media_type, docker);
            layers.insert(digest, layer);
        }
        let mut layers: Vec<Descriptor> = layers.into_values().collect();
        let (schema_version, artifact_type, subject) = (2, None, None);
        let media_type = form.media_type().to_owned();
        let written = match form {
            Form::ImageManifest => {
                let config = self.config.clone();
                let manifest =
                    Manifest { schema_version, media_type, artifact_type, config, layers, subject, annotations };
                serde_json::to_vec(&manifest)
            }
            Form::Index { .. } => {
                layers.push(self.config.clone());
                let manifests = layers;
                let index = Index { schema_version, media_type, artifact_type, manifests, subject, annotations };
                serde_json::to_vec(&index)
            }
        };
        Ok((written.map_err(|e| Error::Json { reason: e.to_string() })?, form.media_type()))
    }
}

/// The same layer's media type by the other maker's name.
fn media_of(name: &str, docker: bool) -> String {
    let pairs = [
        (media::OCI_LAYER, media::DOCKER_LAYER),
        (media::OCI_LAYER_GZIP, media::DOCKER_LAYER_GZIP),
        (media::OCI_LAYER_ZSTD, media::DOCKER_LAYER_ZSTD),
    ];
    let same = pairs.iter().find(|(oci, other)| *oci == name || *other == name);
    same.map_or(name, |(oci, other)| if docker { other } else { oci }).to_owned()
}
