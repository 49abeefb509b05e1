//! What belongs to nothing: files and trees without a row, links that lead to no record, listings that no record names,
//! tombstones beyond their number and age, indexes of scans that were not written for long. Only what an earlier process
//! left is touched, never what this one writes.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci::Digest;

use crate::error::{Doing, Result};
use crate::format::{self, table};
use crate::{SnapshotId, Store, clock, records, trash};

/// Tombstones kept at most.
const TOMBSTONES: usize = 10_000;
/// An index of a scan is kept so long after it was written (milliseconds): an old one is of a directory that is gone, or
/// does not change, and losing it costs one reading.
const SCAN_AGE: u64 = 30 * 86_400_000;
/// A tombstone is kept so long (milliseconds).
const TOMBSTONE_AGE: u64 = 30 * 86_400_000;

/// Removes all of it; returns how many files and trees went.
pub(super) fn remove(store: &Store) -> Result<usize> {
    links(store)?;
    tombstones(store)?;
    let gone = files(store)?;
    for path in &gone {
        trash::take(store.root(), path)?;
    }
    Ok(gone.len())
}

/// Removes links to keys from which no record can be reached any more.
fn links(store: &Store) -> Result<()> {
    let rows = store.0.meta.rows()?;
    let mut parents: HashMap<Digest, Vec<Digest>> = HashMap::new();
    let links = rows.list(&table::LINKS, &[])?;
    for ((parent, (_, child)), _) in &links {
        parents.entry(*child).or_default().push(*parent);
    }
    let mut live: HashSet<Digest> = HashSet::new();
    let mut todo: Vec<Digest> = rows.list(&table::BY_KEY, &[])?.into_iter().map(|((key, _), _)| key).collect();
    while let Some(key) = todo.pop() {
        if live.insert(key) {
            todo.extend(parents.get(&key).into_iter().flatten());
        }
    }
    drop(rows);
    let dead: Vec<_> = links.into_iter().map(|(key, _)| key).filter(|(_, (_, child))| !live.contains(child)).collect();
    // In a running build links come before the record that they lead to: spare keys while any draft may be under way.
    if dead.is_empty() || under_way(store)? {
        return Ok(());
    }
    store.write(|batch| {
        dead.iter().for_each(|key| records::delete_link(batch, key));
        Ok(())
    })
}

/// Whether a step is at work in this process.
fn under_way(store: &Store) -> Result<bool> {
    let drafts = store.root().join(format::DRAFTS);
    let mut list = fs::read_dir(&drafts).doing("list", &drafts)?;
    Ok(list.next().is_some() || !store.0.leases.held().is_empty())
}

fn tombstones(store: &Store) -> Result<()> {
    let mut rows = store.0.meta.rows()?.list(&table::TOMBSTONES, &[])?;
    let oldest = clock::now().saturating_sub(TOMBSTONE_AGE);
    rows.sort_by_key(|(_, tombstone)| std::cmp::Reverse(tombstone.when));
    let keep = rows.iter().take(TOMBSTONES).take_while(|(_, tombstone)| tombstone.when >= oldest).count();
    if keep == rows.len() {
        return Ok(());
    }
    store.write(|batch| {
        rows[keep..].iter().for_each(|(key, _)| batch.delete(&table::TOMBSTONES, key));
        Ok(())
    })
}

/// Files and trees of earlier processes that have no row.
fn files(store: &Store) -> Result<Vec<PathBuf>> {
    let root = store.root();
    let meta = &store.0.meta;
    let named = |text: &str| clock::parse_id(text).filter(|id| id >> 22 < store.0.opened);
    let mut gone = Vec::new();
    each(&root.join(format::SNAPSHOTS), |path, name| {
        let id = named(name).map(SnapshotId::from_number);
        let kept = id.is_none_or(|id| matches!(meta.get(&table::SNAPSHOTS, &id), Ok(Some(_)) | Err(_)));
        gone.extend((!kept).then(|| path.to_owned()));
        Ok(())
    })?;
    each(&root.join(format::VOLUMES), |path, name| {
        let kept = named(name).is_none_or(|id| matches!(meta.get(&table::VOLUMES, &id), Ok(Some(_)) | Err(_)));
        gone.extend((!kept).then(|| path.to_owned()));
        Ok(())
    })?;
    each(&root.join(format::HISTORY), |path, name| {
        if meta.get(&table::HISTORY, &name.to_owned())?.is_none() && is_older(store, path)? {
            gone.push(path.to_owned());
        }
        Ok(())
    })?;
    each(&root.join(format::BLOBS), |folder, _| {
        each(folder, |path, name| {
            let row = Digest::from_hex(name).map(|digest| meta.get(&table::BLOBS, &digest)).transpose()?.flatten();
            if row.is_none() && is_older(store, path)? {
                gone.push(path.to_owned());
            }
            Ok(())
        })
    })?;
    let trees: HashSet<Digest> = store.records().list()?.into_iter().flat_map(|(_, row)| row.trees).collect();
    each(&root.join(format::TREES), |path, name| {
        if !Digest::from_hex(name).is_some_and(|tree| trees.contains(&tree)) && is_older(store, path)? {
            gone.push(path.to_owned());
        }
        Ok(())
    })?;
    let oldest = clock::now().saturating_sub(SCAN_AGE);
    each(&root.join(format::SCANS), |path, _| {
        let data = fs::symlink_metadata(path).doing("look at", path)?;
        if u64::try_from(data.mtime().saturating_mul(1000)).unwrap_or(0) < oldest {
            gone.push(path.to_owned());
        }
        Ok(())
    })?;
    Ok(gone)
}

/// Whether the file came to its place before this process opened the store. The change time says: a rename sets it.
fn is_older(store: &Store, path: &Path) -> Result<bool> {
    let data = fs::symlink_metadata(path).doing("look at", path)?;
    let changed = data.ctime().saturating_mul(1000).saturating_add(data.ctime_nsec() / 1_000_000);
    Ok(u64::try_from(changed).unwrap_or(0) < store.0.opened)
}

fn each(folder: &Path, mut visit: impl FnMut(&Path, &str) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(folder).doing("list", folder)? {
        let entry = entry.doing("list", folder)?;
        if let Some(name) = entry.file_name().to_str() {
            visit(&entry.path(), name)?;
        }
    }
    Ok(())
}
