//! Content hashes of trees, as BuildKit has them (`cache/contenthash`): the digest of selected paths decides whether a
//! step that reads them is cached. Trees are a client's directory, scanned in place, or layers of the store.
//! It reads, and never changes what it reads.

mod base;
mod copies;
mod follow;
mod header;
mod index;
mod listing;
pub(crate) mod scan;
mod select;

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci::{Digest, Hasher};
use solver::key::Selection;
use solver::{FileEntry, Files};

use crate::error::Result;
use crate::view::{self, Kind, Node, View, is_opaque, not_found};
use crate::{SnapshotId, Store, format};
pub use base::Base;
pub use copies::{Copied, Copies, Look};
pub use header::Coming;
use index::{Changes, Moment};
pub use index::{Known, Stat};
pub use scan::Filter;
use scan::{Entry, Scanned};

/// A look at the part of a directory that `wanted` names. No file is read, and nothing is kept.
pub fn look(root: &Path, wanted: &Filter) -> Result<View> {
    let scanned = scan::walk(root, wanted, Changes::Anyhow, &index::Index::empty())?;
    Ok(View::of_scanned(Arc::new(scanned)))
}

/// A tree whose content can be hashed.
pub struct Tree {
    view: View,
    scanned: Option<Arc<Scanned>>,
    copies: Option<Copies>,
    /// Digests of single paths in layers, by where they lie.
    known: Mutex<HashMap<PathBuf, Digest>>,
    count: u64,
}

impl Tree {
    /// Scans a client's directory. `identity` names it between builds. Of a mirror, whose files are only ever replaced, it
    /// is known which were hashed just now.
    pub fn scan(store: &Store, root: &Path, identity: &str, wanted: &Filter, mirror: Option<&Known>) -> Result<Tree> {
        let name = Digest::of(format!("{identity}\0{wanted:?}").as_bytes());
        let folder = store.root().join(format::SCANS);
        let index = index::Index::open(folder.join(name.hex()));
        let began = Moment::now();
        let (index, changes) = match mirror {
            Some(known) => (index.with(known), Changes::ByReplacing),
            None => (index, Changes::Anyhow),
        };
        let (scanned, count) = scan::scan(root, wanted, changes, index, &store.root().join(format::TMP))?;
        let scanned = Arc::new(scanned);
        let view = View::of_scanned(scanned.clone());
        let copies = Some(Copies::new(store, &name, scanned.clone(), began));
        Ok(Tree { view, scanned: Some(scanned), copies, known: Mutex::default(), count })
    }

    /// A tree of the store; `None` is the empty one.
    pub fn of_snapshot(store: &Store, id: Option<SnapshotId>) -> Result<Tree> {
        let layers = id.map_or_else(|| Ok(Vec::new()), |id| store.snapshots().layers(id))?;
        Ok(Tree { view: View::of_layers(layers), scanned: None, copies: None, known: Mutex::default(), count: 0 })
    }

    /// A look at it.
    pub fn view(&self) -> View {
        self.view.clone()
    }

    /// How many paths a scanned directory has.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Where the store has copies of a scanned directory's files.
    pub fn copies(&self) -> Option<&Copies> {
        self.copies.as_ref()
    }

    /// The digest that stands for the selected content in a key: of the digests of all selections.
    pub fn digest(&self, selections: &[Selection]) -> Result<Digest> {
        let whole = [Selection { path: "/".to_owned(), ..Selection::default() }];
        let selections = if selections.is_empty() { &whole } else { selections };
        let mut parts = Vec::new();
        for selection in selections {
            parts.push(self.one(selection)?.to_string());
        }
        Ok(Digest::of(parts.join("\0").as_bytes()))
    }

