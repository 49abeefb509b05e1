//! Plans by rules, and sweeps that act on them.

use oci::{Descriptor, Digest, media};
use proptest::prelude::*;
use store::lifecycle::{Disk, Filter, Inventory, Item, Keep, Policy, Rule, UsageRecord, parse_duration, plan, sweep};
use store::{Form, Image, Kind, NewRecord, Removal, Resource, Sharing, SnapshotId, Store, VolumeRequest};

use crate::records::record;
use crate::snapshots::layer;
use crate::{count, new, open};

/// A snapshot with a record and a compressed form.
pub(crate) fn step(store: &Store, parent: Option<SnapshotId>, name: &str) -> SnapshotId {
    let id = layer(store, parent, name);
    let blob = store.blobs().put(name.as_bytes()).unwrap();
    let form = Form {
        media_type: media::OCI_LAYER_GZIP.to_owned(),
        recipe: "gzip 6".to_owned(),
        digest: blob.digest,
        size: blob.size,
    };
    store.layer_blobs().add_form(id, form).unwrap();
    let key = Digest::of(format!("key {name}").as_bytes());
    let (keys, snapshots) = ([key], [id]);
    let new = NewRecord { snapshots: &snapshots, cost: 1500, ..record(Digest::of(name.as_bytes()), &keys, 1) };
    store.records().put(&new).unwrap();
    id
}

fn all() -> Policy {
    Policy::asked("larder prune", Rule { all: true, ..Rule::default() })
}

fn prune(store: &Store, policy: &Policy) -> store::lifecycle::Swept {
    let inventory = Inventory::take(store).unwrap();
    sweep(store, plan(&inventory, policy, u64::MAX)).unwrap()
}

#[test]
fn du_shows_what_is_there() {
    let (_root, store) = new();
    let base = step(&store, None, "base");
    let top = step(&store, Some(base), "top");
    store.touch(Resource::Snapshot(top)).unwrap();
    let lease = store.leases().hold(Resource::Snapshot(top)).unwrap();
    let mut wait = || std::ops::ControlFlow::Break(());
    let request = VolumeRequest { name: "/c", seed: None, sharing: Sharing::Shared, description: "cached mount /c" };
    drop(store.volumes().take(&request, &mut wait).unwrap());
    let loose = store.blobs().put(b"loose").unwrap();
    let inventory = Inventory::take(&store).unwrap();
    let rows: Vec<&UsageRecord> = inventory.usage().collect();
    assert_eq!(rows.len(), 4);
    let find = |id: String| *rows.iter().find(|row| row.id == id).unwrap();
    let row = find(top.to_string());
    assert_eq!((row.parents.clone(), row.in_use, row.usage_count), (vec![base.to_string()], true, 1));
    assert!(row.size > 3 && row.last_used.is_some() && !row.mutable && !row.shared);
    assert!(find(base.to_string()).in_use, "what a held snapshot is built on is in use");
    assert_eq!(find(loose.digest.to_string()).kind, Kind::Internal);
    let volume = rows.iter().find(|row| row.kind == Kind::CacheMount).unwrap();
    assert!(volume.mutable && volume.usage_count == 1 && volume.description == "cached mount /c");
    assert!(inventory.disk.total > inventory.disk.free && inventory.disk.free > 0);
    drop(lease);
}

#[test]
fn pruning_all_leaves_nothing_but_tombstones() {
    let (root, store) = new();
    let base = step(&store, None, "base");
    let top = step(&store, Some(base), "top");
    let key = Digest::of(b"key top");
    store.records().add_links(&[(Digest::of(b"key base"), b"link", key)]).unwrap();
    store.records().put_tree(&Digest::of(b"tree"), b"listing").unwrap();
    drop(store);
    // A file of the millisecond in which the store is opened may be a running step's.
    std::thread::sleep(std::time::Duration::from_millis(2));
    let store = open(root.path());
    let swept = prune(&store, &all());
    assert_eq!(
        swept.gone.iter().map(|gone| gone.usage.id.clone()).collect::<Vec<_>>(),
        [top, base].map(|id| id.to_string())
    );
    assert!(swept.bytes > 0 && swept.spared.is_empty());
    assert_eq!((count(&store, "snapshots"), count(&store, "trash"), count(&store, "trees")), (0, 0, 0));
    assert!(store.blobs().list().unwrap().is_empty() && store.records().list().unwrap().is_empty());
    assert!(store.records().children(&Digest::of(b"key base"), b"link").unwrap().is_empty());
    let grave = store.records().tombstone(&key).unwrap().unwrap();
    assert_eq!(grave.removal, Removal::Pruned("larder prune".to_owned()));
    assert_eq!(grave.bytes, swept.gone[0].usage.size);
}

