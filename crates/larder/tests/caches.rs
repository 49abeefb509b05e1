//! Caches that travel: those of a real BuildKit, and larder's own from one store to another.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::kitchen::{Kitchen, Ran};

/// Files of the vectors that are symbolic links, which a checkout may keep as files with the target as their text.
const LINKS: [&str; 2] = ["tree/link", "tree/dangling"];

/// A copy of a case's context, with the modes and links that a checkout does not keep.
fn context(kitchen: &Kitchen, case: &testkit::vectors::Case) -> PathBuf {
    let folder = kitchen.path(&format!("context-{}", case.name));
    let _ = std::fs::remove_dir_all(&folder);
    copy(&case.folder.join("context"), &folder);
    // It keeps an unused, empty context in a checkout.
    let _ = std::fs::remove_file(folder.join(".keep"));
    for link in LINKS.iter().map(|link| folder.join(link)).filter(|link| link.is_file()) {
        let target = std::fs::read_to_string(&link).unwrap();
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(target, &link).unwrap();
    }
    for (path, mode) in &case.modes {
        std::fs::set_permissions(folder.join(path), std::fs::Permissions::from_mode(*mode)).unwrap();
    }
    folder
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o755)).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path()).unwrap(), target).unwrap();
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
            let mode = entry.metadata().unwrap().permissions().mode();
            let mode = if mode & 0o100 != 0 { 0o755 } else { 0o644 };
            std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

/// Builds a case in a store of its own.
fn build(kitchen: &Kitchen, case: &testkit::vectors::Case, root: &str, args: &[&str]) -> Ran {
    let base = testkit::vectors::folder().unwrap().join("base");
    let base = format!("base=oci-layout://{}@{}", base.display(), testkit::vectors::base());
    let (context, dockerfile) = (context(kitchen, case), case.folder.join("Dockerfile"));
    let mut all = vec!["build", "--progress", "plain", "--build-context", &base, "-f", dockerfile.to_str().unwrap()];
    let build_args: Vec<String> = case.build_args.iter().map(|(name, value)| format!("{name}={value}")).collect();
    build_args.iter().for_each(|arg| all.extend(["--build-arg", arg]));
    all.extend(args);
    all.push(context.to_str().unwrap());
    kitchen.larder_in(&kitchen.path(root), &all)
}

/// Every RUN, COPY, ADD and WORKDIR step of every case is a hit in the cache that BuildKit wrote, and its files are right.
#[test]
fn buildkits_caches_hit() {
    let Some(kitchen) = Kitchen::new() else { return };
    let cases = testkit::vectors::cases();
    for case in &cases {
        let from = format!("type=local,src={}", case.folder.join("cache").display());
        let root = format!("store-{}", case.name);
        let ran = build(&kitchen, case, &root, &["--cache-from", &from, "-o", "type=cacheonly"]).ok();
        assert_eq!(ran.missed(), 0, "{}: {}", case.name, ran.stderr);
        let causes = kitchen.causes_in(&kitchen.path(&root));
        assert!(!causes.is_empty(), "{}", case.name);
        let store = kitchen.path(&root).join("snapshots");
        assert_eq!(std::fs::read_dir(store).unwrap().count(), 0, "{}: nothing was unpacked", case.name);
        // With the files, twice: from the cache, then without it, as what was brought is recorded here.
        let files = |name: &str, args: &[&str]| {
            let out = kitchen.path(&format!("{}-{name}", case.name));
            let output = format!("type=local,dest={}", out.display());
            let mut all = vec!["-o", &output];
            all.extend(args);
            let ran = build(&kitchen, case, &root, &all).ok();
            assert_eq!(ran.missed(), 0, "{} {name}: {}", case.name, ran.stderr);
            tree(&out)
        };
        let first = files("imported", &["--cache-from", &from]);
        assert_eq!(files("kept", &[]), first, "{}", case.name);
        if ["multi-stage", "copy-flags", "special-files"].contains(&case.name.as_str()) {
            let out = kitchen.path(&format!("{}-built", case.name));
            let output = format!("type=local,dest={}", out.display());
            build(&kitchen, case, "store-without", &["-o", &output]).ok();
            // Some steps write down what differs from run to run: times, names of hosts.
            let paths =
                |tree: &[(PathBuf, u32, oci::Digest)]| tree.iter().map(|f| (f.0.clone(), f.1)).collect::<Vec<_>>();
            assert_eq!(paths(&tree(&out)), paths(&first), "{}: what larder builds itself", case.name);
        }
    }
    assert!(cases.is_empty() || cases.len() >= 15);
}

