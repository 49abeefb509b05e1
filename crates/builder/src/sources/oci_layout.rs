//! Images of OCI layout directories that a client offers (image-spec, "Image Layout").
//! They become [`super::image::Lazy`] like any image; only where their bytes come from differs.

use graph::{Kind, Vertex};
use oci::{Digest, Index, Platform};

use super::bytes::Origin;
use super::image::{Lazy, Resolved, decode, named, read};
use crate::{Error, Work, sources};

/// Resolves `store` (the client's name for the layout) with an optional `:tag` or `@digest`, for `platform`.
pub async fn resolve(work: &Work, store: &str, reference: &str, platform: &Platform) -> Result<Resolved, Error> {
    let folder = work.session.layout(store).await?;
    let name = format!("oci-layout://{store}{reference}");
    let unreadable = |reason: String| sources::Error::Unreadable { identifier: name.clone(), reason };
    let digest = match reference.strip_prefix('@') {
        Some(digest) => Digest::parse(digest).map_err(|e| unreadable(e.to_string()))?,
        None => {
            let path = folder.join("index.json");
            let bytes = std::fs::read(&path).map_err(|e| unreadable(format!("{}: {e}", path.display())))?;
            let index: Index = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
            let tag = reference.strip_prefix(':').unwrap_or("latest");
            let tagged = index.manifests.iter().find(|d| {
                d.annotations
                    .get("org.opencontainers.image.ref.name")
                    .is_some_and(|n| n == tag || n.ends_with(&format!(":{tag}")))
            });
            let only = if index.manifests.len() == 1 { index.manifests.first() } else { None };
            let found = tagged.or(only.filter(|_| !reference.starts_with(':')));
            found.ok_or_else(|| unreadable(format!("its index has no image `{tag}`")))?.digest
        }
    };
    let origin = Origin::Layout(folder);
    let (manifest, document) = read(work, &origin, digest, platform, &name).await?;
    let config_bytes = origin.bytes(work, &document.config).await?;
    let config = decode(&name, &config_bytes)?;
    Ok(Resolved { digest, manifest, config_bytes, config })
}

/// The image that an `oci-layout://` source names.
pub async fn identify(work: &Work, vertex: &Vertex) -> Result<Lazy, Error> {
    let (name, platform) = named(vertex, "oci-layout://")?;
    let store = match vertex.kind() {
        Some(Kind::Source(op)) => op.attrs.get("oci.store").cloned().unwrap_or_default(),
        _ => String::new(),
    };
    let unreadable = |reason: &str| sources::Error::Unreadable { identifier: name.clone(), reason: reason.to_owned() };
    let (_, digest) = name.split_once('@').ok_or_else(|| unreadable("it names no digest"))?;
    let digest = Digest::parse(digest).map_err(|e| unreadable(&e.to_string()))?;
    let origin = Origin::Layout(work.session.layout(&store).await?);
    Lazy::new(work, &name, origin, digest, platform).await
}
