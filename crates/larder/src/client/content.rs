//! Blobs of a folder on this machine, laid out as OCI's image layout has them (`blobs/sha256/…`, `index.json`).
//! The folder is the user's: a blob appears in it only when it is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use builder::session::{Content, Error, Output};
use futures_util::future::BoxFuture;
use oci::{Descriptor, Digest, Index, ManifestOrIndex};

use super::outputs::WholeFile;

/// One folder. It is made with the first blob that is written.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at `root`, which need not be there yet.
    pub fn new(root: &Path) -> Folder {
        Folder(root.to_owned())
    }

    /// What the index calls `tag`; without a tag `latest`, or the only image there is.
    pub fn named(&self, tag: Option<&str>) -> Result<Digest, Error> {
        let path = self.0.join("index.json");
        let bytes = std::fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let index: Result<Index, _> = serde_json::from_slice(&bytes);
        let index = index.map_err(|e| Error::Other(format!("{} is no index of images: {e}", path.display())))?;
        let wanted = tag.unwrap_or("latest");
        let is_wanted = |name: &String| name == wanted || name.ends_with(&format!(":{wanted}"));
        let named =
            |d: &&oci::Descriptor| d.annotations.get("org.opencontainers.image.ref.name").is_some_and(is_wanted);
        let only = if tag.is_none() && index.manifests.len() == 1 { index.manifests.first() } else { None };
        let found = index.manifests.iter().find(named).or(only);
        found.map(|d| d.digest).ok_or_else(|| Error::Other(format!("{} has no image `{wanted}`", path.display())))
    }

    /// Makes the index call `tag` what `target` names, and leaves what else it names as it is.
    pub fn name(&self, tag: &str, mut target: Descriptor) -> Result<(), Error> {
        const NAME: &str = "org.opencontainers.image.ref.name";
        let path = self.0.join("index.json");
        let mut index = self.index()?.unwrap_or_else(|| Index {
            schema_version: 2,
            media_type: oci::media::OCI_INDEX.to_owned(),
            artifact_type: None,
            manifests: Vec::new(),
            subject: None,
            annotations: BTreeMap::new(),
        });
        index.manifests.retain(|d| d.annotations.get(NAME).is_none_or(|name| name != tag));
        target.annotations.insert(NAME.to_owned(), tag.to_owned());
        index.manifests.push(target);
        let json = serde_json::to_vec(&index).map_err(|e| Error::Other(e.to_string()))?;
        self.write_whole(&path, &json)?;
        self.write_whole(&self.0.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)
    }

    /// Removes blobs that nothing in the index leads to.
    pub fn sweep(&self) -> Result<(), Error> {
        let mut needed = BTreeSet::new();
        let mut open: Vec<Digest> = self.index()?.iter().flat_map(|i| &i.manifests).map(|d| d.digest).collect();
        while let Some(digest) = open.pop() {
            let is_new = needed.insert(digest);
            let Ok(bytes) = std::fs::read(self.path(&digest)) else { continue };
            // What is no manifest leads nowhere.
            match ManifestOrIndex::decode(&bytes, None) {
                Ok(ManifestOrIndex::Manifest(manifest)) if is_new => {
                    needed.insert(manifest.config.digest);
                    needed.extend(manifest.layers.iter().map(|layer| layer.digest));
                }
                Ok(ManifestOrIndex::Index(index)) if is_new => open.extend(index.manifests.iter().map(|d| d.digest)),
                _ => {}
            }
        }
        let folder = self.0.join("blobs/sha256");
        let failed = |source| Error::Read { path: folder.clone(), source };
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| Digest::from_hex(name.to_str()?));
            if name.is_some_and(|digest| !needed.contains(&digest)) {
                std::fs::remove_file(&path).map_err(|source| Error::Write { path, source })?;
            }
        }
        Ok(())
    }

    fn index(&self) -> Result<Option<Index>, Error> {
        let path = self.0.join("index.json");
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|source| Error::Read { path: path.clone(), source })?,
        };
        let index = serde_json::from_slice(&bytes);
        index.map(Some).map_err(|e| Error::Other(format!("{} is no index of images: {e}", path.display())))
    }

    fn write_whole(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let mut file = WholeFile::create(path)?;
        let written = file.write_all(bytes).and_then(|()| Box::new(file).finish());
        written.map_err(|source| Error::Write { path: path.to_owned(), source })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.0.join("blobs/sha256").join(digest.hex())
    }

    fn keep(&self, digest: &Digest, from: &mut dyn Read) -> Result<(), Error> {
        let path = self.path(digest);
        if path.exists() {
            return Ok(());
        }
        let mut file = WholeFile::create(&path)?;
        let written = std::io::copy(from, &mut file).and_then(|_| Box::new(file).finish());
        written.map_err(|source| Error::Write { path, source })
    }

    fn give(&self, digest: &Digest, out: &mut dyn Write) -> Result<(), Error> {
        let path = self.path(digest);
        let mut file = match std::fs::File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Error::NoBlob { store: self.0.display().to_string(), digest: *digest });
            }
            file => file.map_err(|source| Error::Read { path: path.clone(), source })?,
        };
        std::io::copy(&mut file, out).map(drop).map_err(|source| Error::Read { path, source })
    }
}

impl Content for Folder {
    fn size<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<u64>, Error>> {
        Box::pin(async move {
            match std::fs::metadata(self.path(digest)) {
                Ok(data) => Ok(Some(data.len())),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(source) => Err(Error::Read { path: self.path(digest), source }),
            }
        })
    }

    fn read<'a>(&'a self, digest: &'a Digest, out: &'a mut (dyn Write + Send)) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move { self.give(digest, out) })
    }

    fn write<'a>(
        &'a self,
        digest: &'a Digest,
        _size: u64,
        mut from: Box<dyn Read + Send>,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let (folder, digest) = (self.clone(), *digest);
            let kept = tokio::task::spawn_blocking(move || folder.keep(&digest, &mut from)).await;
            kept.map_err(|_| Error::Gone { what: format!("the blob {digest}") })?
        })
    }
}
