//! Records and links against a plain model, over reopenings.

use std::collections::{BTreeMap, BTreeSet};

use oci::Digest;
use proptest::prelude::*;
use store::{Error, NewRecord, Removal, Resource, Store};

use crate::{new, open};

fn digest(number: u8) -> Digest {
    Digest::of(&[number])
}

pub(crate) fn record(id: Digest, keys: &[Digest], created: u64) -> NewRecord<'_> {
    NewRecord {
        id,
        keys,
        operation: digest(201),
        step: digest(200),
        snapshots: &[],
        blobs: &[],
        trees: &[],
        created,
        cost: 0,
        body: b"body",
    }
}

#[derive(Clone, Debug)]
enum Act {
    Put { id: u8, keys: Vec<u8>, step: u8, created: u64 },
    AddKey { id: u8, key: u8 },
    Remove { id: u8 },
    Link { parent: u8, link: u8, child: u8 },
    Reopen,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (0u8..12, prop::collection::vec(0u8..8, 0..3), 0u8..2, 0u64..50)
            .prop_map(|(id, keys, step, created)| Act::Put { id, keys, step, created }),
        2 => (0u8..12, 0u8..8).prop_map(|(id, key)| Act::AddKey { id, key }),
        3 => (0u8..12).prop_map(|id| Act::Remove { id }),
        3 => (0u8..4, 0u8..3, 0u8..6).prop_map(|(parent, link, child)| Act::Link { parent, link, child }),
        1 => Just(Act::Reopen),
    ];
    prop::collection::vec(act, 0..50)
}

#[derive(Default)]
struct Model {
    /// Keys, step and time of each record.
    records: BTreeMap<u8, (BTreeSet<u8>, u8, u64)>,
    links: BTreeSet<(u8, u8, u8)>,
    graves: BTreeMap<u8, u8>,
}

impl Model {
    fn newest(&self, has: impl Fn(&(BTreeSet<u8>, u8, u64)) -> bool) -> Vec<Digest> {
        let mut list: Vec<_> = self.records.iter().filter(|(_, r)| has(r)).map(|(id, r)| (r.2, digest(*id))).collect();
        list.sort_by(|a, b| b.cmp(a));
        list.into_iter().map(|(_, id)| id).collect()
    }

    fn act(&mut self, store: &Store, act: &Act) {
        let records = store.records();
        match act {
            Act::Put { id, keys, step, created } => {
                let named: Vec<Digest> = keys.iter().map(|key| digest(100 + key)).collect();
                let new = NewRecord { step: digest(50 + step), ..record(digest(*id), &named, *created) };
                records.put(&new).unwrap();
                self.graves.retain(|key, _| !keys.contains(key));
                self.records.insert(*id, (keys.iter().copied().collect(), *step, *created));
            }
            Act::AddKey { id, key } => match self.records.get_mut(id) {
                Some(known) => {
                    records.add_keys(digest(*id), &[digest(100 + key)]).unwrap();
                    known.0.insert(*key);
                    self.graves.remove(key);
                }
                None => {
                    let error = records.add_keys(digest(*id), &[digest(100 + key)]).unwrap_err();
                    assert!(matches!(error, Error::NotFound { .. }));
                }
            },
            Act::Remove { id } => {
                records.remove(&[(digest(*id), 7)], &Removal::Pruned("me".to_owned())).unwrap();
                if let Some((keys, ..)) = self.records.remove(id) {
                    self.graves.extend(keys.into_iter().map(|key| (key, *id)));
                }
            }
            Act::Link { parent, link, child } => {
                records.add_links(&[(digest(*parent), &[*link], digest(*child))]).unwrap();
                self.links.insert((*parent, *link, *child));
            }
            Act::Reopen => {}
        }
    }

