//! Names of images.

use oci::{Descriptor, Digest, media};
use store::{Error, Image};

use crate::{new, open};

#[test]
fn names_are_set_listed_moved_and_taken_away() {
    let (root, store) = new();
    let mut target = Descriptor::new(media::OCI_MANIFEST, Digest::of(b"m"), 1);
    target.annotations.insert("a".to_owned(), "b".to_owned());
    let blobs = vec![Digest::of(b"m"), Digest::of(b"c")];
    let image = Image { name: "docker.io/library/app:1".to_owned(), target, created: 5, blobs, snapshots: Vec::new() };
    store.images().set(&image).unwrap();
    store.images().tag(&image.name, "docker.io/library/app:2").unwrap();
    drop(store);
    let store = open(root.path());
    assert_eq!(store.images().get(&image.name).unwrap().unwrap(), image);
    let names: Vec<String> = store.images().list().unwrap().into_iter().map(|image| image.name).collect();
    assert_eq!(names, ["docker.io/library/app:1", "docker.io/library/app:2"]);
    store.images().remove(&image.name).unwrap();
    assert_eq!(store.images().get(&image.name).unwrap(), None);
    let error = store.images().remove(&image.name).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }));
    insta::assert_snapshot!(error, @"there is no image `docker.io/library/app:1` in the store");
}
