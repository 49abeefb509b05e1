//! One owner at a time; who comes second hears whom it waits for.

use std::time::{Duration, Instant};

use store::{Error, Options, Store};

use crate::{count, new, open};

#[test]
fn the_second_waits_and_says_for_whom() {
    let (root, store) = new();
    let path = root.path().to_owned();
    let (sender, heard) = std::sync::mpsc::channel();
    let second = std::thread::spawn(move || {
        let mut told = |owner: &store::Owner| sender.send(owner.clone()).unwrap();
        Store::open(&path, Options { command: "second".to_owned(), on_wait: Some(&mut told), give_up: None })
            .map(|store| store.blobs().has(&oci::Digest::of(b"x")).unwrap())
    });
    let owner = heard.recv_timeout(Duration::from_secs(10)).unwrap();
    assert_eq!((owner.pid, owner.command.as_str()), (std::process::id(), "test"));
    assert!(owner.to_string().contains("`test`") && owner.since > 0);
    store.blobs().put(b"x").unwrap();
    drop(store);
    assert!(second.join().unwrap().unwrap(), "it sees what the first wrote");
    assert!(heard.try_recv().is_err(), "told once");
}

#[test]
fn whoever_does_not_want_to_wait_gets_the_owner() {
    let (root, _store) = new();
    let start = Instant::now();
    let options = Options { give_up: Some(Duration::from_millis(50)), ..Options::default() };
    let error = Store::open(root.path(), options).err().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(matches!(&error, Error::Locked { owner, .. } if owner.pid == std::process::id()), "{error}");
    assert!(error.to_string().contains("`test`"), "{error}");
}

#[test]
fn a_store_of_another_format_is_refused_by_name() {
    let (root, store) = new();
    drop(store);
    for text in ["larder store 99\n", "what"] {
        std::fs::write(root.path().join("format"), text).unwrap();
        let error = Store::open(root.path(), Options::default()).err().unwrap();
        assert!(matches!(error, Error::Version { expected: 2, .. }), "{error}");
        assert!(error.to_string().contains("format"), "{error}");
    }
}

#[test]
fn what_a_dead_process_left_is_cleaned() {
    let (root, store) = new();
    drop(store);
    std::fs::write(root.path().join("tmp/half"), "half a blob").unwrap();
    let draft = root.path().join("drafts/left");
    std::fs::create_dir_all(draft.join("upper/a/b")).unwrap();
    std::fs::write(draft.join("upper/a/b/c"), "c").unwrap();
    let store = open(root.path());
    assert_eq!((count(&store, "tmp"), count(&store, "drafts")), (0, 0));
    let start = Instant::now();
    while count(&store, "trash") > 0 && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(count(&store, "trash"), 0);
}

#[test]
fn rows_of_files_that_a_power_loss_took_are_forgotten() {
    let (root, store) = new();
    let kept = store.blobs().put(b"kept").unwrap().digest;
    let lost = store.blobs().put(b"lost").unwrap().digest;
    let snapshot = crate::snapshots::layer(&store, None, "a");
    let top = crate::snapshots::layer(&store, Some(snapshot), "b");
    let above = crate::lifecycle::step(&store, Some(top), "c");
    store.sync().unwrap();
    assert!(!store.unsynced().unwrap());
    let unsynced = store.blobs().put(b"unsynced").unwrap().digest;
    assert!(store.unsynced().unwrap());
    std::fs::remove_file(store.blobs().path(&lost)).unwrap();
    std::fs::remove_dir_all(store.snapshots().dir(top)).unwrap();
    drop(store);
    // Another boot wrote the journal: give its boot frame another id of the same length, with a checksum to match.
    rename_boot(&root.path().join("journal.1"));
    let store = open(root.path());
    assert!(store.recovered().new_boot && store.recovered().dropped > 0);
    assert!(store.blobs().has(&kept).unwrap());
    assert!(!store.blobs().has(&lost).unwrap() && !store.blobs().has(&unsynced).unwrap());
    assert!(store.snapshots().has(snapshot).unwrap() && !store.snapshots().has(top).unwrap());
    assert!(store.snapshots().children(snapshot).unwrap().is_empty());
    assert!(!store.snapshots().has(above).unwrap(), "nothing stands on what is lost");
    let grave = store.records().tombstone(&oci::Digest::of(b"key c")).unwrap().unwrap();
    assert!(matches!(grave.removal, store::Removal::Lost(_)));
}

fn rename_boot(journal: &std::path::Path) {
    let mut bytes = std::fs::read(journal).unwrap();
    let length = u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize;
    let body = 28..28 + length;
    assert_eq!(bytes[28], 0, "the first frame is the boot's");
    bytes[29] = if bytes[29] == b'0' { b'1' } else { b'0' };
    let sum = blake3::hash(&bytes[body]);
    bytes[20..28].copy_from_slice(&sum.as_bytes()[..8]);
    std::fs::write(journal, bytes).unwrap();
}
