//! Kept builds: written, listed newest first, pinned, and dropped when they are old and many.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use store::lifecycle::Inventory;
use store::{Error, HistoryBlobs, HistoryEntry, Retention, Store};

use crate::{count, new, open};

fn keep(store: &Store, id: &str, at: u64, pinned: bool) {
    let mut writer = store.history().begin(id).unwrap();
    writer.write_all(format!("events of {id}").as_bytes()).unwrap();
    let entry = HistoryEntry { id: id.to_owned(), created: at, completed: at + 1, pinned, summary: vec![1, 2] };
    writer.finish(&entry, &store::HistoryBlobs::default()).unwrap();
}

#[test]
fn newest_first_with_its_events() {
    let (root, store) = new();
    keep(&store, "a", 10, false);
    keep(&store, "b", 20, false);
    drop(store.history().begin("running").unwrap());
    drop(store);
    let store = open(root.path());
    let list = store.history().list().unwrap();
    assert_eq!(list.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    let mut text = String::new();
    store.history().events("a").unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "events of a");
    store.history().remove("a").unwrap();
    assert!(matches!(store.history().events("a"), Err(Error::NotFound { .. })));
    assert_eq!(count(&store, "history"), 1);
    for bad in ["", "../x", ".hidden", "a/b"] {
        assert!(store.history().begin(bad).is_err(), "{bad}");
    }
}

#[test]
fn retention_needs_old_and_many() {
    let (_root, store) = new();
    for number in 0..6 {
        keep(&store, &format!("b{number}"), number * 1000, number == 0);
    }
    let retention = Retention { entries: 2, age: Duration::from_millis(3500) };
    assert_eq!(store.history().retain(retention, 5001).unwrap(), ["b1"]);
    assert_eq!(store.history().retain(retention, 5001).unwrap(), Vec::<String>::new());
    store.history().pin("b2", true).unwrap();
    assert_eq!(store.history().retain(retention, u64::MAX).unwrap(), ["b3"]);
    let left: Vec<String> = store.history().list().unwrap().into_iter().map(|entry| entry.id).collect();
    assert_eq!(left, ["b5", "b4", "b2", "b0"]);
}

#[test]
fn keeping_a_build_is_quick() {
    let (_root, store) = new();
    keep(&store, "warm", 0, false);
    let start = Instant::now();
    for number in 0..100 {
        keep(&store, &format!("b{number}"), number, false);
    }
    let each = start.elapsed() / 100;
    eprintln!("keeping a build takes {each:?}");
    assert!(each < Duration::from_millis(10), "{each:?}");
}

#[test]
fn blobs_stay_as_long_as_the_build_that_has_them() {
    let (_root, store) = new();
    let put = |text: &[u8]| store.blobs().put(text).unwrap().digest;
    let (log, both, manifest) = (put(b"log"), put(b"both"), put(b"manifest"));
    let entry = |id: &str| HistoryEntry { id: id.to_owned(), created: 1, completed: 2, pinned: false, summary: vec![] };
    let begin = |id: &str, blobs: HistoryBlobs| store.history().begin(id).unwrap().finish(&entry(id), &blobs).unwrap();
    begin("a", HistoryBlobs { own: vec![both], results: vec![manifest] });
    begin("b", HistoryBlobs { own: vec![both], results: vec![] });
    // What is made later for a kept build is its own too.
    store.history().change("a", |_, blobs| blobs.own.push(log)).unwrap();
    let loose = || {
        let inventory = Inventory::take(&store).unwrap();
        let mut blobs: Vec<_> = inventory.items.into_iter().flat_map(|item| item.blobs).collect();
        blobs.sort();
        blobs
    };
    assert!(loose().is_empty(), "the collector would take blobs of a kept build");
    store.history().remove("a").unwrap();
    let has = |digest| store.blobs().has(&digest).unwrap();
    assert!(!has(log) && has(both) && has(manifest));
    assert_eq!(loose(), [manifest]);
    store.history().remove("b").unwrap();
    assert!(!has(both));
}
