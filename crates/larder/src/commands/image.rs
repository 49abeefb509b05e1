//! `larder image`: images of the store: list, remove, save as an archive, import an archive or a root file system.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci::{Digest, Index, Manifest, ManifestOrIndex, Reference};
use store::Store;

use super::{Failure, open, size, table};
use crate::time;

/// Images of the store
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  larder image ls\n  larder image import base rootfs.tar\n  larder image save app -o app.tar"
)]
pub struct Flags {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// List images
    Ls,
    /// Remove names
    Rm {
        /// Names of images
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Write an image as an OCI archive
    Save {
        /// Name of the image
        name: String,
        /// The archive
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Take in an image: an OCI layout (folder or tar), or the tar of a root file system
    Import {
        /// Its name here
        name: String,
        /// Folder or tar
        from: PathBuf,
        /// `NAME=value` of the environment, for a root file system
        #[arg(long, value_name = "NAME=VALUE")]
        env: Vec<String>,
    },
}

/// Does it.
pub fn run(root: &Path, flags: &Flags) -> Result<(), Failure> {
    let store = open(root)?;
    match &flags.verb {
        Verb::Ls => list(&store)?,
        Verb::Rm { names } => {
            for name in names {
                store.images().remove(&normal(name)?.to_string())?;
            }
        }
        Verb::Save { name, output } => save(&store, &normal(name)?, output)?,
        Verb::Import { name, from, env } => import(&store, &normal(name)?, from, env)?,
    }
    Ok(store.flush()?)
}

fn normal(name: &str) -> Result<Reference, Failure> {
    Reference::parse(name).map(Reference::or_latest).map_err(Failure::usage)
}

fn list(store: &Store) -> Result<(), Failure> {
    let now = builder::event::now_micros();
    let mut rows = Vec::new();
    for image in store.images().list()? {
        let bytes =
            image.blobs.iter().map(|b| Ok(store.blobs().size(b)?.unwrap_or(0))).sum::<Result<u64, store::Error>>()?;
        let name = Reference::parse(&image.name).map(|r| r.familiar()).unwrap_or(image.name);
        rows.push(vec![name, image.target.digest.short(), time::ago(image.created * 1000, now), size(bytes)]);
    }
    table(&["NAME", "DIGEST", "CREATED", "SIZE"], &rows);
    Ok(())
}

/// Everything that a manifest or index names, itself first.
fn closure(store: &Store, digest: Digest, found: &mut Vec<Digest>) -> Result<(), Failure> {
    found.push(digest);
    let bytes = store.blobs().read(&digest)?;
    match ManifestOrIndex::decode(&bytes, None).map_err(Failure::failed)? {
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

fn save(store: &Store, name: &Reference, output: &Path) -> Result<(), Failure> {
    let missing = || Failure::usage(format!("there is no image {}: see `larder image ls`", name.familiar()));
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
    let file =
        std::fs::File::create(output).map_err(|e| Failure::failed(format!("can't write {}: {e}", output.display())))?;
    let mut tar = tar::Builder::new(std::io::BufWriter::new(file));
    let header = |bytes: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes);
        header.set_mode(0o644);
        header
    };
    for blob in &blobs {
        let bytes = store.blobs().size(blob)?.unwrap_or(0);
        tar.append_data(&mut header(bytes), format!("blobs/sha256/{}", blob.hex()), store.blobs().open(blob)?)?;
    }
    let index = serde_json::to_vec(&index).map_err(Failure::failed)?;
    tar.append_data(&mut header(index.len() as u64), "index.json", index.as_slice())?;
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    tar.append_data(&mut header(layout.len() as u64), "oci-layout", layout.as_slice())?;
    tar.into_inner()?.into_inner().map_err(|e| Failure::failed(e.error()))?.sync_all()?;
    Ok(())
}

fn import(store: &Store, name: &Reference, from: &Path, env: &[String]) -> Result<(), Failure> {
    let cant = |e: std::io::Error| Failure::failed(format!("can't read {}: {e}", from.display()));
    let target = if from.is_dir() {
        let read = |path: &Path| std::fs::read(path).map_err(cant);
        for entry in std::fs::read_dir(from.join("blobs/sha256")).map_err(cant)? {
            let path = entry?.path();
            let digest = path.file_name().and_then(|n| n.to_str()).and_then(Digest::from_hex);
            let mut writer = store.blobs().writer()?;
            std::io::copy(&mut std::fs::File::open(&path).map_err(cant)?, &mut writer)?;
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
    let created = builder::event::now_millis();
    store.images().set(&store::Image { name: name.to_string(), target, created, blobs, snapshots: Vec::new() })?;
    println!("{}", name.familiar());
    Ok(())
}

/// The one image of a layout's index.
fn chosen(index: &[u8]) -> Result<oci::Descriptor, Failure> {
    let index: Index = serde_json::from_slice(index).map_err(Failure::failed)?;
    match index.manifests.as_slice() {
        [one] => Ok(oci::Descriptor { annotations: BTreeMap::new(), ..one.clone() }),
        all => Err(Failure::usage(format!("the layout has {} images; expected one", all.len()))),
    }
}

/// An OCI layout in a tar; `None` when it is no layout.
fn archive(store: &Store, from: &Path) -> Result<Option<oci::Descriptor>, Failure> {
    let cant = |e: std::io::Error| Failure::failed(format!("can't read {}: {e}", from.display()));
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
            std::io::Read::read_to_end(&mut entry, &mut bytes)?;
            index = Some(bytes);
        } else if let Some(digest) = path.strip_prefix("blobs/sha256/").and_then(Digest::from_hex) {
            let mut writer = store.blobs().writer()?;
            std::io::copy(&mut entry, &mut writer)?;
            writer.commit(Some(digest))?;
        }
    }
    let index = index.ok_or_else(|| Failure::failed(format!("{} has no index.json", from.display())))?;
    chosen(&index).map(Some)
}

/// The tar of a root file system as an image of one layer, for this machine's platform.
fn root_file_system(store: &Store, from: &Path, env: &[String]) -> Result<oci::Descriptor, Failure> {
    let cant = |e: std::io::Error| Failure::failed(format!("can't read {}: {e}", from.display()));
    let mut file = std::fs::File::open(from).map_err(cant)?;
    let mut writer = store.blobs().writer()?;
    std::io::copy(&mut file, &mut writer)?;
    let layer = writer.commit(None)?;
    let unpacked = store::layer::unpack(store, None, store.blobs().open(&layer.digest)?, "imported")?;
    let mut start = [0; 4];
    std::io::Read::read_exact(&mut store.blobs().open(&layer.digest)?, &mut start)?;
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
    let json = |value: serde_json::Value| serde_json::to_vec_pretty(&value).map_err(Failure::failed);
    let config = store.blobs().put(&json(serde_json::to_value(&config).map_err(Failure::failed)?)?)?;
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
    let manifest = store.blobs().put(&json(serde_json::to_value(&manifest).map_err(Failure::failed)?)?)?;
    Ok(oci::Descriptor::new(oci::media::OCI_MANIFEST, manifest.digest, manifest.size))
}
