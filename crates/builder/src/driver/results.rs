//! Results while they are needed, and as records keep them: short texts that name a tree in the store, and back.
//! Only what is in the store is ever written into a record.

use std::sync::Arc;

use store::{Lease, Resource, SnapshotId, Store};

use crate::{Error, Live};

/// A result with what keeps it from the collector. Clones share the hold.
#[derive(Clone)]
pub struct Held {
    /// The result.
    pub live: Live,
    _lease: Option<Arc<Lease>>,
    _left: Option<Arc<Left>>,
}

/// A tree that is removed when nobody holds it any more: it is no step's result.
struct Left {
    store: Store,
    id: SnapshotId,
    lease: Option<Lease>,
}

impl Drop for Left {
    fn drop(&mut self) {
        self.lease = None;
        // The collector takes what can't be removed now.
        let _ = self.store.snapshots().remove(self.id);
    }
}

impl Held {
    /// Holds `live` while it is needed.
    pub fn new(store: &Store, live: Live) -> Result<Held, Error> {
        let lease = match &live {
            Live::Snapshot(id) => Some(Arc::new(store.leases().hold(Resource::Snapshot(*id))?)),
            _ => None,
        };
        Ok(Held { live, _lease: lease, _left: None })
    }

    /// Holds a tree of the store.
    pub fn tree(store: &Store, id: SnapshotId) -> Result<Held, Error> {
        Held::new(store, Live::Snapshot(id))
    }

    /// Holds a tree that is no step's result: it goes with its last holder.
    pub fn last(store: &Store, id: SnapshotId) -> Result<Held, Error> {
        let lease = Some(store.leases().hold(Resource::Snapshot(id))?);
        let left = Left { store: store.clone(), id, lease };
        Ok(Held { live: Live::Snapshot(id), _lease: None, _left: Some(Arc::new(left)) })
    }

    /// The empty tree, which needs no hold.
    pub fn scratch() -> Held {
        Held { live: Live::Scratch, _lease: None, _left: None }
    }
}

/// What a record says of an input: the tree, once it is one of the store's.
pub fn input(live: &Live, name: &str) -> String {
    match live {
        Live::Remote(remote) => remote.here().map_or_else(|| name.to_owned(), text),
        _ => name.to_owned(),
    }
}

/// The text of a tree.
pub fn text(tree: Option<SnapshotId>) -> String {
    tree.map_or_else(|| "scratch".to_owned(), |id| format!("snapshot:{id}"))
}

/// The tree of a text.
pub fn tree(text: &str) -> Option<Option<SnapshotId>> {
    if text == "scratch" {
        return Some(None);
    }
    text.strip_prefix("snapshot:")?.parse().ok().map(Some)
}
