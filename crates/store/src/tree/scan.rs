//! Scans a client's directory in place: one lstat a path, and a file is read only when its stat differs from the one it
//! was hashed under. What the filter leaves out is never looked at. It writes nothing but its own index.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use graph::pattern::{self, Patterns};
use oci::Digest;

use super::header;
use super::index::{Index, Stat};
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

/// One path of a scanned directory.
#[derive(Debug)]
pub struct Entry {
    pub name: OsString,
    pub kind: Kind,
    pub mode: u32,
    pub size: u64,
    pub mtime: i64,
    pub rdev: u64,
    pub link: PathBuf,
    stat: Stat,
    /// Of its header, and of a file's content.
    pub digest: Option<Digest>,
    /// Sorted by name.
    pub children: Vec<Entry>,
}

/// A scanned directory.
#[derive(Debug)]
pub struct Scanned {
    base: PathBuf,
    pub top: Entry,
}

/// What guides the walk.
struct Walk<'a> {
    include: Option<Patterns>,
    exclude: Patterns,
    index: &'a Index,
}

/// Scans `base`; digests are known for all of it afterwards. Returns the number of paths.
pub fn scan(base: &Path, filter: &Filter, index: &mut Index) -> Result<(Scanned, u64)> {
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
    let data = fs::metadata(&base).doing("look at", &base)?;
    let mut top = Entry::read(OsStr::new("/"), &base, &data)?;
    let walk = Walk { include, exclude, index };
    let mut count = 0;
    top.children = walk.folder(&base, "", &mut count)?;
    // As BuildKit has it for what a client sent.
    top.digest = Some(Digest::of(b""));
    let mut scanned = Scanned { base, top };
    scanned.hash(index)?;
    Ok((scanned, count))
}

impl Walk<'_> {
    /// Entries of a folder that the filter leaves.
    fn folder(&self, folder: &Path, below: &str, count: &mut u64) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for item in fs::read_dir(folder).doing("list", folder)? {
            let name = item.doing("list", folder)?.file_name();
            let text = name.to_string_lossy();
            let path = if below.is_empty() { text.into_owned() } else { format!("{below}/{text}") };
            let excluded = !self.exclude.is_empty() && self.exclude.matches(&path);
            if excluded && !self.exclude.may_except_below(&path) {
                continue;
            }
            let included = self.include.as_ref().is_none_or(|p| p.matches(&path));
            if !included && !self.include.as_ref().is_some_and(|p| p.may_match_below(&path)) {
                continue;
            }
            let at = folder.join(&name);
            let data = match fs::symlink_metadata(&at) {
                // Gone since it was listed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                data => data.doing("look at", &at)?,
            };
            if data.file_type().is_socket() {
                continue;
            }
            let whole = included && !excluded;
            if !data.is_dir() && !whole {
                continue;
            }
            let mut entry = Entry::read(&name, &at, &data)?;
            let before = *count;
            *count += 1;
            if data.is_dir() {
                entry.children = self.folder(&at, &path, count)?;
                if !whole && entry.children.is_empty() {
                    *count = before;
                    continue;
                }
            }
            entry.digest = self.index.get(&entry.stat);
            entries.push(entry);
        }
        entries.sort_unstable_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        Ok(entries)
    }
}

impl Entry {
    fn read(name: &OsStr, at: &Path, data: &Metadata) -> Result<Entry> {
        let kind = match data.file_type() {
            t if t.is_dir() => Kind::Dir,
            t if t.is_symlink() => Kind::Link,
            t if t.is_char_device() => Kind::Char,
            t if t.is_block_device() => Kind::Block,
            t if t.is_fifo() => Kind::Fifo,
            _ => Kind::File,
        };
        let link = if kind == Kind::Link { fs::read_link(at).doing("read the symlink", at)? } else { PathBuf::new() };
        Ok(Entry {
            name: name.to_owned(),
            kind,
            mode: data.permissions().mode() & 0o7777,
            size: data.size(),
            mtime: data.mtime() * 1_000_000_000 + data.mtime_nsec(),
            rdev: data.rdev(),
            link,
            stat: Stat::of(data),
            digest: None,
            children: Vec::new(),
        })
    }

