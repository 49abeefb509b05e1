//! What must be a hit, and above all what must not be one.

use std::os::unix::fs::PermissionsExt;

use crate::kitchen::Kitchen;

const TWO_STAGES: &str = "FROM base AS build\nWORKDIR /w\nCOPY src src\nRUN cat src/* > app\n\
    FROM base\nCOPY --from=build /w/app /app\nRUN cat /app > /copy\n";

#[test]
fn the_second_run_is_cached_from_end_to_end() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", TWO_STAGES);
    kitchen.write("src/a", "one");
    let first = kitchen.build(&["-q"]).ok();
    let second = kitchen.build(&[]).ok();
    assert_eq!(second.missed(), 0, "{}", second.stderr);
    let third = kitchen.build(&["-q"]).ok();
    assert_eq!(first.stdout, third.stdout, "the image's digest");
}

#[test]
fn a_change_reaches_what_is_built_on_it_and_nothing_else() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", TWO_STAGES);
    kitchen.write("src/a", "one");
    kitchen.build(&[]).ok();
    kitchen.write("src/a", "two");
    let out = kitchen.files(&[]);
    assert_eq!(std::fs::read_to_string(out.join("copy")).unwrap(), "two");
    assert_eq!(kitchen.cause("WORKDIR"), "-");
    assert_eq!(kitchen.cause("COPY src"), "FilesChanged");
    kitchen.write("src/a", "one");
    let back = kitchen.build(&[]).ok();
    assert_eq!(back.missed(), 0, "going back is a hit: {}", back.stderr);
}

#[test]
fn the_same_files_after_another_run_keep_what_follows_cached() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nARG X=1\nRUN echo $X > /dev/null; echo same > /f\nRUN cat /f > /g\n");
    kitchen.build(&[]).ok();
    kitchen.write("Dockerfile", "FROM base\nARG X=1\nRUN echo other > /dev/null; echo same > /f\nRUN cat /f > /g\n");
    kitchen.build(&[]).ok();
    assert_eq!(kitchen.cause("other"), "InstructionChanged");
    assert_eq!(kitchen.cause("cat /f"), "-");
}

/// Same name, size and time, other content.
#[test]
fn content_decides_and_not_size_and_time() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM scratch\nCOPY f /f\n");
    let path = kitchen.context().join("f");
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let write = |text: &str| {
        std::fs::write(&path, text).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    };
    for text in ["aaaa", "bbbb", "cccc", "aaaa"] {
        write(text);
        let out = kitchen.files(&[]);
        assert_eq!(std::fs::read_to_string(out.join("f")).unwrap(), text);
        // And once more, now that the index knows the file.
        let out = kitchen.files(&[]);
        assert_eq!(std::fs::read_to_string(out.join("f")).unwrap(), text);
    }
}

#[test]
fn a_directorys_mode_decides() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM scratch\nCOPY d /d\n");
    kitchen.write("d/sub/f", "x");
    let sub = kitchen.context().join("d/sub");
    for mode in [0o755, 0o700, 0o755] {
        std::fs::set_permissions(&sub, std::fs::Permissions::from_mode(mode)).unwrap();
        let out = kitchen.files(&[]);
        let found = std::fs::metadata(out.join("d/sub")).unwrap().permissions().mode() & 0o7777;
        assert_eq!(found, mode);
    }
}

#[test]
fn a_symlinks_target_decides() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM scratch\nCOPY d /d\n");
    kitchen.write("d/f", "x");
    let link = kitchen.context().join("d/l");
    for target in ["one", "two"] {
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(target, &link).unwrap();
        let out = kitchen.files(&[]);
        assert_eq!(std::fs::read_link(out.join("d/l")).unwrap().to_str(), Some(target));
    }
}

#[test]
fn an_extended_attribute_decides() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM scratch\nCOPY d /d\n");
    kitchen.write("d/f", "x");
    let file = kitchen.context().join("d/f");
    for value in ["one", "two"] {
        let set = rustix::fs::setxattr(&file, "user.taste", value.as_bytes(), rustix::fs::XattrFlags::empty());
        if set.is_err() {
            eprintln!("SKIPPED: the file system has no user attributes");
            return;
        }
        let out = kitchen.files(&[]);
        let mut found = [0; 8];
        let length = rustix::fs::getxattr(out.join("d/f"), "user.taste", &mut found[..]).unwrap();
        assert_eq!(&found[..length], value.as_bytes());
    }
}

