//! OCI layouts on the client's side: written as an output, read as a named context. In one process, and over a session.

use crate::buildx::each;
use crate::kitchen::Kitchen;

const BASE: &str = "FROM base\nRUN echo first > /one\nENV FROM_LAYOUT=yes\n";
const APP: &str = "FROM lower\nRUN test \"$FROM_LAYOUT\" = yes && cat /one > /two\n";

/// Every blob of the layout is what its name says.
fn verify(layout: &std::path::Path) {
    let blobs = std::fs::read_dir(layout.join("blobs/sha256")).unwrap();
    let mut count = 0;
    for blob in blobs {
        let blob = blob.unwrap();
        let digest = oci::Digest::of(&std::fs::read(blob.path()).unwrap());
        assert_eq!(digest.hex(), blob.file_name().to_str().unwrap());
        count += 1;
    }
    assert!(count >= 3, "a manifest, a configuration and layers: {count}");
}

#[test]
fn over_a_session() {
    each(|kitchen, daemon| {
        let layout = kitchen.path("layout");
        kitchen.write("Dockerfile", BASE);
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        daemon.build(&["-o", &output]).ok();
        verify(&layout);
        // What the client has already is not an error.
        daemon.build(&["-o", &output]).ok();
        // An empty store must bring all of it from the client.
        daemon.buildx(&["prune", "--all", "--force"]).ok();
        kitchen.write("Dockerfile", APP);
        let out = kitchen.path("out");
        let context = format!("lower=oci-layout://{}", layout.display());
        let output = format!("type=local,dest={}", out.display());
        let ran = daemon.build(&["--build-context", &context, "-o", &output]).ok();
        assert_eq!(std::fs::read_to_string(out.join("two")).unwrap(), "first\n", "{}", ran.stderr);
        let cached = daemon.build(&["--build-context", &context]).ok();
        assert!(!cached.stderr.contains("because"), "{}", cached.stderr);
    });
}

#[test]
fn a_blob_that_lies_is_refused() {
    each(|kitchen, daemon| {
        let layout = kitchen.path("layout");
        kitchen.write("Dockerfile", BASE);
        daemon.build(&["-o", &format!("type=oci,tar=false,dest={}", layout.display())]).ok();
        daemon.buildx(&["prune", "--all", "--force"]).ok();
        let blobs: Vec<_> =
            std::fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|e| e.unwrap().path()).collect();
        let is_layer = |p: &&std::path::PathBuf| std::fs::read(p).unwrap().starts_with(&[0x1f, 0x8b]);
        for layer in blobs.iter().filter(is_layer) {
            let mut bytes = std::fs::read(layer).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::remove_file(layer).unwrap();
            std::fs::write(layer, bytes).unwrap();
        }
        kitchen.write("Dockerfile", APP);
        let context = format!("lower=oci-layout://{}", layout.display());
        let ran = daemon.build(&["--build-context", &context]);
        assert_ne!(ran.code, 0);
        assert!(ran.stderr.contains("expected the bytes of sha256:"), "{}", ran.stderr);
    });
}

#[test]
fn in_one_process() {
    let Some(kitchen) = Kitchen::new() else { return };
    let layout = kitchen.path("layout");
    kitchen.write("Dockerfile", BASE);
    kitchen.build(&["-t", "lower:v1", "-o", &format!("type=oci,tar=false,dest={}", layout.display())]).ok();
    verify(&layout);
    kitchen.write("Dockerfile", APP);
    let context = |tag: &str| format!("lower=oci-layout://{}{tag}", layout.display());
    let out = kitchen.files(&["--build-context", &context(":v1")]);
    assert_eq!(std::fs::read_to_string(out.join("two")).unwrap(), "first\n");
    let ran = kitchen.build(&["--build-context", &context(":v2")]);
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("has no image `v2`"), "{}", ran.stderr);
}
