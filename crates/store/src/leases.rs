//! Leases: what is needed just now is not collected. A lease lives in this process only: as one process owns a store, the
//! leases of a dead process mean nothing, so none is ever written down.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use oci::Digest;

use crate::error::{Error, Result};
use crate::{SnapshotId, Store, clock};

/// What can be held, used and removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// A blob.
    Blob(Digest),
    /// A snapshot; its chain of parents is held with it.
    Snapshot(SnapshotId),
    /// A record.
    Record(Digest),
    /// A volume, by the number of its directory.
    Volume(u64),
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Resource::Blob(digest) => write!(f, "blob {digest}"),
            Resource::Snapshot(id) => write!(f, "snapshot {id}"),
            Resource::Record(id) => write!(f, "record {id}"),
            Resource::Volume(id) => write!(f, "volume {}", clock::id_text(*id)),
        }
    }
}

/// Who holds what.
#[derive(Default)]
pub(crate) struct Table(Mutex<State>);

#[derive(Default)]
struct State {
    held: HashMap<Resource, usize>,
    /// Being removed: no new lease until the removal ended.
    doomed: HashSet<Resource>,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks what is not held of `wanted` as being removed, and returns it.
    pub(crate) fn doom(&self, wanted: &[Resource]) -> Vec<Resource> {
        let mut state = self.lock();
        let free: Vec<Resource> = wanted.iter().copied().filter(|what| !state.held.contains_key(what)).collect();
        state.doomed.extend(&free);
        free
    }

    /// Ends the removal of `gone`.
    pub(crate) fn spare(&self, gone: &[Resource]) {
        let mut state = self.lock();
        gone.iter().for_each(|what| {
            state.doomed.remove(what);
        });
    }

    /// Everything that is held.
    pub(crate) fn held(&self) -> HashSet<Resource> {
        self.lock().held.keys().copied().collect()
    }

    /// Whether `what` is held.
    pub(crate) fn is_held(&self, what: &Resource) -> bool {
        self.lock().held.contains_key(what)
    }
}

/// See [`Store::leases`].
pub struct Leases<'a>(pub(crate) &'a Store);

impl Leases<'_> {
    /// Keeps `what` until the lease is dropped. It need not exist yet: a lease taken before a blob is written spans the
    /// moment between its writing and its use.
    ///
    /// # Errors
    /// [`Error::Gone`] when it is being removed just now.
    pub fn hold(&self, what: Resource) -> Result<Lease> {
        let mut state = self.0.0.leases.lock();
        if state.doomed.contains(&what) {
            return Err(Error::Gone { what: what.to_string() });
        }
        *state.held.entry(what).or_insert(0) += 1;
        drop(state);
        Ok(Lease { store: self.0.clone(), what })
    }

    /// Whether somebody holds `what` itself.
    pub fn is_held(&self, what: &Resource) -> bool {
        self.0.0.leases.is_held(what)
    }
}

/// Keeps one thing from the collector while it lives.
pub struct Lease {
    store: Store,
    what: Resource,
}

impl Lease {
    /// What it keeps.
    pub fn resource(&self) -> Resource {
        self.what
    }
}

impl Clone for Lease {
    fn clone(&self) -> Lease {
        *self.store.0.leases.lock().held.entry(self.what).or_insert(0) += 1;
        Lease { store: self.store.clone(), what: self.what }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.store.0.leases.lock();
        if let Some(count) = state.held.get_mut(&self.what) {
            *count -= 1;
            if *count == 0 {
                state.held.remove(&self.what);
            }
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({})", self.what)
    }
}
