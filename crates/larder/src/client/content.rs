//! Blobs of a folder on this machine, laid out as OCI's image layout has them (`blobs/sha256/…`, `index.json`).
//! The folder is the user's: a blob appears in it only when it is whole.

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use builder::session::{Content, Error, Output};
use futures_util::future::BoxFuture;
use oci::{Digest, Index};

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
