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
