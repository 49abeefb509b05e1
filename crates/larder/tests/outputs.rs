//! Outputs, read by the programs that people use.

use std::process::Command;

use crate::kitchen::Kitchen;

fn kitchen() -> Option<Kitchen> {
    let kitchen = Kitchen::new()?;
    kitchen.write("Dockerfile", "FROM base\nCOPY f /f\nRUN rm /etc/group && ln /f /g\nENV A=b\nCMD [\"cat\",\"/f\"]\n");
    kitchen.write("f", "content");
    Some(kitchen)
}

#[test]
fn archives_that_skopeo_reads() {
    let Some(kitchen) = kitchen() else { return };
    for (kind, scheme) in [("oci", "oci-archive"), ("docker", "docker-archive")] {
        for compression in ["gzip", "zstd", "uncompressed"] {
            if kind == "docker" && compression == "zstd" {
                continue;
            }
            let file = kitchen.path(&format!("{kind}-{compression}.tar"));
            let output =
                format!("type={kind},dest={},compression={compression},force-compression=true", file.display());
            kitchen.build(&["-t", "app", "-o", &output]).ok();
            let Ok(inspected) =
                Command::new("skopeo").arg("inspect").arg(format!("{scheme}:{}", file.display())).output()
            else {
                eprintln!("SKIPPED: skopeo is missing");
                return;
            };
            let text = String::from_utf8_lossy(&inspected.stdout).into_owned();
            assert!(inspected.status.success(), "{kind} {compression}: {}", String::from_utf8_lossy(&inspected.stderr));
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["Env"].as_array().unwrap().last().unwrap(), "A=b");
            assert_eq!(value["Layers"].as_array().unwrap().len(), 3);
            let copied = Command::new("skopeo")
                .args(["copy", "--quiet", &format!("{scheme}:{}", file.display())])
                .arg(format!("dir:{}", kitchen.path("copied").display()))
                .output()
                .unwrap();
            assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        }
    }
}

/// A file takes its layers while they are made, standard output when they are known; what was made before is copied. Two of
/// the layers are the same.
#[test]
fn an_archive_is_the_same_however_it_is_written() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nCOPY f /f\nCOPY f /f\nCOPY Dockerfile /d\n");
    kitchen.write("f", &"some text, and more of it\n".repeat(100_000));
    let (context, file) = (kitchen.context(), kitchen.path("image.tar"));
    let build = |place: &str, kind: &str| {
        let output = format!("type={kind},dest={place},force-compression=true");
        let args = ["build", "-t", "app", "-o", &output, context.to_str().unwrap()];
        let done = kitchen.command(&kitchen.root(), &args).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    };
    for (i, compression) in ["gzip", "zstd", "uncompressed"].into_iter().enumerate() {
        for kind in ["oci", "docker"] {
            let kind = format!("{kind},compression={compression}");
            let to_file = || {
                build(file.to_str().unwrap(), &kind);
                std::fs::read(&file).unwrap()
            };
            let first = if i == 1 { build("-", &kind) } else { to_file() };
            assert!(first.len() > 2000, "{kind}");
            for again in [build("-", &kind), to_file(), build("-", &kind)] {
                assert!(again == first, "{kind}: {} bytes, and {} before", again.len(), first.len());
            }
            let listed = Command::new("tar").arg("-tf").arg(&file).output().unwrap();
            let listed = String::from_utf8(listed.stdout).unwrap();
            let names: std::collections::BTreeSet<&str> = listed.lines().collect();
            assert_eq!(names.len(), listed.lines().count(), "{listed}");
            // The base's layer, the file's, the Dockerfile's; a configuration and a manifest.
            assert_eq!(names.iter().filter(|name| name.len() > "blobs/sha256/".len()).count(), 5, "{listed}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(file.parent().unwrap()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".larder-")), "{left:?}");
}

#[test]
fn a_tar_and_a_directory() {
    let Some(kitchen) = kitchen() else { return };
    let out = kitchen.files(&[]);
    assert_eq!(std::fs::read_to_string(out.join("g")).unwrap(), "content");
    assert!(!out.join("etc/group").exists());
    let tar = kitchen.path("out.tar");
    kitchen.build(&["-o", &format!("type=tar,dest={}", tar.display())]).ok();
    let listed = Command::new("tar").arg("-tf").arg(&tar).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.lines().any(|l| l == "f") && listed.lines().any(|l| l == "bin/busybox"), "{listed}");
    assert!(!listed.contains("etc/group"));
}

#[test]
fn files_with_several_names_keep_them() {
    use std::os::unix::fs::MetadataExt;
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nRUN echo x > /one && mkdir /d && ln /one /d/two\n");
    let out = kitchen.files(&[]);
    let file = |name: &str| std::fs::metadata(out.join(name)).unwrap();
    assert_eq!((file("one").ino(), file("one").nlink()), (file("d/two").ino(), 2));
    let tar = kitchen.path("out.tar");
    kitchen.build(&["-o", &format!("type=tar,dest={}", tar.display())]).ok();
    let listed = Command::new("tar").arg("-tvf").arg(&tar).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.lines().any(|line| line.ends_with("one link to d/two")), "{listed}");
}

#[test]
fn files_beside_the_output() {
    let Some(kitchen) = kitchen() else { return };
    let (iid, metadata) = (kitchen.path("iid"), kitchen.path("metadata"));
    let args = ["-t", "app", "--iidfile", iid.to_str().unwrap(), "--metadata-file", metadata.to_str().unwrap()];
    kitchen.build(&args).ok();
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(metadata).unwrap()).unwrap();
    assert_eq!(value["containerimage.config.digest"].as_str().unwrap(), std::fs::read_to_string(iid).unwrap());
    assert_eq!(value["image.name"], "docker.io/library/app:latest");
    let saved = kitchen.path("saved.tar");
    kitchen.larder(&["image", "save", "app", "-o", saved.to_str().unwrap()]).ok();
    let other = kitchen.path("other");
    kitchen.larder_in(&other, &["image", "import", "again", saved.to_str().unwrap()]).ok();
    assert!(kitchen.larder_in(&other, &["image", "ls"]).ok().stdout.contains("again:latest"));
    kitchen.larder(&["image", "rm", "app"]).ok();
    assert!(!kitchen.larder(&["image", "ls"]).ok().stdout.contains("app:latest"));
}

/// The file has what buildx's has: a reference to the build, and warnings where they are wanted.
#[test]
fn metadata_names_the_build_and_warns() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base as x\n");
    let (file, context) = (kitchen.path("metadata"), kitchen.context());
    let args = ["build", "-q", "--metadata-file", file.to_str().unwrap(), context.to_str().unwrap()];
    let metadata = |wanted: &str| -> serde_json::Value {
        let mut command = kitchen.command(&kitchen.root(), &args);
        assert!(command.env("BUILDX_METADATA_WARNINGS", wanted).status().unwrap().success());
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap()
    };
    assert!(metadata("").get("buildx.build.warnings").is_none());
    let told = metadata("1");
    let reference = told["buildx.build.ref"].as_str().unwrap();
    let id = reference.strip_prefix("larder/larder/").unwrap();
    kitchen.larder(&["history", "inspect", id]).ok();
    let warning = &told["buildx.build.warnings"][0];
    assert_eq!(warning["range"][0]["start"]["line"], 1);
    assert_eq!(warning["sourceInfo"]["data"], "RlJPTSBiYXNlIGFzIHgK");
    assert!(warning["short"].as_str().unwrap().starts_with("RnJvbUFzQ2FzaW5n"), "{warning}");
}
