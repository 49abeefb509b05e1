//! The store itself, for bench/table.py. `measure fill ROOT records N` writes records that no build asks for, each with a
//! link; `measure fill ROOT steps N` writes steps as builds do, a snapshot with files and a record each. `measure ask ROOT`
//! does what a cached build of twelve steps asks of a store, and prints what each part took, in seconds. It runs nothing.

use std::path::Path;
use std::time::Instant;

use oci::Digest;
use store::{HistoryBlobs, HistoryEntry, NewRecord, Options, Resource, SnapshotId, Store};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["fill", root, what, count] => fill(&open(root)?, what, count.parse()?),
        ["ask", root] => ask(root),
        _ => Err("usage: measure fill ROOT records|steps N, measure ask ROOT".into()),
    }
}

fn open(root: &str) -> store::Result<Store> {
    Store::open(Path::new(root), Options { command: "measure".to_owned(), ..Options::default() })
}

fn fill(store: &Store, what: &str, count: u64) -> Result<(), Failure> {
    let mut parent = None;
    for number in 0..count {
        if what == "steps" {
            let made = snapshot(store, parent, number)?;
            write(store, number, &[made])?;
            parent = (number % 10 != 9).then_some(made);
        } else {
            write(store, number, &[])?;
        }
    }
    Ok(store.sync()?)
}

/// What a cached build of twelve steps asks and writes.
fn ask(root: &str) -> Result<(), Failure> {
    let store = time("opening the store", || open(root))?;
    time("twelve steps looked up", || {
        for number in 0..12 {
            let key = named(number);
            let found = store.records().of_key(&key)?;
            let first = found.first().ok_or("the store was not filled")?;
            store.records().row(first)?;
            store.records().body(first)?;
            store.records().children(&key, b"a link of some bytes")?;
            store.touch(Resource::Record(*first))?;
        }
        Ok::<_, Failure>(())
    })?;
    time("the history of a build", || {
        let writer = store.history().begin("a-build")?;
        let (id, summary) = ("a-build".to_owned(), vec![7; 500]);
        let entry = HistoryEntry { id, created: 1, completed: 2, pinned: false, summary };
        writer.finish(&entry, &HistoryBlobs::default())
    })?;
    time("flushing and closing it", || store.flush().map(|()| drop(store)))?;
    Ok(())
}

#[allow(clippy::print_stdout)] // its answer
fn time<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let answer = work();
    println!("{what} {:.6}", begun.elapsed().as_secs_f64());
    answer
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
