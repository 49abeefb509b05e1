//! Volumes: who shares, who waits, who gets one of his own.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use store::lifecycle::Inventory;
use store::{Error, Sharing, Store, Volume, VolumeRequest};

use crate::{new, open};

fn request(name: &str, sharing: Sharing) -> VolumeRequest<'_> {
    VolumeRequest { name, seed: None, sharing, description: "" }
}

fn take(store: &Store, name: &str, sharing: Sharing) -> Volume {
    let mut never = || -> ControlFlow<()> { panic!("it waits") };
    store.volumes().take(&request(name, sharing), &mut never).unwrap()
}

#[test]
fn contents_stay_from_use_to_use() {
    let (root, store) = new();
    let volume = take(&store, "/cache", Sharing::Shared);
    assert!(volume.fresh());
    std::fs::write(volume.path().join("file"), "x").unwrap();
    drop(volume);
    drop(store);
    let store = open(root.path());
    let volume = take(&store, "/cache", Sharing::Locked);
    assert!(!volume.fresh() && volume.path().join("file").exists());
    assert!(take(&store, "/other", Sharing::Shared).fresh());
}

#[test]
fn retired_ones_are_found_by_nobody_and_go_with_their_last_user() {
    let (_root, store) = new();
    let ids = |store: &Store| store.volumes().list().unwrap().into_iter().map(|info| info.id).collect::<BTreeSet<_>>();
    let other = take(&store, "other", Sharing::Shared).id();
    drop(take(&store, "c", Sharing::Shared));
    let used = take(&store, "c", Sharing::Shared);
    let free = take(&store, "c", Sharing::Private).id();
    store.volumes().retire(&["c".to_owned()].into()).unwrap();
    assert_eq!(ids(&store), [other, used.id()].into());
    assert!(used.path().exists() && !ids(&store).contains(&free));
    let next = take(&store, "c", Sharing::Locked);
    assert!(next.fresh() && next.id() != used.id());
    let path = used.path().to_owned();
    drop(used);
    assert!(!path.exists());
    assert_eq!(ids(&store), [other, next.id()].into());
}

#[test]
fn sharing_decides_who_gets_which() {
    let (_root, store) = new();
    let one = take(&store, "c", Sharing::Shared);
    let two = take(&store, "c", Sharing::Shared);
    assert_eq!(one.id(), two.id());
    let own = take(&store, "c", Sharing::Private);
    assert_ne!(own.id(), one.id());
    // A private one is nobody else's while it is in use.
    assert_eq!(take(&store, "c", Sharing::Shared).id(), one.id());
    drop((one, two));
    // One is free now, so nothing waits.
    let locked = take(&store, "c", Sharing::Locked);
    assert_ne!(locked.id(), own.id());
    let mut asked = 0;
    let mut give_up = || {
        asked += 1;
        if asked < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let error = store.volumes().take(&request("c", Sharing::Locked), &mut give_up).err().unwrap();
    assert!(matches!(error, Error::InUse { .. }) && asked == 3);
}

#[test]
fn a_locked_mount_gets_it_when_the_other_ends() {
    let (_root, store) = new();
    let first = take(&store, "c", Sharing::Locked);
    let id = first.id();
    let other = store.clone();
    let second = std::thread::spawn(move || {
        let mut wait = || ControlFlow::Continue(());
        other.volumes().take(&request("c", Sharing::Locked), &mut wait).unwrap().id()
    });
    std::thread::sleep(Duration::from_millis(80));
    assert!(!second.is_finished());
    drop(first);
    assert_eq!(second.join().unwrap(), id);
}

#[test]
fn a_half_filled_one_begins_anew() {
    let (root, store) = new();
    let seed = crate::snapshots::layer(&store, None, "seed");
    let request = VolumeRequest { seed: Some(seed), ..request("c", Sharing::Shared) };
    let mut wait = || ControlFlow::Break(());
    let volume = store.volumes().take(&request, &mut wait).unwrap();
    std::fs::write(volume.path().join("half"), "x").unwrap();
    assert!(store.volumes().take(&request, &mut wait).is_err(), "others wait until it is filled");
    drop(volume);
    drop(store);
    let store = open(root.path());
    let mut volume = store.volumes().take(&request, &mut wait).unwrap();
    assert!(volume.fresh() && !volume.path().join("half").exists());
    volume.filled().unwrap();
    let again = store.volumes().take(&request, &mut wait).unwrap();
    assert!(!again.fresh() && again.id() == volume.id());
    assert_ne!(take(&store, "c", Sharing::Shared).id(), volume.id(), "another seed is another volume");
}

#[test]
fn new_ones_and_inventories_do_not_wait_for_each_other_in_a_circle() {
    let (_root, store) = new();
    let end = std::time::Instant::now() + Duration::from_millis(300);
    let going = || std::time::Instant::now() < end;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while going() {
                let held: Vec<Volume> = (0..8).map(|_| take(&store, "c", Sharing::Private)).collect();
                store.volumes().retire(&BTreeSet::from(["c".to_owned()])).unwrap();
                drop(held);
            }
        });
        scope.spawn(|| {
            while going() {
                Inventory::take(&store).unwrap();
            }
        });
    });
}
