//! Caches that travel: those of a real BuildKit, and larder's own from one store to another.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use testkit::faults::{Fault, Rule};

use crate::kitchen::{Kitchen, Ran};
use crate::served::Served;

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
        let root = kitchen.other(store);
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
    let served = Served::start(&kitchen, None, &[]);
    let registry = |how: &str| format!("type=registry,ref={}/cache:{how}", registry.host);
    let folder = |how: &str, key: &str| format!("type=local,{key}={}", kitchen.path(how).display());
    kitchen.write("Dockerfile", "FROM base\nRUN echo long > /long\nRUN false\n");
    // Every kind, one beside the other, in this process and through a daemon.
    let to = |how: &str| ["--cache-to".to_owned(), registry(how), "--cache-to".to_owned(), folder(how, "dest")];
    let build = |to: &[String; 4], build: &dyn Fn(&[&str]) -> Ran| {
        assert_eq!(build(&to.each_ref().map(String::as_str)).code, 1);
    };
    build(&to("daemon"), &|args| served.build(args));
    drop(served);
    build(&to("here"), &|args| kitchen.build(args));
    kitchen.write("Dockerfile", "FROM base\nRUN echo long > /long\nRUN true\n");
    for (number, how) in ["here", "daemon"].into_iter().enumerate() {
        for (kind, from) in [("registry", registry(how)), ("folder", folder(how, "src"))] {
            let other = kitchen.other(&format!("other-{kind}-{number}"));
            let context = kitchen.context();
            let args = ["build", "--progress", "plain", "--cache-from", &from, context.to_str().unwrap()];
            let ran = kitchen.larder_in(&other, &args).ok();
            assert_eq!(ran.missed(), 1, "{how} {from}: {}", ran.stderr);
        }
    }
}

/// Waits for a file of a step's cache mount, wherever the store keeps it.
fn in_volume(kitchen: &Kitchen, name: &str) -> PathBuf {
    let find = || {
        let volumes = std::fs::read_dir(kitchen.root().join("volumes")).into_iter().flatten().flatten();
        let mut open: Vec<PathBuf> = volumes.map(|entry| entry.path()).collect();
        while let Some(path) = open.pop() {
            if path.file_name().is_some_and(|n| n == name) {
                return Some(path);
            }
            open.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        None
    };
    crate::leaves::eventually("the step waits", || find().is_some());
    find().unwrap()
}

#[test]
fn layers_go_out_once_and_while_the_build_runs() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(registry) = testkit::registry::start() else { return };
    let proxy = testkit::faults::start(&registry.host);
    kitchen.write(
        "Dockerfile",
        "FROM base\nRUN echo first > /first\nRUN --mount=type=cache,target=/c touch /c/waiting && \
         for i in $(seq 600); do if [ -e /c/go ]; then echo second > /second; exit 0; fi; sleep 0.1; done; exit 1\n",
    );
    let to = format!("type=registry,ref={}/cache,mode=max,ignore-error=false", proxy.host);
    let output = format!("type=image,name={}/app,push=true", proxy.host);
    let context = kitchen.context();
    let args = ["build", "-q", "--cache-to", &to, "-o", &output, context.to_str().unwrap()];
    let mut building = kitchen.command(&kitchen.root(), &args).spawn().unwrap();
    let waiting = in_volume(&kitchen, "waiting");
    let seen = std::cell::RefCell::new(Vec::new());
    let uploads = |seen: &[String], of: &str| {
        let puts = seen.iter().filter(|r| r.starts_with("PUT") && r.contains(&format!("/{of}/blobs/uploads/")));
        puts.map(|r| r.rsplit_once("digest=").unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    crate::leaves::eventually("a layer goes out before the build's end", || {
        seen.borrow_mut().extend(proxy.seen());
        !uploads(&seen.borrow(), "cache").is_empty()
    });
    std::fs::write(waiting.with_file_name("go"), "").unwrap();
    assert!(building.wait().unwrap().success());
    let mut seen = seen.into_inner();
    seen.extend(proxy.seen());
    // Layers of the base and of both steps went to the cache, and nothing went anywhere twice.
    let mut all = uploads(&seen, "cache");
    assert!(all.len() >= 3, "{seen:#?}");
    all.extend(uploads(&seen, "app"));
    let sent = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), sent, "{seen:#?}");
}

