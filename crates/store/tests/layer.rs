//! Layers packed and unpacked: hostile archives stay inside, and a layer keeps its bytes through a round trip.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use store::layer::{Compression, Recipe, changes, pack, unpack};
use store::view::View;
use store::{SnapshotId, Store};

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

/// A snapshot whose own layer `fill` writes, as overlay would have it.
fn layer(store: &Store, parent: Option<SnapshotId>, fill: impl FnOnce(&Path)) -> SnapshotId {
    let draft = store.snapshots().begin(parent).unwrap();
    fill(draft.upper());
    draft.commit().unwrap()
}

/// All paths of a layer's folder; a whiteout has `-` before it, a directory `/` after it.
fn listed(store: &Store, id: SnapshotId) -> Vec<String> {
    fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (name, data) = (entry.file_name().into_string().unwrap(), fs::symlink_metadata(entry.path()).unwrap());
            if data.is_dir() {
                found.push(format!("{prefix}{name}/"));
                walk(&entry.path(), &format!("{prefix}{name}/"), found);
            } else {
                let gone = if data.file_type().is_char_device() { "-" } else { "" };
                found.push(format!("{gone}{prefix}{name}"));
            }
        }
    }
    let mut found = Vec::new();
    walk(&store.snapshots().dir(id), "", &mut found);
    found.sort();
    found
}

#[test]
fn what_a_tree_has_over_another() {
    let (_root, store) = new();
    let write = |path: PathBuf, text: &str| fs::write(path, text).unwrap();
    let lower = layer(&store, None, |at| {
        fs::create_dir(at.join("d")).unwrap();
        write(at.join("d/kept"), "kept");
        write(at.join("d/gone"), "gone");
        write(at.join("same"), "same");
        write(at.join("file"), "file");
    });
    let upper = layer(&store, None, |at| {
        fs::create_dir_all(at.join("d")).unwrap();
        fs::hard_link(store.snapshots().dir(lower).join("d/kept"), at.join("d/kept")).unwrap();
        fs::hard_link(store.snapshots().dir(lower).join("same"), at.join("same")).unwrap();
        fs::create_dir(at.join("file")).unwrap();
        write(at.join("file/new"), "new");
        fs::hard_link(at.join("file/new"), at.join("other name")).unwrap();
    });
    let view = |id| View::of_layers(store.snapshots().layers(id).unwrap());
    let made = store.snapshots().begin(None).unwrap();
    changes::between(&view(lower), &view(upper), &made).unwrap();
    let made = made.commit().unwrap();
    assert_eq!(listed(&store, made), ["-d/gone", "d/", "file/", "file/new", "other name"]);
    let inode = |path: &str| fs::metadata(store.snapshots().dir(made).join(path)).unwrap().ino();
    assert_eq!(inode("file/new"), inode("other name"), "several names of one file stay one");
    let emptied = store.snapshots().begin(None).unwrap();
    changes::between(&view(lower), &View::empty(), &emptied).unwrap();
    assert_eq!(listed(&store, emptied.commit().unwrap()), ["-d", "-file", "-same"]);
}

#[test]
fn a_layer_laid_elsewhere_says_only_what_it_changed() {
    let (_root, store) = new();
    let base = layer(&store, None, |at| {
        fs::create_dir(at.join("hidden")).unwrap();
        fs::write(at.join("hidden/old"), "old").unwrap();
        fs::write(at.join("moved"), "moved").unwrap();
    });
    let plain = layer(&store, Some(base), |at| fs::write(at.join("new"), "new").unwrap());
    let mixed = layer(&store, Some(base), |at| {
        fs::create_dir(at.join("hidden")).unwrap();
        store::canvas::set_opaque(&at.join("hidden")).unwrap();
        fs::write(at.join("hidden/new"), "new").unwrap();
        // What was moved away and back is in the layer, and is what it was.
        fs::copy(store.snapshots().dir(base).join("moved"), at.join("moved")).unwrap();
        let time = fs::metadata(store.snapshots().dir(base).join("moved")).unwrap().modified().unwrap();
        fs::File::options().write(true).open(at.join("moved")).unwrap().set_modified(time).unwrap();
        store::canvas::whiteout(&at.join("nothing beneath")).unwrap();
    });
    let lay = |id| {
        let draft = store.snapshots().begin(None).unwrap();
        let whole = changes::of_layer(&store, id, &draft).unwrap();
        (listed(&store, draft.commit().unwrap()), whole)
    };
    assert_eq!(lay(plain), (vec!["new".to_owned()], true));
    let expected = ["-hidden/old", "-nothing beneath", "hidden/", "hidden/new"].map(str::to_owned).to_vec();
    assert_eq!(lay(mixed), (expected, false));
}

#[test]
fn a_large_file_that_is_packed_again_gives_the_bytes_that_it_gives_elsewhere() {
    let data: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
    let tar = |name: &str| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, data.as_slice()).unwrap();
        tar.into_inner().unwrap()
    };
    let recipe = Recipe::standard();
    let (_root, store) = new();
    let one = unpack(&store, None, tar("one").as_slice(), "one").unwrap();
    let two = unpack(&store, None, tar("two/with-another-name").as_slice(), "two").unwrap();
    pack(&store, one.snapshot, &recipe).unwrap();
    let again = pack(&store, two.snapshot, &recipe).unwrap();

    let (_root, other) = new();
    let two = unpack(&other, None, tar("two/with-another-name").as_slice(), "two").unwrap();
    assert_eq!(pack(&other, two.snapshot, &recipe).unwrap(), again);
    let blob = store.blobs().open(&again.digest).unwrap();
    assert_eq!(unpack(&store, None, blob, "again").unwrap().diff_id, again.diff_id);
}
