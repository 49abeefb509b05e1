//! `type=oci` and `type=docker`: an image as an OCI layout, as a tar or a directory; Docker's own manifest goes into the
//! same tar. The same image gives the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::path::Path;

use oci::{Descriptor, Index, media};
use store::Store;

use super::assemble::{self, Image, part};
use super::image::response;
use super::options::{Options, Place};
use super::{Error, Export, Written};
use crate::blocking;
use crate::session::{Content, Sink};

/// Exports.
pub(super) async fn export(export: &Export<'_>) -> Result<Written, crate::Error> {
    if export.request.kind == "docker" && export.results.len() > 1 {
        return Err(Error::OneImage.into());
    }
    let options = Options::read(export)?;
    let image = assemble::image(export, &options).await?;
    let response = response(&image, &options)?;
    let sink = export.work.session.output(export.index, &response).await?;
    let layout = Layout::of(export, &options, &image)?;
    let store = export.work.engine.store.clone();
    if let Sink::Content(content) = &sink {
        layout.content(&store, content.as_ref()).await?;
        part(export, "sending blobs");
        return image.written(export.index, response);
    }
    blocking("wrote the image", move || match sink {
        // Done above.
        Sink::Content(_) => Ok(()),
        Sink::Stream(mut out) => {
            let written = layout.tar(&store, &mut out).and_then(|()| out.finish());
            written.map_err(|source| Error::Write { what: "the image".to_owned(), source })
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
            let path = |digest: &oci::Digest| format!("blobs/sha256/{}", digest.hex());
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
        Ok(Layout { small, blobs })
    }

    fn tar(&self, store: &Store, out: &mut dyn Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(out);
        let mut blobs: Vec<&Descriptor> = self.blobs.iter().collect();
        blobs.sort_by_key(|b| b.digest);
        for folder in ["blobs/", "blobs/sha256/"] {
            let mut header = header(0, 0o755);
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, folder, io::empty())?;
        }
        for blob in blobs {
            let file = store.blobs().open(&blob.digest).map_err(io::Error::other)?;
            let size = file.metadata()?.len();
            let path = format!("blobs/sha256/{}", blob.digest.hex());
            tar.append_data(&mut header(size, 0o644), path, io::BufReader::with_capacity(1 << 20, file))?;
        }
        for (name, bytes) in &self.small {
            tar.append_data(&mut header(bytes.len() as u64, 0o644), name, bytes.as_slice())?;
        }
        tar.finish()
    }

    /// The blobs alone: the client writes its index itself, from the build's response.
    async fn content(&self, store: &Store, content: &dyn Content) -> Result<(), crate::Error> {
        for blob in &self.blobs {
            let file = store.blobs().open(&blob.digest)?;
            let size = file.metadata().map_err(|source| Error::Write { what: "the image".to_owned(), source })?.len();
            content.write(&blob.digest, size, Box::new(file)).await?;
        }
        Ok(())
    }

    fn directory(&self, store: &Store, folder: &Path) -> io::Result<()> {
        let blobs = folder.join("blobs/sha256");
        std::fs::create_dir_all(&blobs)?;
        for blob in &self.blobs {
            let mut bytes = Vec::new();
            store.blobs().open(&blob.digest).map_err(io::Error::other)?.read_to_end(&mut bytes)?;
            std::fs::write(blobs.join(blob.digest.hex()), bytes)?;
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

/// A header without anything that differs from run to run.
fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}
