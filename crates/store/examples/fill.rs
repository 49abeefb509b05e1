//! Fills a store for bench/table.py: `fill ROOT records N` writes records that no build asks for, each with a link;
//! `fill ROOT steps N` writes steps as builds do, a snapshot with files and a record each. It runs nothing.

use std::path::Path;

use oci::Digest;
use store::{NewRecord, Options, SnapshotId, Store};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, what, count] = arguments.as_slice() else { return Err("usage: fill ROOT records|steps N".into()) };
    let store = Store::open(Path::new(root), Options { command: "fill".to_owned(), ..Options::default() })?;
    let mut parent = None;
    for number in 0..count.parse()? {
        if what == "steps" {
            let made = snapshot(&store, parent, number)?;
            write(&store, number, &[made])?;
            parent = (number % 10 != 9).then_some(made);
        } else {
            write(&store, number, &[])?;
        }
    }
    Ok(store.sync()?)
}

fn named(number: u64) -> Digest {
    Digest::of(&number.to_le_bytes())
}

/// Chains of ten layers, with eight small files each.
fn snapshot(store: &Store, parent: Option<SnapshotId>, number: u64) -> Result<SnapshotId, Failure> {
    let mut draft = store.snapshots().begin(parent)?;
    draft.describe(store::Kind::Regular, &format!("step {number}"));
    for file in 0..8 {
        std::fs::write(draft.upper().join(format!("file{file}")), format!("{number}\n").repeat(50))?;
    }
    Ok(draft.commit()?)
}

fn write(store: &Store, number: u64, snapshots: &[SnapshotId]) -> Result<(), Failure> {
    let name = named(number);
    let (step, body) = (named(number / 8), [42; 600]);
    store.records().put(&NewRecord {
        id: name,
        keys: &[name],
        operation: name,
        step,
        snapshots,
        blobs: &[],
        trees: &[],
        created: number,
        cost: 100,
        body: &body,
    })?;
    Ok(store.records().add_links(&[(name, b"a link of some bytes", named(number + 1))])?)
}
