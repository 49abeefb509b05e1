//! File listings, the evidence of `FilesChanged`: one compressed file each, named by the digest of what it says.
//! They are kept beside the metadata, as one is as large as a directory is; losing one loses evidence, never a result.

use std::io::Write;
use std::path::PathBuf;

use oci::Digest;
use solver::Files;

use super::Records;
use crate::error::{Doing, Error, Result};
use crate::{clock, format};

impl Records<'_> {
    /// Keeps a listing; returns its name.
    pub fn put_files(&self, files: &Files) -> Result<Digest> {
        let listing =
            postcard::to_stdvec(files).map_err(|error| self.unreadable(&Digest::of(b""), &error.to_string()))?;
        let name = Digest::of(&listing);
        self.put_tree(&name, &listing)?;
        Ok(name)
    }

    /// A listing by its name; `None` when it is not kept.
    ///
    /// # Errors
    /// As [`Records::tree`].
    pub fn files(&self, name: &Digest) -> Result<Option<Files>> {
        let Some(listing) = self.tree(name)? else { return Ok(None) };
        postcard::from_bytes(&listing).map(Some).map_err(|error| self.unreadable(name, &error.to_string()))
    }

    /// Keeps a file listing under the digest of the tree that it lists.
    pub fn put_tree(&self, tree: &Digest, listing: &[u8]) -> Result<()> {
        let path = self.tree_path(tree);
        if path.exists() {
            return Ok(());
        }
        let new = self.0.0.root.join(format::TMP).join(clock::id_text(clock::id()));
        let write = || {
            let mut encoder = zstd::Encoder::new(std::fs::File::create(&new)?, 1)?;
            encoder.include_checksum(true)?;
            encoder.write_all(listing)?;
            encoder.finish()?;
            std::fs::rename(&new, &path)
        };
        write().doing("write", &path)
    }

    /// A file listing; `None` when it is not kept.
    ///
    /// # Errors
    /// [`Error::Damaged`] when its file cannot be decoded. A listing is evidence only: the build can go on without it.
    pub fn tree(&self, tree: &Digest) -> Result<Option<Vec<u8>>> {
        let path = self.tree_path(tree);
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            bytes => match zstd::decode_all(&bytes.doing("read", &path)?[..]) {
                Ok(listing) => Ok(Some(listing)),
                Err(error) => Err(Error::Damaged { path, what: error.to_string() }),
            },
        }
    }

    fn tree_path(&self, tree: &Digest) -> PathBuf {
        self.0.0.root.join(format::TREES).join(tree.hex())
    }

    fn unreadable(&self, name: &Digest, what: &str) -> Error {
        Error::Damaged { path: self.tree_path(name), what: what.to_owned() }
    }
}