    /// Every path that the selections take, with its digest: evidence for people.
    pub fn listing(&self, selections: &[Selection]) -> Result<Files> {
        let mut files = Vec::new();
        for selection in selections {
            if self.is_plain(selection) {
                let path = self.real(selection)?;
                if let Some(entry) = self.scanned.as_ref().and_then(|scanned| scanned.find(&path)) {
                    entry.list(path.strip_prefix("/").unwrap_or(&path), &mut files);
                } else if let Some(node) = self.view.lookup(&path)? {
                    self.list_below(&path, &node, &mut files)?;
                }
            } else {
                for path in self.select(selection)?.1 {
                    files.extend(self.entry(&path.real, &path.node)?);
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        Ok(Files(files))
    }

    fn is_plain(&self, s: &Selection) -> bool {
        !s.wildcard && s.include.is_empty() && s.exclude.is_empty()
    }

    /// The path of a selection without wildcards and symlinks.
    fn real(&self, s: &Selection) -> Result<PathBuf> {
        let path = Path::new("/").join(s.path.trim_start_matches('/'));
        if s.follow_links {
            return self.view.resolve(&path);
        }
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok(self.view.resolve(parent)?.join(name)),
            _ => Ok(path),
        }
    }

    fn one(&self, selection: &Selection) -> Result<Digest> {
        if self.is_plain(selection) {
            let path = self.real(selection)?;
            let node = self.view.lookup(&path)?.ok_or_else(|| not_found(&selection.path))?;
            return self.whole(&path, &node);
        }
        let (prefix, found) = self.select(selection)?;
        let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        match found.as_slice() {
            [] => return Ok(Digest::of(b"")),
            [one] if base(selection.path.trim_end_matches('/')) == base(&one.path) => return Ok(one.digest),
            _ => {}
        }
        let mut hasher = Hasher::new();
        for one in &found {
            let path = one.path.strip_prefix(&prefix).unwrap_or(&one.path);
            let key = if path.is_empty() { "\0".to_owned() } else { path.replace('/', "\0") };
            hasher.update(key);
            hasher.update(one.digest.text());
        }
        Ok(hasher.finish())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Digest>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The digest of a path by itself.
    fn single(&self, path: &Path, node: &Node) -> Result<Digest> {
        if let Some(entry) = self.scanned.as_ref().and_then(|s| s.find(path))
            && let Some(digest) = entry.digest
        {
            return Ok(digest);
        }
        if let Some(digest) = self.lock().get(&node.source) {
            return Ok(*digest);
        }
        let digest = header::digest(node)?;
        self.lock().insert(node.source.clone(), digest);
        Ok(digest)
    }

    /// The digest of a path with everything below it.
    fn whole(&self, path: &Path, node: &Node) -> Result<Digest> {
        if let Some(digest) = self.scanned.as_ref().and_then(|scanned| scanned.find(path)).and_then(Entry::whole) {
            return Ok(digest);
        }
        self.warm(path, node)?;
        self.fold(path, node)
    }

    fn fold(&self, path: &Path, node: &Node) -> Result<Digest> {
        let own = self.single(path, node)?;
        if node.kind != Kind::Dir {
            return Ok(own);
        }
        let mut hasher = Hasher::new();
        hasher.update([0]);
        hasher.update(own.text());
        for child in self.view.list(path)? {
            let digest = self.fold(&path.join(&child.name), &child)?;
            hasher.update([0]);
            hasher.update(child.name.as_bytes());
            hasher.update(digest.text());
        }
        Ok(hasher.finish())
    }

    /// Hashes every file below `path` on all cores beforehand.
    fn warm(&self, path: &Path, node: &Node) -> Result<()> {
        let mut nodes = Vec::new();
        self.gather(path, node, &mut nodes)?;
        nodes.retain(|node| !self.lock().contains_key(&node.source));
        let digests = scan::hash_all(&nodes.iter().collect::<Vec<_>>())?;
        let mut known = self.lock();
        known.extend(nodes.into_iter().map(|node| node.source).zip(digests));
        Ok(())
    }

    fn gather(&self, path: &Path, node: &Node, nodes: &mut Vec<Node>) -> Result<()> {
        if node.kind == Kind::Dir {
            for child in self.view.list(path)? {
                self.gather(&path.join(&child.name), &child, nodes)?;
            }
        } else if node.kind == Kind::File {
            nodes.push(node.clone());
        }
        Ok(())
    }

    fn list_below(&self, path: &Path, node: &Node, files: &mut Vec<FileEntry>) -> Result<()> {
        files.extend(self.entry(path, node)?);
        if node.kind == Kind::Dir {
            for child in self.view.list(path)? {
                self.list_below(&path.join(&child.name), &child, files)?;
            }
        }
        Ok(())
    }

    /// A path as evidence; the root itself says nothing to people.
    fn entry(&self, path: &Path, node: &Node) -> Result<Option<FileEntry>> {
        let Some(path_text) = path.strip_prefix("/").ok().filter(|p| !p.as_os_str().is_empty()) else {
            return Ok(None);
        };
        let kind = scan::file_kind(node.kind);
        let digest = self.single(path, node)?;
        let path = path_text.to_string_lossy().into_owned();
        Ok(Some(FileEntry { path, kind, mode: node.mode, uid: node.uid, gid: node.gid, digest }))
    }
}

/// The digest of one layer's own folder, its whiteouts included and times left out: equal for layers that make the same
/// tree out of the same parent.
pub fn layer_digest(store: &Store, id: SnapshotId) -> Result<Digest> {
    let mut hasher = Hasher::new();
    layer_folder(&store.snapshots().parts(id)?, &mut hasher)?;
    Ok(hasher.finish())
}

fn layer_folder(folders: &[PathBuf], hasher: &mut Hasher) -> Result<()> {
    hasher.update([u8::from(folders.iter().any(|folder| is_opaque(folder)))]);
    for (name, places) in view::names(folders)? {
        let node = Node::at(&name, places[0].clone())?;
        hasher.update([1]);
        hasher.update(name.as_bytes());
        hasher.update(header::digest(&node)?.text());
        if node.kind == Kind::Dir {
            layer_folder(&places, hasher)?;
            hasher.update([2]);
        }
    }
    Ok(())
}
