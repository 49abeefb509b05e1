//! How many bytes a tree takes on the disk: allocated blocks, a file with several names counted once.
//! It never follows a symlink and never leaves the tree.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Doing, Result};

/// What a tree takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated bytes.
    pub bytes: u64,
    /// Files, folders and the rest, each once.
    pub entries: u64,
}

/// Measures the tree at `path`, itself included. Trees may be in use and go away: what is not there any more counts nothing.
pub fn measure(path: &Path) -> Result<Usage> {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let Some(data) = there(fs::symlink_metadata(path)).doing("look at", path)? else { return Ok(usage) };
    add(&mut usage, &mut seen, &data);
    if data.is_dir() {
        walk(path, &mut usage, &mut seen)?;
    }
    Ok(usage)
}

fn walk(folder: &Path, usage: &mut Usage, seen: &mut HashSet<(u64, u64)>) -> Result<()> {
    for entry in there(fs::read_dir(folder)).doing("list", folder)?.into_iter().flatten() {
        let entry = entry.doing("list", folder)?;
        let Some(data) = there(entry.metadata()).doing("look at", folder)? else { continue };
        add(usage, seen, &data);
        if data.is_dir() {
            walk(&entry.path(), usage, seen)?;
        }
    }
    Ok(())
}

fn there<T>(found: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

fn add(usage: &mut Usage, seen: &mut HashSet<(u64, u64)>, data: &fs::Metadata) {
    if data.is_dir() || data.nlink() < 2 || seen.insert((data.dev(), data.ino())) {
        usage.bytes += data.blocks() * 512;
        usage.entries += 1;
    }
}
