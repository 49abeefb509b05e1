//! A snapshot's own layer as a blob: its upper folder in the form of the OCI image-spec ("Image Layer Filesystem
//! Changeset"). A layer is made once for each recipe and found again. It never looks at the layers beneath.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use super::compress::Sink;
use super::write::{self, Entry, Type};
use super::{Compression, Packed, Recipe, compress};
use crate::error::{Doing, Result};
use crate::view::{self, is_opaque, is_whiteout};
use crate::{Blob, BlobWriter, Form, SnapshotId, Store};

/// The layer's blob, made now or found.
pub fn pack(store: &Store, id: SnapshotId, recipe: &Recipe) -> Result<Packed> {
    packed(store, id, recipe, None)
}

/// The same, and its bytes go into `out` while they are made. One that is not compressed goes there only: in the store it
/// would be a second copy of the snapshot's files.
pub fn pack_into(store: &Store, id: SnapshotId, recipe: &Recipe, out: &mut (dyn Write + Send)) -> Result<Packed> {
    packed(store, id, recipe, Some(out))
}

fn packed(store: &Store, id: SnapshotId, recipe: &Recipe, mut also: Option<&mut (dyn Write + Send)>) -> Result<Packed> {
    // Who wants a layer that somebody packs already waits, and finds it.
    let _turn = store.0.packing.enter(id);
    if let Some(found) = find(store, id, recipe)? {
        if let Some(out) = &mut also {
            let blob = store.blobs().open(&found.digest)?;
            let copied = io::copy(&mut BufReader::with_capacity(READ, blob), out);
            copied.doing("pass on", &store.blobs().path(&found.digest))?;
        }
        return Ok(found);
    }
    let folders = store.snapshots().parts(id)?;
    let is_plain = recipe.compression == Compression::None;
    let kept = also.is_none() || !is_plain;
    let out = Both { blob: kept.then(|| store.blobs().writer()).transpose()?, also };
    // A blob's own digest is that of its plain bytes where nothing is compressed.
    let hash = !(kept && is_plain);
    let packed = compress::stream(store, recipe.compression, hash, out, |out| {
        let mut walk = Walk { out, clamp: recipe.clamp, names: HashMap::new() };
        walk.folder(&folders, b"")?;
        write::end(walk.out)
    });
    let (out, plain, made) = packed.doing("pack the layer", &folders[0])?;
    let blob = out.blob.map(|writer| writer.commit(None)).transpose()?;
    let of_plain = plain.as_ref().map(|plain| Blob { digest: plain.digest, size: plain.size });
    let (Some(Blob { digest, size }), Some(plain)) = (blob.or(of_plain), of_plain.or(blob)) else {
        return Err(io::Error::other("nothing was hashed")).doing("pack the layer", &folders[0]);
    };
    let layers = store.layer_blobs();
    if recipe.clamp.is_none() {
        layers.set_diff(id, plain.digest, plain.size)?;
    }
    let media_type = recipe.media_type().to_owned();
    if kept {
        store.0.members.keep(digest, made);
        layers.add_form(id, Form { media_type: media_type.clone(), recipe: recipe.text(), digest, size })?;
    }
    Ok(Packed { media_type, digest, size, diff_id: plain.digest, diff_size: plain.size })
}

/// A blob and whoever takes the same bytes.
struct Both<'a> {
    blob: Option<BlobWriter>,
    also: Option<&'a mut (dyn Write + Send)>,
}

impl Write for Both<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(also) = &mut self.also {
            let told = |e: io::Error| io::Error::new(e.kind(), format!("what takes it along can't be written: {e}"));
            also.write_all(bytes).map_err(told)?;
        }
        if let Some(blob) = &mut self.blob {
            blob.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The layer's blob, if it was made by this recipe.
pub fn find(store: &Store, id: SnapshotId, recipe: &Recipe) -> Result<Option<Packed>> {
    // With clamped times the diff id is another, and is not kept.
    if recipe.clamp.is_some() {
        return Ok(None);
    }
    let layer = store.layer_blobs().get(id)?;
    let (Some(diff_id), Some(diff_size)) = (layer.diff_id, layer.diff_size) else { return Ok(None) };
    let text = recipe.text();
    for form in layer.forms.into_iter().filter(|f| f.recipe == text) {
        if store.blobs().has(&form.digest)? {
            let media_type = recipe.media_type().to_owned();
            return Ok(Some(Packed { media_type, digest: form.digest, size: form.size, diff_id, diff_size }));
        }
    }
    Ok(None)
}

/// Snapshots whose layers are being packed.
#[derive(Default)]
pub(crate) struct Packing {
    busy: Mutex<BTreeSet<SnapshotId>>,
    free: Condvar,
}

impl Packing {
    fn enter(&self, id: SnapshotId) -> Turn<'_> {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let mut busy = self.free.wait_while(busy, |busy| busy.contains(&id)).unwrap_or_else(PoisonError::into_inner);
        busy.insert(id);
        Turn { packing: self, id }
    }
}

