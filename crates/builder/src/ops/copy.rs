//! The copy action of a file operation, with the rules of BuildKit's `fsutil/copy`: wildcards, include and exclude
//! patterns, merging of directories. Files are collected first and then copied on all cores; what lies in the store
//! already is linked instead. It reads the source and never changes it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use graph::pattern::{self, Patterns};
use rustix::fs::Timespec;
use store::tree::{Base, Copied, Copies, Look};
use store::view::{Kind, Node, View};

use super::{Doing, Error};
use crate::ops::mode::ModeChange;
use store::canvas::{self, Attributes, Canvas, copy_xattrs, set_owner_and_mode, set_time, timespec};

/// How to copy.
pub struct Rules {
    /// Owner of everything that is copied; `None` keeps the source's.
    pub owner: Option<(u32, u32)>,
    /// Mode of everything but symlinks.
    pub mode: ModeChange,
    /// Modification time of everything.
    pub time: Option<Timespec>,
    /// Only these below the source, when there are any.
    pub include: Option<Patterns>,
    /// Never these below the source.
    pub exclude: Option<Patterns>,
    /// A directory gives its contents, not itself.
    pub contents: bool,
    /// Symlinks in the source's path are followed.
    pub follow: bool,
    /// What is there is replaced even by something of another type.
    pub replace: bool,
    /// The source lies in the store: files may be linked.
    pub link: bool,
    /// The source is an unpacked archive, and these are the directories that it names itself.
    pub named: Option<HashSet<PathBuf>>,
}

/// Files that one thread takes at a time: neighbours lie in one folder, which takes one new entry at a time.
const STRETCH: usize = 64;

/// Files that are collected before they are copied on all cores.
const COLLECTED: usize = 64 * STRETCH;

/// A file that is to be copied.
struct File {
    node: Node,
    to: PathBuf,
    path: PathBuf,
    attributes: Attributes,
    link: bool,
}

/// Copies of a client's files in a layer, by their path there (without a leading `/`).
pub type Notes = HashMap<PathBuf, Copied>;

/// Copies into one canvas; files are only collected until [`Copier::finish`].
pub struct Copier<'a> {
    source: &'a View,
    canvas: &'a mut Canvas,
    rules: &'a Rules,
    /// Copies of the source's files in earlier layers.
    earlier: Option<Look>,
    /// The layer beneath has all of the source that it does not call changed.
    base: Option<&'a Base>,
    notes: Notes,
    files: Vec<File>,
    planned: HashSet<PathBuf>,
    /// Directories made by this copier: nothing is in them but what is planned.
    made: HashSet<PathBuf>,
    /// Directories on the way down whose making waits for something in them that is included.
    waiting: Vec<(Node, PathBuf, bool)>,
}

impl<'a> Copier<'a> {
    /// Onto `canvas` from `source`.
    pub fn new(source: &'a View, canvas: &'a mut Canvas, rules: &'a Rules) -> Copier<'a> {
        Copier {
            source,
            canvas,
            rules,
            earlier: None,
            base: None,
            notes: Notes::new(),
            files: Vec::new(),
            planned: HashSet::new(),
            made: HashSet::new(),
            waiting: Vec::new(),
        }
    }

    /// Files of the source that did not change are linked from `copies`. `notes` is what the layer holds of them already.
    pub fn with_copies(self, copies: Option<&Copies>, notes: Notes) -> Copier<'a> {
        Copier { earlier: copies.map(|copies| copies.look(notes.values())), notes, ..self }
    }