#[test]
fn what_is_needed_stays() {
    let (root, store) = new();
    let base = step(&store, None, "base");
    let top = step(&store, Some(base), "top");
    let named = step(&store, None, "named");
    let layers_only = step(&store, None, "layers only");
    let form = store.layer_blobs().get(named).unwrap().forms[0].digest;
    let image = |name: &str, blobs: Vec<Digest>, snapshots| Image {
        name: name.to_owned(),
        target: Descriptor::new(media::OCI_MANIFEST, Digest::of(b"m"), 1),
        created: 0,
        blobs,
        snapshots,
    };
    store.images().set(&image("with blobs", vec![form], vec![named])).unwrap();
    store.images().set(&image("without", vec![], vec![layers_only])).unwrap();
    drop(store);
    let store = open(root.path());
    let lease = store.leases().hold(Resource::Snapshot(top)).unwrap();
    let inventory = Inventory::take(&store).unwrap();
    let plan_all = plan(&inventory, &all(), u64::MAX);
    let why = |id| plan_all.keeps.iter().find(|(what, _)| *what == Resource::Snapshot(id)).map(|(_, why)| why.clone());
    assert_eq!(why(top), Some(Keep::InUse));
    assert_eq!(why(base), Some(Keep::InUse));
    assert_eq!(why(layers_only), Some(Keep::Image("without".to_owned())));
    assert_eq!(why(named), None, "the image has it as a blob");
    let some = plan(&inventory, &Policy::asked("me", Rule::default()), u64::MAX);
    assert!(some.keeps.contains(&(Resource::Snapshot(named), Keep::NotAll)), "shared with an image");
    let swept = sweep(&store, plan_all).unwrap();
    assert_eq!(swept.gone.len(), 1);
    store.blobs().verify(&form).unwrap();
    drop(lease);
}

#[test]
fn a_plan_that_does_not_hold_any_more_spares() {
    let (root, store) = new();
    let base = step(&store, None, "base");
    let other = step(&store, None, "other");
    drop(store);
    let store = open(root.path());
    let made = plan(&Inventory::take(&store).unwrap(), &all(), u64::MAX);
    assert_eq!(made.drops.len(), 2);
    let top = layer(&store, Some(base), "top");
    let lease = store.leases().hold(Resource::Snapshot(other)).unwrap();
    let swept = sweep(&store, made).unwrap();
    assert!(swept.gone.is_empty() && swept.spared.len() == 2, "{swept:?}");
    assert_eq!(store.snapshots().layers(top).unwrap().len(), 2);
    drop(lease);
    // Made a moment ago by this process, and of no record: a build's, if one goes on that began before.
    let inventory = Inventory::take(&store).unwrap();
    let created = store.snapshots().info(top).unwrap().created;
    let stays = |inventory: &Inventory| {
        let made = plan(inventory, &all(), created);
        made.keeps.contains(&(Resource::Snapshot(top), Keep::Young))
    };
    assert!(stays(&inventory), "nobody says which builds go on");
    assert!(stays(&inventory.clone().going_since(Some(created))));
    assert!(!stays(&inventory.clone().going_since(Some(created + 1))));
    assert!(!stays(&inventory.going_since(None)));
}

