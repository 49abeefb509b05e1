//! Records that are the same key become one, and all of them get their canonical order.
//! Works upwards from the roots, depth by depth, so that the keys of inputs are settled before those of what reads them.

use std::collections::{BTreeMap, BTreeSet};

use oci::{Digest, Hasher};

use super::{Error, Input, Record};

/// Checks, merges, sorts.
pub fn fold(records: Vec<Record>) -> Result<Vec<Record>, Error> {
    let order = order(&records)?;
    let depths = depths(&records, &order);
    let classes = classes(&records, &depths);
    Ok(sort(&merge(records, &classes)))
}

/// Positions of the records, inputs before what reads them.
fn order(records: &[Record]) -> Result<Vec<usize>, Error> {
    let count = records.len();
    for (index, record) in records.iter().enumerate() {
        if let Some(input) = record.inputs.iter().position(Vec::is_empty) {
            return Err(Error::NoAlternative { record: index, input });
        }
        if let Some(bad) = record.inputs.iter().flatten().find(|input| input.record >= count) {
            return Err(Error::Dangling { what: "link to record", index: bad.record as i64, count });
        }
    }
    let mut waits: Vec<usize> = records.iter().map(|r| r.inputs.iter().map(Vec::len).sum()).collect();
    let mut readers = vec![Vec::new(); count];
    for (index, record) in records.iter().enumerate() {
        record.inputs.iter().flatten().for_each(|input| readers[input.record].push(index));
    }
    let mut order: Vec<usize> = (0..count).filter(|i| waits[*i] == 0).collect();
    let mut next = 0;
    while let Some(done) = order.get(next).copied() {
        next += 1;
        for reader in &readers[done] {
            waits[*reader] -= 1;
            if waits[*reader] == 0 {
                order.push(*reader);
            }
        }
    }
    if order.len() == count { Ok(order) } else { Err(Error::Loop { what: "records" }) }
}

/// The longest way from each record down to a root.
fn depths(records: &[Record], order: &[usize]) -> Vec<usize> {
    let mut depths = vec![0; records.len()];
    for index in order {
        let below = records[*index].inputs.iter().flatten().map(|input| depths[input.record] + 1);
        depths[*index] = below.max().unwrap_or(0);
    }
    depths
}

/// Keys of each input, by the classes of their records.
type Keys = Vec<BTreeSet<(Option<Digest>, usize)>>;

/// For each record the first one that is the same key.
fn classes(records: &[Record], depths: &[usize]) -> Vec<usize> {
    let mut groups: BTreeMap<(usize, Digest, usize), Vec<usize>> = BTreeMap::new();
    for (index, record) in records.iter().enumerate() {
        groups.entry((depths[index], record.digest, record.inputs.len())).or_default().push(index);
    }
    let mut classes: Vec<usize> = (0..records.len()).collect();
    for members in groups.values() {
        let keys = |record: &Record| -> Keys {
            let of = |list: &Vec<Input>| list.iter().map(|i| (i.selector, classes[i.record])).collect();
            record.inputs.iter().map(of).collect()
        };
        let mut found: Vec<(Vec<usize>, Keys)> = members.iter().map(|m| (vec![*m], keys(&records[*m]))).collect();
        // A merged record has more keys than its parts, and may then be the same as one that was another before.
        while absorb(&mut found) {}
        for (same, _) in &found {
            let first = same.iter().copied().min().unwrap_or_default();
            same.iter().for_each(|member| classes[*member] = first);
        }
    }
    classes
}

/// Merges what has a key in common for every input; says whether anything did.
fn absorb(found: &mut Vec<(Vec<usize>, Keys)>) -> bool {
    let before = found.len();
    let mut kept: Vec<(Vec<usize>, Keys)> = Vec::with_capacity(before);
    for (members, keys) in found.drain(..) {
        let overlaps = |other: &Keys| keys.iter().zip(other).all(|(a, b)| !a.is_disjoint(b));
        match kept.iter_mut().find(|(_, other)| overlaps(other)) {
            Some((same, all)) => {
                same.extend(members);
                all.iter_mut().zip(keys).for_each(|(all, new)| all.extend(new));
            }
            None => kept.push((members, keys)),
        }
    }
    *found = kept;
    found.len() < before
}

/// One record a class.
fn merge(records: Vec<Record>, classes: &[usize]) -> Vec<Record> {
    let firsts: BTreeSet<usize> = classes.iter().copied().collect();
    let position: BTreeMap<usize, usize> = firsts.into_iter().enumerate().map(|(new, old)| (old, new)).collect();
    let mut merged: Vec<Option<Record>> = vec![None; position.len()];
    for (index, mut record) in records.into_iter().enumerate() {
        record.inputs.iter_mut().flatten().for_each(|input| input.record = position[&classes[input.record]]);
        match &mut merged[position[&classes[index]]] {
            Some(known) => {
                known.inputs.iter_mut().zip(record.inputs).for_each(|(all, new)| all.extend(new));
                known.output = known.output.take().max(record.output);
            }
            empty => *empty = Some(record),
        }
    }
    let mut merged: Vec<Record> = merged.into_iter().flatten().collect();
    for list in merged.iter_mut().flat_map(|record| &mut record.inputs) {
        list.sort_unstable();
        list.dedup();
    }
    merged
}

/// See [`super::Config::names`].
pub fn names(records: &[Record]) -> Result<Vec<Digest>, Error> {
    let mut names: Vec<Digest> = records.iter().map(|record| record.digest).collect();
    for index in order(records)? {
        let record = &records[index];
        if record.inputs.is_empty() {
            continue;
        }
        let mut hasher = Hasher::new();
        hasher.update(record.digest.bytes());
        for list in &record.inputs {
            let keys: BTreeSet<(Option<Digest>, Digest)> =
                list.iter().map(|input| (input.selector, names[input.record])).collect();
            hasher.update((keys.len() as u64).to_be_bytes());
            for (selector, name) in keys {
                hasher.update([u8::from(selector.is_some())]);
                hasher.update(selector.map(|s| *s.bytes()).unwrap_or_default());
                hasher.update(name.bytes());
            }
        }
        names[index] = hasher.finish();
    }
    Ok(names)
}

/// Order of BuildKit's: by digest, number of inputs, number of keys, selectors and digests of keys. What is equal in all
/// that is ordered by name.
fn sort(records: &[Record]) -> Vec<Record> {
    let names = names(records).unwrap_or_default();
    let rank = |index: &usize| {
        let record = &records[*index];
        let inputs = record.inputs.iter().map(|list| {
            let keys = list.iter().map(|i| (i.selector, records[i.record].digest, names[i.record]));
            let keys: BTreeSet<_> = keys.collect();
            (keys.len(), keys.into_iter().map(|(selector, digest, _)| (selector, digest)).collect::<Vec<_>>())
        });
        (record.digest, record.inputs.len(), inputs.collect::<Vec<_>>(), names[*index])
    };
    let mut sorted: Vec<usize> = (0..records.len()).collect();
    sorted.sort_by_cached_key(rank);
    let mut position = vec![0; records.len()];
    sorted.iter().enumerate().for_each(|(new, old)| position[*old] = new);
    let renumbered = sorted.iter().map(|old| {
        let mut record = records[*old].clone();
        for list in &mut record.inputs {
            list.iter_mut().for_each(|input| input.record = position[input.record]);
            list.sort_by_key(|input| (input.record, input.selector));
        }
        record
    });
    renumbered.collect()
}