    /// Only what is not in `base`, onto which the canvas was made.
    pub fn over(self, base: Option<&'a Base>) -> Copier<'a> {
        Copier { base, ..self }
    }

    /// Copies `from` to `to`; a `to` that ends with `/` is a directory.
    pub fn copy(&mut self, from: &Path, to: &str) -> Result<(), Error> {
        let made = Attributes::made(self.rules.mode.of_new_dir(), self.rules.owner, self.rules.time);
        let written = Path::new(to);
        let parent = if to.ends_with('/') { Some(written) } else { written.parent() };
        if let Some(parent) = parent {
            let parent = self.canvas.resolve(parent)?;
            self.canvas.make_dirs(&parent, &made)?;
        }
        let mut target = self.canvas.resolve(written)?;
        // A followed link's content goes under the link's own name.
        let name = from.file_name().map(ToOwned::to_owned);
        let from = if self.rules.follow { self.source.resolve(from)? } else { from.to_owned() };
        let missing = || Error::NotFound { path: from.display().to_string() };
        let node = self.source.lookup(&from)?.ok_or_else(missing)?;
        let is_dir = node.kind == Kind::Dir;
        let there = self.canvas.look(&target)?;
        let there_dir = there.as_ref().is_some_and(|n| n.kind == Kind::Dir);
        if (!self.rules.contents && is_dir && there.is_some()) || (!is_dir && there_dir) {
            target.push(name.unwrap_or_default());
        }
        let above = if self.rules.contents && is_dir && there.is_none() { Some(&*target) } else { target.parent() };
        if let Some(above) = above {
            self.canvas.make_dirs(above, &made)?;
        }
        self.entry(node, &from, Path::new(""), &target, false)
    }

    /// One entry: `below` is its path under the copied source, empty for the source itself.
    fn entry(&mut self, node: Node, from: &Path, below: &Path, to: &Path, dress: bool) -> Result<(), Error> {
        let (mut included, mut excluded) = (true, false);
        if !below.as_os_str().is_empty() {
            let text = below.to_string_lossy();
            included = self.rules.include.as_ref().is_none_or(|p| p.matches(&text));
            excluded = self.rules.exclude.as_ref().is_some_and(|p| p.matches(&text));
            included &= !excluded;
        }
        let is_dir = node.kind == Kind::Dir;
        // What the layer beneath has counts as not included: directories are then made where something in them is.
        if !is_dir || !below.as_os_str().is_empty() {
            included &= self.base.is_none_or(|base| base.is_changed(from));
        }
        if !included && !is_dir {
            return Ok(());
        }
        if is_dir && self.rules.named.as_ref().is_some_and(|named| !named.contains(from)) {
            // Only what lies in it is named: a directory, or a link to one, that is there already stays what it is.
            let real = self.canvas.resolve(to)?;
            if self.canvas.look(&real)?.is_some_and(|there| there.kind == Kind::Dir) {
                for child in self.source.list(from)? {
                    let name = child.name.clone();
                    self.entry(child, &from.join(&name), &below.join(&name), &real.join(&name), true)?;
                }
                return Ok(());
            }
        }
        if included {
            self.make_waiting()?;
            self.replace(to, is_dir)?;
        }
        if is_dir { self.directory(node, from, below, to, dress, included, excluded) } else { self.file(node, to) }
    }

    #[allow(clippy::too_many_arguments)] // one walk's state
    fn directory(
        &mut self,
        node: Node,
        from: &Path,
        below: &Path,
        to: &Path,
        dress: bool,
        included: bool,
        excluded: bool,
    ) -> Result<(), Error> {
        if included {
            self.make_directory(&node, to, dress)?;
        }
        if excluded && !self.rules.exclude.as_ref().is_some_and(Patterns::has_exclusions) {
            return Ok(());
        }
        if self.base.is_some_and(|base| !base.changed_below(from)) {
            return Ok(());
        }
        self.waiting.push((node, to.to_owned(), included));
        for child in self.source.list(from)? {
            let name = child.name.clone();
            self.entry(child, &from.join(&name), &below.join(&name), &to.join(&name), true)?;
        }
        self.waiting.pop();
        Ok(())
    }

    fn make_waiting(&mut self) -> Result<(), Error> {
        for i in 0..self.waiting.len() {
            if !self.waiting[i].2 {
                self.waiting[i].2 = true;
                let (node, to) = (self.waiting[i].0.clone(), self.waiting[i].1.clone());
                self.make_directory(&node, &to, true)?;
            }
        }
        Ok(())
    }

    fn make_directory(&mut self, node: &Node, to: &Path, dress: bool) -> Result<(), Error> {
        let attributes = self.attributes(node);
        match self.canvas.look(to)? {
            None => {
                self.canvas.make_dir(to, &attributes)?;
                self.made.insert(to.to_owned());
                Ok(copy_xattrs(node, &self.canvas.place(to))?)
            }
            Some(old) if old.kind != Kind::Dir => Err(Error::NotADirectory { path: to.to_owned() }),
            Some(_) if dress => {
                self.canvas.lift(to)?;
                self.canvas.dress(to, &attributes)?;
                Ok(copy_xattrs(node, &self.canvas.place(to))?)
            }
            Some(_) => Ok(()),
        }
    }

    fn replace(&mut self, to: &Path, is_dir: bool) -> Result<(), Error> {
        if !self.rules.replace {
            return Ok(());
        }
        match self.canvas.look(to)? {
            Some(old) if !(is_dir && old.kind == Kind::Dir) => {
                let gone = to.strip_prefix("/").unwrap_or(to);
                self.notes.retain(|path, _| !path.starts_with(gone));
                Ok(self.canvas.remove(to)?)
            }
            _ => Ok(()),
        }
    }

    fn file(&mut self, node: Node, to: &Path) -> Result<(), Error> {
        let free = to.parent().is_some_and(|parent| self.made.contains(parent)) && !self.planned.contains(to);
        if !free && self.canvas.look(to)?.is_some_and(|old| old.kind == Kind::Dir) {
            return Err(Error::IsADirectory { path: to.to_owned() });
        }
        if !self.planned.insert(to.to_owned()) {
            // A later source of the same name wins: what was collected goes first.
            self.write_files()?;
        }
        let place = if free { self.canvas.place(to) } else { self.canvas.make_room(to)? };
        let attributes = self.attributes(&node);
        let link = self.rules.link && node.kind == Kind::File && same(&attributes, &Attributes::of(&node));
        self.files.push(File { node, to: place, path: to.to_owned(), attributes, link });
        // A directory of any size takes no more memory than this many files.
        if self.files.len() >= COLLECTED { self.write_files() } else { Ok(()) }
    }

    fn attributes(&self, node: &Node) -> Attributes {
        let mut attributes = Attributes::of(node);
        if let Some((uid, gid)) = self.rules.owner {
            (attributes.uid, attributes.gid) = (uid, gid);
        }
        attributes.mode = self.rules.mode.apply(attributes.mode, node.kind == Kind::Dir);
        attributes.time = self.rules.time.unwrap_or(attributes.time);
        attributes
    }

    /// How many files were collected and copied so far.
    pub fn count(&self) -> usize {
        self.planned.len()
    }

    /// Copies what was collected; returns what the layer holds now of the source's files.
    pub fn finish(mut self) -> Result<Notes, Error> {
        self.write_files()?;
        Ok(self.notes)
    }

    fn write_files(&mut self) -> Result<(), Error> {
        let files = std::mem::take(&mut self.files);
        let earlier = self.earlier.as_ref();
        // To ask for the cores is to read files of the kernel's.
        let threads = match files.len().div_ceil(STRETCH) {
            0 | 1 => 1,
            stretches => std::thread::available_parallelism().map_or(1, usize::from).min(stretches),
        };
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || -> Result<Vec<(usize, Copied)>, Error> {
            let mut copied = Vec::new();
            loop {
                let first = next.fetch_add(STRETCH, Ordering::Relaxed);
                let Some(stretch) = files.get(first..files.len().min(first + STRETCH)) else { return Ok(copied) };
                if stretch.is_empty() || failed.load(Ordering::Relaxed) {
                    return Ok(copied);
                }
                for (i, file) in stretch.iter().enumerate() {
                    let written = write(file, earlier).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                    copied.extend(written.map(|what| (first + i, what)));
                }
            }
        };
        let parts: Vec<Result<Vec<_>, Error>> = std::thread::scope(|scope| {
            let helping: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            let others = helping.into_iter().map(|thread| thread.join().unwrap_or(Err(Error::Cancelled)));
            std::iter::once(own).chain(others).collect()
        });
        let in_layer = |file: &File| file.path.strip_prefix("/").unwrap_or(&file.path).to_owned();
        if !self.notes.is_empty() {
            files.iter().for_each(|file| {
                self.notes.remove(&in_layer(file));
            });
        }
        for part in parts {
            self.notes.extend(part?.into_iter().map(|(i, copied)| (in_layer(&files[i]), copied)));
        }
        Ok(())
    }
}

fn same(a: &Attributes, b: &Attributes) -> bool {
    (a.mode, a.uid, a.gid, a.time) == (b.mode, b.uid, b.gid, b.time)
}

/// Writes one entry that is no directory; returns what may be noted of it.
fn write(file: &File, earlier: Option<&Look>) -> Result<Option<Copied>, Error> {
    let File { node, to, path, attributes, link } = file;
    let mut copied = None;
    match node.kind {
        Kind::File => {
            if *link && std::fs::hard_link(&node.source, to).is_ok() {
                return Ok(None);
            }
            let wanted = earlier.map(|look| Ok((look, look.wanted(&node.source, attributes)?)));
            let wanted = wanted.transpose().map_err(|error: store::Error| Error::from(error))?;
            if let Some((look, wanted)) = wanted
                && look.link(&wanted, to)
            {
                return Ok(Some(wanted));
            }
            let read = copy_bytes(&node.source, to).doing("copy", path)?;
            copied = wanted.filter(|(look, wanted)| look.stayed(wanted, &read)).map(|(_, wanted)| wanted);
        }
        Kind::Link => std::os::unix::fs::symlink(&node.link, to).doing("make the symlink", path)?,
        // A socket can't be in an image.
        Kind::Socket => return Ok(None),
        Kind::Dir => return Err(Error::IsADirectory { path: path.clone() }),
        Kind::Char | Kind::Block | Kind::Fifo => canvas::make_node(node, to).doing("make the device", path)?,
    }
    set_owner_and_mode(to, attributes).doing("set owner and mode of", path)?;
    copy_xattrs(node, to)?;
    set_time(to, attributes.time).doing("set the time of", path)?;
    Ok(copied)
}

/// Copies the bytes: shared with the source where the file system can, inside the kernel otherwise. Returns what was read.
fn copy_bytes(from: &Path, to: &Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut source = std::fs::File::open(from)?;
    let mut target = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        io::copy(&mut source, &mut target)?;
    }
    Ok(source)
}

