//! Rows against a plain map, over reopenings, checkpoints, torn ends and boots.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)] // A test that fails may panic, and skips are told.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const TEST: Table<Vec<u8>, String> = Table::new(200, "test", 1);
const OTHER: Table<u64, u64> = Table::new(201, "other", 1);

fn open(root: &Path, boot: &str) -> (Meta, Recovered) {
    Meta::open(root, boot).expect("open")
}

fn put(meta: &Meta, key: &str, value: &str) {
    meta.write(|batch| batch.put(&TEST, &key.as_bytes().to_vec(), &value.to_owned())).expect("write");
}

fn all(meta: &Meta, prefix: &[u8]) -> Vec<(Vec<u8>, String)> {
    meta.rows().expect("rows").list(&TEST, prefix).expect("list")
}

fn get(meta: &Meta, key: &str) -> Option<String> {
    meta.get(&TEST, &key.as_bytes().to_vec()).expect("get")
}

#[derive(Clone, Debug)]
enum Act {
    Put(Vec<u8>, String),
    Delete(Vec<u8>),
    Checkpoint,
    Reopen,
    Sync,
    Boot,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let key = || prop::collection::vec(0u8..4, 0..4);
    let act = prop_oneof![
        8 => (key(), "[a-z]{0,6}").prop_map(|(key, value)| Act::Put(key, value)),
        4 => key().prop_map(Act::Delete),
        1 => Just(Act::Checkpoint),
        1 => Just(Act::Reopen),
        1 => Just(Act::Sync),
        1 => Just(Act::Boot),
    ];
    prop::collection::vec(act, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn rows_are_a_map(acts in acts()) {
        let root = tempfile::tempdir().unwrap();
        let mut boot = 0;
        let (mut meta, _) = open(root.path(), "0");
        let mut model: BTreeMap<Vec<u8>, String> = BTreeMap::new();
        // What a power loss leaves.
        let mut safe = model.clone();
        for act in acts {
            match act {
                Act::Put(key, value) => {
                    meta.write(|batch| {
                        batch.put(&TEST, &key, &value)?;
                        assert_eq!(batch.get(&TEST, &key)?, Some(value.clone()));
                        batch.put(&OTHER, &(key.len() as u64), &1)
                    }).unwrap();
                    model.insert(key, value);
                }
                Act::Delete(key) => {
                    meta.write(|batch| { batch.delete(&TEST, &key); Ok(()) }).unwrap();
                    model.remove(&key);
                }
                Act::Checkpoint => { meta.checkpoint().unwrap(); safe = model.clone(); }
                Act::Sync => { mark_synced(root.path(), meta.sync_point()).unwrap(); safe = model.clone(); }
                Act::Reopen => { drop(meta); meta = open(root.path(), &boot.to_string()).0; }
                Act::Boot => {
                    drop(meta);
                    boot += 1;
                    meta = open(root.path(), &boot.to_string()).0;
                    model = safe.clone();
                }
            }
            for (key, value) in &model {
                prop_assert_eq!(meta.get(&TEST, key).unwrap(), Some(value.clone()));
            }
            for prefix in [&[][..], &[1], &[2, 3]] {
                let want: Vec<_> = model.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect();
                prop_assert_eq!(all(&meta, prefix), want);
            }
        }
    }
}

#[test]
fn any_cut_of_the_journal_leaves_a_prefix_of_the_writes() {
    let root = tempfile::tempdir().unwrap();
    let (meta, _) = open(root.path(), "b");
    for number in 0..8 {
        put(&meta, &format!("key{number}"), "value");
    }
    drop(meta);
    let path = root.path().join("journal.1");
    let whole = std::fs::read(&path).unwrap();
    let mut seen = 8;
    for cut in (0..whole.len()).rev() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let (meta, _) = open(root.path(), "b");
        let rows = all(&meta, &[]).len();
        assert!(rows <= seen && rows + 1 >= seen, "cut at {cut}: {rows} after {seen}");
        seen = rows;
        // It goes on from there.
        put(&meta, "more", "value");
        drop(meta);
        let (meta, recovered) = open(root.path(), "b");
        assert_eq!(recovered.dropped, 0);
        assert_eq!(get(&meta, "more").as_deref(), Some("value"));
        assert_eq!(all(&meta, &[]).len(), rows + 1);
    }
    assert_eq!(seen, 0);
}