#[test]
fn leftovers_of_a_kill_go() {
    let (root, store) = new();
    let kept = step(&store, None, "kept");
    drop(store);
    std::fs::create_dir(root.path().join("snapshots/0000000000001")).unwrap();
    std::fs::create_dir(root.path().join("volumes/0000000000001")).unwrap();
    let digest = Digest::of(b"renamed, not noted");
    std::fs::create_dir_all(root.path().join("blobs/sha256").join(&digest.hex()[..2])).unwrap();
    std::fs::write(root.path().join("blobs/sha256").join(&digest.hex()[..2]).join(digest.hex()), "x").unwrap();
    std::fs::write(root.path().join("history/interrupted"), "x").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let store = open(root.path());
    let nothing = Policy { rules: Vec::new(), ask: store::lifecycle::Ask::Collector };
    assert_eq!(prune(&store, &nothing).leftovers, 4);
    assert_eq!((count(&store, "snapshots"), count(&store, "volumes"), count(&store, "history")), (1, 0, 0));
    assert_eq!(prune(&store, &nothing).leftovers, 0);
    assert!(store.snapshots().dir(kept).is_dir());
}

#[test]
fn indexes_of_scans_go_when_they_are_old() {
    let (root, store) = new();
    let days = |n: u64| std::time::SystemTime::now() - std::time::Duration::from_secs(n * 86_400);
    for (name, age) in [("old", 31), ("old.copies", 31), ("young", 29), ("new", 0)] {
        let file = std::fs::File::create(root.path().join("scans").join(name)).unwrap();
        file.set_modified(days(age)).unwrap();
    }
    let nothing = Policy { rules: Vec::new(), ask: store::lifecycle::Ask::Collector };
    assert_eq!(prune(&store, &nothing).leftovers, 2);
    assert!(root.path().join("scans/young").exists() && root.path().join("scans/new").exists());
    assert_eq!(count(&store, "scans"), 2);
}

/// An inventory of which only the numbers matter.
fn inventory(rows: &[(u64, u64, u64, Option<usize>)]) -> Inventory {
    let ids: Vec<SnapshotId> = (0..rows.len()).map(|n| format!("{n:013}").parse().unwrap()).collect();
    let items = rows.iter().enumerate().map(|(n, (size, used, cost, parent))| {
        let usage =
            UsageRecord { id: ids[n].to_string(), size: *size, last_used: Some(*used), ..UsageRecord::default() };
        Item { parent: parent.map(|p| ids[p]), cost: *cost, ..Item::new(Resource::Snapshot(ids[n]), usage) }
    });
    Inventory { items: items.collect(), disk: Disk { total: 1000, free: 100 }, going_since: u64::MAX }
}

fn dropped(plan: &store::lifecycle::Plan) -> Vec<usize> {
    plan.drops.iter().map(|drop| drop.usage.id.parse().unwrap()).collect()
}

#[test]
fn the_least_worth_goes_first() {
    const DAY: u64 = 86_400_000;
    let rows = [
        (10_000_000, 10 * DAY, 1000, None),  // fresh and cheap
        (10_000_000, DAY, 1000, None),       // old and cheap
        (10_000_000, DAY, 600_000, None),    // old, but took ten minutes
        (500_000_000, 10 * DAY, 1000, None), // fresh, cheap and large
    ];
    let inventory = inventory(&rows);
    let at = |max_used_space| {
        let rule = Rule { max_used_space, ..Rule::default() };
        dropped(&plan(&inventory, &Policy::asked("me", rule), 10 * DAY))
    };
    assert_eq!(at(530_000_000), [0; 0]);
    assert_eq!(at(529_000_000), [1]);
    assert_eq!(at(519_000_000), [1, 3]);
    assert_eq!(at(11_000_000), [1, 3, 2]);
    assert_eq!(at(1), [1, 3, 2, 0]);
}