/// Paths that a source with wildcards stands for; a source without any stands for itself.
pub fn sources(view: &View, source: &str, follow: bool) -> Result<Vec<PathBuf>, Error> {
    let parts: Vec<&str> = source.split('/').filter(|p| !p.is_empty()).collect();
    let Some(first) = parts.iter().position(|p| pattern::has_wildcard(p)) else {
        return Ok(vec![PathBuf::from(source)]);
    };
    let base = PathBuf::from(format!("/{}", parts[..first].join("/")));
    let base = if follow { view.resolve(&base)? } else { base };
    let mut found = Vec::new();
    if view.lookup(&base)?.is_some() {
        matching(view, &base, Path::new(""), &parts[first..].join("/"), &mut found)?;
    }
    Ok(found)
}

fn matching(view: &View, dir: &Path, below: &Path, glob: &str, found: &mut Vec<PathBuf>) -> Result<(), Error> {
    // A pattern of n parts matches paths of n parts.
    let depth = below.components().count() + 1;
    for node in view.list(dir)? {
        let (path, below) = (dir.join(&node.name), below.join(&node.name));
        if pattern::glob(glob, &below.to_string_lossy()) {
            found.push(path);
        } else if node.kind == Kind::Dir && depth < glob.split('/').count() {
            matching(view, &path, &below, glob, found)?;
        }
    }
    Ok(())
}

/// A time in nanoseconds, where -1 keeps the source's.
pub fn time(nanos: i64) -> Option<Timespec> {
    (nanos != -1).then(|| timespec(nanos))
}
