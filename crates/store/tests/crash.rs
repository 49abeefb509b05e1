//! `kill -9` at random moments: what was acknowledged is there, nothing is corrupt, and leftovers go.
//! The child is this test binary again, told by a variable where to work; it acknowledges into a file, which outlives it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oci::Digest;
use store::lifecycle::{Inventory, Policy, Rule, plan, sweep};
use store::{NewRecord, Resource, SnapshotId, Store};

use crate::{count, open};

const WHERE: &str = "STORE_TEST_CRASH_IN";
const ROUNDS: u64 = 60;

/// Not a test by itself: the child's work, endless. Without the variable it does nothing.
#[test]
fn child() {
    let Some(root) = std::env::var_os(WHERE) else { return };
    let root = Path::new(&root);
    let store = open(&root.join("store"));
    let mut acks = OpenOptions::new().append(true).create(true).open(root.join("acks")).unwrap();
    let start = std::process::id() as u64 * 1_000_000;
    let mut parent = None;
    for number in start.. {
        step(&store, number, &mut parent, &mut acks);
        if number % 64 == 63 {
            prune_half(&store, &mut acks);
            parent = None;
        }
    }
}

/// One write of a whole line: a kill comes before or after it.
fn ack(acks: &mut File, line: &str) {
    acks.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// One blob, one snapshot, one record.
fn step(store: &Store, number: u64, parent: &mut Option<SnapshotId>, acks: &mut File) {
    // Big enough to be cut in the middle, and for the journal to be folded every few rounds.
    let bytes: Vec<u8> = number.to_le_bytes().repeat(1 + (number % 7) as usize * 2000);
    let mut writer = store.blobs().writer().unwrap();
    bytes.chunks(4096).for_each(|chunk| writer.write_all(chunk).unwrap());
    let blob = writer.commit(Some(Digest::of(&bytes))).unwrap();
    ack(acks, &format!("blob {}", blob.digest));
    let draft = store.snapshots().begin(*parent).unwrap();
    std::fs::write(draft.upper().join("file"), &bytes).unwrap();
    let id = draft.commit().unwrap();
    ack(acks, &format!("snapshot {id} {}", blob.digest));
    *parent = if number.is_multiple_of(5) { None } else { Some(id) };
    let name = Digest::of(&number.to_be_bytes());
    let body = number.to_le_bytes().repeat(400);
    let (keys, snapshots) = ([name], [id]);
    let record = NewRecord {
        id: name,
        keys: &keys,
        operation: name,
        step: name,
        snapshots: &snapshots,
        blobs: &[blob.digest],
        trees: &[],
        created: number,
        cost: 1,
        body: &body,
    };
    store.records().put(&record).unwrap();
    ack(acks, &format!("record {name} {}", Digest::of(&body)));
    store.touch(Resource::Record(name)).unwrap();
}

/// Prunes what it can of half of everything; what is about to go is written down first.
fn prune_half(store: &Store, acks: &mut File) {
    let inventory = Inventory::take(store).unwrap();
    let total: u64 = inventory.usage().map(|usage| usage.size).sum();
    let rule = Rule { all: true, reserved_space: (total / 2).max(1), ..Rule::default() };
    let plan = plan(&inventory, &Policy::asked("child", rule), u64::MAX);
    for drop in &plan.drops {
        let blobs = drop.blobs.iter().map(|blob| format!(" {blob}")).collect::<String>();
        let records = drop.records.iter().map(|record| format!(" {record}")).collect::<String>();
        ack(acks, &format!("going {}{blobs}{records}", drop.usage.id));
    }
    sweep(store, plan).unwrap();
}

/// Bytes of acknowledgements; one is of about 80.
fn written(root: &Path) -> u64 {
    std::fs::metadata(root.join("acks")).map_or(0, |data| data.len())
}

#[test]
fn kills_lose_nothing_that_was_acknowledged() {
    let root = tempfile::tempdir().unwrap();
    let mut chance = 0x9e37_79b9_7f4a_7c15u64;
    let mut checked = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child", "--nocapture"])
            .env(WHERE, root.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round);
        // Every other kill comes after some work, so that a busy machine has its share of it; the others come whenever they
        // come, in the middle of the opening too.
        let wanted = if round % 2 == 1 { written(root.path()) + 400 + (chance >> 33) % 3000 } else { 0 };
        let begun = Instant::now();
        while written(root.path()) < wanted && begun.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(if wanted > 0 { 0 } else { 3000 } + (chance >> 40) % 60_000));
        let early = child.try_wait().unwrap();
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(early.is_none(), "round {round}: {}", String::from_utf8_lossy(&output.stderr));
        checked = check(root.path(), round);
    }
    eprintln!("{ROUNDS} kills, {checked} acknowledged things were there in the end");
    assert!(checked > 100, "the child did too little: {checked}");
    let store = open(&root.path().join("store"));
    let leave_nothing = Policy::asked("test", Rule { all: true, ..Rule::default() });
    sweep(&store, plan(&Inventory::take(&store).unwrap(), &leave_nothing, u64::MAX)).unwrap();
    let blobs = std::fs::read_dir(store.root().join("blobs/sha256")).unwrap();
    let blobs: usize = blobs.map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap().count()).sum();
    assert_eq!((blobs, count(&store, "snapshots"), count(&store, "trash")), (0, 0, 0));
}

