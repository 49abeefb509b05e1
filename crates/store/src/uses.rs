//! When things were last used and how often. Collected in memory and written together: a use is never a write of its own.
//! What a kill takes are the uses since the last flush, which only age decisions feel.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::format::table;
use crate::meta::Key;
use crate::open::Inner;
use crate::{Resource, Store, clock};

/// More pending uses than this are written at once, so that memory stays bounded.
const MANY: usize = 4096;

/// The uses of one thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Use {
    /// Last use, milliseconds since 1970.
    pub(crate) used: u64,
    /// How often.
    pub(crate) count: u32,
}

impl Use {
    fn add(&mut self, other: Use) {
        self.used = self.used.max(other.used);
        self.count = self.count.saturating_add(other.count);
    }
}

/// Uses that are not written yet.
#[derive(Default)]
pub(crate) struct Pending(Mutex<HashMap<Resource, Use>>);

impl Resource {
    /// Its key in the table of uses: a letter and the bytes of its name.
    pub(crate) fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(33);
        match self {
            Resource::Blob(digest) => {
                key.push(b'b');
                digest.encode(&mut key);
            }
            Resource::Snapshot(id) => {
                key.push(b's');
                id.encode(&mut key);
            }
            Resource::Record(id) => {
                key.push(b'r');
                id.encode(&mut key);
            }
            Resource::Volume(id) => {
                key.push(b'v');
                id.encode(&mut key);
            }
        }
        key
    }

    /// Reads [`Resource::key`].
    pub(crate) fn from_key(key: &[u8]) -> Option<Resource> {
        let (letter, mut rest) = key.split_first()?;
        let rest = &mut rest;
        match letter {
            b'b' => Key::decode(rest).map(Resource::Blob),
            b's' => Key::decode(rest).map(Resource::Snapshot),
            b'r' => Key::decode(rest).map(Resource::Record),
            b'v' => Key::decode(rest).map(Resource::Volume),
            _ => None,
        }
    }
}

impl Store {
    /// Notes that `what` was used now.
    pub fn touch(&self, what: Resource) -> Result<()> {
        let mut pending = self.0.uses.0.lock().unwrap_or_else(PoisonError::into_inner);
        pending.entry(what).or_default().add(Use { used: clock::now(), count: 1 });
        let many = pending.len() >= MANY;
        drop(pending);
        if many { write(self) } else { Ok(()) }
    }

    /// When `what` was last used (milliseconds since 1970) and how often; `None` if never.
    pub fn last_use(&self, what: Resource) -> Result<Option<(u64, u32)>> {
        let written: Option<Use> = self.0.meta.get(&table::USES, &what.key())?;
        let pending = self.0.uses.0.lock().unwrap_or_else(PoisonError::into_inner).get(&what).copied();
        let mut sum = written.unwrap_or_default();
        sum.add(pending.unwrap_or_default());
        Ok((sum.count > 0).then_some((sum.used, sum.count)))
    }
}

/// Writes the pending uses.
pub(crate) fn write(store: &Store) -> Result<()> {
    write_inner(&store.0)
}

pub(crate) fn write_inner(inner: &Inner) -> Result<()> {
    let pending = std::mem::take(&mut *inner.uses.0.lock().unwrap_or_else(PoisonError::into_inner));
    if pending.is_empty() {
        return Ok(());
    }
    let written = inner.meta.write(|batch| {
        for (what, new) in &pending {
            let mut sum: Use = batch.get(&table::USES, &what.key())?.unwrap_or_default();
            sum.add(*new);
            batch.put(&table::USES, &what.key(), &sum)?;
        }
        Ok(())
    });
    if written.is_err() {
        // Keep them for the next try.
        let mut back = inner.uses.0.lock().unwrap_or_else(PoisonError::into_inner);
        pending.into_iter().for_each(|(what, uses)| back.entry(what).or_default().add(uses));
    }
    written
}
