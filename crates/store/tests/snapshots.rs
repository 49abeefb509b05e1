//! Snapshots: drafts become layers or vanish, chains come in overlay's order.

use oci::Digest;
use store::{Error, Form, Kind, Resource, SnapshotId, Store};

use crate::{count, new, open};

/// A snapshot with one file.
pub(crate) fn layer(store: &Store, parent: Option<SnapshotId>, name: &str) -> SnapshotId {
    let mut draft = store.snapshots().begin(parent).unwrap();
    std::fs::write(draft.upper().join(name), name).unwrap();
    draft.describe(Kind::Regular, name);
    draft.commit().unwrap()
}

#[test]
fn a_chain_is_listed_top_first() {
    let (root, store) = new();
    let base = layer(&store, None, "base");
    let top = layer(&store, Some(base), "top");
    let draft = store.snapshots().begin(Some(top)).unwrap();
    assert_eq!(draft.lower(), [store.snapshots().dir(top), store.snapshots().dir(base)]);
    drop(draft);
    drop(store);
    let store = open(root.path());
    let layers = store.snapshots().layers(top).unwrap();
    assert!(layers[0].join("top").exists() && layers[1].join("base").exists() && layers.len() == 2);
    let info = store.snapshots().info(top).unwrap();
    assert_eq!((info.parent, info.depth, info.description.as_str()), (Some(base), 2, "top"));
    assert_eq!(store.snapshots().children(base).unwrap(), [top]);
    assert_eq!(top.to_string().parse::<SnapshotId>().unwrap(), top);
    assert_eq!(serde_json::to_string(&top).unwrap(), format!("\"{top}\""));
}

#[test]
fn a_draft_that_is_not_committed_leaves_nothing() {
    let (_root, store) = new();
    let mut draft = store.snapshots().begin(None).unwrap();
    std::fs::create_dir(draft.work().unwrap().join("work")).unwrap();
    std::fs::write(draft.upper().join("file"), "x").unwrap();
    let id = draft.id();
    drop(draft);
    assert_eq!((count(&store, "drafts"), count(&store, "snapshots")), (0, 0));
    assert!(matches!(store.snapshots().layers(id), Err(Error::NotFound { .. })));
    // A committed one leaves its work folder nowhere either.
    layer(&store, None, "x");
    assert_eq!((count(&store, "drafts"), count(&store, "snapshots")), (0, 1));
}

#[test]
fn what_is_built_on_or_held_stays() {
    let (_root, store) = new();
    let base = layer(&store, None, "base");
    let top = layer(&store, Some(base), "top");
    assert!(matches!(store.snapshots().remove(base), Err(Error::InUse { .. })));
    let lease = store.leases().hold(Resource::Snapshot(top)).unwrap();
    assert!(matches!(store.snapshots().remove(top), Err(Error::InUse { .. })));
    drop(lease);
    store.snapshots().remove(top).unwrap();
    store.snapshots().remove(base).unwrap();
    assert_eq!(count(&store, "snapshots"), 0);
    assert!(matches!(store.snapshots().begin(Some(base)), Err(Error::NotFound { .. })));
}

#[test]
fn a_parent_that_went_meanwhile_fails_the_commit() {
    let (_root, store) = new();
    let base = layer(&store, None, "base");
    let draft = store.snapshots().begin(Some(base)).unwrap();
    store.snapshots().remove(base).unwrap();
    assert!(matches!(draft.commit(), Err(Error::NotFound { .. })));
    assert_eq!((count(&store, "drafts"), count(&store, "snapshots")), (0, 0));
}

#[test]
fn layers_of_images_are_found_again() {
    let (_root, store) = new();
    let id = layer(&store, None, "base");
    let (diff, chain) = (Digest::of(b"diff"), Digest::of(b"chain"));
    let layers = store.layer_blobs();
    layers.set_diff(id, diff, 10_240).unwrap();
    layers.set_chain(id, chain).unwrap();
    let form = |recipe: &str, blob: &[u8]| Form {
        media_type: oci::media::OCI_LAYER_GZIP.to_owned(),
        recipe: recipe.to_owned(),
        digest: Digest::of(blob),
        size: 5,
    };
    layers.add_form(id, form("gzip 6", b"one")).unwrap();
    layers.add_form(id, form("gzip 9", b"two")).unwrap();
    layers.add_form(id, form("gzip 6", b"three")).unwrap();
    let layer = layers.get(id).unwrap();
    assert_eq!((layer.diff_id, layer.diff_size, layer.forms.len()), (Some(diff), Some(10_240), 2));
    assert_eq!(layers.find_chain(&chain).unwrap(), Some(id));
    layers.forget_form(id, &Digest::of(b"three")).unwrap();
    assert_eq!(layers.get(id).unwrap().forms.len(), 1);
    store.snapshots().remove(id).unwrap();
    assert_eq!(layers.find_chain(&chain).unwrap(), None);
    assert_eq!(layers.get(id).unwrap(), store::Layer::default());
}

#[test]
fn sizes_count_a_file_with_two_names_once() {
    let (_root, store) = new();
    let draft = store.snapshots().begin(None).unwrap();
    std::fs::write(draft.upper().join("a"), vec![1; 100_000]).unwrap();
    std::fs::hard_link(draft.upper().join("a"), draft.upper().join("b")).unwrap();
    let id = draft.commit().unwrap();
    let size = store.snapshots().size(id).unwrap();
    assert!((100_000..180_000).contains(&size), "{size}");
    assert_eq!(store.snapshots().info(id).unwrap().size, Some(size));
}