    fn check(&self, store: &Store) {
        let records = store.records();
        for key in 0..8 {
            assert_eq!(records.of_key(&digest(100 + key)).unwrap(), self.newest(|r| r.0.contains(&key)));
            let grave = records.tombstone(&digest(100 + key)).unwrap();
            assert_eq!(grave.map(|grave| grave.record), self.graves.get(&key).map(|id| digest(*id)), "key {key}");
        }
        for id in 0..12 {
            assert_eq!(records.row(&digest(id)).unwrap().is_some(), self.records.contains_key(&id));
            assert_eq!(records.body(&digest(id)).unwrap().is_some(), self.records.contains_key(&id));
        }
        for parent in 0..4 {
            for link in 0..3 {
                let want: BTreeSet<Digest> =
                    self.links.iter().filter(|l| (l.0, l.1) == (parent, link)).map(|l| digest(l.2)).collect();
                let got = records.children(&digest(parent), &[link]).unwrap();
                assert_eq!(got.into_iter().collect::<BTreeSet<_>>(), want);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn records_are_what_the_model_says(acts in acts()) {
        let (root, mut store) = new();
        let mut model = Model::default();
        for act in &acts {
            if matches!(act, Act::Reopen) {
                drop(store);
                store = open(root.path());
            }
            model.act(&store, act);
        }
        model.check(&store);
    }
}

#[test]
fn a_step_remembers_its_newest_eight() {
    let (_root, store) = new();
    for number in 0..12 {
        store.records().put(&record(digest(number), &[], u64::from(number))).unwrap();
    }
    let newest: Vec<Digest> = (4..12).rev().map(digest).collect();
    assert_eq!(store.records().of_step(&digest(200)).unwrap(), newest);
    assert!(store.records().row(&digest(0)).unwrap().is_some(), "the record itself stays");
}

/// A solver's record of one step.
fn solved(key: Digest, created: u64, listing: Digest) -> solver::Record {
    let ingredients = solver::Ingredients {
        name: "[build 2/3] COPY . .".to_owned(),
        parts: vec![
            solver::Part::Instruction("COPY . .".to_owned()),
            solver::Part::Files { from: "context".to_owned(), listing, count: 1 },
        ],
        parents: vec![solver::Parent { name: "[build 1/3] FROM x".to_owned(), key: Some(digest(9)) }],
    };
    solver::Record {
        keys: vec![key],
        operation: digest(8),
        results: vec!["snapshot".to_owned()],
        inputs: vec!["base".to_owned()],
        ingredients,
        cost: solver::Cost { millis: 1200, bytes: 5 },
        created,
        build: "b1".to_owned(),
        locator: solver::Locator::of("project", "", "[build 2/3] COPY . ."),
    }
}

#[test]
fn the_solver_finds_what_was_saved() {
    use solver::Index;
    let (root, store) = new();
    let records = store.records();
    let files = solver::Files(vec![solver::FileEntry {
        path: "a".to_owned(),
        kind: solver::FileKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        digest: digest(7),
    }]);
    let listing = records.put_files(&files).unwrap();
    let snapshot = crate::snapshots::layer(&store, None, "result");
    let link = solver::Link { input: 0, output: 0, digest: digest(8), selector: Some(digest(6)) };
    let made_of = store::MadeOf { snapshots: vec![snapshot], blobs: Vec::new() };
    let (parent, key) = (digest(1), digest(2));
    let old = records.save(&solved(key, 10, listing), &[(parent, link, key)], &made_of).unwrap();
    let new = records.save(&solved(key, 20, listing), &[(parent, link, key)], &made_of).unwrap();
    records.link(&[(digest(3), link, key)]).unwrap();
    drop(store);

    let store = open(root.path());
    let records = store.records();
    let index = records.index();
    let all = std::collections::BTreeSet::new();
    assert_eq!(index.children(&all, &parent, &link), [key]);
    assert_eq!(index.children(&all, &digest(3), &link), [key]);
    assert_eq!(index.children(&all, &parent, &solver::Link { selector: None, ..link }), []);
    let mut parents = records.parents(&key).unwrap();
    parents.sort();
    let mut expected = [(parent, link), (digest(3), link)];
    expected.sort();
    assert_eq!(parents, expected);
    assert_eq!(index.newest(&all, &[digest(99), key]), Some((key, new)));
    records.renew(&old, 30).unwrap();
    assert_eq!(index.newest(&all, &[key]), Some((key, old)));
    assert_eq!(records.use_now(&old).unwrap(), solved(key, 10, listing));
    assert_eq!(store.last_use(Resource::Snapshot(snapshot)).unwrap().map(|(_, count)| count), Some(1));
    assert_eq!(records.of_operation(&digest(8)).unwrap(), [old, new]);
    let locator = solver::Locator::of("project", "", "[build 2/4] COPY . .");
    assert_eq!(records.earlier(&locator, &digest(99)).unwrap().len(), 2);
    // Elsewhere in the project it is found by its operation, and in another project not at all.
    let elsewhere = |project| solver::Locator::of(project, "", "[other 1/4] COPY . .");
    assert_eq!(records.earlier(&elsewhere("project"), &digest(8)).unwrap().len(), 2);
    assert_eq!(records.earlier(&elsewhere("another"), &digest(8)).unwrap().len(), 0);
    assert_eq!(records.files(&listing).unwrap(), Some(files));
    index.failure().unwrap();

    store.snapshots().remove(snapshot).unwrap();
    assert_eq!(index.newest(&all, &[key]), None);
    assert!(matches!(records.use_now(&old), Err(Error::NotFound { .. })));
    let lost = records.lost(&[digest(99), key]).unwrap().unwrap();
    assert!(matches!(lost.cause, solver::Cause::BlobMissing { .. }));
}

#[test]
fn listings_are_kept_and_damage_is_told() {
    let (_root, store) = new();
    let tree = digest(1);
    assert_eq!(store.records().tree(&tree).unwrap(), None);
    let listing = b"a listing ".repeat(1000);
    store.records().put_tree(&tree, &listing).unwrap();
    assert_eq!(store.records().tree(&tree).unwrap(), Some(listing));
    let path = store.root().join("trees").join(tree.hex());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = store.records().tree(&tree).unwrap_err();
    assert!(matches!(&error, Error::Damaged { path: named, .. } if *named == path), "{error}");
}

#[test]
fn uses_add_up_over_flushes() {
    let (root, store) = new();
    let what = Resource::Record(digest(1));
    assert_eq!(store.last_use(what).unwrap(), None);
    store.touch(what).unwrap();
    store.flush().unwrap();
    store.touch(what).unwrap();
    store.touch(what).unwrap();
    let (used, count) = store.last_use(what).unwrap().unwrap();
    assert!(used > 0 && count == 3);
    drop(store);
    assert_eq!(open(root.path()).last_use(what).unwrap(), Some((used, 3)));
}
