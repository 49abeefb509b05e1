//! The cache as rows: which keys lead to which keys (links), which keys lead to which records, the newest records of a
//! step, and what became of those that were removed (tombstones). What a record says beyond that is kept as bytes; `cache`
//! is the same in the solver's types. Nothing here decides a hit.

mod cache;
mod listings;
mod tombstones;

use oci::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::format::table;
use crate::meta::{Batch, Key};
use crate::{SnapshotId, Store};

pub use cache::{CacheIndex, MadeOf};
pub(crate) use tombstones::bury;
pub use tombstones::{Removal, Tombstone};

/// Key of a link's row: parent key, digest of the link, child key; in the table of links by child the other way round.
pub(crate) type LinkKey = (Digest, (Digest, Digest));

/// So many of the newest records of a step are found again by it.
const PER_STEP: usize = 8;

/// A record to write.
#[derive(Clone, Debug)]
pub struct NewRecord<'a> {
    /// Its name.
    pub id: Digest,
    /// The cache keys that lead to it.
    pub keys: &'a [Digest],
    /// The operation's cache digest.
    pub operation: Digest,
    /// Which step of which build it is of, for finding the nearest earlier record.
    pub step: Digest,
    /// Its results.
    pub snapshots: &'a [SnapshotId],
    /// Blobs that its result is made of beside those of the snapshots.
    pub blobs: &'a [Digest],
    /// File listings that its ingredients name: see [`Records::put_tree`].
    pub trees: &'a [Digest],
    /// When its result was made, milliseconds since 1970.
    pub created: u64,
    /// What making it took, in milliseconds.
    pub cost: u64,
    /// The record in the solver's encoding.
    pub body: &'a [u8],
}

/// What the store itself knows of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// See [`NewRecord::keys`].
    pub keys: Vec<Digest>,
    /// See [`NewRecord::operation`].
    pub operation: Digest,
    /// See [`NewRecord::step`].
    pub step: Digest,
    /// See [`NewRecord::snapshots`].
    pub snapshots: Vec<SnapshotId>,
    /// See [`NewRecord::blobs`].
    pub blobs: Vec<Digest>,
    /// See [`NewRecord::trees`].
    pub trees: Vec<Digest>,
    /// See [`NewRecord::created`].
    pub created: u64,
    /// See [`NewRecord::cost`].
    pub cost: u64,
}

/// See [`Store::records`].
pub struct Records<'a>(pub(crate) &'a Store);

impl Records<'_> {
    /// Writes a record, in place of one of the same name.
    pub fn put(&self, record: &NewRecord<'_>) -> Result<()> {
        self.0.write(|batch| put(batch, record))
    }

    /// Adds keys to a record: a result that was found by content is known by definition from then on.
    pub fn add_keys(&self, id: Digest, keys: &[Digest]) -> Result<()> {
        self.0.write(|batch| {
            let mut row: Row = batch.get(&table::RECORDS, &id)?.ok_or_else(|| not_found(id))?;
            list_keys(batch, id, keys, row.created)?;
            row.keys.extend(keys.iter().filter(|key| !row.keys.contains(key)).copied().collect::<Vec<_>>());
            batch.put(&table::RECORDS, &id, &row)
        })
    }

    /// Makes a record the newest of its keys, operation and step, as of `now` (milliseconds since 1970).
    pub fn renew(&self, id: &Digest, now: u64) -> Result<()> {
        self.0.write(|batch| {
            let mut row: Row = batch.get(&table::RECORDS, id)?.ok_or_else(|| not_found(*id))?;
            row.created = now;
            list(batch, *id, &row)
        })
    }

    /// What the store knows of a record.
    pub fn row(&self, id: &Digest) -> Result<Option<Row>> {
        self.0.0.meta.get(&table::RECORDS, id)
    }

    /// A record in the solver's encoding.
    pub fn body(&self, id: &Digest) -> Result<Option<Vec<u8>>> {
        self.0.0.meta.get(&table::BODIES, id)
    }

    /// The records that `key` leads to, newest first.
    pub fn of_key(&self, key: &Digest) -> Result<Vec<Digest>> {
        let rows = self.0.0.meta.rows()?.list(&table::BY_KEY, key.bytes())?;
        Ok(newest_first(&rows).into_iter().map(|(id, _)| id).collect())
    }

    /// The records of operations with this cache digest, newest first.
    pub fn of_operation(&self, operation: &Digest) -> Result<Vec<Digest>> {
        let rows = self.0.0.meta.rows()?.list(&table::BY_OPERATION, operation.bytes())?;
        Ok(newest_first(&rows).into_iter().map(|(id, _)| id).collect())
    }

    /// The newest records of `step`, newest first; at most eight.
    pub fn of_step(&self, step: &Digest) -> Result<Vec<Digest>> {
        let rows = self.0.0.meta.rows()?.list(&table::BY_STEP, step.bytes())?;
        Ok(newest_first(&rows).into_iter().map(|(id, _)| id).collect())
    }

    /// The records whose result is, or contains, this snapshot.
    pub fn of_snapshot(&self, id: SnapshotId) -> Result<Vec<Digest>> {
        let mut prefix = Vec::new();
        id.encode(&mut prefix);
        let rows = self.0.0.meta.rows()?.list(&table::BY_SNAPSHOT, &prefix)?;
        Ok(rows.into_iter().map(|((_, record), ())| record).collect())
    }

    /// Writes links together: from a parent key, through a link in the solver's encoding, to a child key.
    pub fn add_links(&self, links: &[(Digest, &[u8], Digest)]) -> Result<()> {
        self.0.write(|batch| links.iter().try_for_each(|(parent, link, child)| put_link(batch, parent, link, child)))
    }

    /// The child keys that `link` leads to from `parent`.
    pub fn children(&self, parent: &Digest, link: &[u8]) -> Result<Vec<Digest>> {
        let mut prefix = parent.bytes().to_vec();
        prefix.extend_from_slice(Digest::of(link).bytes());
        let rows = self.0.0.meta.rows()?.list(&table::LINKS, &prefix)?;
        Ok(rows.into_iter().map(|((_, (_, child)), _)| child).collect())
    }

    /// All links to `child`: the parent key, and the link in the solver's encoding.
    pub fn links_to(&self, child: &Digest) -> Result<Vec<(Digest, Vec<u8>)>> {
        let rows = self.0.0.meta.rows()?;
        let mut links = Vec::new();
        for ((_, (link, parent)), ()) in rows.list(&table::BACK_LINKS, child.bytes())? {
            if let Some(bytes) = rows.get(&table::LINKS, &(parent, (link, *child)))? {
                links.push((parent, bytes));
            }
        }
        Ok(links)
    }

    /// All links from `parent`: the link in the solver's encoding, and the child key.
    pub fn links(&self, parent: &Digest) -> Result<Vec<(Vec<u8>, Digest)>> {
        let rows = self.0.0.meta.rows()?.list(&table::LINKS, parent.bytes())?;
        Ok(rows.into_iter().map(|((_, (_, child)), link)| (link, child)).collect())
    }

    /// All records by name.
    pub fn list(&self) -> Result<Vec<(Digest, Row)>> {
        self.0.0.meta.rows()?.list(&table::RECORDS, &[])
    }
}

