//! Several platforms in one build, without emulation: what runs, runs on this machine's own.

use std::collections::BTreeMap;

use crate::buildx;
use crate::kitchen::Kitchen;

/// The compiler runs here; only files go into the images of the others. `native` is a stage of the build's own platform.
const DOCKERFILE: &str = "FROM --platform=$BUILDPLATFORM base AS native\n\
    ARG TARGETARCH\nARG TARGETPLATFORM\n\
    RUN echo \"made for $TARGETPLATFORM on $(uname -m)\" > /$TARGETARCH && cp /$TARGETARCH /program\n\
    FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY --from=native /program /program\nENTRYPOINT [\"/program\"]\n";

const PLATFORMS: &str = "linux/amd64,linux/arm64,linux/arm/v7";

type Json = serde_json::Value;

/// Manifests of an OCI archive by `os/arch/variant`, with their configuration.
fn manifests(archive: &std::path::Path) -> BTreeMap<String, Json> {
    let mut blobs = BTreeMap::new();
    for entry in tar::Archive::new(std::fs::File::open(archive).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        blobs.insert(name, bytes);
    }
    let json = |name: &str| serde_json::from_slice::<Json>(&blobs[name]).unwrap();
    let blob =
        |d: &Json| json(&format!("blobs/sha256/{}", d["digest"].as_str().unwrap().trim_start_matches("sha256:")));
    let mut index = json("index.json");
    // The archive's index names the image's.
    if index["manifests"][0]["mediaType"].as_str().unwrap().ends_with("index.v1+json") {
        index = blob(&index["manifests"][0]);
    }
    let listed = index["manifests"].as_array().unwrap().iter();
    let of = |d: &Json| {
        let parts = ["os", "architecture", "variant"].map(|part| d["platform"][part].as_str().unwrap_or_default());
        (parts.join("/").trim_end_matches('/').to_owned(), blob(&blob(d)["config"]))
    };
    listed.map(of).filter(|(platform, _)| !platform.starts_with("unknown")).collect()
}

/// What every way to build must give.
fn holds(out: &std::path::Path, archive: &std::path::Path) {
    for (folder, arch) in [("linux_amd64", "amd64"), ("linux_arm64", "arm64"), ("linux_arm_v7", "arm/v7")] {
        let text = std::fs::read_to_string(out.join(folder).join("program")).unwrap();
        assert!(text.starts_with(&format!("made for linux/{arch} on ")), "{text}");
        assert!(text.trim_end().ends_with(std::env::consts::ARCH), "{text}");
    }
    let found = manifests(archive);
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), ["linux/amd64", "linux/arm/v7", "linux/arm64"]);
    for (platform, config) in &found {
        let (_, arch) = platform.split_once('/').unwrap();
        assert_eq!(config["config"]["Labels"]["arch"], arch.split('/').next().unwrap(), "{platform}");
        assert_eq!(config["architecture"], arch.split('/').next().unwrap());
    }
}

#[test]
fn several_platforms_in_one_process() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", DOCKERFILE);
    let (out, archive) = (kitchen.path("out"), kitchen.path("app.tar"));
    let outputs = [format!("type=local,dest={}", out.display()), format!("type=oci,dest={}", archive.display())];
    let args = ["--platform", PLATFORMS, "-o", &outputs[0], "-o", &outputs[1]];
    kitchen.build(&args).ok();
    holds(&out, &archive);
    assert_eq!(kitchen.build(&args).ok().missed(), 0);
}

#[test]
fn several_platforms_for_a_client() {
    buildx::each(|kitchen, daemon| {
        kitchen.write("Dockerfile", DOCKERFILE);
        let (out, archive) = (kitchen.path("out"), kitchen.path("app.tar"));
        daemon.build(&["--platform", PLATFORMS, "-o", out.to_str().unwrap()]).ok();
        daemon.build(&["--platform", PLATFORMS, "-o", &format!("type=oci,dest={}", archive.display())]).ok();
        holds(&out, &archive);
    });
}
