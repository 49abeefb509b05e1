//! What instructions do to files and processes, on real input.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::kitchen::{Kitchen, Ran};

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

/// As BuildKit has it: they are root.
#[test]
fn owners_that_are_not_there() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("f", "x");
    kitchen.write(
        "Dockerfile",
        "FROM base\nCOPY --chown=ghost f /a\nCOPY --chown=cook:ghosts f /b\nCOPY --chown=ghost:cook f /c\n\
         RUN --mount=type=bind,target=/m stat -c '%u:%g' /a /b /c > /own\n",
    );
    assert_eq!(std::fs::read_to_string(kitchen.files(&[]).join("own")).unwrap(), "0:0\n1000:1000\n0:1000\n");
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
        RUN --mount=type=cache,id=m,sharing=locked,target=/m1 --mount=type=cache,id=m,sharing=locked,target=/m2 \
        touch /m1/t && test -f /m2/t\n\
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
    kitchen.write(
        "Dockerfile",
        "FROM other:1-slim AS o\nFROM base\nCOPY --from=files /x /x\nCOPY --from=o /bin/busybox /b\n",
    );
    std::fs::create_dir(kitchen.path("files")).unwrap();
    std::fs::write(kitchen.path("files/x"), "named").unwrap();
    let saved = kitchen.path("layout.tar");
    kitchen.larder(&["image", "save", "base", "-o", saved.to_str().unwrap()]).ok();
    let layout = kitchen.path("layout");
    std::fs::create_dir(&layout).unwrap();
    let status = std::process::Command::new("tar").arg("-xf").arg(&saved).arg("-C").arg(&layout).status().unwrap();
    assert!(status.success());
    let files = format!("files={}", kitchen.path("files").display());
    let other = format!("other:1-slim=oci-layout://{}", layout.display());
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

/// An image of as many layers, as an OCI layout: `base`, then one file `/d/NUMBER` a layer, the last without `/d/3`.
fn layered(kitchen: &Kitchen, count: usize) -> std::path::PathBuf {
    let layout = kitchen.path("layered");
    std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let put = |bytes: &[u8]| {
        let digest = oci::Digest::of(bytes);
        std::fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        (digest.to_string(), bytes.len())
    };
    let mut layers = vec![put(&std::fs::read(kitchen.path("base.tar")).unwrap())];
    for number in 1..count {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(0);
        let name = if number + 1 == count { "d/.wh.3".to_owned() } else { format!("d/{number}") };
        tar.append_data(&mut header, name, std::io::empty()).unwrap();
        layers.push(put(&tar.into_inner().unwrap()));
    }
    let digests: Vec<_> = layers.iter().map(|(digest, _)| digest).collect();
    let config = serde_json::json!({
        "architecture": oci::Platform::host().architecture, "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": digests },
    });
    let descriptor = |kind: &str, (digest, size): &(String, usize)| serde_json::json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": size });
    let config = put(config.to_string().as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config),
        "layers": layers.iter().map(|layer| descriptor("layer.v1.tar", layer)).collect::<Vec<_>>(),
    });
    let manifest = put(manifest.to_string().as_bytes());
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [descriptor("manifest.v1+json", &manifest)] });
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    std::fs::write(layout.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    layout
}

/// One overlay has 500 layers at most.
#[test]
fn an_image_of_more_layers_than_an_overlay_takes() {
    let Some(kitchen) = Kitchen::new() else { return };
    let layout = layered(&kitchen, 485);
    kitchen.larder(&["image", "import", "tall", layout.to_str().unwrap()]).ok();
    kitchen.write(
        "Dockerfile",
        "FROM tall\nRUN test $(ls /d | wc -l) = 482 && rm /d/7 /d/470 && echo y > /d/4\nRUN test $(ls /d | wc -l) = 480\n",
    );
    let out = kitchen.files(&[]);
    assert_eq!(std::fs::read_dir(out.join("d")).unwrap().count(), 480);
    assert_eq!(std::fs::read_to_string(out.join("d/4")).unwrap(), "y\n");
    assert!(!out.join("d/3").exists() && out.join("d/5").exists());
    assert_eq!(kitchen.build(&[]).ok().missed(), 0);
}

