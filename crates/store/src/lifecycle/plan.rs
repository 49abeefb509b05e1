//! The plan: which items go, by which rule, and why each other one stays. Pure: the same inventory, policy and time give
//! the same plan. What is least worth its room goes first: long unused, seldom used, large, quick to make again; and
//! nothing goes while something that stays is built on it.

use std::collections::{BTreeSet, HashMap, HashSet};

use oci::Digest;

use super::{Ask, Inventory, Item, Policy, Rule, UsageRecord};
use crate::{Kind, Resource, SnapshotId};

/// Why an item stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Somebody needs it just now.
    InUse,
    /// A build that goes on may have made it.
    Young,
    /// This image cannot be read without it.
    Image(String),
    /// Something that stays is built on it.
    BuiltOn,
    /// No rule speaks of it.
    OtherFilter,
    /// It is internal, a frontend's or shared with an image, and no rule means all.
    NotAll,
    /// It was used so recently that a rule keeps it.
    Recent,
    /// There is room for it.
    Room,
}

/// One item that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What.
    pub resource: Resource,
    /// Its row in `du`.
    pub usage: UsageRecord,
    /// Records that go with it.
    pub records: Vec<Digest>,
    /// Blobs that go with it.
    pub blobs: Vec<Digest>,
    /// The rule that took it.
    pub rule: String,
}

/// What goes, in the order in which it goes, and what stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What goes.
    pub drops: Vec<Decision>,
    /// What stays.
    pub keeps: Vec<(Resource, Keep)>,
    /// Who wants it.
    pub ask: Ask,
}

impl Plan {
    /// Bytes that it frees.
    pub fn bytes(&self) -> u64 {
        self.drops.iter().map(|drop| drop.usage.size).sum()
    }
}

/// Makes the plan. `now` in milliseconds since 1970.
pub fn plan(inventory: &Inventory, policy: &Policy, now: u64) -> Plan {
    let mut state = State::new(inventory, now);
    for rule in &policy.rules {
        state.apply(rule);
    }
    state.plan(policy.ask.clone())
}

struct State<'a> {
    inventory: &'a Inventory,
    now: u64,
    /// Place of each snapshot in the inventory.
    places: HashMap<SnapshotId, usize>,
    /// How many items that stay are built on each.
    children: Vec<usize>,
    dropped: Vec<Option<String>>,
    order: Vec<usize>,
    keep: Vec<Keep>,
    total: u64,
    freed: u64,
}

/// An item's worth as it sorts: bits of a float that is never negative.
type Worth = (u64, u64, usize);