#[test]
fn the_numbers_mean_what_buildkits_mean() {
    let inventory = inventory(&[(100, 10, 0, None), (100, 20, 0, None), (100, 30, 0, Some(1)), (100, 40, 0, None)]);
    let gone = |rule: Rule| {
        let mut gone = dropped(&plan(&inventory, &Policy::asked("me", rule), 40));
        gone.sort_unstable();
        gone
    };
    assert_eq!(gone(Rule::default()), [0, 1, 2, 3]);
    assert_eq!(gone(Rule { keep_duration: 15, ..Rule::default() }), [0], "1 carries 2, which is recent");
    assert_eq!(gone(Rule { max_used_space: 400, ..Rule::default() }), [0; 0]);
    assert_eq!(gone(Rule { max_used_space: 399, ..Rule::default() }).len(), 1);
    assert_eq!(gone(Rule { max_used_space: 1, reserved_space: 300, ..Rule::default() }).len(), 1);
    // 100 of the disk are free.
    assert_eq!(gone(Rule { min_free_space: 100, ..Rule::default() }), [0; 0], "it is satisfied");
    assert_eq!(gone(Rule { min_free_space: 250, ..Rule::default() }).len(), 2);
    assert_eq!(gone(Rule { min_free_space: 250, reserved_space: 350, ..Rule::default() }).len(), 1);
    assert_eq!(gone(Rule { filter: Filter::parse(&["id~=2$"]).unwrap(), ..Rule::default() }), [2]);
    let standard = Policy::standard(Disk { total: 200_000_000_000, free: 0 });
    assert_eq!(standard.rules.len(), 4);
    assert_eq!(standard.rules[3].max_used_space, 100_000_000_000);
}

proptest! {
    #[test]
    fn a_plan_never_takes_what_it_must_not(
        rows in prop::collection::vec((0u64..1000, 0u64..100, 0u64..5000, any::<prop::sample::Index>(), 0u8..6), 0..40),
        max in 0u64..20_000, reserved in 0u64..3000, keep in 0u64..100, going_since in 0u64..100,
    ) {
        let plain: Vec<_> = rows.iter().enumerate()
            .map(|(n, (size, used, cost, parent, _))| (*size, *used, *cost, (n > 0).then(|| parent.index(n)).filter(|p| p % 3 > 0)))
            .collect();
        let mut inventory = inventory(&plain);
        for (item, row) in inventory.items.iter_mut().zip(&rows) {
            item.usage.in_use = row.4 == 0;
            item.alone = row.4 == 1 || row.4 == 2;
            item.usage.created = row.1;
        }
        inventory.going_since = going_since;
        let rule = Rule { max_used_space: max, reserved_space: reserved, keep_duration: keep, ..Rule::default() };
        let target = if max == 0 && reserved == 0 { 0 } else { max.max(reserved) };
        let made = plan(&inventory, &Policy::asked("me", rule), 100);
        prop_assert_eq!(&made, &plan(&inventory, &Policy::asked("me", Rule { max_used_space: max, reserved_space: reserved, keep_duration: keep, ..Rule::default() }), 100));
        prop_assert_eq!(made.drops.len() + made.keeps.len(), rows.len(), "every item has its reason");
        let gone = dropped(&made);
        let total: u64 = plain.iter().map(|row| row.0).sum();
        for (n, item) in inventory.items.iter().enumerate() {
            if gone.contains(&n) {
                prop_assert!(!item.usage.in_use);
                prop_assert!(!item.alone || item.usage.created < going_since);
                prop_assert!(keep == 0 || plain[n].1 + keep <= 100);
                let children = plain.iter().enumerate().filter(|(_, row)| row.3 == Some(n)).map(|(c, _)| c);
                for child in children {
                    let place = gone.iter().position(|g| *g == child);
                    prop_assert!(place < gone.iter().position(|g| *g == n) && place.is_some(), "children go first");
                }
            }
        }
        // It stops as soon as the total fits, and not before while anything may go.
        if let Some(last) = made.drops.last() {
            let before = total - made.bytes() + last.usage.size;
            prop_assert!(before > target || target == 0);
        }
        let may_go = made.keeps.iter().any(|(_, why)| *why == Keep::Room);
        prop_assert!(!may_go || total - made.bytes() <= target);
    }
}

