//! Images of the store for people: list, remove, save as an archive, import an archive or a root file system.
//! Everything blocks. Nothing is printed, and no registry is asked.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use oci::{Digest, Index, Manifest, ManifestOrIndex, Reference};
use serde::{Deserialize, Serialize};
use store::Store;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Name(#[from] oci::ReferenceError),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("there is no image {name}: see `larder image ls`")]
    Missing { name: String },
    #[error("can't read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("can't write the archive: {source}")]
    Write { source: io::Error },
    #[error("{what} can't be read: {reason}")]
    Unreadable { what: String, reason: String },
}

type Result<T> = std::result::Result<T, Error>;

/// An image as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its name as people write it.
    pub name: String,
    /// Of its manifest or index.
    pub digest: Digest,
    /// Milliseconds since 1970.
    pub created: u64,
    /// Bytes of its blobs that are here.
    pub size: u64,
}

fn normal(name: &str) -> Result<Reference> {
    Ok(Reference::parse(name)?.or_latest())
}

/// All images.
pub fn list(store: &Store) -> Result<Vec<Listed>> {
    let mut listed = Vec::new();
    for image in store.images().list()? {
        let mut size = 0;
        for blob in &image.blobs {
            size += store.blobs().size(blob)?.unwrap_or(0);
        }
        let name = Reference::parse(&image.name).map(|r| r.familiar()).unwrap_or(image.name);
        listed.push(Listed { name, digest: image.target.digest, created: image.created, size });
    }
    Ok(listed)
}

/// Takes a name away.
pub fn remove(store: &Store, name: &str) -> Result<()> {
    store.images().remove(&normal(name)?.to_string())?;
    Ok(store.flush()?)
}

fn unreadable(what: &dyn std::fmt::Display, reason: &dyn std::fmt::Display) -> Error {
    Error::Unreadable { what: what.to_string(), reason: reason.to_string() }
}

/// Everything that a manifest or index names, itself first.
fn closure(store: &Store, digest: Digest, found: &mut Vec<Digest>) -> Result<()> {
    found.push(digest);
    let bytes = store.blobs().read(&digest)?;
    match ManifestOrIndex::decode(&bytes, None).map_err(|e| unreadable(&digest, &e))? {
        ManifestOrIndex::Index(index) => {
            for manifest in &index.manifests {
                closure(store, manifest.digest, found)?;
            }
        }
        ManifestOrIndex::Manifest(manifest) => {
            found.push(manifest.config.digest);
            found.extend(manifest.layers.iter().map(|l| l.digest));
        }
    }
    Ok(())
}

/// Writes an image as an OCI archive.
pub fn save(store: &Store, name: &str, out: &mut dyn Write) -> Result<()> {
    let name = normal(name)?;
    let missing = || Error::Missing { name: name.familiar() };
    let image = store.images().get(&name.to_string())?.ok_or_else(missing)?;
    let mut blobs = Vec::new();
    closure(store, image.target.digest, &mut blobs)?;
    blobs.sort();
    blobs.dedup();
    let mut target = image.target.clone();
    target.annotations.insert("io.containerd.image.name".to_owned(), name.to_string());
    target.annotations.insert("org.opencontainers.image.ref.name".to_owned(), name.tag.clone().unwrap_or_default());
    let index = Index {
        schema_version: 2,
        media_type: oci::media::OCI_INDEX.to_owned(),
        artifact_type: None,
        manifests: vec![target],
        subject: None,
        annotations: BTreeMap::new(),
    };
    let cant = |source| Error::Write { source };
    let mut tar = tar::Builder::new(io::BufWriter::new(out));
    let header = |bytes: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes);
        header.set_mode(0o644);
        header
    };
    for blob in &blobs {
        let bytes = store.blobs().size(blob)?.unwrap_or(0);
        let path = format!("blobs/sha256/{}", blob.hex());
        tar.append_data(&mut header(bytes), path, store.blobs().open(blob)?).map_err(cant)?;
    }
    let index = serde_json::to_vec(&index).map_err(|e| unreadable(&"the image's index", &e))?;
    tar.append_data(&mut header(index.len() as u64), "index.json", index.as_slice()).map_err(cant)?;
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    tar.append_data(&mut header(layout.len() as u64), "oci-layout", layout.as_slice()).map_err(cant)?;
    tar.into_inner().and_then(|mut out| out.flush()).map_err(cant)
}

/// Takes in an image under `name`: an OCI layout (folder or tar), or the tar of a root file system with `env` as its
/// environment.
pub fn import(store: &Store, name: &str, from: &Path, env: &[String]) -> Result<()> {
    let name = normal(name)?;
    let cant = |source| Error::Read { path: from.to_owned(), source };
    let target = if from.is_dir() {
        let read = |path: &Path| std::fs::read(path).map_err(cant);
        for entry in std::fs::read_dir(from.join("blobs/sha256")).map_err(cant)? {
            let path = entry.map_err(cant)?.path();
            let digest = path.file_name().and_then(|n| n.to_str()).and_then(Digest::from_hex);
            let mut writer = store.blobs().writer()?;
            io::copy(&mut std::fs::File::open(&path).map_err(cant)?, &mut writer).map_err(cant)?;
            writer.commit(digest)?;
        }
        chosen(&read(&from.join("index.json"))?)?
    } else {
        match archive(store, from)? {
            Some(target) => target,
            None => root_file_system(store, from, env)?,
        }
    };
    let mut blobs = Vec::new();
    closure(store, target.digest, &mut blobs)?;
    let created = crate::event::now_millis();
    store.images().set(&store::Image { name: name.to_string(), target, created, blobs, snapshots: Vec::new() })?;
    Ok(store.flush()?)
}

