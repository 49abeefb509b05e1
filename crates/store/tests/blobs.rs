//! Blobs: what is written is what is read, and nothing else is ever handed out.

use std::io::{Read, Write};

use oci::Digest;
use store::{Error, Resource};

use crate::{count, new, open};

#[test]
fn written_bytes_come_back() {
    let (root, store) = new();
    let bytes = vec![42; 300_000];
    let mut writer = store.blobs().writer().unwrap();
    writer.write_all(&bytes).unwrap();
    let blob = writer.commit(Some(Digest::of(&bytes))).unwrap();
    assert_eq!((blob.digest, blob.size), (Digest::of(&bytes), 300_000));
    drop(store);
    let store = open(root.path());
    let mut back = Vec::new();
    store.blobs().open(&blob.digest).unwrap().read_to_end(&mut back).unwrap();
    assert!(back == bytes);
    store.blobs().verify(&blob.digest).unwrap();
    assert_eq!(store.blobs().list().unwrap().len(), 1);
    assert_eq!(count(&store, "tmp"), 0);
}

#[test]
fn other_bytes_than_announced_leave_nothing() {
    let (_root, store) = new();
    let mut writer = store.blobs().writer().unwrap();
    writer.write_all(b"other").unwrap();
    let error = writer.commit(Some(Digest::of(b"announced"))).unwrap_err();
    assert!(matches!(error, Error::WrongDigest { size: 5, .. }), "{error}");
    drop(store.blobs().writer().unwrap());
    assert_eq!((count(&store, "tmp"), store.blobs().list().unwrap().len()), (0, 0));
}

#[test]
fn missing_short_and_changed_blobs_are_told_apart() {
    let (_root, store) = new();
    let blobs = store.blobs();
    let missing = Digest::of(b"missing");
    assert!(matches!(blobs.open(&missing), Err(Error::BlobMissing { digest }) if digest == missing));

    let short = blobs.put(b"some bytes").unwrap().digest;
    std::fs::write(blobs.path(&short), b"some").unwrap();
    let error = blobs.open(&short).unwrap_err();
    assert!(matches!(error, Error::BlobCorrupt { .. }) && error.to_string().contains(&short.hex()), "{error}");

    let changed = blobs.put(b"other bytes").unwrap().digest;
    std::fs::write(blobs.path(&changed), b"OTHER bytes").unwrap();
    assert!(blobs.open(&changed).is_ok());
    assert!(matches!(blobs.verify(&changed), Err(Error::BlobCorrupt { .. })));
    assert!(matches!(blobs.read(&changed), Err(Error::BlobCorrupt { .. })));

    let gone = blobs.put(b"gone").unwrap().digest;
    std::fs::remove_file(blobs.path(&gone)).unwrap();
    assert!(blobs.has(&gone).unwrap());
    assert!(matches!(blobs.open(&gone), Err(Error::BlobMissing { .. })));
    assert!(!blobs.has(&gone).unwrap(), "it stays missing, so that it is fetched again");
}

#[test]
fn a_damaged_blob_is_healed_by_writing_it_again() {
    let (_root, store) = new();
    let blobs = store.blobs();
    let digest = blobs.put(b"bytes").unwrap().digest;
    std::fs::write(blobs.path(&digest), b"BYTES").unwrap();
    let mut writer = blobs.writer().unwrap();
    writer.write_all(b"bytes").unwrap();
    writer.commit(Some(digest)).unwrap();
    blobs.verify(&digest).unwrap();
}

#[test]
fn a_file_is_taken_in_by_name() {
    let (root, store) = new();
    let file = root.path().join("file");
    std::fs::write(&file, b"a layer").unwrap();
    let wrong = store.blobs().import(&file, Some(Digest::of(b"other"))).unwrap_err();
    assert!(matches!(wrong, Error::WrongDigest { .. }));
    let blob = store.blobs().import(&file, None).unwrap();
    assert_eq!(store.blobs().read(&blob.digest).unwrap(), b"a layer");
    assert!(file.exists());
    assert_eq!(count(&store, "tmp"), 0);
    // From another file system it is copied.
    if let Ok(elsewhere) = tempfile::tempdir_in("/dev/shm") {
        let file = elsewhere.path().join("file");
        std::fs::write(&file, b"from elsewhere").unwrap();
        let blob = store.blobs().import(&file, Some(Digest::of(b"from elsewhere"))).unwrap();
        assert_eq!(store.blobs().read(&blob.digest).unwrap(), b"from elsewhere");
    }
}

#[test]
fn a_held_blob_is_not_removed() {
    let (_root, store) = new();
    let digest = store.blobs().put(b"bytes").unwrap().digest;
    let lease = store.leases().hold(Resource::Blob(digest)).unwrap();
    let second = lease.clone();
    drop(lease);
    assert!(matches!(store.blobs().remove(&digest), Err(Error::InUse { .. })));
    drop(second);
    store.blobs().remove(&digest).unwrap();
    assert!(!store.blobs().has(&digest).unwrap() && !store.blobs().path(&digest).exists());
    store.blobs().remove(&digest).unwrap();
}