/// A directory of the client's as a base: nothing but its content names it.
#[test]
fn a_base_that_is_a_directory_decides_by_its_content() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM files\nWORKDIR /w\nCOPY f /f\n");
    kitchen.write("f", "x");
    std::fs::create_dir(kitchen.path("files")).unwrap();
    let flag = format!("files={}", kitchen.path("files").display());
    for text in ["one", "two", "one"] {
        std::fs::write(kitchen.path("files/base"), text).unwrap();
        let out = kitchen.files(&["--build-context", &flag]);
        assert_eq!(std::fs::read_to_string(out.join("base")).unwrap(), text);
        assert!(out.join("f").exists() && out.join("w").is_dir());
    }
}

/// What a build gives does not depend on what was cached.
#[test]
fn with_and_without_the_cache_it_is_the_same() {
    let Some(kitchen) = Kitchen::new() else { return };
    let dockerfile = "FROM base AS a\nWORKDIR /w\nCOPY --chown=cook:7 src /w/src\nRUN cat src/x > y && ln -s y z && rm src/x\n\
        FROM base\nCOPY --from=a /w /w\nADD src/y /etc/new/\nENV A=1\nRUN env > /env && mkdir -p /deep/er && chmod 2755 /deep\n";
    kitchen.write("Dockerfile", dockerfile);
    let digest = |args: &[&str]| {
        let file = kitchen.path("image.tar");
        let output = format!("type=oci,dest={},rewrite-timestamp=true", file.display());
        let mut all = vec!["-o", &output, "--build-arg", "SOURCE_DATE_EPOCH=1000000000"];
        all.extend(args);
        kitchen.build(&all).ok();
        oci::Digest::of(&std::fs::read(file).unwrap())
    };
    for round in ["one", "two", "one"] {
        kitchen.write("src/x", round);
        kitchen.write("src/y", "same");
        let cached = digest(&[]);
        assert_eq!(cached, digest(&[]), "twice with the cache, {round}");
        assert_eq!(cached, digest(&["--no-cache"]), "without the cache, {round}");
    }
}

/// The names in an OCI archive of the build: those of blobs are digests.
fn archive(kitchen: &Kitchen) -> String {
    let file = kitchen.path("image.tar");
    let output = format!("type=oci,dest={}", file.display());
    kitchen.build(&["-o", &output, "--build-arg", "SOURCE_DATE_EPOCH=1000000000"]).ok();
    let list = std::process::Command::new("tar").arg("-tf").arg(&file).output().unwrap();
    String::from_utf8(list.stdout).unwrap()
}

/// The same in a store that holds nothing of earlier builds.
fn archive_elsewhere(kitchen: &Kitchen) -> String {
    std::fs::rename(kitchen.root(), kitchen.path("aside")).unwrap();
    let base = testkit::base::tar(&kitchen.path("")).unwrap();
    kitchen.larder(&["image", "import", "base", base.to_str().unwrap()]).ok();
    let whole = archive(kitchen);
    std::fs::remove_dir_all(kitchen.root()).unwrap();
    std::fs::rename(kitchen.path("aside"), kitchen.root()).unwrap();
    whole
}

/// A file that was just written may change unseen, and is always read.
fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(60));
}

/// Inodes of a path in all layers of the store.
fn inodes(kitchen: &Kitchen, path: &str) -> Vec<u64> {
    use std::os::unix::fs::MetadataExt;
    let layers = std::fs::read_dir(kitchen.root().join("snapshots")).unwrap().map(|e| e.unwrap().path().join(path));
    layers.filter_map(|path| std::fs::metadata(path).ok()).map(|data| data.ino()).collect()
}

/// Files that did not change are linked from the earlier layer: the layer is what it would be if all were copied.
#[test]
fn a_changed_file_among_some_gives_what_a_whole_copy_gives() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nCOPY --chown=5:6 src /w\nCOPY src/d1/f1 /w/d2/f2\n");
    (0..200).for_each(|i| kitchen.write(&format!("src/d{}/f{i}", i % 20), &format!("file {i}")));
    // Two names of one file are two files of a layer, linked or not.
    std::fs::hard_link(kitchen.context().join("src/d3/f3"), kitchen.context().join("src/d4/too")).unwrap();
    settle();
    archive(&kitchen);
    for (round, text) in ["one", "two", "longer than before"].into_iter().enumerate() {
        kitchen.write("src/d1/f1", text);
        let linked = archive(&kitchen);
        assert_eq!(kitchen.cause("COPY --chown"), "FilesChanged");
        let copies = inodes(&kitchen, "w/d7/f7");
        assert!(copies.len() == round + 2 && copies.windows(2).all(|two| two[0] == two[1]), "linked: {copies:?}");
        assert_eq!(archive_elsewhere(&kitchen), linked, "{text}");
    }
}

