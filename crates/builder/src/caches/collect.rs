//! What a build did as records of the exchange format: from the keys of its steps down the links to the roots, with the
//! results that are here or in a cache that was imported. It packs nothing and sends nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use graph::Edge;
use oci::Digest;
use solver::exchange::{Input, Output, Record};
use solver::{KeyId, Trail, key};
use store::{SnapshotId, Store};

use super::{Import, Imports};
use crate::driver::results;

/// A result that can be exported.
#[derive(Clone)]
pub enum Found {
    /// A tree of the store; when it was made, in milliseconds since 1970.
    Here(SnapshotId, u64),
    /// In a cache that was imported.
    Elsewhere(Arc<Import>, Output),
}

/// Keys, how they hang together, and the results under them.
pub struct Collected {
    /// Records without their results, inputs first.
    pub records: Vec<Record>,
    /// The results, by record.
    pub found: BTreeMap<usize, Found>,
}

/// One way to a key: the digest that its record is exported under, and for each input selectors and keys.
type Ways = BTreeMap<Digest, Vec<Vec<(Option<Digest>, KeyId)>>>;

/// Walks the trail of a build. `targets`: with any, only results that are a part of theirs (`mode=min`).
pub fn collect(
    store: &Store,
    imports: &Imports,
    trail: &[Trail],
    targets: &BTreeSet<Edge>,
) -> Result<Collected, store::Error> {
    let mut results: HashMap<KeyId, Found> = HashMap::new();
    let mut tops = Vec::new();
    for step in trail {
        for (output, keys) in (0..).zip(&step.keys) {
            let Some(found) = find(store, imports, keys)? else { continue };
            if targets.contains(&Edge { vertex: step.vertex, output }) {
                tops.push(found.clone());
            }
            results.extend(keys.iter().map(|key| (*key, found.clone())));
        }
    }
    if !targets.is_empty() {
        let parts = Parts::of(store, &tops)?;
        results.retain(|_, found| parts.has(found));
    }
    let all: Vec<KeyId> = trail.iter().flat_map(|step| step.keys.iter().flatten().copied()).collect();
    let ways = gather(store, imports, &all)?;
    Ok(records(&ways, &all, &results))
}

/// The result under one of a step's keys: the one here before others.
fn find(store: &Store, imports: &Imports, keys: &[KeyId]) -> Result<Option<Found>, store::Error> {
    if let Some((key, id)) = store.records().newest(keys)?
        && let (Some(record), Some(row)) = (store.records().load(&id)?, store.records().row(&id)?)
    {
        // An empty tree has no layer, and so no record that another could read.
        let tree = record.result(&key).and_then(results::tree).flatten();
        return Ok(tree.map(|tree| Found::Here(tree, row.created)));
    }
    let elsewhere = keys.iter().find_map(|key| imports.of_key(key));
    Ok(elsewhere.map(|(import, output)| Found::Elsewhere(import.clone(), output.clone())))
}

/// What results of targets are made of.
struct Parts {
    snapshots: BTreeSet<SnapshotId>,
    chains: Vec<Vec<Digest>>,
}

impl Parts {
    fn of(store: &Store, tops: &[Found]) -> Result<Parts, store::Error> {
        let mut parts = Parts { snapshots: BTreeSet::new(), chains: Vec::new() };
        for top in tops {
            match top {
                Found::Here(id, _) => parts.snapshots.extend(store.snapshots().chain(*id)?),
                Found::Elsewhere(_, output) => parts.chains.push(output.blobs.clone()),
            }
        }
        Ok(parts)
    }

    fn has(&self, found: &Found) -> bool {
        match found {
            Found::Here(id, _) => self.snapshots.contains(id),
            Found::Elsewhere(_, output) => self.chains.iter().any(|chain| chain.starts_with(&output.blobs)),
        }
    }
}

/// Every key that leads to one of `keys`.
fn gather(store: &Store, imports: &Imports, keys: &[KeyId]) -> Result<HashMap<KeyId, Ways>, store::Error> {
    let mut all = HashMap::new();
    let mut open: Vec<KeyId> = keys.to_vec();
    while let Some(key) = open.pop() {
        if all.contains_key(&key) {
            continue;
        }
        let ways = ways(store, imports, &key)?;
        open.extend(ways.values().flatten().flatten().map(|(_, parent)| *parent));
        all.insert(key, ways);
    }
    Ok(all)
}

fn ways(store: &Store, imports: &Imports, key: &KeyId) -> Result<Ways, store::Error> {
    let mut ways = Ways::new();
    let mut add = |digest: Digest, input: usize, way: (Option<Digest>, KeyId)| {
        let inputs = ways.entry(digest).or_default();
        if inputs.len() <= input {
            inputs.resize(input + 1, Vec::new());
        }
        inputs[input].push(way);
    };
    for (parent, link) in store.records().parents(key)? {
        let digest = key::export_digest(&link.digest, link.output);
        add(digest, link.input as usize, (link.selector, parent));
    }
    for import in &imports.read {
        let Some(digest) = import.digest(key) else { continue };
        for (input, list) in import.inputs(key).into_iter().enumerate() {
            list.into_iter().for_each(|way| add(digest, input, way));
        }
    }
    Ok(ways)
}

/// Records, inputs first. A way that leads back to a key that is being looked at (a step on its own result) is left out.
fn records(ways: &HashMap<KeyId, Ways>, keys: &[KeyId], results: &HashMap<KeyId, Found>) -> Collected {
    let mut collected = Collected { records: Vec::new(), found: BTreeMap::new() };
    // `None` while a key is being looked at.
    let mut places: HashMap<KeyId, Option<Vec<usize>>> = HashMap::new();
    for start in keys {
        let mut stack = vec![(*start, false)];
        while let Some((key, looked)) = stack.pop() {
            let Some(of_key) = ways.get(&key) else { continue };
            if looked {
                let made = make(key, of_key, &places, results, &mut collected);
                places.insert(key, Some(made));
                continue;
            }
            if places.contains_key(&key) {
                continue;
            }
            places.insert(key, None);
            stack.push((key, true));
            let parents = of_key.values().flatten().flatten().map(|(_, parent)| *parent);
            stack.extend(parents.filter(|parent| !places.contains_key(parent)).map(|parent| (parent, false)));
        }
    }
    collected
}

/// The records of one key, whose inputs are there already.
fn make(
    key: KeyId,
    ways: &Ways,
    places: &HashMap<KeyId, Option<Vec<usize>>>,
    results: &HashMap<KeyId, Found>,
    collected: &mut Collected,
) -> Vec<usize> {
    let mut made = Vec::new();
    let mut push = |record: Record| {
        let place = collected.records.len();
        // BuildKit exports no result of a key without inputs; what makes one costs next to nothing.
        if let Some(found) = results.get(&key).filter(|_| !record.inputs.is_empty()) {
            collected.found.insert(place, found.clone());
        }
        collected.records.push(record);
        made.push(place);
    };
    if ways.is_empty() {
        push(Record { digest: key, inputs: Vec::new(), output: None });
    }
    for (digest, lists) in ways {
        let input = |(selector, parent): &(Option<Digest>, KeyId)| {
            let places = places.get(parent).into_iter().flatten().flatten();
            places.map(|record| Input { selector: *selector, record: *record }).collect::<Vec<_>>()
        };
        let inputs: Vec<Vec<Input>> = lists.iter().map(|list| list.iter().flat_map(input).collect()).collect();
        if inputs.iter().all(|list| !list.is_empty()) {
            push(Record { digest: *digest, inputs, output: None });
        }
    }
    made
}
