//! Scans a client's directory in place: one lstat a path, and a file is read only when its stat differs from the one it
//! was hashed under. What the filter leaves out is never looked at. It writes nothing but its own index.

use std::collections::HashSet;
use std::ffi::{CStr, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use graph::pattern::{self, Patterns};
use oci::{Digest, Hasher};
use solver::{FileEntry, FileKind};

use super::follow::follow;
use super::header;
use super::index::{Changes, Index, Stat};
use super::listing::{Listing, Seen, text};
use crate::error::{Doing, Error, Result};
use crate::view::{Kind, Node};

/// Which part of a directory is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only these patterns, when there are any.
    pub include: Vec<String>,
    /// Never these patterns; `!` takes back.
    pub exclude: Vec<String>,
    /// Only these paths, with what their symlinks lead to, when there are any.
    pub follow: Vec<String>,
}

/// One path of a scanned directory. There are many: what few have is aside.
#[derive(Debug)]
pub struct Entry {
    pub name: Box<OsStr>,
    pub kind: Kind,
    pub stat: Stat,
    special: Option<Box<Special>>,
    /// Of its header, and of a file's content.
    pub digest: Option<Digest>,
    /// Sorted by name.
    pub children: Vec<Entry>,
}

/// What neither a file nor a directory has.
#[derive(Debug, Default)]
struct Special {
    link: PathBuf,
    rdev: u64,
}

/// A scanned directory.
#[derive(Debug)]
pub struct Scanned {
    pub base: PathBuf,
    pub changes: Changes,
    pub top: Entry,
}

/// What guides the walk.
struct Walk<'a> {
    include: Option<Patterns>,
    exclude: Patterns,
    index: &'a Index,
    changes: Changes,
    /// Cores that nobody uses just now.
    free: AtomicUsize,
}

/// A folder with this many folders in it is worth another thread.
const WIDE: usize = 8;

/// Scans `base`; digests are known for all of it afterwards, and `index`, a file in whose place another may be put by way
/// of `tmp`, is brought up to date. Returns the number of paths too.
pub fn scan(base: &Path, filter: &Filter, changes: Changes, index: Index, tmp: &Path) -> Result<(Scanned, u64)> {
    let mut scanned = walk(base, filter, changes, &index)?;
    // As BuildKit has it for what a client sent.
    scanned.top.digest = Some(Digest::of(b""));
    scanned.hash(index, tmp)?;
    let count = scanned.top.count() - 1;
    Ok((scanned, count))
}

/// Looks at `base` without reading a file: digests are those that `index` knows.
pub fn walk(base: &Path, filter: &Filter, changes: Changes, index: &Index) -> Result<Scanned> {
    let bad = |error: pattern::BadPattern| Error::Filter { text: error.pattern, at: 1, why: error.reason.to_owned() };
    let mut include = filter.include.clone();
    if !filter.follow.is_empty() {
        include.extend(follow(base, &filter.follow)?);
    }
    let everything = include.iter().any(|p| matches!(pattern::clean(p).as_str(), "." | "/"));
    let include = if include.is_empty() || everything { None } else { Some(Patterns::new(&include).map_err(bad)?) };
    let exclude = Patterns::new(&filter.exclude).map_err(bad)?;
    let data = fs::symlink_metadata(base).doing("look at", base)?;
    let base = if data.is_symlink() { fs::canonicalize(base).doing("resolve", base)? } else { base.to_owned() };
    let seen = Seen::at(&base, changes).doing("look at", &base)?;
    let mut top = Entry::new(OsStr::new("/"), &base, seen)?;
    let free = std::thread::available_parallelism().map_or(0, |cores| usize::from(cores) - 1);
    let walk = Walk { include, exclude, index, changes, free: free.into() };
    top.children = walk.folder(&base, "", walk.include.is_none())?;
    Ok(Scanned { base, changes, top })
}

fn join(below: &str, name: &str) -> String {
    if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") }
}

