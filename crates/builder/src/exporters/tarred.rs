//! The tar that an image's layout lies in: blobs by name, each once. Where it is a file that may be amended, a layer goes into
//! it while it is made, and its header when it is known. The same blobs in the same order give the same bytes.

use std::collections::BTreeSet;
use std::io::{self, Write};

use oci::{Descriptor, Digest};
use store::layer::{Packed, Recipe};
use store::{SnapshotId, Store};

use super::Error;
use crate::session::Draft;

/// A tar's headers and contents begin at multiples of this (POSIX, ustar).
const BLOCK: u64 = 512;
/// Bytes of a blob that are copied at once.
const PIECE: usize = 256 << 10;

/// A layout's tar on its way to `W`.
pub(crate) struct Tarred<W> {
    out: W,
    /// Bytes written.
    at: u64,
    written: BTreeSet<Digest>,
}

/// One that takes layers while they are made.
pub(crate) type Drafted = Tarred<Box<dyn Draft>>;

impl<W: Write + Send> Tarred<W> {
    /// Begins it.
    pub fn begin(out: W) -> io::Result<Tarred<W>> {
        let mut tar = Tarred { out, at: 0, written: BTreeSet::new() };
        for folder in ["blobs/", "blobs/sha256/"] {
            let mut header = header(0, 0o755);
            header.set_entry_type(tar::EntryType::Directory);
            tar.header(header, folder)?;
        }
        Ok(tar)
    }

    /// A blob of the store, unless it is in the tar already.
    pub fn blob(&mut self, store: &Store, blob: &Descriptor) -> Result<(), Error> {
        if !self.written.insert(blob.digest) {
            return Ok(());
        }
        let mut file = io::BufReader::with_capacity(PIECE, store.blobs().open(&blob.digest)?);
        let copied = file.get_ref().metadata().and_then(|data| {
            self.header(header(data.len(), 0o644), &path(&blob.digest))?;
            io::copy(&mut file, self)
        });
        copied.and_then(|_| self.padding()).map_err(unwritten)
    }

    /// A file of the layout that is no blob.
    pub fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.header(header(bytes.len() as u64, 0o644), name)?;
        self.write_all(bytes)?;
        self.padding()
    }

    /// Ends it.
    pub fn finish(mut self) -> io::Result<W> {
        self.write_all(&[0; 2 * BLOCK as usize])?;
        Ok(self.out)
    }

    fn header(&mut self, header: tar::Header, name: &str) -> io::Result<()> {
        self.write_all(named(header, name)?.as_bytes())
    }

    fn padding(&mut self) -> io::Result<()> {
        let rest = self.at.next_multiple_of(BLOCK) - self.at;
        self.write_all(&[0; BLOCK as usize][..rest as usize])
    }
}

impl Drafted {
    /// A snapshot's own layer, packed now.
    pub fn pack(&mut self, store: &Store, id: SnapshotId, recipe: &Recipe) -> Result<Packed, Error> {
        let begin = self.at;
        self.write_all(&[0; BLOCK as usize]).map_err(unwritten)?;
        let packed = store::layer::pack_into(store, id, recipe, self)?;
        if !self.written.insert(packed.digest) {
            // The same changes as those of a layer before it.
            self.out.cut(begin).map_err(unwritten)?;
            self.at = begin;
            return Ok(packed);
        }
        let finished = self.padding().and_then(|()| {
            let header = named(header(packed.size, 0o644), &path(&packed.digest))?;
            self.out.amend(begin, header.as_bytes())
        });
        finished.map(|()| packed).map_err(unwritten)
    }
}

impl<W: Write> Write for Tarred<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Where a blob lies in a layout (OCI image-spec `image-layout`).
pub(super) fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

pub(super) fn unwritten(source: io::Error) -> Error {
    Error::Write { what: "the image".to_owned(), source }
}

fn named(mut header: tar::Header, name: &str) -> io::Result<tar::Header> {
    header.set_path(name)?;
    header.set_cksum();
    Ok(header)
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
