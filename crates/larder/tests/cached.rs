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

/// Files that did not change are linked from the earlier layer: the layer is what it would be if all were copied.
#[test]
fn a_changed_file_among_many_gives_what_a_whole_copy_gives() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nCOPY --chown=5:6 src /w\nCOPY src/d1/f1 /w/d2/f2\n");
    let inode = |id: &str| {
        use std::os::unix::fs::MetadataExt;
        let layers = std::fs::read_dir(kitchen.root().join("snapshots")).unwrap().map(|e| e.unwrap().path().join(id));
        layers.filter_map(|path| std::fs::metadata(path).ok()).map(|data| data.ino()).collect::<Vec<_>>()
    };
    (0..200).for_each(|i| kitchen.write(&format!("src/d{}/f{i}", i % 20), &format!("file {i}")));
    // A file that was just written may change unseen, and is always read.
    std::thread::sleep(std::time::Duration::from_millis(60));
    let archive = |args: &[&str]| {
        let file = kitchen.path("image.tar");
        let output = format!("type=oci,dest={}", file.display());
        kitchen.build(&[&["-o", &output, "--build-arg", "SOURCE_DATE_EPOCH=1000000000"], args].concat()).ok();
        let list = std::process::Command::new("tar").arg("-tf").arg(&file).output().unwrap();
        String::from_utf8(list.stdout).unwrap()
    };
    archive(&[]);
    for (round, text) in ["one", "two", "longer than before"].into_iter().enumerate() {
        kitchen.write("src/d1/f1", text);
        let linked = archive(&[]);
        assert_eq!(kitchen.cause("COPY --chown"), "FilesChanged");
        let copies = inode("w/d7/f7");
        assert!(copies.len() == round + 2 && copies.windows(2).all(|two| two[0] == two[1]), "linked: {copies:?}");
        // Another store has nothing to link from: names of blobs are digests.
        let elsewhere = kitchen.root().with_extension(round.to_string());
        std::fs::rename(kitchen.root(), kitchen.path("aside")).unwrap();
        let base = testkit::base::tar(&kitchen.path("")).unwrap();
        kitchen.larder(&["image", "import", "base", base.to_str().unwrap()]).ok();
        assert_eq!(archive(&[]), linked, "{text}");
        std::fs::rename(kitchen.root(), elsewhere).unwrap();
        std::fs::rename(kitchen.path("aside"), kitchen.root()).unwrap();
    }
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