fn not_found(id: Digest) -> Error {
    Error::NotFound { kind: "record", name: id.to_string() }
}

/// Record names of index rows, newest first.
fn newest_first(rows: &[((Digest, Digest), u64)]) -> Vec<(Digest, u64)> {
    let mut list: Vec<(Digest, u64)> = rows.iter().map(|((_, id), created)| (*id, *created)).collect();
    list.sort_by(|a, b| b.1.cmp(&a.1).then(b.0.cmp(&a.0)));
    list
}

/// Stages a record.
fn put(batch: &mut Batch<'_>, record: &NewRecord<'_>) -> Result<()> {
    let row = Row {
        keys: record.keys.to_vec(),
        operation: record.operation,
        step: record.step,
        snapshots: record.snapshots.to_vec(),
        blobs: record.blobs.to_vec(),
        trees: record.trees.to_vec(),
        created: record.created,
        cost: record.cost,
    };
    if let Some(old) = batch.get(&table::RECORDS, &record.id)? {
        unlist(batch, record.id, &old);
    }
    list(batch, record.id, &row)?;
    let mut steps = newest_first(&batch.list(&table::BY_STEP, record.step.bytes())?);
    steps.retain(|(id, _)| *id != record.id);
    for (old, _) in steps.iter().skip(PER_STEP - 1) {
        batch.delete(&table::BY_STEP, &(record.step, *old));
    }
    batch.put(&table::BODIES, &record.id, &record.body.to_vec())
}

/// Stages a link, if it is not there.
fn put_link(batch: &mut Batch<'_>, parent: &Digest, link: &[u8], child: &Digest) -> Result<()> {
    let key = (*parent, (Digest::of(link), *child));
    match batch.get(&table::LINKS, &key)? {
        Some(_) => Ok(()),
        None => {
            batch.put(&table::BACK_LINKS, &(key.1.1, (key.1.0, key.0)), &())?;
            batch.put(&table::LINKS, &key, &link.to_vec())
        }
    }
}

/// Stages the removal of a link.
pub(crate) fn delete_link(batch: &mut Batch<'_>, key: &LinkKey) {
    batch.delete(&table::LINKS, key);
    batch.delete(&table::BACK_LINKS, &(key.1.1, (key.1.0, key.0)));
}

/// Stages the record under its keys, which are no graves any more.
fn list_keys(batch: &mut Batch<'_>, id: Digest, keys: &[Digest], created: u64) -> Result<()> {
    for key in keys {
        batch.put(&table::BY_KEY, &(*key, id), &created)?;
        if batch.get(&table::TOMBSTONES, key)?.is_some() {
            batch.delete(&table::TOMBSTONES, key);
        }
    }
    Ok(())
}

/// Stages a record's row and its places in the indexes.
fn list(batch: &mut Batch<'_>, id: Digest, row: &Row) -> Result<()> {
    list_keys(batch, id, &row.keys, row.created)?;
    for snapshot in &row.snapshots {
        batch.put(&table::BY_SNAPSHOT, &(*snapshot, id), &())?;
    }
    batch.put(&table::BY_OPERATION, &(row.operation, id), &row.created)?;
    batch.put(&table::BY_STEP, &(row.step, id), &row.created)?;
    batch.put(&table::RECORDS, &id, row)
}

/// Stages the removal of a record's row and places.
fn unlist(batch: &mut Batch<'_>, id: Digest, row: &Row) {
    row.keys.iter().for_each(|key| batch.delete(&table::BY_KEY, &(*key, id)));
    row.snapshots.iter().for_each(|snapshot| batch.delete(&table::BY_SNAPSHOT, &(*snapshot, id)));
    batch.delete(&table::BY_OPERATION, &(row.operation, id));
    batch.delete(&table::BY_STEP, &(row.step, id));
    batch.delete(&table::RECORDS, &id);
    batch.delete(&table::BODIES, &id);
}
