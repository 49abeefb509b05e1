//! Images of OCI layouts that a client offers (image-spec, "Image Layout"): its content store, and a digest in it.
//! They become [`super::image::Lazy`] like any image; only where their bytes come from differs.

use graph::{Kind, Vertex};
use oci::{Digest, Platform};

use super::bytes::Origin;
use super::image::{Lazy, Resolved, decode, named, read};
use crate::{Error, Work, sources};

/// The client's content under the name of a layout.
async fn origin(work: &Work, session: &str, layout: &str) -> Result<Origin, Error> {
    Ok(Origin::Content(work.session.content(session, &format!("oci:{layout}")).await?))
}

fn digest(name: &str) -> Result<Digest, Error> {
    let unreadable = |reason: String| sources::Error::Unreadable { identifier: name.to_owned(), reason };
    let text = name.split_once('@').map(|(_, digest)| digest);
    let text = text.ok_or_else(|| unreadable("it names no digest (a client looks a tag up itself)".to_owned()))?;
    Digest::parse(text).map_err(|e| unreadable(e.to_string()).into())
}

/// Resolves `reference` (`@digest`, perhaps after a tag that says nothing more) in the layout that the client calls
/// `layout`, for `platform`. `session` holds it; empty is the build's own.
pub async fn resolve(
    work: &Work,
    session: &str,
    layout: &str,
    reference: &str,
    platform: &Platform,
) -> Result<Resolved, Error> {
    let name = format!("oci-layout://{layout}{reference}");
    let digest = digest(&name)?;
    let origin = origin(work, session, layout).await?;
    let (manifest, document) = read(work, &origin, digest, platform, &name).await?;
    let config_bytes = origin.bytes(work, &document.config).await?;
    let config = decode(&name, &config_bytes)?;
    Ok(Resolved { digest, manifest, config_bytes, config })
}

/// The image that an `oci-layout://` source names.
pub async fn identify(work: &Work, vertex: &Vertex) -> Result<Lazy, Error> {
    let (name, platform) = named(vertex, "oci-layout://")?;
    let attribute = |key: &str| match vertex.kind() {
        Some(Kind::Source(op)) => op.attrs.get(key).cloned().unwrap_or_default(),
        _ => String::new(),
    };
    let digest = digest(&name)?;
    // Without a name of its own the layout is found under the image's.
    let store = Some(attribute("oci.store")).filter(|s| !s.is_empty());
    let store = store.unwrap_or_else(|| name.split(['@', ':']).next().unwrap_or_default().to_owned());
    let origin = origin(work, &attribute("oci.session"), &store).await?;
    Lazy::new(work, &name, origin, digest, platform).await
}