impl<'a> State<'a> {
    fn new(inventory: &'a Inventory, now: u64) -> State<'a> {
        let items = &inventory.items;
        let mut places = HashMap::new();
        for (place, item) in items.iter().enumerate() {
            if let Resource::Snapshot(id) = item.resource {
                places.insert(id, place);
            }
        }
        let mut children = vec![0; items.len()];
        for parent in items.iter().filter_map(|item| places.get(&item.parent?)) {
            children[*parent] += 1;
        }
        State {
            inventory,
            now,
            places,
            children,
            dropped: vec![None; items.len()],
            order: Vec::new(),
            keep: vec![Keep::OtherFilter; items.len()],
            total: items.iter().filter(|item| !item.usage.shared).map(|item| item.usage.size).sum(),
            freed: 0,
        }
    }

    fn apply(&mut self, rule: &Rule) {
        let mut disk = self.inventory.disk;
        disk.free += self.freed;
        let target = rule.target(self.total, disk);
        let mut meant: Vec<bool> = Vec::with_capacity(self.dropped.len());
        let mut leaves: BTreeSet<Worth> = BTreeSet::new();
        for (place, item) in self.inventory.items.iter().enumerate() {
            if self.dropped[place].is_some() {
                meant.push(false);
                continue;
            }
            let reason = stays(item, rule, self.inventory.going_since, self.now);
            meant.push(reason.is_none());
            match reason {
                Some(reason) => self.keep[place] = reason,
                None if self.children[place] == 0 => {
                    leaves.insert(self.worth(place));
                }
                None => {}
            }
        }
        while target.is_none_or(|target| self.total > target)
            && let Some((_, _, place)) = leaves.pop_first()
        {
            if let Some(parent) = self.take(place, rule)
                && meant[parent]
                && self.children[parent] == 0
            {
                leaves.insert(self.worth(parent));
            }
        }
        for place in (0..meant.len()).filter(|place| meant[*place] && self.dropped[*place].is_none()) {
            let leaf = self.children[place] == 0;
            self.keep[place] = if leaf { Keep::Room } else { Keep::BuiltOn };
        }
    }

    /// Drops an item; returns the place of what it was built on.
    fn take(&mut self, place: usize, rule: &Rule) -> Option<usize> {
        let item = &self.inventory.items[place];
        self.dropped[place] = Some(rule.name.clone());
        self.order.push(place);
        self.freed += item.usage.size;
        if !item.usage.shared {
            self.total -= item.usage.size;
        }
        let parent = *self.places.get(&item.parent?)?;
        self.children[parent] -= 1;
        Some(parent)
    }

    /// Seconds to make it again, per megabyte that it takes, halved for each day that it was not used.
    fn worth(&self, place: usize) -> Worth {
        let item = &self.inventory.items[place];
        let used = item.usage.last_used.unwrap_or(0).max(item.usage.created);
        let days = self.now.saturating_sub(used) as f64 / 86_400_000.0;
        let seconds = item.cost as f64 / 1000.0 + 1.0;
        let megabytes = item.usage.size as f64 / 1e6 + 1.0;
        let often = f64::from(item.usage.usage_count).ln_1p() + 1.0;
        let worth = seconds / megabytes * often * 0.5f64.powf(days);
        // Bits of floats that are not negative sort as the floats do.
        (worth.to_bits(), used, place)
    }

    fn plan(self, ask: Ask) -> Plan {
        let items = &self.inventory.items;
        let stays = items.iter().zip(&self.dropped).filter(|(_, dropped)| dropped.is_none());
        let needed: HashSet<Digest> = stays.flat_map(|(item, _)| item.blobs.iter().copied()).collect();
        let decide = |place: &usize| {
            let item = &items[*place];
            Decision {
                resource: item.resource,
                usage: item.usage.clone(),
                records: item.records.clone(),
                blobs: item.blobs.iter().filter(|blob| !needed.contains(blob)).copied().collect(),
                rule: self.dropped[*place].clone().unwrap_or_default(),
            }
        };
        let drops = self.order.iter().map(decide).collect();
        let kept = items.iter().zip(self.keep).zip(&self.dropped).filter(|(_, dropped)| dropped.is_none());
        Plan { drops, keeps: kept.map(|((item, keep), _)| (item.resource, keep)).collect(), ask }
    }
}

/// Why `item` stays whatever room there is, or `None` when `rule` may take it.
fn stays(item: &Item, rule: &Rule, going_since: u64, now: u64) -> Option<Keep> {
    let usage = &item.usage;
    let special = matches!(usage.kind, Kind::Internal | Kind::Frontend) || usage.shared;
    let recent = usage.last_used.unwrap_or(usage.created).saturating_add(rule.keep_duration) > now;
    if usage.in_use {
        Some(Keep::InUse)
    } else if item.alone && usage.created >= going_since {
        Some(Keep::Young)
    } else if let Some(name) = &item.image {
        Some(Keep::Image(name.clone()))
    } else if !rule.filter.matches(usage) {
        Some(Keep::OtherFilter)
    } else if special && !rule.all {
        Some(Keep::NotAll)
    } else if rule.keep_duration > 0 && recent {
        Some(Keep::Recent)
    } else {
        None
    }
}
