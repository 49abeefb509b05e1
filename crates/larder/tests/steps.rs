//! What instructions do to files and processes, on real input.

use std::os::unix::fs::MetadataExt;

use crate::kitchen::Kitchen;

#[test]
fn copies() {
    let Some(kitchen) = Kitchen::new() else { return };
    let dockerfile = "FROM base\nWORKDIR /w\nCOPY a.txt b.txt dir/\nCOPY *.txt /wild/\nCOPY tree /tree\n\
        COPY --parents tree/./sub/deep /parents/\nCOPY --exclude=*.md tree /lean\nCOPY --chown=cook:cook --chmod=u=rw,go= a.txt /own\n\
        COPY --link a.txt /linked/\nCOPY <<EOF /inline\nhello\nEOF\nADD pack.tar.gz /unpacked/\n";
    kitchen.write("Dockerfile", dockerfile);
    for name in ["a.txt", "b.txt", "tree/sub/deep", "tree/x.md", "tree/y"] {
        kitchen.write(name, name);
    }
    let packed = std::process::Command::new("tar")
        .args(["-czf", "pack.tar.gz", "a.txt", "tree"])
        .current_dir(kitchen.context())
        .status()
        .unwrap();
    assert!(packed.success());
    let out = kitchen.files(&[]);
    let text = |path: &str| std::fs::read_to_string(out.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(text("w/dir/b.txt"), "b.txt");
    assert_eq!(text("wild/a.txt"), "a.txt");
    assert_eq!(text("tree/sub/deep"), "tree/sub/deep");
    assert_eq!(text("parents/sub/deep"), "tree/sub/deep");
    assert!(!out.join("lean/x.md").exists() && out.join("lean/y").exists());
    let own = std::fs::metadata(out.join("own")).unwrap();
    assert_eq!((own.uid(), own.gid(), own.mode() & 0o7777), (1000, 1000, 0o600));
    assert_eq!(text("linked/a.txt"), "a.txt");
    assert_eq!(text("inline"), "hello\n");
    assert_eq!(text("unpacked/tree/y"), "tree/y");
}

#[test]
fn ignore_files() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM scratch\nCOPY . /\n");
    kitchen.write(".dockerignore", "**/*.log\nnode_modules\n!keep.log\n");
    for name in ["a", "x.log", "keep.log", "d/y.log", "node_modules/m/i.js"] {
        kitchen.write(name, "");
    }
    let out = kitchen.files(&[]);
    assert!(out.join("a").exists() && out.join("keep.log").exists());
    assert!(!out.join("x.log").exists() && !out.join("d/y.log").exists() && !out.join("node_modules").exists());
}

#[test]
fn mounts() {
    let Some(kitchen) = Kitchen::new() else { return };
    let dockerfile = "FROM base AS tools\nRUN mkdir /t && echo tool > /t/tool\nFROM base\n\
        RUN --mount=type=cache,target=/cache echo one >> /cache/log; wc -l < /cache/log > /first\n\
        RUN --mount=type=cache,target=/cache echo two >> /cache/log; wc -l < /cache/log > /second\n\
        RUN --mount=from=tools,source=/t,target=/tools cat /tools/tool > /copied; ! touch /tools/x 2>/dev/null\n\
        RUN --mount=type=bind,target=/ctx,rw echo x > /ctx/new; cat /ctx/f > /bound\n\
        RUN --mount=type=tmpfs,target=/scratch touch /scratch/x\nRUN test ! -e /scratch/x && test ! -e /ctx/new\n\
        RUN --network=none true\nUSER cook\nRUN id -u > /tmp/uid\n";
    kitchen.write("Dockerfile", dockerfile);
    kitchen.write("f", "from the context");
    let out = kitchen.files(&[]);
    let text = |path: &str| std::fs::read_to_string(out.join(path)).unwrap().trim().to_owned();
    assert_eq!((text("first").as_str(), text("second").as_str()), ("1", "2"));
    assert_eq!(text("copied"), "tool");
    assert_eq!(text("bound"), "from the context");
    assert_eq!(text("tmp/uid"), "1000");
    assert!(!kitchen.context().join("new").exists(), "the user's directory was written to");
}

#[test]
fn heredocs_and_triggers() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nONBUILD RUN echo triggered > /triggered\n");
    kitchen.build(&["-t", "parent"]).ok();
    let dockerfile = "FROM parent\nRUN <<EOF\necho one > /1\necho two > /2\nEOF\n\
        RUN <<EOF\n#!/bin/sh\necho script > /3\nEOF\n";
    kitchen.write("Dockerfile", dockerfile);
    let out = kitchen.files(&[]);
    for (path, text) in [("triggered", "triggered"), ("1", "one"), ("2", "two"), ("3", "script")] {
        assert_eq!(std::fs::read_to_string(out.join(path)).unwrap().trim(), text);
    }
}

#[test]
fn named_contexts() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM other AS o\nFROM base\nCOPY --from=files /x /x\nCOPY --from=o /bin/busybox /b\n");
    std::fs::create_dir(kitchen.path("files")).unwrap();
    std::fs::write(kitchen.path("files/x"), "named").unwrap();
    let saved = kitchen.path("layout.tar");
    kitchen.larder(&["image", "save", "base", "-o", saved.to_str().unwrap()]).ok();
    let layout = kitchen.path("layout");
    std::fs::create_dir(&layout).unwrap();
    let status = std::process::Command::new("tar").arg("-xf").arg(&saved).arg("-C").arg(&layout).status().unwrap();
    assert!(status.success());
    let files = format!("files={}", kitchen.path("files").display());
    let other = format!("other=oci-layout://{}", layout.display());
    let out = kitchen.files(&["--build-context", &files, "--build-context", &other]);
    assert_eq!(std::fs::read_to_string(out.join("x")).unwrap(), "named");
    assert!(out.join("b").exists());
}

/// The system's own mounts leave nothing in a layer.
#[test]
fn a_step_that_changes_nothing_makes_an_empty_layer() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nRUN true\n");
    kitchen.build(&["-o", "type=cacheonly"]).ok();
    let layers = std::fs::read_dir(kitchen.root().join("snapshots")).unwrap().map(|e| e.unwrap().path());
    let newest = layers.max().unwrap();
    let left: Vec<_> = std::fs::read_dir(newest).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A link that COPY follows keeps its name, and gets what it leads to.
#[test]
fn a_copied_link_keeps_its_name() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("sub/file", "content");
    std::os::unix::fs::symlink("sub/file", kitchen.context().join("link")).unwrap();
    kitchen.write("Dockerfile", "FROM scratch\nCOPY link /\nCOPY sub/f* link /all/\n");
    let out = kitchen.files(&[]);
    for path in ["link", "all/file", "all/link"] {
        assert!(std::fs::symlink_metadata(out.join(path)).unwrap().is_file(), "{path}");
        assert_eq!(std::fs::read_to_string(out.join(path)).unwrap(), "content", "{path}");
    }
    assert!(!out.join("file").exists());
}