#[test]
fn any_flipped_byte_is_a_cut_or_an_error_that_names_the_file() {
    let root = tempfile::tempdir().unwrap();
    let (meta, _) = open(root.path(), "b");
    for number in 0..4 {
        put(&meta, &format!("key{number}"), "value");
    }
    drop(meta);
    let path = root.path().join("journal.1");
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        std::fs::write(&path, &bytes).unwrap();
        match Meta::open(root.path(), "b") {
            Ok((meta, recovered)) => {
                let rows = all(&meta, &[]);
                assert!(rows.iter().all(|(_, value)| value == "value"), "byte {at}");
                // The number in the header is for people only.
                assert!(rows.len() < 4 || (8..16).contains(&at) && recovered.dropped == 0, "byte {at}");
            }
            Err(error) => assert!(at < 8 && error.to_string().contains("journal.1"), "byte {at}: {error}"),
        }
    }
}

#[test]
fn a_kill_between_checkpoint_and_cleaning_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (meta, _) = open(root.path(), "b");
    put(&meta, "a", "1");
    put(&meta, "b", "1");
    let old = std::fs::read(root.path().join("journal.1")).unwrap();
    meta.checkpoint().unwrap();
    put(&meta, "a", "2");
    drop(meta);
    // The old journal is still there, as after a kill before its removal.
    std::fs::write(root.path().join("journal.1"), old).unwrap();
    let (meta, _) = open(root.path(), "b");
    assert_eq!((get(&meta, "a").as_deref(), get(&meta, "b").as_deref()), (Some("2"), Some("1")));
    assert!(!root.path().join("journal.1").exists());
}

#[test]
fn a_half_made_base_is_made_anew() {
    let root = tempfile::tempdir().unwrap();
    let (meta, _) = open(root.path(), "b");
    put(&meta, "a", "1");
    std::fs::write(root.path().join("meta.new"), b"half").unwrap();
    meta.checkpoint().unwrap();
    drop(meta);
    assert_eq!(get(&open(root.path(), "b").0, "a").as_deref(), Some("1"));
}

#[test]
fn a_damaged_base_is_an_error_that_names_the_file() {
    let root = tempfile::tempdir().unwrap();
    let (meta, _) = open(root.path(), "b");
    (0..2000).for_each(|number| put(&meta, &format!("key{number}"), "value"));
    meta.checkpoint().unwrap();
    drop(meta);
    let path = root.path().join("meta.redb");
    let whole = std::fs::read(&path).unwrap();
    for len in [0, 1, 100, 4096, whole.len() / 2] {
        std::fs::write(&path, &whole[..len]).unwrap();
        let error = match Meta::open(root.path(), "b") {
            Ok(_) => panic!("opened a base of {len} bytes"),
            Err(error) => error.to_string(),
        };
        assert!(error.contains("meta.redb"), "{len} bytes: {error}");
    }
    let mut bytes = whole.clone();
    bytes[..16].fill(7);
    std::fs::write(&path, &bytes).unwrap();
    assert!(Meta::open(root.path(), "b").err().unwrap().to_string().contains("meta.redb"));
}

#[test]
fn a_checkpoint_is_asked_for_once_and_runs_beside_writers() {
    let root = tempfile::tempdir().unwrap();
    let (meta, _) = open(root.path(), "b");
    let text = "x".repeat(1000);
    let mut asked = 0;
    for number in 0..1200 {
        put(&meta, &format!("key{number}"), &text);
        asked += u32::from(meta.wants_checkpoint());
    }
    assert_eq!(asked, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| meta.checkpoint().unwrap());
        for number in 0..500 {
            put(&meta, &format!("key{number}"), "new");
            assert_eq!(get(&meta, "key1100").as_ref(), Some(&text));
        }
    });
    meta.checkpoint().unwrap();
    assert_eq!(all(&meta, &[]).len(), 1200);
    assert_eq!(all(&meta, &[]).iter().filter(|(_, value)| value == "new").count(), 500);
}
