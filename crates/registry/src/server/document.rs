//! Manifests and indexes as a registry sees them: what they name, what they are attached to. Pure.
//! Their bytes are kept exactly as they came; this only reads them.

use std::collections::BTreeMap;

use oci::media;
use serde::{Deserialize, Serialize};

use super::digest::ContentDigest;
use super::name::parse_digest;
use super::refusal::Refusal;

/// More bytes than any real manifest has; the specification asks for at least 4 MiB.
pub const LARGEST: usize = 16 << 20;

/// Content that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its digest.
    pub digest: ContentDigest,
    /// Its length, as the manifest says.
    pub size: u64,
    /// Whether it must be in the repository: layers that may not be distributed need not.
    pub required: bool,
    /// Whether a manifest may be meant (an entry of an index).
    pub manifest: bool,
}

/// What a registry needs to know of a manifest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// Configuration, layers, or the entries of an index.
    pub parts: Vec<Part>,
    /// What it is attached to.
    pub subject: Option<ContentDigest>,
    /// Its type among referrers.
    pub artifact_type: Option<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// An entry in a list of referrers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// Media type of the manifest.
    pub media_type: String,
    /// Its digest.
    pub digest: String,
    /// Its length.
    pub size: u64,
    /// Its artifact type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Its annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<WireDescriptor>,
    layers: Option<Vec<WireDescriptor>>,
    manifests: Option<Vec<WireDescriptor>>,
    subject: Option<WireDescriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
}

impl Document {
    /// Reads a document that was pushed as `media_type`.
    pub fn read(bytes: &[u8], media_type: &str) -> Result<Document, Refusal> {
        let known = media::is_index(media_type) || media::is_manifest(media_type);
        if !known {
            return Err(Refusal::manifest_invalid(format!(
                "`{media_type}` is no type of manifest that this registry keeps: OCI image manifests and indexes, Docker schema 2"
            )));
        }
        let wire: Wire = serde_json::from_slice(bytes)
            .map_err(|error| Refusal::manifest_invalid(format!("the manifest can't be read: {error}")))?;
        if let Some(stated) = wire.media_type.as_deref().filter(|stated| *stated != media_type) {
            return Err(Refusal::manifest_invalid(format!(
                "the manifest says `{stated}`, Content-Type `{media_type}`"
            )));
        }
        let mut artifact_type = wire.artifact_type.clone().filter(|kind| !kind.is_empty());
        let mut parts = Vec::new();
        if media::is_index(media_type) {
            let missing = || Refusal::manifest_invalid("the index has no `manifests`");
            for entry in wire.manifests.as_ref().ok_or_else(missing)? {
                parts.push(entry.part(true)?);
            }
        } else {
            let config = wire.config.as_ref().ok_or_else(|| Refusal::manifest_invalid("it has no `config`"))?;
            artifact_type = artifact_type.or_else(|| Some(config.media_type.clone()).filter(|kind| !kind.is_empty()));
            parts.push(config.part(false)?);
            for layer in wire.layers.as_ref().ok_or_else(|| Refusal::manifest_invalid("it has no `layers`"))? {
                parts.push(layer.part(false)?);
            }
        }
        let subject = wire.subject.as_ref().map(|subject| parse_digest(&subject.digest)).transpose()?;
        Ok(Document { parts, subject, artifact_type, annotations: wire.annotations.unwrap_or_default() })
    }
}

impl WireDescriptor {
    fn part(&self, manifest: bool) -> Result<Part, Refusal> {
        let free = self.media_type.contains(".nondistributable.") || self.media_type.contains(".foreign.");
        Ok(Part { digest: parse_digest(&self.digest)?, size: self.size, required: !free, manifest })
    }
}

/// A media type without its parameters.
pub fn bare(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    #[test]
    fn parts_subject_and_type_are_found() {
        let text = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/x","digest":"{EMPTY}","size":2}},
            "layers":[{{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar","digest":"{EMPTY}","size":3}}],
            "subject":{{"mediaType":"m","digest":"{EMPTY}","size":9}},"annotations":{{"a":"b"}}}}"#
        );
        let document = Document::read(text.as_bytes(), media::OCI_MANIFEST).unwrap();
        assert_eq!(document.artifact_type.as_deref(), Some("application/x"));
        assert_eq!(document.subject.unwrap().to_string(), EMPTY);
        let required: Vec<_> = document.parts.iter().map(|part| (part.size, part.required)).collect();
        assert_eq!(required, [(2, true), (3, false)]);
        let index = r#"{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
        assert_eq!(Document::read(index.as_bytes(), media::OCI_INDEX).unwrap().artifact_type, None);
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let cases = [
            ("{}", media::OCI_MANIFEST, "config"),
            ("{}", media::OCI_INDEX, "manifests"),
            ("[", media::OCI_INDEX, "can't be read"),
            ("{}", "text/plain", "text/plain"),
            (r#"{"mediaType":"application/vnd.oci.image.index.v1+json"}"#, media::OCI_MANIFEST, "Content-Type"),
        ];
        for (text, kind, why) in cases {
            let refusal = Document::read(text.as_bytes(), kind).unwrap_err();
            assert_eq!(refusal.code, "MANIFEST_INVALID");
            assert!(refusal.message.contains(why), "{}", refusal.message);
        }
    }
}
