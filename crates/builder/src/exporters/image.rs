//! `type=image`: an image in larder's own store under its names, and in registries where it is to be pushed.

use std::collections::BTreeMap;
use std::future::ready;

use base64::Engine;
use oci::Reference;

use super::assemble::{self, Image, part};
use super::options::Options;
use super::{Error, Export, Written};
use crate::caches::push_blob;
use crate::event::now_millis;
use crate::sources::bytes::ClientLogin;

/// Exports.
pub(super) async fn export(export: &Export<'_>) -> Result<Written, crate::Error> {
    let options = Options::read(export)?;
    let image = assemble::image(export, &options, None).await?;
    let store = &export.work.engine.store;
    for name in &options.names {
        store.images().set(&store::Image {
            name: name.to_string(),
            target: image.target.clone(),
            created: now_millis(),
            blobs: image.blobs.iter().map(|b| b.digest).collect(),
            snapshots: image.snapshots.clone(),
        })?;
        part(export, &format!("naming to {name}"));
    }
    if options.push {
        if options.names.is_empty() {
            return Err(
                Error::Missing { kind: export.request.kind.clone(), what: "a name to push to (-t NAME)" }.into()
            );
        }
        let mut near = export.near.to_vec();
        for name in &options.names {
            push(export, &options, &image, name, &near).await?;
            near.push(name.clone());
        }
    }
    let response = response(&image, &options)?;
    image.written(export.index, response)
}

/// What a client is told of an image.
pub(super) fn response(image: &Image, options: &Options) -> Result<BTreeMap<String, String>, crate::Error> {
    let descriptor = serde_json::to_vec(&image.target)
        .map_err(|e| Error::Write { what: "the descriptor".to_owned(), source: e.into() })?;
    let names: Vec<String> = options.names.iter().map(ToString::to_string).collect();
    let mut response = BTreeMap::from([
        ("containerimage.digest".to_owned(), image.target.digest.to_string()),
        ("containerimage.descriptor".to_owned(), base64::engine::general_purpose::STANDARD.encode(descriptor)),
    ]);
    if !image.index {
        response.insert("containerimage.config.digest".to_owned(), image.config.to_string());
    }
    if !names.is_empty() {
        response.insert("image.name".to_owned(), names.join(","));
    }
    Ok(response)
}

/// `near`: repositories that may have the layers already.
async fn push(
    export: &Export<'_>,
    options: &Options,
    image: &Image,
    name: &Reference,
    near: &[Reference],
) -> Result<(), crate::Error> {
    let registry = &export.work.engine.registry;
    let login = ClientLogin(export.work.session.clone());
    let store = &export.work.engine.store;
    let is_manifest = |digest| image.manifests.iter().any(|m| m.digest == digest);
    let pushes = image.blobs.iter().filter(|b| !is_manifest(b.digest)).map(|blob| {
        let login = &login;
        async move {
            let has = registry.has_blob(name, &blob.digest, "pull,push", login).await.map_err(Error::from)?;
            let from: Vec<&Reference> = near
                .iter()
                .filter(|_| image.all_layers.iter().flatten().any(|layer| layer.digest == blob.digest))
                .collect();
            if has { Ok(()) } else { push_blob(&export.work, name, blob, &from, ready(Ok(()))).await }
        }
    });
    futures_util::future::try_join_all(pushes).await?;
    part(export, "pushing layers");
    for manifest in &image.manifests {
        let bytes = store.blobs().read(&manifest.digest)?;
        let last = manifest.digest == image.target.digest;
        let tag = if last && !options.by_digest { name.tag.clone() } else { None };
        let reference = Reference { tag, digest: None, ..name.clone() };
        registry.push_manifest(&reference, &manifest.media_type, &bytes, &login).await.map_err(Error::from)?;
    }
    part(export, &format!("pushing manifest for {name}@{}", image.target.digest));
    Ok(())
}