#[test]
fn an_upload_that_a_registry_began_in_place_of_a_mount_is_used() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(registry) = testkit::registry::start() else { return };
    let proxy = testkit::faults::start(&registry.host);
    kitchen.write("Dockerfile", "FROM base\nRUN echo first > /first\n");
    let to = |name: &str| format!("type=registry,ref={}/{name},ignore-error=false", proxy.host);
    kitchen.build(&["--cache-to", &to("one"), "-o", "type=cacheonly"]).ok();
    // Another store knows the cache; its layers are gone from where it lies when they are to be taken over.
    let root = kitchen.other("other");
    let build = |from: &str, to: &str| {
        let context = kitchen.context();
        let (from, args) = (format!("{}/{from}", proxy.host), ["build", "--progress", "plain", "--cache-from"]);
        let all = [&args[..], &[&from, "--cache-to", to, "-o", "type=cacheonly", context.to_str().unwrap()]].concat();
        kitchen.larder_in(&root, &all).ok()
    };
    proxy.seen();
    build("one", &to("two"));
    let count = |seen: &[String], what: &dyn Fn(&str) -> bool| seen.iter().filter(|r| what(r)).count();
    let is_mount = |request: &str| request.starts_with("POST") && request.contains("from=one");
    let seen = proxy.seen();
    let mounts = count(&seen, &is_mount);
    let puts = count(&seen, &|r| r.starts_with("PUT /v2/two/blobs/uploads/"));
    assert!(mounts >= 2 && puts == 1, "every layer was taken over, and only the config was sent: {seen:#?}");
    // Declined: what was begun takes the blob, and every upload that was begun ended.
    let rule = |path: &str| Rule { method: "POST", path: path.to_owned(), fault: Fault::Bare, times: 1000 };
    proxy.set(vec![rule("from=one")]);
    build("one", &to("three"));
    let seen = proxy.seen();
    let begun = count(&seen, &|r| r.starts_with("POST /v2/three/blobs/uploads/"));
    let ended = count(&seen, &|r| r.starts_with("PUT /v2/three/blobs/uploads/"));
    assert!(count(&seen, &is_mount) == mounts && begun == ended, "{begun} begun, {ended} ended: {seen:#?}");
}

/// What was asked about blobs and manifests of caches.
fn asked(proxy: &testkit::faults::Proxy) -> Vec<String> {
    proxy.seen().into_iter().filter(|r| r.contains("/blobs/") || r.contains("/manifests/")).collect()
}

#[test]
fn a_daemon_remembers_which_blobs_a_registry_has_and_finds_a_cache_that_it_wrote() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(registry) = testkit::registry::start() else { return };
    let proxy = testkit::faults::start(&registry.host);
    let from = format!("{}/cache", proxy.host);
    let to = format!("type=registry,ref={from},mode=max,ignore-error=false");
    let other = kitchen.other("other");
    kitchen.write("Dockerfile", "FROM base\nRUN echo one > /one\n");
    let build_elsewhere = || {
        let context = kitchen.context();
        let args = ["build", "-q", "--cache-to", &to, "-o", "type=cacheonly", context.to_str().unwrap()];
        kitchen.larder_in(&other, &args).ok()
    };
    let served = Served::start(&kitchen, None, &[]);
    let build = |dockerfile: &str| {
        kitchen.write("Dockerfile", dockerfile);
        proxy.seen();
        served.build(&["--cache-from", &from, "-o", "type=cacheonly"]).ok()
    };
    // It finds that there is none. For how long that counts is a matter of a second or two: no test waits for it.
    build("FROM base\nRUN echo two > /two\n");
    assert!(asked(&proxy).iter().any(|r| r.contains("/manifests/latest")));
    // One that this daemon writes is known at once.
    kitchen.write("Dockerfile", "FROM base\nRUN echo four > /four\n");
    served.build(&["--cache-to", &to, "-o", "type=cacheonly"]).ok();
    kitchen.write("Dockerfile", "FROM base\nRUN echo one > /one\n");
    build_elsewhere();
    let ran = build("FROM base\nRUN echo one > /one\nRUN echo five > /five\n");
    assert_eq!(ran.missed(), 1, "{}", ran.stderr);
    let heads = |seen: &[String]| seen.iter().filter(|r| r.starts_with("HEAD") && r.contains("/blobs/")).count();
    assert!(heads(&asked(&proxy)) > 0);
    // Which blobs are there was asked once for all builds.
    let ran = build("FROM base\nRUN echo one > /one\nRUN echo six > /six\n");
    assert_eq!((ran.missed(), heads(&asked(&proxy))), (1, 0), "{}", ran.stderr);
}