#[test]
fn filters_are_buildkits() {
    let record = UsageRecord {
        id: "abc".to_owned(),
        parents: vec!["x".to_owned(), "y".to_owned()],
        description: "mount / from exec /bin/sh -c make, all".to_owned(),
        in_use: true,
        ..UsageRecord::default()
    };
    let is = |filters: &[&str]| Filter::parse(filters).unwrap().matches(&record);
    assert!(is(&[]) && is(&[""]) && is(&["id==abc"]) && is(&["id~=^a.c$"]) && is(&["type==regular,inuse"]));
    assert!(is(&["parents==x;y"]) && is(&["description~=make"]) && is(&[r#"description~="make, all""#]));
    assert!(is(&["immutable,private"]) && is(&["mutable", "inuse"]) && is(&["type!=internal"]) && is(&["inuse==true"]));
    assert!(!is(&["mutable"]) && !is(&["shared"]) && !is(&["id==abc,type==internal"]) && !is(&["nonsense"]));
    assert!(!is(&["inuse!=true"]) && is(&["nonsense!=1"]));
    let error = |text: &str| Filter::parse(&[text]).unwrap_err().to_string();
    insta::assert_snapshot!(error("type=regular"), @"cannot read the filter `type=regular`: expected `,`, `==`, `!=` or `~=` at character 5");
    insta::assert_snapshot!(error("type=="), @"cannot read the filter `type==`: expected a value at character 7");
    insta::assert_snapshot!(error("inuse,"), @"cannot read the filter `inuse,`: expected a field such as `type` or `inuse` at character 7");
    assert!(error("id~=(").contains("at character 5"), "{}", error("id~=("));
}

#[test]
fn flags_are_buildxs() {
    let usage = |id: &str, description: &str| UsageRecord {
        id: id.to_owned(),
        description: description.to_owned(),
        ..UsageRecord::default()
    };
    let rule = |flags: &[&str]| Rule::default().with_flags(flags).unwrap();
    let both = rule(&["until=1h", "type=regular", "id=bc", r#"description~=say "a, b""#]);
    assert_eq!(both.keep_duration, 3_600_000);
    assert!(both.filter.matches(&usage("abcd", r#"say "a, b" twice"#)));
    assert!(!both.filter.matches(&usage("acbd", r#"say "a, b" twice"#)) && !both.filter.matches(&usage("abcd", "a")));
    assert!(rule(&["type!=internal", "immutable"]).filter.matches(&usage("", "")));
    assert!(rule(&[r"description=a\b"]).filter.matches(&usage("", r"a\b")));
    assert!(rule(&["unused-for=24h"]).filter.is_all() && rule(&[]).filter.is_all());
    assert!(Rule::default().with_flags(&["until=soon"]).is_err());
}

#[test]
fn volumes_go_unless_they_are_mounted() {
    let (_root, store) = new();
    let mut wait = || std::ops::ControlFlow::Break(());
    let request = |name| VolumeRequest { name, seed: None, sharing: Sharing::Shared, description: "" };
    drop(store.volumes().take(&request("free"), &mut wait).unwrap());
    let mounted = store.volumes().take(&request("mounted"), &mut wait).unwrap();
    std::fs::write(mounted.path().join("file"), [1; 5000]).unwrap();
    let made = plan(&Inventory::take(&store).unwrap(), &all(), u64::MAX);
    let late = store.volumes().take(&request("free"), &mut wait).unwrap();
    let swept = sweep(&store, made).unwrap();
    assert_eq!(swept.spared, [Resource::Volume(late.id())]);
    drop(late);
    let filter = Filter::parse(&["type==exec.cachemount"]).unwrap();
    let policy = Policy::asked("me", Rule { filter, ..Rule::default() });
    assert_eq!(prune(&store, &policy).gone.len(), 1);
    assert_eq!(count(&store, "volumes"), 1);
    assert!(mounted.path().join("file").exists());
    drop(mounted);
    let inventory = Inventory::take(&store).unwrap();
    assert!(inventory.usage().next().unwrap().size >= 5000);
}

#[test]
fn durations_are_gos() {
    let seconds = |text: &str| parse_duration(text).map(|d| d.as_secs_f64()).ok();
    assert_eq!(seconds("24h"), Some(86_400.0));
    assert_eq!(seconds("1h30m"), Some(5400.0));
    assert_eq!(seconds("1.5s"), Some(1.5));
    assert_eq!(seconds("7d"), Some(604_800.0));
    assert_eq!(seconds("0"), Some(0.0));
    for bad in ["", "h", "12", "3 h", "1x", "-1h", "."] {
        assert_eq!(seconds(bad), None, "{bad}");
    }
}
