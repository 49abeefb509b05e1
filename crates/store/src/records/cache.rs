//! Records and links in the solver's types: saving what a step made, and answering the solver's questions.
//! The cost of a step that runs is one write here; a step that is cached costs reads only.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use oci::Digest;
use solver::{Build, Index, KeyId, Link, Locator, Part, Record};

use super::{NewRecord, PER_STEP, Records, Row, not_found, put, put_link};
use crate::error::{Error, Result};
use crate::{Resource, SnapshotId};

/// What a record's results are made of, for the collector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MadeOf {
    /// Snapshots of the results.
    pub snapshots: Vec<SnapshotId>,
    /// Blobs that the results need beside the snapshots' own.
    pub blobs: Vec<Digest>,
}

impl<'a> Records<'a> {
    /// Writes a record and the links that lead to its keys, together; returns its name.
    pub fn save(&self, record: &Record, links: &[(KeyId, Link, KeyId)], made_of: &MadeOf) -> Result<Digest> {
        let body = postcard::to_stdvec(record).map_err(|error| unreadable(&error))?;
        let listings = record.ingredients.parts.iter().filter_map(|part| match part {
            Part::Files { listing, .. } => Some(*listing),
            _ => None,
        });
        let new = NewRecord {
            id: Digest::of(&body),
            keys: &record.keys,
            operation: record.operation,
            step: record.locator.digest(),
            snapshots: &made_of.snapshots,
            blobs: &made_of.blobs,
            trees: &listings.collect::<Vec<_>>(),
            created: record.created,
            cost: record.cost.millis,
            body: &body,
        };
        self.0.write(|batch| {
            links.iter().try_for_each(|(parent, link, child)| put_link(batch, parent, &link.encode(), child))?;
            put(batch, &new)
        })?;
        Ok(new.id)
    }

    /// Writes links together.
    pub fn link(&self, links: &[(KeyId, Link, KeyId)]) -> Result<()> {
        self.0.write(|batch| {
            links.iter().try_for_each(|(parent, link, child)| put_link(batch, parent, &link.encode(), child))
        })
    }

    /// The links that lead to a key, with the keys that they come from.
    pub fn parents(&self, child: &KeyId) -> Result<Vec<(KeyId, Link)>> {
        let links = self.links_to(child)?;
        Ok(links.into_iter().filter_map(|(parent, link)| Some((parent, Link::decode(&link)?))).collect())
    }

    /// The newest usable record under any of `keys`, with its key.
    pub fn newest(&self, keys: &[KeyId]) -> Result<Option<(KeyId, Digest)>> {
        self.find_newest(keys)
    }

    /// A record by its name.
    pub fn load(&self, id: &Digest) -> Result<Option<Record>> {
        let Some(body) = self.body(id)? else { return Ok(None) };
        postcard::from_bytes(&body).map(Some).map_err(|error| unreadable(&error))
    }

    /// A record that a step was found by: notes that it and its snapshots were used.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was removed meanwhile.
    pub fn use_now(&self, id: &Digest) -> Result<Record> {
        let row = self.row(id)?.ok_or_else(|| not_found(*id))?;
        self.0.touch(Resource::Record(*id))?;
        row.snapshots.iter().try_for_each(|snapshot| self.0.touch(Resource::Snapshot(*snapshot)))?;
        self.load(id)?.ok_or_else(|| not_found(*id))
    }

    /// The newest records of the same step, newest first, at most eight; then as many of the same operation elsewhere in the
    /// project: a step that moved, or whose stage has another name, is no new one.
    pub fn earlier(&self, locator: &Locator, operation: &Digest) -> Result<Vec<Record>> {
        let ids = self.of_step(&locator.digest())?;
        let moved = self.of_operation(operation)?.into_iter().filter(|id| !ids.contains(id)).take(PER_STEP);
        let moved = moved.collect::<Vec<_>>();
        let load = |ids: Vec<Digest>| ids.iter().map(|id| self.load(id)).collect::<Result<Vec<Option<Record>>>>();
        let mut records: Vec<Record> = load(ids)?.into_iter().flatten().collect();
        records.extend(load(moved)?.into_iter().flatten().filter(|record| record.locator.project == locator.project));
        Ok(records)
    }

    /// The solver's view of the cache.
    pub fn index(&self) -> CacheIndex<'a> {
        CacheIndex { records: Records(self.0), failure: Mutex::new(None) }
    }

    /// Whether everything that the record's results are made of is here.
    fn is_usable(&self, row: &Row) -> Result<bool> {
        for snapshot in &row.snapshots {
            if !self.0.snapshots().has(*snapshot)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn find_newest(&self, keys: &[KeyId]) -> Result<Option<(KeyId, Digest)>> {
        let mut newest: Option<(u64, KeyId, Digest)> = None;
        for key in keys {
            for id in self.of_key(key)? {
                let Some(row) = self.row(&id)? else { continue };
                if self.is_usable(&row)? {
                    if newest.is_none_or(|(created, ..)| created < row.created) {
                        newest = Some((row.created, *key, id));
                    }
                    break;
                }
            }
        }
        Ok(newest.map(|(_, key, id)| (key, id)))
    }
}

fn unreadable(error: &postcard::Error) -> Error {
    Error::Damaged { path: crate::format::META.into(), what: format!("a record of another shape: {error}") }
}

/// The cache as the solver asks it. The solver knows no failures: a question that fails is answered with "nothing", and
/// [`CacheIndex::failure`] says so afterwards.
pub struct CacheIndex<'a> {
    records: Records<'a>,
    failure: Mutex<Option<Error>>,
}

impl CacheIndex<'_> {
    /// The first failure since the last call.
    pub fn failure(&self) -> Result<()> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    fn or_nothing<T: Default>(&self, answer: Result<T>) -> T {
        answer.unwrap_or_else(|error| {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            T::default()
        })
    }
}

/// Every build may see everything that is in the store.
impl Index for CacheIndex<'_> {
    fn children(&self, _builds: &BTreeSet<Build>, parent: &KeyId, link: &Link) -> Vec<KeyId> {
        self.or_nothing(self.records.children(parent, &link.encode()))
    }

    fn newest(&self, _builds: &BTreeSet<Build>, keys: &[KeyId]) -> Option<(KeyId, Digest)> {
        self.or_nothing(self.records.find_newest(keys))
    }
}