/// Holds the store against the acknowledgements; returns how many of them still stood.
fn check(root: &Path, round: u64) -> usize {
    let store = open(&root.join("store"));
    assert_eq!((count(&store, "tmp"), count(&store, "drafts")), (0, 0), "round {round}");
    let acks = std::fs::read_to_string(root.join("acks")).unwrap_or_default();
    let words: Vec<Vec<&str>> = acks.lines().map(|line| line.split(' ').collect()).collect();
    let going: std::collections::HashSet<&str> =
        words.iter().filter(|words| words[0] == "going").flat_map(|words| words[1..].iter().copied()).collect();
    let mut stood = 0;
    for words in words.iter().filter(|words| words[0] != "going" && !going.contains(words[1])) {
        stood += 1;
        match words[0] {
            "blob" => store.blobs().verify(&words[1].parse().unwrap()).unwrap(),
            "snapshot" => {
                let layers = store.snapshots().layers(words[1].parse().unwrap()).unwrap();
                let bytes = std::fs::read(layers[0].join("file")).unwrap();
                assert_eq!(Digest::of(&bytes).to_string(), words[2]);
                assert!(layers.iter().all(|layer| layer.is_dir()));
            }
            _ => {
                let body = store.records().body(&words[1].parse().unwrap()).unwrap();
                assert_eq!(body.map(|body| Digest::of(&body).to_string()).as_deref(), Some(words[2]), "round {round}");
            }
        }
    }
    // Whatever the store lists is whole, acknowledged or not.
    store.blobs().list().unwrap().iter().for_each(|blob| store.blobs().verify(&blob.digest).unwrap());
    for snapshot in store.snapshots().list().unwrap() {
        assert!(store.snapshots().dir(snapshot.id).join("file").is_file(), "round {round}");
        assert!(snapshot.parent.is_none_or(|parent| store.snapshots().has(parent).unwrap()), "round {round}");
    }
    for (id, row) in store.records().list().unwrap() {
        assert!(store.records().body(&id).unwrap().is_some());
        assert!(row.snapshots.iter().all(|snapshot| store.snapshots().has(*snapshot).unwrap()), "round {round}");
        assert_eq!(store.records().of_key(&row.keys[0]).unwrap(), [id]);
    }
    stood
}

#[test]
fn a_killed_owner_lets_the_next_in_at_once() {
    let root = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--nocapture"])
        .env(WHERE, root.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !root.path().join("acks").exists() && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(2));
    }
    let options = store::Options { give_up: Some(Duration::ZERO), ..store::Options::default() };
    let error = Store::open(&root.path().join("store"), options).err().unwrap();
    assert!(matches!(error, store::Error::Locked { owner, .. } if owner.pid == child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    let options = store::Options { give_up: Some(Duration::ZERO), ..store::Options::default() };
    Store::open(&root.path().join("store"), options).unwrap();
}