impl Walk<'_> {
    /// Entries of a folder that the filter leaves. `inside`: all of it is included.
    fn folder(&self, folder: &Path, below: &str, inside: bool) -> Result<Vec<Entry>> {
        let listing = Listing::of(folder).doing("list", folder)?;
        let mut entries = Vec::with_capacity(listing.len());
        for name in listing.names() {
            entries.extend(self.entry(folder, below, inside, &listing, name)?);
        }
        self.folders(folder, below, &mut entries)?;
        // A folder that itself was not asked for is there for what is in it.
        entries.retain(|(entry, whole)| *whole || !entry.children.is_empty());
        Ok(entries.into_iter().map(|(entry, _)| entry).collect())
    }

    /// One entry, without what is in it, and whether the filter takes it itself.
    fn entry(
        &self,
        folder: &Path,
        below: &str,
        inside: bool,
        listing: &Listing,
        name: &CStr,
    ) -> Result<Option<(Entry, bool)>> {
        let whole = if inside && self.exclude.is_empty() {
            true
        } else {
            let path = join(below, &text(name).to_string_lossy());
            let excluded = !self.exclude.is_empty() && self.exclude.matches(&path);
            if excluded && !self.exclude.may_except_below(&path) {
                return Ok(None);
            }
            let included = inside || self.include.as_ref().is_none_or(|p| p.matches(&path));
            if !included && !self.include.as_ref().is_some_and(|p| p.may_match_below(&path)) {
                return Ok(None);
            }
            included && !excluded
        };
        let seen = match listing.look(name, self.changes) {
            Err(error) => return Err(error).doing("look at", &folder.join(text(name))),
            Ok(seen) => seen,
        };
        let Some(seen) = seen.filter(|seen| seen.kind != Kind::Socket && (seen.kind == Kind::Dir || whole)) else {
            return Ok(None);
        };
        let mut entry = Entry::new(text(name), folder, seen)?;
        entry.digest = self.index.get(&entry.stat);
        Ok(Some((entry, whole)))
    }

    /// Fills the folders among `entries`.
    fn folders(&self, folder: &Path, below: &str, entries: &mut [(Entry, bool)]) -> Result<()> {
        // What a pattern takes, it takes with all that is in it, unless another takes that back.
        let deep = self.include.as_ref().is_none_or(|include| !include.has_exclusions());
        let fill = |(entry, whole): &mut (Entry, bool)| -> Result<()> {
            let below = join(below, &entry.name.to_string_lossy());
            entry.children = self.folder(&folder.join(&*entry.name), &below, *whole && deep)?;
            Ok(())
        };
        let folders: Vec<&mut (Entry, bool)> = entries.iter_mut().filter(|(e, _)| e.kind == Kind::Dir).collect();
        let helpers = if folders.len() < WIDE { 0 } else { self.free.swap(0, Ordering::Relaxed) };
        if helpers == 0 {
            return folders.into_iter().try_for_each(fill);
        }
        let queue = Mutex::new(folders.into_iter());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || std::iter::from_fn(next).try_for_each(fill);
        let help = || {
            let done = work();
            self.free.fetch_add(1, Ordering::Relaxed);
            done
        };
        std::thread::scope(|scope| {
            let helping: Vec<_> = (0..helpers).map(|_| scope.spawn(help)).collect();
            let lost = || Err(std::io::Error::other("a thread ended early")).doing("scan", folder);
            let own = work();
            helping.into_iter().map(|thread| thread.join().unwrap_or_else(|_| lost())).fold(own, Result::and)
        })
    }
}

/// What an entry is, for people.
pub(super) fn file_kind(kind: Kind) -> FileKind {
    match kind {
        Kind::File => FileKind::File,
        Kind::Dir => FileKind::Directory,
        Kind::Link => FileKind::Link,
        _ => FileKind::Other,
    }
}

impl Entry {
    /// What is called `name` in `folder`.
    fn new(name: &OsStr, folder: &Path, seen: Seen) -> Result<Entry> {
        let Seen { kind, rdev, stat } = seen;
        let special = match kind {
            Kind::File | Kind::Dir => None,
            Kind::Link => {
                let at = folder.join(name);
                let link = fs::read_link(&at).doing("read the symlink", &at)?;
                Some(Box::new(Special { link, rdev: 0 }))
            }
            _ => Some(Box::new(Special { link: PathBuf::new(), rdev })),
        };
        Ok(Entry { name: name.into(), kind, stat, special, digest: None, children: Vec::new() })
    }

    /// It and everything below it, counted.
    fn count(&self) -> u64 {
        1 + self.children.iter().map(Entry::count).sum::<u64>()
    }

    /// The digest of it with everything below it; `None` before it was hashed.
    pub fn whole(&self) -> Option<Digest> {
        let own = self.digest?;
        if self.kind != Kind::Dir {
            return Some(own);
        }
        let mut hasher = Hasher::new();
        hasher.update([0]);
        hasher.update(own.text());
        for child in &self.children {
            hasher.update([0]);
            hasher.update(child.name.as_bytes());
            hasher.update(child.whole()?.text());
        }
        Some(hasher.finish())
    }

    /// Adds it and everything below it as evidence, under `path`; the root itself says nothing to people.
    pub fn list(&self, path: &Path, files: &mut Vec<FileEntry>) {
        if let (Some(digest), false) = (self.digest, path.as_os_str().is_empty()) {
            let (kind, path) = (file_kind(self.kind), path.to_string_lossy().into_owned());
            files.push(FileEntry { path, kind, mode: self.stat.permissions(), uid: 0, gid: 0, digest });
        }
        self.children.iter().for_each(|child| child.list(&path.join(&*child.name), files));
    }

    fn node(&self, source: PathBuf) -> Node {
        let (link, rdev) =
            self.special.as_ref().map(|special| (special.link.clone(), special.rdev)).unwrap_or_default();
        Node {
            name: self.name.to_os_string(),
            kind: self.kind,
            mode: self.stat.permissions(),
            uid: 0,
            gid: 0,
            size: self.stat.size(),
            mtime: self.stat.mtime(),
            rdev,
            link,
            source,
        }
    }
}

impl Scanned {
    /// The directory itself.
    pub fn root(&self) -> Node {
        self.top.node(self.base.clone())
    }

