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

/// Measures the tree at `path`, itself included.
pub fn measure(path: &Path) -> Result<Usage> {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let data = fs::symlink_metadata(path).doing("look at", path)?;
    add(&mut usage, &mut seen, &data);
    if data.is_dir() {
        walk(path, &mut usage, &mut seen)?;
    }
    Ok(usage)
}

fn walk(folder: &Path, usage: &mut Usage, seen: &mut HashSet<(u64, u64)>) -> Result<()> {
    for entry in fs::read_dir(folder).doing("list", folder)? {
        let entry = entry.doing("list", folder)?;
        let data = match entry.metadata() {
            // Volumes may be in use while they are measured.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            data => data.doing("look at", folder)?,
        };
        add(usage, seen, &data);
        if data.is_dir() {
            walk(&entry.path(), usage, seen)?;
        }
    }
    Ok(())
}

fn add(usage: &mut Usage, seen: &mut HashSet<(u64, u64)>, data: &fs::Metadata) {
    if data.is_dir() || data.nlink() < 2 || seen.insert((data.dev(), data.ino())) {
        usage.bytes += data.blocks() * 512;
        usage.entries += 1;
    }
}