/// Until it is dropped nobody else packs the snapshot.
struct Turn<'a> {
    packing: &'a Packing,
    id: SnapshotId,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.packing.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.packing.free.notify_all();
    }
}

/// Bytes of a large file that are read at once.
const READ: usize = 256 << 10;

struct Walk<'a> {
    out: &'a mut dyn Sink,
    clamp: Option<i64>,
    /// Names of files with several, by inode.
    names: HashMap<(u64, u64), Vec<u8>>,
}

impl Walk<'_> {
    fn folder(&mut self, folders: &[PathBuf], below: &[u8]) -> io::Result<()> {
        for (name, places) in view::names(folders).map_err(io::Error::other)? {
            self.entry(&places, &name, below)?;
        }
        Ok(())
    }

    fn entry(&mut self, places: &[PathBuf], name: &OsStr, below: &[u8]) -> io::Result<()> {
        let at = places[0].as_path();
        let data = fs::symlink_metadata(at)?;
        if is_whiteout(&data) {
            return self.mark(&[below, b".wh.", name.as_bytes()].concat(), &data);
        }
        let mut path = [below, name.as_bytes()].concat();
        let kind = data.file_type();
        let many = data.nlink() > 1 && kind.is_file();
        if let Some(first) = many.then(|| self.names.get(&(data.dev(), data.ino()))).flatten().cloned() {
            return self.header(at, &path, Type::HardLink, &data, &first, 0);
        }
        if many {
            self.names.insert((data.dev(), data.ino()), path.clone());
        }
        if kind.is_dir() {
            path.push(b'/');
            self.header(at, &path, Type::Dir, &data, b"", 0)?;
            if places.iter().any(|place| is_opaque(place)) {
                self.mark(&[path.as_slice(), b".wh..wh..opq"].concat(), &data)?;
            }
            return self.folder(places, &path);
        }
        if kind.is_symlink() {
            let link = fs::read_link(at)?;
            return self.header(at, &path, Type::Symlink, &data, link.as_os_str().as_bytes(), 0);
        }
        if kind.is_file() {
            self.header(at, &path, Type::File, &data, b"", data.len())?;
            return self.content(at, data.len());
        }
        use std::os::unix::fs::FileTypeExt;
        let kind = match kind {
            k if k.is_char_device() => Type::Char,
            k if k.is_block_device() => Type::Block,
            k if k.is_fifo() => Type::Fifo,
            // A socket can't be in an image.
            _ => return Ok(()),
        };
        self.header(at, &path, kind, &data, b"", 0)
    }

    fn content(&mut self, at: &Path, size: u64) -> io::Result<()> {
        if size >= compress::BLOCK as u64 {
            // In another layer the same file is cut the same way.
            self.out.begin_block()?;
        }
        let copied = self.out.take(&mut fs::File::open(at)?.take(size))?;
        if copied != size {
            return Err(io::Error::other(format!("{} became shorter while it was read", at.display())));
        }
        write::padding(self.out, size)
    }

    /// An empty file whose name says something about others.
    fn mark(&mut self, path: &[u8], data: &fs::Metadata) -> io::Result<()> {
        let mtime = self.time(data);
        let entry = Entry {
            path,
            kind: Type::File,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime,
            link: b"",
            device: (0, 0),
            xattrs: &[],
        };
        write::entry(self.out, &entry)
    }

    fn time(&self, data: &fs::Metadata) -> i64 {
        self.clamp.map_or(data.mtime(), |clamp| data.mtime().min(clamp))
    }

    fn header(
        &mut self,
        at: &Path,
        path: &[u8],
        kind: Type,
        data: &fs::Metadata,
        link: &[u8],
        size: u64,
    ) -> io::Result<()> {
        let xattrs = if matches!(kind, Type::HardLink) { Vec::new() } else { xattrs(at)? };
        let entry = Entry {
            path,
            kind,
            mode: data.mode() & 0o7777,
            uid: data.uid(),
            gid: data.gid(),
            size,
            mtime: self.time(data),
            link,
            device: (rustix::fs::major(data.rdev()), rustix::fs::minor(data.rdev())),
            xattrs: &xattrs,
        };
        write::entry(self.out, &entry)
    }
}

fn xattrs(at: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    view::xattrs(at).map_err(io::Error::other)
}
