//! Layers packed and unpacked: hostile archives stay inside, and a layer keeps its bytes through a round trip.

use std::fs;
use std::path::Path;

use store::layer::{Compression, Recipe, pack, unpack};

use crate::new;

/// A tar with entries written as they are given: the crate's own checks of names are gone around.
fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, text) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        let is_file = *kind == tar::EntryType::Regular;
        header.set_size(if is_file { text.len() as u64 } else { 0 });
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        if !is_file {
            header.as_mut_bytes()[157..157 + text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, if is_file { text.as_bytes() } else { b"" }).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn hostile_names_stay_inside() {
    use tar::EntryType::{Link, Regular, Symlink};
    let (_root, store) = new();
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "mine").unwrap();
    let (dir, file) = (outside.path().to_str().unwrap(), victim.to_str().unwrap());
    for entries in [
        vec![("../../../../../../escape", Regular, "x")],
        vec![(file, Regular, "theirs")],
        vec![("door", Symlink, dir), ("door/victim", Regular, "theirs")],
        vec![("up", Symlink, "../../../../../../../.."), ("up/escape", Regular, "x")],
        vec![("door", Symlink, file), ("door", Regular, "theirs")],
    ] {
        unpack(&store, None, archive(&entries).as_slice(), "hostile").unwrap();
    }
    // A hard link finds its target in the root, where it is not.
    assert!(unpack(&store, None, archive(&[("stolen", Link, file)]).as_slice(), "hostile").is_err());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert!(!Path::new("/escape").exists());
}

#[test]
fn a_round_trip_keeps_the_bytes() {
    use tar::EntryType::{Link, Regular, Symlink};
    let (_root, store) = new();
    let entries = [
        ("a", Regular, "one"),
        ("b", Link, "a"),
        ("c", Symlink, "nowhere"),
        (".wh.gone", Regular, ""),
        ("z", Regular, ""),
    ];
    let first = unpack(&store, None, archive(&entries).as_slice(), "first").unwrap();
    let mut diff = None;
    for compression in [Compression::None, Compression::Gzip(6), Compression::Zstd(3)] {
        let recipe = Recipe { compression, clamp: None, docker_media: false };
        let packed = pack(&store, first.snapshot, &recipe).unwrap();
        let blob = store.blobs().open(&packed.digest).unwrap();
        let again = unpack(&store, None, blob, "again").unwrap();
        assert_eq!((again.diff_id, again.diff_size), (packed.diff_id, packed.diff_size));
        assert_eq!(pack(&store, again.snapshot, &recipe).unwrap(), packed, "{compression:?}");
        assert_eq!(*diff.get_or_insert(packed.diff_id), packed.diff_id);
    }
}
