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
fn hostile_headers_are_errors() {
    use tar::EntryType::{Directory, Regular};
    let (root, store) = new();
    let refused = |bytes: &[u8]| unpack(&store, None, bytes, "hostile").unwrap_err().to_string();
    for name in [".wh.", ".wh..", ".wh...", "d/.wh..."] {
        let text = refused(&archive(&[("d", Directory, ""), (name, Regular, "")]));
        assert!(text.contains("it removes nothing that has a name"), "{name}: {text}");
    }
    assert!(root.path().join("drafts").is_dir() && root.path().join("snapshots").is_dir());
    // A file that nobody could hold, as such and with holes; and one that ends before it should.
    let sized = |header: &mut tar::Header, size: u64| {
        header.set_mode(0o644);
        header.set_size(size);
        header.as_mut_bytes()[..1].copy_from_slice(b"f");
    };
    let mut header = tar::Header::new_gnu();
    sized(&mut header, 8 << 60);
    header.set_cksum();
    assert!(refused(header.as_bytes()).contains("bytes, and"));
    let mut header = tar::Header::new_gnu();
    sized(&mut header, 0);
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.as_mut_bytes()[483..495].copy_from_slice(b"\x80\0\0\0\x70\0\0\0\0\0\0\0");
    header.as_mut_bytes()[386..398].copy_from_slice(b"\x80\0\0\0\x70\0\0\0\0\0\0\0");
    header.as_mut_bytes()[398..410].copy_from_slice(b"00000000000\0");
    header.set_cksum();
    let text = refused(&[header.as_bytes() as &[u8], &[0; 1024]].concat());
    assert!(text.contains("bytes, and"), "{text}");
    let mut header = tar::Header::new_gnu();
    sized(&mut header, 1000);
    header.set_cksum();
    assert!(unpack(&store, None, [header.as_bytes() as &[u8], b"short"].concat().as_slice(), "hostile").is_err());
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