/// Among many files only those that changed are copied, into a layer that amends the earlier one. To an image, and to what
/// is built on it, that is the layer which a whole copy gives.
#[test]
fn a_changed_file_among_many_gives_what_a_whole_copy_gives() {
    let Some(kitchen) = Kitchen::new() else { return };
    let copies = "FROM base\nCOPY --chown=5:6 --chmod=750 src /w\nCOPY --link src /linked\n";
    kitchen.write("Dockerfile", copies);
    (0..300).for_each(|i| kitchen.write(&format!("src/d{}/f{i}", i % 20), &format!("file {i}")));
    std::os::unix::fs::symlink("f1", kitchen.context().join("src/d1/link")).unwrap();
    settle();
    archive(&kitchen);
    let same = |change: &str, layers: usize| {
        let amended = archive(&kitchen);
        assert_eq!(kitchen.cause("COPY --chown"), "FilesChanged");
        assert_eq!(inodes(&kitchen, "w/d7/f7").len(), layers, "layers that hold an unchanged file after {change}");
        assert_eq!(archive_elsewhere(&kitchen), amended, "{change}");
    };
    kitchen.write("src/d1/f1", "one");
    same("other content", 1);
    // As editors do it: another file under the same name, which the directory's time tells too.
    kitchen.write("new", "two");
    std::fs::rename(kitchen.context().join("new"), kitchen.context().join("src/d2/f2")).unwrap();
    same("a file put in place", 1);
    std::fs::set_permissions(kitchen.context().join("src/d5"), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::set_permissions(kitchen.context().join("src/d1/f1"), std::fs::Permissions::from_mode(0o755)).unwrap();
    kitchen.write("src/d1/f1", "one more");
    same("modes", 1);
    // What comes, goes, or becomes of another kind makes a whole copy.
    kitchen.write("src/d9/new", "new");
    same("a file more", 2);
    kitchen.write("src/d9/new", "newer");
    same("its content", 2);
    std::fs::remove_file(kitchen.context().join("src/d9/new")).unwrap();
    kitchen.write("src/d1/f1", "last");
    same("a file less", 3);
    kitchen.write("src/d1/f1", "in a process");
    kitchen
        .write("Dockerfile", &format!("{copies}RUN cat /w/*/* > /all && cat /linked/*/* > /more && cmp /all /more\n"));
    let all = std::fs::read_to_string(kitchen.files(&[]).join("all")).unwrap();
    assert!(all.contains("in a process") && all.contains("file 299") && !all.contains("last"), "{all}");
    // The earlier layer is needed as long as what amends it, and no longer.
    kitchen.larder(&["prune", "--all", "--force"]).ok();
    assert!(inodes(&kitchen, "w/d7/f7").is_empty(), "all pruned");
    kitchen.write("src/d1/f1", "after");
    kitchen.write("Dockerfile", copies);
    let whole = archive(&kitchen);
    assert_eq!(archive_elsewhere(&kitchen), whole, "everything pruned");
}

/// A copy that another step of the same layer wrote over is never linked.
#[test]
fn what_was_written_over_a_copy_is_not_taken_for_it() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM scratch\nCOPY a/f b/f /d/\n");
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for (name, text) in [("a/f", "from a"), ("b/f", "from b"), ("c", "x")] {
        kitchen.write(name, text);
        std::fs::File::options().write(true).open(kitchen.context().join(name)).unwrap().set_modified(time).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(60));
    let read = |out: std::path::PathBuf| std::fs::read_to_string(out.join("d/f")).unwrap();
    assert_eq!(read(kitchen.files(&[])), "from b");
    kitchen.write("Dockerfile", "FROM scratch\nCOPY a/f c /d/\n");
    assert_eq!(read(kitchen.files(&[])), "from a");
}