    /// The entry at `path`.
    pub fn find(&self, path: &Path) -> Option<&Entry> {
        let mut at = &self.top;
        for part in path.components() {
            if let Component::Normal(name) = part {
                let i = at.children.binary_search_by(|c| c.name.as_bytes().cmp(name.as_bytes())).ok()?;
                at = &at.children[i];
            }
        }
        Some(at)
    }

    /// What is at `path`.
    pub fn lookup(&self, path: &Path) -> Option<Node> {
        let source = self.base.join(path.strip_prefix("/").unwrap_or(path));
        self.find(path).map(|entry| entry.node(source))
    }

    /// What is in the directory at `path`.
    pub fn list(&self, path: &Path) -> Vec<Node> {
        let source = self.base.join(path.strip_prefix("/").unwrap_or(path));
        let children = self.find(path).map(|e| e.children.as_slice()).unwrap_or_default();
        children.iter().map(|c| c.node(source.join(&*c.name))).collect()
    }

    /// Hashes what has no digest yet, on all cores, and keeps in the index what is here and settled.
    fn hash(&mut self, index: Index, tmp: &Path) -> Result<()> {
        let mut missing = Missing { index: &index, noted: false, batch: Vec::new() };
        missing.collect(&mut self.top, &mut self.base.clone())?;
        missing.hash()?;
        let changed = missing.noted || index.grew();
        let mut count = 0;
        settled(&self.top, &index, &mut |_, _| count += 1);
        if !changed && count == index.len() {
            return Ok(());
        }
        let mut seen = Vec::with_capacity(count);
        settled(&self.top, &index, &mut |stat, digest| seen.push((stat, digest)));
        index.replace(tmp, seen)
    }

    /// The stats of all files.
    pub fn stats(&self) -> HashSet<Stat> {
        let mut stats = HashSet::new();
        let mut left = vec![&self.top];
        while let Some(entry) = left.pop() {
            left.extend(&entry.children);
            if entry.kind == Kind::File {
                stats.insert(entry.stat);
            }
        }
        stats
    }
}

/// Paths that are hashed at a time: what is needed for it takes more memory than what comes of it.
const BATCH: usize = 2048;

/// What has no digest yet.
struct Missing<'a> {
    index: &'a Index,
    /// Something was hashed that the index may keep.
    noted: bool,
    batch: Vec<(&'a mut Option<Digest>, Stat, Node)>,
}

impl<'a> Missing<'a> {
    /// Finds it and hashes it, but for the last batch; `at` is where `entry` lies.
    fn collect(&mut self, entry: &'a mut Entry, at: &mut PathBuf) -> Result<()> {
        if entry.digest.is_none() {
            let (node, stat) = (entry.node(at.clone()), entry.stat);
            self.batch.push((&mut entry.digest, stat, node));
            if self.batch.len() >= BATCH {
                self.hash()?;
            }
        }
        // Most are files that did not change: nobody asks for their paths.
        let children = entry.children.iter_mut();
        for child in children.filter(|child| child.digest.is_none() || !child.children.is_empty()) {
            at.push(&*child.name);
            let done = self.collect(child, at);
            at.pop();
            done?;
        }
        Ok(())
    }

    fn hash(&mut self) -> Result<()> {
        let work: Vec<&Node> = self.batch.iter().map(|(.., node)| node).collect();
        let digests = hash_all(&work)?;
        for ((slot, stat, node), digest) in self.batch.drain(..).zip(digests) {
            *slot = Some(digest);
            // What is no file is quick to hash again and not worth a place in the index.
            self.noted |= node.kind == Kind::File && self.index.is_settled(&stat);
        }
        Ok(())
    }
}

/// Hands every file that may be noted to `each`.
fn settled(entry: &Entry, index: &Index, each: &mut impl FnMut(Stat, Digest)) {
    if let (Kind::File, Some(digest)) = (entry.kind, entry.digest)
        && index.is_settled(&entry.stat)
    {
        each(entry.stat, digest);
    }
    entry.children.iter().for_each(|child| settled(child, index, each));
}

/// Header (and content) digests of nodes, on all cores when it is worth it.
pub(super) fn hash_all(nodes: &[&Node]) -> Result<Vec<Digest>> {
    let heavy = nodes.iter().filter(|n| n.kind == Kind::File).count();
    // How many cores there are costs a dozen system calls to know.
    let worth = heavy.div_ceil(16);
    let threads = if worth > 1 { std::thread::available_parallelism().map_or(1, usize::from).min(worth) } else { 1 };
    if threads <= 1 {
        return nodes.iter().map(|node| header::digest(node)).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Digest)>> {
        let mut made = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(node) = nodes.get(i) else { return Ok(made) };
            made.push((i, header::digest(node)?));
        }
    };
    let parts: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Ok(Vec::new()))).collect()
    });
    let mut digests = vec![None; nodes.len()];
    for part in parts {
        part?.into_iter().for_each(|(i, digest)| digests[i] = Some(digest));
    }
    let lost = || std::io::Error::other("a thread ended early");
    digests.into_iter().map(|d| d.ok_or_else(lost).doing("hash", Path::new("the files"))).collect()
}