/// Paths, modes and digests of contents.
fn tree(folder: &Path) -> Vec<(PathBuf, u32, oci::Digest)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            let data = std::fs::symlink_metadata(&path).unwrap();
            let bytes = match () {
                () if data.is_dir() => Vec::new(),
                () if data.is_symlink() => std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
                () if data.is_file() => std::fs::read(&path).unwrap(),
                () => Vec::new(),
            };
            found.push((
                path.strip_prefix(folder).unwrap().to_owned(),
                data.permissions().mode(),
                oci::Digest::of(&bytes),
            ));
            if data.is_dir() {
                open.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The config that larder exported into a folder.
fn exported(folder: &Path) -> solver::exchange::Config {
    let blob = |digest: &str| std::fs::read(folder.join("blobs/sha256").join(&digest[7..])).unwrap();
    let json = |bytes: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
    let index = json(std::fs::read(folder.join("index.json")).unwrap());
    let manifest = json(blob(index["manifests"][0]["digest"].as_str().unwrap()));
    for layer in manifest["layers"].as_array().unwrap() {
        assert!(layer["annotations"]["containerd.io/uncompressed"].is_string(), "{layer}");
        blob(layer["digest"].as_str().unwrap());
    }
    solver::exchange::Config::parse(&blob(manifest["config"]["digest"].as_str().unwrap())).unwrap()
}

/// What larder exports of a case has BuildKit's records and links, neither more nor fewer.
#[test]
fn exports_are_buildkits() {
    let Some(kitchen) = Kitchen::new() else { return };
    for case in testkit::vectors::cases() {
        let folder = kitchen.path(&format!("cache-{}", case.name));
        let to = format!("type=local,dest={},mode=max", folder.display());
        let root = format!("store-{}", case.name);
        build(&kitchen, &case, &root, &["--cache-to", &to, "-o", "type=cacheonly"]).ok();
        let ours = exported(&folder);
        let theirs = solver::exchange::Config::parse(&case.cache_blobs().0).unwrap();
        let names = |config: &solver::exchange::Config| -> std::collections::BTreeMap<_, _> {
            let layers = config.records().iter().map(|r| (r.digest, r.output.as_ref().map_or(0, |o| o.blobs.len())));
            config.names().into_iter().zip(layers).collect()
        };
        assert_eq!(names(&ours), names(&theirs), "{}", case.name);
        // All steps are cached now, and what is exported is the same.
        build(&kitchen, &case, &root, &["--cache-to", &to, "-o", "type=cacheonly"]).ok();
        assert_eq!(exported(&folder), ours, "{}", case.name);
    }
}

const STAGES: &str = "FROM base AS build\nWORKDIR /w\nCOPY src src\nRUN cat src/* > app\n\
    FROM base\nCOPY --from=build /w/app /app\nRUN cat /app > /copy\n";

#[test]
fn through_a_registry_and_back() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(registry) = testkit::registry::start() else { return };
    kitchen.write("Dockerfile", STAGES);
    kitchen.write("src/a", "one");
    let reference = format!("{}/team/app:cache", registry.host);
    let to = format!("type=registry,ref={reference},mode=max");
    let first = kitchen.build(&["--cache-to", &to, "--metadata-file", kitchen.path("meta").to_str().unwrap()]).ok();
    assert!(first.stderr.contains("exporting cache to registry"), "{}", first.stderr);
    assert!(first.stderr.contains("writing layer sha256:"), "{}", first.stderr);
    let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(kitchen.path("meta")).unwrap()).unwrap();
    let manifest: oci::Descriptor = serde_json::from_str(meta["cache.manifest"].as_str().unwrap()).unwrap();
    assert_eq!(manifest.media_type, oci::media::OCI_MANIFEST);
    // Nothing is sent that is there already.
    let again = kitchen.build(&["--cache-to", &to]).ok();
    assert!(!again.stderr.contains("writing layer"), "{}", again.stderr);

    // Another machine has the base and the source, and nothing else.
    let other = |store: &str, args: &[&str]| {
        let root = kitchen.path(store);
        if !root.exists() {
            let base = testkit::base::tar(kitchen.path("").as_path()).unwrap();
            kitchen.larder_in(&root, &["image", "import", "base", base.to_str().unwrap()]).ok();
        }
        let context = kitchen.context();
        let mut all = vec!["build", "--progress", "plain"];
        all.extend(args);
        all.push(context.to_str().unwrap());
        kitchen.larder_in(&root, &all)
    };
    let out = kitchen.path("copied");
    let files = format!("type=local,dest={}", out.display());
    let imported = other("other", &["--cache-from", &reference, "-o", &files]).ok();
    assert_eq!(imported.missed(), 0, "{}", imported.stderr);
    assert!(imported.stderr.contains(&format!("importing cache manifest from {reference}")), "{}", imported.stderr);
    assert_eq!(std::fs::read_to_string(out.join("copy")).unwrap(), "one");
    // A change: what it does not touch still hits.
    kitchen.write("src/a", "two");
    let changed = other("third", &["--cache-from", &reference, "-o", &files]).ok();
    assert!(changed.stderr.contains("WORKDIR /w\n") && changed.missed() == 4, "{}", changed.stderr);
    assert_eq!(std::fs::read_to_string(out.join("copy")).unwrap(), "two");
    // mode=min keeps the result, and that is enough for the same build.
    let small = format!("{}/team/app:min", registry.host);
    other("third", &["--cache-to", &format!("type=registry,ref={small}"), "-o", "type=cacheonly"]).ok();
    let imported = other("fourth", &["--cache-from", &small, "-o", &files]).ok();
    assert_eq!(imported.missed(), 0, "{}", imported.stderr);
}

#[test]
fn a_failed_build_keeps_what_succeeded() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(registry) = testkit::registry::start() else { return };
    let reference = format!("{}/cache", registry.host);
    let to = format!("type=registry,ref={reference}");
    kitchen.write("Dockerfile", "FROM base\nRUN echo long > /long\nRUN false\n");
    assert_eq!(kitchen.build(&["--cache-to", &to]).code, 1);
    kitchen.write("Dockerfile", "FROM base\nRUN echo long > /long\nRUN true\n");
    let base = testkit::base::tar(kitchen.path("").as_path()).unwrap();
    let other = kitchen.path("other");
    kitchen.larder_in(&other, &["image", "import", "base", base.to_str().unwrap()]).ok();
    let context = kitchen.context();
    let args = ["build", "--progress", "plain", "--cache-from", &reference, context.to_str().unwrap()];
    let ran = kitchen.larder_in(&other, &args).ok();
    assert_eq!(ran.missed(), 1, "{}", ran.stderr);
}