/// An archive that names only what lies in a folder leaves the folder, or the link to one, as it is.
#[test]
fn archives_through_links() {
    let Some(kitchen) = Kitchen::new() else { return };
    let tree = kitchen.path("tree");
    std::fs::create_dir_all(tree.join("var/run/act")).unwrap();
    std::fs::create_dir_all(tree.join("etc")).unwrap();
    for name in ["var/run/act/head", "etc/more"] {
        std::fs::write(tree.join(name), name).unwrap();
    }
    std::fs::hard_link(tree.join("var/run/act/head"), tree.join("var/run/act/same")).unwrap();
    let archive = kitchen.context().join("payload.tar");
    let packed = std::process::Command::new("tar")
        .args(["-cf", archive.to_str().unwrap(), "-C", tree.to_str().unwrap()])
        .args(["var/run/act", "etc/more"])
        .status();
    assert!(packed.unwrap().success());
    let text = "FROM base\nRUN mkdir -p /run /var /etc && chmod 700 /etc && ln -s /run /var/run\nADD payload.tar /\n";
    kitchen.write("Dockerfile", text);
    let out = kitchen.files(&[]);
    assert_eq!(std::fs::read_link(out.join("var/run")).unwrap(), std::path::Path::new("/run"));
    for name in ["head", "same"] {
        assert_eq!(std::fs::read_to_string(out.join("run/act").join(name)).unwrap(), "var/run/act/head");
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(out.join("etc")).unwrap().permissions());
    assert_eq!((mode & 0o777, out.join("etc/more").exists()), (0o700, true));
}

/// The folders that an archive begins with are what it says, wherever it is unpacked to.
#[test]
fn archives_keep_their_folders() {
    let Some(kitchen) = Kitchen::new() else { return };
    let mut tar = tar::Builder::new(std::fs::File::create(kitchen.context().join("tree.tar")).unwrap());
    for (name, mode) in [("./", 0o711), ("./tmp/", 0o1777), ("./root/", 0o700), ("./root/deep/", 0o750)] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_uid(3);
        header.set_gid(4);
        header.set_mtime(1_000);
        header.set_size(0);
        tar.append_data(&mut header, name, std::io::empty()).unwrap();
    }
    tar.finish().unwrap();
    kitchen.write("Dockerfile", "FROM base\nADD tree.tar /\nADD tree.tar /new/\n");
    let out = kitchen.files(&[]);
    for folder in ["", "new/"] {
        for (name, mode) in [("tmp", 0o1777), ("root", 0o700), ("root/deep", 0o750)] {
            let found = std::fs::metadata(out.join(format!("{folder}{name}"))).unwrap();
            let found = (found.mode() & 0o7777, found.uid(), found.gid(), found.mtime());
            assert_eq!(found, (mode, 3, 4, 1_000), "{folder}{name}");
        }
        // As in BuildKit the folder that it is unpacked into stays what it is.
        assert_eq!(std::fs::metadata(out.join(folder)).unwrap().mode() & 0o777, 0o755, "{folder}");
    }
}

/// Larder in a chroot whose root is no mount, as CI jobs and rescue systems have it: the folder with all that it needs.
#[test]
fn within_a_chroot() {
    let Some(kitchen) = Kitchen::new() else { return };
    let root = kitchen.path("machine");
    std::fs::create_dir(&root).unwrap();
    for folder in ["dev", "proc", "sys", "tmp", "work"] {
        std::fs::create_dir(root.join(folder)).unwrap();
    }
    let listed = Command::new("ldd").arg(env!("CARGO_BIN_EXE_larder")).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for file in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.join(file.trim_start_matches('/'));
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(file, target).unwrap();
    }
    std::fs::copy(env!("CARGO_BIN_EXE_larder"), root.join("larder")).unwrap();
    testkit::base::tar(&root.join("work")).unwrap();
    std::fs::write(root.join("work/Dockerfile"), "FROM base\nRUN echo built > /made && [ ! -e /work ]\n").unwrap();
    let script = "for place in dev proc sys; do mount --rbind /$place $0/$place; done; \
        chroot $0 /larder --root /store image import base /work/base.tar && \
        chroot $0 /larder --root /store build -o /out /work";
    let ran = Command::new("unshare").args(["--mount", "sh", "-c", script]).arg(&root).output().unwrap();
    let ran = Ran::of(ran).ok();
    assert_eq!(std::fs::read_to_string(root.join("out/made")).unwrap(), "built\n", "{}", ran.stderr);
}