    fn node(&self, source: PathBuf) -> Node {
        Node {
            name: self.name.clone(),
            kind: self.kind,
            mode: self.mode,
            uid: 0,
            gid: 0,
            size: self.size,
            mtime: self.mtime,
            rdev: self.rdev,
            link: self.link.clone(),
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
        children.iter().map(|c| c.node(source.join(&c.name))).collect()
    }

    /// Hashes what has no digest yet, on all cores, and tells the index.
    fn hash(&mut self, index: &mut Index) -> Result<()> {
        let mut missing: Vec<(&mut Option<Digest>, Node, Stat)> = Vec::new();
        collect(&mut self.top, &self.base, &mut missing);
        let work: Vec<&Node> = missing.iter().map(|(_, node, _)| node).collect();
        let digests = hash_all(&work)?;
        for ((slot, node, stat), digest) in missing.into_iter().zip(digests) {
            *slot = Some(digest);
            // What is quick to hash again is not worth a place in the index.
            if node.kind == Kind::File {
                index.add(stat, digest);
            }
        }
        let mut seen = Vec::new();
        visit(&self.top, &mut seen);
        index.keep(&seen);
        Ok(())
    }
}

fn collect<'a>(entry: &'a mut Entry, at: &Path, missing: &mut Vec<(&'a mut Option<Digest>, Node, Stat)>) {
    if entry.digest.is_none() {
        let (node, stat) = (entry.node(at.to_owned()), entry.stat);
        missing.push((&mut entry.digest, node, stat));
    }
    for child in &mut entry.children {
        let at = at.join(&child.name);
        collect(child, &at, missing);
    }
}

fn visit(entry: &Entry, seen: &mut Vec<Stat>) {
    if entry.kind == Kind::File {
        seen.push(entry.stat);
    }
    entry.children.iter().for_each(|child| visit(child, seen));
}

/// Header (and content) digests of nodes, on all cores when it is worth it.
pub(super) fn hash_all(nodes: &[&Node]) -> Result<Vec<Digest>> {
    let heavy = nodes.iter().filter(|n| n.kind == Kind::File).count();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(heavy.div_ceil(16));
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

/// Patterns for the paths that are followed: each path, and what the symlinks on it lead to.
fn follow(base: &Path, paths: &[String]) -> Result<Vec<String>> {
    let mut patterns = Vec::new();
    for path in paths {
        let clean = pattern::clean(path);
        let parts: Vec<String> = clean.split('/').filter(|p| !p.is_empty() && *p != ".").map(str::to_owned).collect();
        if parts.is_empty() {
            return Ok(vec![".".to_owned()]);
        }
        follow_one(base, String::new(), &parts, &mut patterns, 0)?;
    }
    patterns.sort();
    patterns.dedup();
    Ok(patterns)
}

fn follow_one(base: &Path, done: String, left: &[String], found: &mut Vec<String>, links: usize) -> Result<()> {
    let Some((part, rest)) = left.split_first() else {
        found.push(if done.is_empty() { ".".to_owned() } else { done });
        return Ok(());
    };
    let join = |name: &str| if done.is_empty() { name.to_owned() } else { format!("{done}/{name}") };
    if part.contains(['*', '?', '[']) {
        let folder = base.join(&done);
        let Ok(entries) = fs::read_dir(&folder) else { return Ok(()) };
        for entry in entries {
            let name = entry.doing("list", &folder)?.file_name().to_string_lossy().into_owned();
            if pattern::glob(part, &name) {
                let mut left = vec![name];
                left.extend_from_slice(rest);
                follow_one(base, done.clone(), &left, found, links)?;
            }
        }
        return Ok(());
    }
    let next = join(&part.replace('\\', ""));
    match fs::read_link(base.join(&next)) {
        Ok(target) if links < 40 => {
            found.push(next);
            let target = target.to_string_lossy().into_owned();
            let from = if target.starts_with('/') { target } else { format!("{done}/{target}") };
            // Above the directory is the directory, as in a root.
            let clean = pattern::clean(&format!("/{from}"));
            let mut left: Vec<String> = clean.split('/').filter(|p| !p.is_empty()).map(str::to_owned).collect();
            left.extend_from_slice(rest);
            follow_one(base, String::new(), &left, found, links + 1)
        }
        _ => follow_one(base, next, rest, found, links),
    }
}
