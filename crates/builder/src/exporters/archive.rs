//! `type=oci` and `type=docker`: an image as an OCI layout, as a tar or a directory; Docker's own manifest goes into the
//! same tar. The same image gives the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use oci::{Descriptor, Index, media};
use store::Store;

use super::assemble::{self, Image, part};
use super::image::response;
use super::options::{Options, Place};
use super::tarred::{Tarred, path, unwritten};
use super::{Error, Export, Written};
use crate::blocking;
use crate::session::{Content, Sink};

/// Exports.
pub(super) async fn export(export: &Export<'_>) -> Result<Written, crate::Error> {
    if export.request.kind == "docker" && export.results.len() > 1 {
        return Err(Error::OneImage.into());
    }
    let options = Options::read(export)?;
    let store = export.work.engine.store.clone();
    let draft = export.work.session.draft(export.index)?.map(Tarred::begin).transpose().map_err(unwritten)?;
    let draft = draft.map(|tar| Arc::new(Mutex::new(Some(tar))));
    let image = assemble::image(export, &options, draft.as_ref()).await?;
    let response = response(&image, &options)?;
    let layout = Layout::of(export, &options, &image)?;
    let draft = draft.and_then(|draft| draft.lock().unwrap_or_else(PoisonError::into_inner).take());
    if let Some(tar) = draft {
        let written = move || layout.into_tar(&store, tar)?.finish().map_err(unwritten);
        blocking("wrote the image", written).await?;
        part(export, "sending tarball");
        return image.written(export.index, response);
    }
    let sink = export.work.session.output(export.index, &response).await?;
    if let Sink::Content(content) = &sink {
        layout.content(&store, content.as_ref()).await?;
        part(export, "sending blobs");
        return image.written(export.index, response);
    }
    blocking("wrote the image", move || match sink {
        // Done above.
        Sink::Content(_) => Ok(()),
        Sink::Stream(out) => {
            let tar = Tarred::begin(out).map_err(unwritten)?;
            layout.into_tar(&store, tar)?.finish().map_err(unwritten)
        }
        Sink::Directory(folder) => {
            let what = folder.path().display().to_string();
            let written = layout.directory(&store, folder.path()).and_then(|()| folder.finish());
            written.map_err(|source| Error::Write { what, source })
        }
    })
    .await?;
    part(export, "sending tarball");
    image.written(export.index, response)
}

/// The files of a layout: small ones by content, blobs by name.
struct Layout {
    small: Vec<(&'static str, Vec<u8>)>,
    layers: Vec<Descriptor>,
    /// All of them.
    blobs: Vec<Descriptor>,
}

impl Layout {
    fn of(export: &Export<'_>, options: &Options, image: &Image) -> Result<Layout, Error> {
        let mut manifests = Vec::new();
        let mut target = image.target.clone();
        target.annotations = options.annotations(Place::IndexDescriptor, &export.results[0].platform);
        // BuildKit says when the archive is written; the image's own time keeps the same image the same bytes.
        let created = image.created.as_deref().and_then(oci::time::parse_rfc3339);
        if let Some((seconds, _)) = created {
            let created = oci::time::rfc3339(seconds);
            target.annotations.entry("org.opencontainers.image.created".to_owned()).or_insert(created);
        }
        for name in &options.names {
            let mut descriptor = target.clone();
            let tag = name.tag.clone().unwrap_or_default();
            descriptor.annotations.insert("io.containerd.image.name".to_owned(), name.to_string());
            descriptor.annotations.insert("org.opencontainers.image.ref.name".to_owned(), tag);
            manifests.push(descriptor);
        }
        if manifests.is_empty() {
            manifests.push(target);
        }
        let index = Index {
            schema_version: 2,
            media_type: media::OCI_INDEX.to_owned(),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
        };
        let json = |value: &serde_json::Value| serde_json::to_vec(value).map_err(failed);
        let mut small = vec![
            ("index.json", serde_json::to_vec(&index).map_err(failed)?),
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ];
        if export.results.len() == 1 {
            let names: Vec<String> = options.names.iter().map(|n| n.familiar()).collect();
            let document = serde_json::json!([{
                "Config": path(&image.config),
                "RepoTags": names,
                "Layers": image.layers.iter().map(|l| path(&l.digest)).collect::<Vec<_>>(),
            }]);
            small.insert(1, ("manifest.json", json(&document)?));
        }
        let mut seen = BTreeSet::new();
        let blobs = image.blobs.iter().filter(|b| seen.insert(b.digest)).cloned().collect();
        let layers = image.all_layers.concat();
        Ok(Layout { small, layers, blobs })
    }

    /// Layers come first and in their order, as they may be in `tar` already; then the others by name.
    fn into_tar<W: Write + Send>(self, store: &Store, mut tar: Tarred<W>) -> Result<W, Error> {
        let mut others: Vec<&Descriptor> = self.blobs.iter().collect();
        others.sort_by_key(|b| b.digest);
        for blob in self.layers.iter().chain(others) {
            tar.blob(store, blob)?;
        }
        let small = self.small.iter().try_for_each(|(name, bytes)| tar.file(name, bytes));
        small.and_then(|()| tar.finish()).map_err(unwritten)
    }

    /// The blobs alone: the client writes its index itself, from the build's response.
    async fn content(&self, store: &Store, content: &dyn Content) -> Result<(), crate::Error> {
        for blob in &self.blobs {
            let file = store.blobs().open(&blob.digest)?;
            let size = file.metadata().map_err(unwritten)?.len();
            content.write(&blob.digest, size, Box::new(file)).await?;
        }
        Ok(())
    }

    fn directory(&self, store: &Store, folder: &Path) -> io::Result<()> {
        std::fs::create_dir_all(folder.join("blobs/sha256"))?;
        for blob in &self.blobs {
            let mut bytes = store.blobs().open(&blob.digest).map_err(io::Error::other)?;
            io::copy(&mut bytes, &mut std::fs::File::create(folder.join(path(&blob.digest)))?)?;
        }
        for (name, bytes) in self.small.iter().filter(|(name, _)| *name != "manifest.json") {
            std::fs::write(folder.join(name), bytes)?;
        }
        Ok(())
    }
}

fn failed(error: serde_json::Error) -> Error {
    Error::Write { what: "the image's index".to_owned(), source: error.into() }
}
