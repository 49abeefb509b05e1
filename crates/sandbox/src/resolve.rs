//! Paths inside the root before anything is mounted: walked component by component over the descriptors of the prepared
//! mounts, so a symlink, however hostile, never leads out, and a dangling one leads to where it points inside. Makes
//! what is missing when asked, and remembers it for [`crate::stubs`].

use std::collections::VecDeque;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chmodat, chownat, fstat, mkdirat, openat,
    readlinkat, utimensat,
};
use rustix::io::Errno;

/// Most symlinks followed on one path, as the kernel's own limit.
const MOST_LINKS: usize = 40;

/// What to make where a path ends in nothing. Directories above it are made as well.
#[derive(Debug, Clone, Copy)]
pub enum Make {
    /// Nothing: it's an error.
    No,
    /// A directory 0755 of this owner.
    Dir(u32, u32),
    /// An empty file 0644 of root, in directories of root.
    File,
}

/// Something [`Tree::resolve`] made in the root itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Where, without symlinks, relative to the root.
    pub path: PathBuf,
    /// Whether it's a directory.
    pub dir: bool,
}

/// Where a path leads.
#[derive(Debug)]
pub struct Found {
    /// Without symlinks, relative to the root; empty for the root.
    pub path: Vec<OsString>,
    /// The thing, unless it lies in a mount that only the child can make.
    pub fd: Option<OwnedFd>,
}

impl Found {
    /// The path as the child hands it to `openat2`.
    pub fn c_path(&self) -> io::Result<CString> {
        let joined: PathBuf = self.path.iter().collect();
        let bytes = joined.as_os_str().as_bytes();
        Ok(CString::new(if bytes.is_empty() { b"." } else { bytes })?)
    }

    /// For messages.
    pub fn display(&self) -> PathBuf {
        Path::new("/").join(self.path.iter().collect::<PathBuf>())
    }
}

/// The root and what will be mounted in it so far.
#[derive(Debug)]
pub struct Tree<'a> {
    root: BorrowedFd<'a>,
    mounts: Vec<(Vec<OsString>, Option<OwnedFd>)>,
    /// What was made in the root itself, in order.
    pub made: Vec<Made>,
}

/// One directory on the way, from the root down.
struct Level {
    name: OsString,
    fd: Option<OwnedFd>,
    /// Whether it lies in a mount inside the root rather than in the root itself.
    foreign: bool,
}

impl<'a> Tree<'a> {
    /// A tree with nothing mounted.
    pub fn new(root: BorrowedFd<'a>) -> Tree<'a> {
        Tree { root, mounts: Vec::new(), made: Vec::new() }
    }

    /// From now on `at` shows `mount` (`None`: something that only the child can look into).
    pub fn mounted(&mut self, at: &Found, mount: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let fd = mount.map(|m| m.try_clone_to_owned()).transpose()?;
        self.mounts.push((at.path.clone(), fd));
        Ok(())
    }

    /// Follows `path` inside the tree.
    pub fn resolve(&mut self, path: &Path, make: Make) -> io::Result<Found> {
        let mut todo: VecDeque<OsString> = parts(path).collect();
        let mut levels = vec![self.level(OsString::new(), Some(self.root.try_clone_to_owned()?), &[], false)?];
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                if levels.len() > 1 {
                    levels.pop();
                }
                continue;
            }
            let Some(Level { fd: Some(here), foreign, .. }) = levels.last() else {
                // Only the child can look there: take the rest as it is.
                levels.push(Level { name, fd: None, foreign: true });
                continue;
            };
            let foreign = *foreign;
            let at: Vec<OsString> = levels.iter().skip(1).map(|l| l.name.clone()).collect();
            let (fd, stat) = match open_one(here.as_fd(), &name) {
                Err(Errno::NOENT) if !matches!(make, Make::No) => {
                    let last = todo.iter().all(|n| n == ".");
                    match make_one(here.as_fd(), &name, make, last) {
                        Ok(()) if !foreign => {
                            let path: PathBuf = at.iter().chain([&name]).collect();
                            self.made.push(Made { path, dir: !(last && matches!(make, Make::File)) });
                        }
                        // Another step made it just now, in a volume that both have.
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(other) => return Err(other.into()),
                    }
                    open_one(here.as_fd(), &name)?
                }
                other => other?,
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = readlinkat(&fd, "", Vec::new())?;
                let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                if target.is_absolute() {
                    levels.truncate(1);
                }
                for part in parts(target).collect::<Vec<_>>().into_iter().rev() {
                    todo.push_front(part);
                }
                continue;
            }
            levels.push(self.level(name, Some(fd), &at, foreign)?);
        }
        let fd = levels.last_mut().and_then(|l| l.fd.take());
        Ok(Found { path: levels.into_iter().skip(1).map(|l| l.name).collect(), fd })
    }

    /// The level `name` below `at`, or what is mounted over it.
    fn level(&self, name: OsString, fd: Option<OwnedFd>, at: &[OsString], foreign: bool) -> io::Result<Level> {
        let here = |path: &[OsString]| match path.split_last() {
            None => name.is_empty(),
            Some((last, above)) => above == at && *last == name,
        };
        match self.mounts.iter().rev().find(|(path, _)| here(path)) {
            None => Ok(Level { name, fd, foreign }),
            Some((_, mount)) => {
                let fd = mount.as_ref().map(|m| m.try_clone()).transpose()?;
                Ok(Level { name, fd, foreign: true })
            }
        }
    }

    /// The content of a small file of the root, such as `/etc/passwd`; `None` when there is no such regular file.
    pub fn read(&mut self, path: &str) -> Option<String> {
        const MOST: u64 = 10 << 20;
        let fd = self.resolve(Path::new(path), Make::No).ok()?.fd?;
        let stat = fstat(&fd).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_size as u64 > MOST {
            return None;
        }
        let file = openat(
            rustix::fs::CWD,
            crate::plan::descriptor_path(&fd).as_str(),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut std::fs::File::from(file.ok()?), &mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(name.to_os_string()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    })
}

fn open_one(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<(OwnedFd, Stat)> {
    let fd = openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = fstat(&fd)?;
    Ok((fd, stat))
}

/// Makes `name` and puts the times of the directory back, so that a mount point leaves no trace in them.
fn make_one(dir: BorrowedFd<'_>, name: &OsStr, make: Make, last: bool) -> rustix::io::Result<()> {
    let before = fstat(dir)?;
    match make {
        Make::File if last => {
            drop(openat(
                dir,
                name,
                OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC,
                Mode::from_raw_mode(0o644),
            )?);
            chmodat(dir, name, Mode::from_raw_mode(0o644), AtFlags::empty())?;
        }
        Make::Dir(uid, gid) => {
            make_dir(dir, name)?;
            if (uid, gid) != (0, 0) {
                chownat(dir, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)?;
                // The working directory stays: the change of its parent is real.
                return Ok(());
            }
        }
        _ => make_dir(dir, name)?,
    }
    restore_times(dir, &before)
}

fn make_dir(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    mkdirat(dir, name, Mode::from_raw_mode(0o755))?;
    // The process's umask may have taken bits away.
    chmodat(dir, name, Mode::from_raw_mode(0o755), AtFlags::empty())
}

/// Sets a directory's access and modification times to those of `stat`.
pub fn restore_times(dir: BorrowedFd<'_>, stat: &Stat) -> rustix::io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ },
    };
    utimensat(dir, ".", &times, AtFlags::empty())
}
