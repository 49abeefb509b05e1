//! How long things take with many records. Run alone, in a release build:
//! `cargo test --release -p store --test main speed -- --ignored --nocapture --test-threads 1`.

use std::time::Instant;

use oci::Digest;
use store::lifecycle::{Inventory, Policy, Rule, plan, sweep};
use store::{NewRecord, Resource, Store};

use crate::records::record;
use crate::{count, open};

fn time<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let answer = work();
    eprintln!("{what:>48} {:9.3} ms", start.elapsed().as_secs_f64() * 1e3);
    answer
}

fn named(number: u64) -> Digest {
    Digest::of(&number.to_le_bytes())
}

/// What a cached build of twelve steps asks and writes.
fn cached_build(root: &std::path::Path) {
    let store = time("open", || open(root));
    time("12 steps looked up", || {
        for number in 0..12 {
            let key = named(number);
            let found = store.records().of_key(&key).unwrap();
            let row = store.records().row(&found[0]).unwrap().unwrap();
            store.records().body(&found[0]).unwrap().unwrap();
            store.records().children(&key, b"a link of some bytes").unwrap();
            if let Some(snapshot) = row.snapshots.first() {
                store.snapshots().layers(*snapshot).unwrap();
            }
            store.touch(Resource::Record(found[0])).unwrap();
        }
    });
    time("history kept", || {
        let writer = store.history().begin("a-build").unwrap();
        let entry = store::HistoryEntry {
            id: "a-build".to_owned(),
            created: 1,
            completed: 2,
            pinned: false,
            summary: vec![7; 500],
        };
        writer.finish(&entry, &store::HistoryBlobs::default()).unwrap();
    });
    time("flush", || store.flush().unwrap());
    time("close", || drop(store));
}

fn fill(root: &std::path::Path, records: u64) {
    let store = open(root);
    let body = vec![42; 600];
    for number in 0..records {
        let keys = [named(number)];
        let new = NewRecord { step: named(number / 8), body: &body, ..record(named(number), &keys, number) };
        store.records().put(&new).unwrap();
        store.records().add_links(&[(named(number), b"a link of some bytes", named(number + 1))]).unwrap();
        if number == records / 2 {
            store.sync().unwrap();
        }
    }
}

#[test]
#[ignore = "measures"]
fn with_many_records() {
    for records in [1000, 5000, 1_000_000] {
        let root = tempfile::tempdir().unwrap();
        time(&format!("{records} records written"), || fill(root.path(), records));
        let size: u64 = std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        eprintln!("{:>48} {:9.3} MB", "metadata", size as f64 / 1e6);
        for round in ["first", "second"] {
            eprintln!("-- {round} cached build of {records} records");
            cached_build(root.path());
        }
    }
}

#[test]
#[ignore = "measures"]
fn five_thousand_steps() {
    let root = tempfile::tempdir().unwrap();
    time("5000 steps written", || steps(root.path(), 5000));
    let store = time("open", || open(root.path()));
    time("inventory, sizes unknown", || Inventory::take(&store).unwrap());
    drop(store);
    let store = time("open again", || open(root.path()));
    let inventory = time("inventory (du)", || Inventory::take(&store).unwrap());
    assert_eq!(inventory.usage().count(), 5000);
    let all = Policy::asked("me", Rule { all: true, ..Rule::default() });
    time("sync", || store.sync().unwrap());
    let made = time("plan of all", || plan(&inventory, &all, u64::MAX));
    let swept = time("sweep of all", || sweep(&store, made).unwrap());
    assert_eq!((swept.gone.len(), count(&store, "snapshots"), count(&store, "trash")), (5000, 0, 0));
}

/// Chains of ten snapshots, each with eight files, a compressed form and a record.
fn steps(root: &std::path::Path, steps: u64) {
    let store = open(root);
    let mut parent = None;
    for number in 0..steps {
        let name = format!("step {number}");
        let id = crate::lifecycle::step(&store, parent, &name);
        (0..8)
            .for_each(|n| std::fs::write(store.snapshots().dir(id).join(format!("file{n}")), name.repeat(50)).unwrap());
        parent = (number % 10 != 9).then_some(id);
    }
    drop::<Store>(store);
}
