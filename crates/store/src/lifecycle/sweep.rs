//! Acting on a plan: what is still not needed loses its rows with one write, its trees go to the trash with a rename each,
//! and the trash is emptied on several threads. A kill between any two steps is put right at the next open: rows go
//! before files, so no row ever speaks of what is not there.

use std::collections::HashSet;

use oci::Digest;

use super::{Ask, Decision, Plan, leftovers};
use crate::error::Result;
use crate::format::{self, table};
use crate::records::{Removal, bury};
use crate::{Resource, SnapshotId, Store, clock, snapshots, trash};

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// What went, in the plan's order.
    pub gone: Vec<Decision>,
    /// What did not go after all: somebody came to need it since the plan was made.
    pub spared: Vec<Resource>,
    /// Bytes freed.
    pub bytes: u64,
    /// Files and trees without a row that were removed as well.
    pub leftovers: usize,
}

/// So much goes at a time: on a full disk the rows of one such part must fit into the ballast.
const PART: usize = 1000;

/// Does what `plan` says, as far as it still holds, and removes what belongs to nothing.
pub fn sweep(store: &Store, plan: Plan) -> Result<Swept> {
    let wanted: Vec<Resource> = plan.drops.iter().flat_map(resources).collect();
    let doomed = store.0.leases.doom(&wanted);
    let swept = act(store, plan, &doomed);
    store.0.leases.spare(&doomed);
    swept
}

/// Everything that a decision removes.
fn resources(decision: &Decision) -> Vec<Resource> {
    let blobs = decision.blobs.iter().copied().map(Resource::Blob);
    std::iter::once(decision.resource).chain(blobs).collect()
}

fn act(store: &Store, plan: Plan, doomed: &[Resource]) -> Result<Swept> {
    let doomed: HashSet<Resource> = doomed.iter().copied().collect();
    let mut swept = Swept::default();
    // An item goes as a whole: one whose blob is held stays.
    let (going, spared): (Vec<_>, Vec<_>) =
        plan.drops.into_iter().partition(|decision| resources(decision).iter().all(|what| doomed.contains(what)));
    swept.spared.extend(spared.iter().map(|decision| decision.resource));
    let needed: HashSet<Digest> = spared.iter().flat_map(|decision| decision.blobs.iter().copied()).collect();
    let (volumes, mut going): (Vec<_>, Vec<_>) =
        going.into_iter().partition(|decision| matches!(decision.resource, Resource::Volume(_)));
    for decision in &mut going {
        decision.blobs.retain(|blob| !needed.contains(blob));
    }
    for part in going.chunks(PART) {
        let kept = store.with_ballast(|| remove_rows(store, part, &plan.ask))?;
        let (went, spared): (Vec<_>, Vec<_>) =
            part.iter().cloned().partition(|decision| !kept.contains(&decision.resource));
        remove_files(store, &went)?;
        swept.gone.extend(went);
        swept.spared.extend(spared.into_iter().map(|decision| decision.resource));
    }
    remove_volumes(store, volumes, &mut swept)?;
    swept.bytes = swept.gone.iter().map(|decision| decision.usage.size).sum();
    swept.leftovers = store.with_ballast(|| leftovers::remove(store))?;
    trash::empty(store.root())?;
    Ok(swept)
}

/// Removes the rows of a part, in one write. Returns the snapshots that stay, as something was built on them meanwhile.
fn remove_rows(store: &Store, part: &[Decision], ask: &Ask) -> Result<HashSet<Resource>> {
    let when = clock::now();
    store.write(|batch| {
        let mut gone: HashSet<SnapshotId> = HashSet::new();
        let mut kept = HashSet::new();
        // Children come before what they are built on, in a plan.
        for decision in part {
            if let Resource::Snapshot(id) = decision.resource {
                let children = store.snapshots().children(id)?;
                let Some(row) = batch.get(&table::SNAPSHOTS, &id)? else { continue };
                if !children.iter().all(|child| gone.contains(child)) {
                    kept.insert(decision.resource);
                    continue;
                }
                snapshots::forget(batch, id, &row)?;
                gone.insert(id);
            }
            let removal = match ask {
                Ask::Collector => Removal::Evicted(decision.rule.clone()),
                Ask::User(name) => Removal::Pruned(name.clone()),
            };
            for record in &decision.records {
                bury(batch, *record, &removal, when, decision.usage.size)?;
            }
            for blob in &decision.blobs {
                batch.delete(&table::BLOBS, blob);
                batch.delete(&table::USES, &Resource::Blob(*blob).key());
            }
        }
        Ok(kept)
    })
}

fn remove_files(store: &Store, gone: &[Decision]) -> Result<()> {
    let root = store.root();
    for decision in gone {
        if let Resource::Snapshot(id) = decision.resource {
            trash::take(root, &store.snapshots().dir(id))?;
        }
        for blob in &decision.blobs {
            trash::take(root, &format::blob(root, blob))?;
        }
    }
    Ok(())
}

fn remove_volumes(store: &Store, volumes: Vec<Decision>, swept: &mut Swept) -> Result<()> {
    let id = |decision: &Decision| match decision.resource {
        Resource::Volume(id) => Some(id),
        _ => None,
    };
    let wanted: Vec<u64> = volumes.iter().filter_map(id).collect();
    let free = store.volumes().remove(&wanted)?;
    for decision in volumes {
        if id(&decision).is_some_and(|id| free.contains(&id)) {
            swept.gone.push(decision);
        } else {
            swept.spared.push(decision.resource);
        }
    }
    Ok(())
}