#[test]
fn a_blob_that_many_builds_want_comes_once() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(registry) = testkit::registry::start() else { return };
    let proxy = testkit::faults::start(&registry.host);
    let from = format!("{}/cache", proxy.host);
    let to = format!("type=registry,ref={from},mode=max,ignore-error=false");
    let other = kitchen.other("other");
    kitchen.write("Dockerfile", "FROM base\nRUN echo one > /one\n");
    let context = kitchen.context();
    let args = ["build", "-q", "--cache-to", &to, "-o", "type=cacheonly", context.to_str().unwrap()];
    kitchen.larder_in(&other, &args).ok();
    let served = Served::start(&kitchen, None, &[]);
    // Each build goes on with something else, on the files that the cache has.
    let late = Fault::Late(std::time::Duration::from_millis(500));
    proxy.set(vec![Rule { method: "GET", path: "/blobs/".to_owned(), fault: late, times: 1000 }]);
    proxy.seen();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let context = kitchen.path(&format!("context-{n}"));
            std::fs::create_dir(&context).unwrap();
            let text = format!("FROM base\nRUN echo one > /one\nRUN cat /one > /{n}\n");
            std::fs::write(context.join("Dockerfile"), text).unwrap();
            let (served, from) = (&served, &from);
            scope.spawn(move || {
                let args = ["build", "-q", "--cache-from", from, "-o", "type=cacheonly", context.to_str().unwrap()];
                served.larder(&args).ok()
            });
        }
    });
    let seen = proxy.seen();
    let mut blobs: Vec<&String> = seen.iter().filter(|r| r.starts_with("GET") && r.contains("/blobs/")).collect();
    // The config is read by each build, as the caches of builds are their own.
    let config = blobs.first().copied();
    blobs.retain(|r| Some(*r) != config);
    let count = blobs.len();
    blobs.sort();
    blobs.dedup();
    assert!(count > 0 && blobs.len() == count, "{seen:#?}");
}

/// Exports to one reference twice, with nothing new in between.
fn again(kitchen: &Kitchen, host: &str) {
    let proxy = testkit::faults::start(host);
    let to = format!("type=registry,ref={}/cache,mode=max,ignore-error=false", proxy.host);
    let export = || {
        proxy.seen();
        kitchen.build(&["--cache-to", &to, "-o", "type=cacheonly"]).ok();
        proxy.seen()
    };
    let begin = |seen: &[String], with: &[&str]| -> Vec<String> {
        seen.iter().filter(|r| with.iter().any(|w| r.starts_with(w))).cloned().collect()
    };
    assert!(!begin(&export(), &["PUT"]).is_empty());
    let seen = export();
    assert_eq!(begin(&seen, &["PUT", "POST", "GET /v2/cache/blobs/"]), Vec::<String>::new());
    assert_eq!(begin(&seen, &["GET /v2/cache/manifests/"]).len(), 1, "{seen:#?}");
    // What the registry has lost is sent again, the config too.
    let lost = |path: &str| Rule { method: "HEAD", path: path.to_owned(), fault: Fault::Status(404), times: 1000 };
    proxy.set(vec![lost("/blobs/")]);
    let heads = begin(&seen, &["HEAD /v2/cache/blobs/"]).len();
    let seen = export();
    let sent: BTreeSet<String> = begin(&seen, &["POST /v2/cache/blobs/uploads/"]).into_iter().collect();
    assert_eq!(sent.len(), heads, "{seen:#?}");
    assert!(!begin(&seen, &["PUT /v2/cache/manifests/"]).is_empty(), "{seen:#?}");
}

#[test]
fn an_export_with_nothing_new_reads_the_manifest_and_writes_nothing() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", "FROM base\nRUN echo first > /first\nRUN echo second > /second\n");
    let Some(registry) = testkit::registry::start() else { return };
    again(&kitchen, &registry.host);
    let serving = crate::registry::Serving::start(&kitchen.path("registry"), &[]);
    again(&kitchen, &serving.host);
}