/// The one image of a layout's index.
fn chosen(index: &[u8]) -> Result<oci::Descriptor> {
    let index: Index = serde_json::from_slice(index).map_err(|e| unreadable(&"the layout's index.json", &e))?;
    match index.manifests.as_slice() {
        [one] => Ok(oci::Descriptor { annotations: BTreeMap::new(), ..one.clone() }),
        all => Err(unreadable(&"the layout", &format!("it has {} images; expected one", all.len()))),
    }
}

/// An OCI layout in a tar; `None` when it is no layout.
fn archive(store: &Store, from: &Path) -> Result<Option<oci::Descriptor>> {
    let cant = |source| Error::Read { path: from.to_owned(), source };
    let open = || std::fs::File::open(from).map_err(cant);
    let mut is_layout = false;
    let mut scan = tar::Archive::new(open()?);
    for entry in scan.entries_with_seek().map_err(cant)? {
        let entry = entry.map_err(cant)?;
        is_layout |= entry.path().map_err(cant)?.as_os_str() == "oci-layout";
    }
    if !is_layout {
        return Ok(None);
    }
    let mut index = None;
    let mut tar = tar::Archive::new(std::io::BufReader::new(open()?));
    for entry in tar.entries().map_err(cant)? {
        let mut entry = entry.map_err(cant)?;
        let path = entry.path().map_err(cant)?.to_string_lossy().into_owned();
        if path == "index.json" {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut entry, &mut bytes).map_err(cant)?;
            index = Some(bytes);
        } else if let Some(digest) = path.strip_prefix("blobs/sha256/").and_then(Digest::from_hex) {
            let mut writer = store.blobs().writer()?;
            io::copy(&mut entry, &mut writer).map_err(cant)?;
            writer.commit(Some(digest))?;
        }
    }
    let index = index.ok_or_else(|| unreadable(&from.display(), &"it has no index.json"))?;
    chosen(&index).map(Some)
}

/// The tar of a root file system as an image of one layer, for this machine's platform.
fn root_file_system(store: &Store, from: &Path, env: &[String]) -> Result<oci::Descriptor> {
    let cant = |source| Error::Read { path: from.to_owned(), source };
    let mut file = std::fs::File::open(from).map_err(cant)?;
    let mut writer = store.blobs().writer()?;
    io::copy(&mut file, &mut writer).map_err(cant)?;
    let layer = writer.commit(None)?;
    let unpacked = store::layer::unpack(store, None, store.blobs().open(&layer.digest)?, "imported")?;
    let mut start = [0; 4];
    io::Read::read_exact(&mut store.blobs().open(&layer.digest)?, &mut start).map_err(cant)?;
    let media_type = match start {
        [0x1f, 0x8b, ..] => oci::media::OCI_LAYER_GZIP,
        [0x28, 0xb5, 0x2f, 0xfd] => oci::media::OCI_LAYER_ZSTD,
        _ => oci::media::OCI_LAYER,
    };
    let host = oci::Platform::host();
    let mut config =
        oci::ImageConfig { os: host.os, architecture: host.architecture, variant: host.variant, ..Default::default() };
    config.config.env = env.to_vec();
    config.rootfs.diff_ids = vec![unpacked.diff_id];
    config.history = Some(vec![oci::History { created_by: "larder image import".to_owned(), ..Default::default() }]);
    let bad = |e: serde_json::Error| unreadable(&"the image's configuration", &e);
    let json = |value: serde_json::Value| serde_json::to_vec_pretty(&value).map_err(bad);
    let config = store.blobs().put(&json(serde_json::to_value(&config).map_err(bad)?)?)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: oci::media::OCI_MANIFEST.to_owned(),
        artifact_type: None,
        config: oci::Descriptor::new(oci::media::OCI_CONFIG, config.digest, config.size),
        layers: vec![oci::Descriptor::new(media_type, layer.digest, layer.size)],
        subject: None,
        annotations: BTreeMap::new(),
    };
    let form = store::Form {
        media_type: media_type.to_owned(),
        recipe: "fetched".to_owned(),
        digest: layer.digest,
        size: layer.size,
    };
    store.layer_blobs().add_form(unpacked.snapshot, form)?;
    store.layer_blobs().set_chain(unpacked.snapshot, unpacked.diff_id)?;
    let manifest = store.blobs().put(&json(serde_json::to_value(&manifest).map_err(bad)?)?)?;
    Ok(oci::Descriptor::new(oci::media::OCI_MANIFEST, manifest.digest, manifest.size))
}
