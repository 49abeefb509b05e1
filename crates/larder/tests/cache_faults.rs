//! What goes wrong between larder and the registry of a cache never fails a build, and the cause says what it was. A proxy
//! breaks answers of a real registry, one kind at a time.

use std::collections::BTreeSet;

use testkit::faults::{Fault, Proxy, Rule};

use crate::kitchen::Kitchen;

/// Every time.
const ALWAYS: usize = 1_000;

/// A cache of three steps in a registry behind a proxy.
struct Stall {
    kitchen: Kitchen,
    _registry: testkit::registry::Registry,
    proxy: Proxy,
    base: std::path::PathBuf,
    /// The layer of the last step.
    top: String,
    stores: std::cell::Cell<usize>,
}

impl Stall {
    fn new() -> Option<Stall> {
        let kitchen = Kitchen::new()?;
        let registry = testkit::registry::start()?;
        let proxy = testkit::faults::start(&registry.host);
        let base = testkit::base::tar(kitchen.path("").as_path())?;
        kitchen.write("Dockerfile", "FROM base\nRUN echo one > /a\nRUN cat /a > /b\nRUN cat /b > /c\n");
        let image = kitchen.path("image");
        let output = format!("type=oci,tar=false,dest={}", image.display());
        let to = format!("type=registry,ref={}/cache,mode=max", registry.host);
        kitchen.build(&["--cache-to", &to, "-o", &output]).ok();
        let index = std::fs::read_to_string(image.join("index.json")).unwrap();
        let blob = |digest: &str| std::fs::read_to_string(image.join("blobs/sha256").join(&digest[7..])).unwrap();
        let index: serde_json::Value = serde_json::from_str(&index).unwrap();
        let manifest: serde_json::Value =
            serde_json::from_str(&blob(index["manifests"][0]["digest"].as_str().unwrap())).unwrap();
        let top = manifest["layers"].as_array().unwrap().last().unwrap()["digest"].as_str().unwrap().to_owned();
        Some(Stall { kitchen, _registry: registry, proxy, base, top, stores: 0.into() })
    }

    /// Builds in an empty store with the cache of `reference`; gives the causes of the steps that ran.
    fn build(&self, reference: &str, rules: &[(&'static str, &str, Fault, usize)]) -> BTreeSet<String> {
        let rule = |(method, path, fault, times): &(&'static str, &str, Fault, usize)| Rule {
            method,
            path: (*path).to_owned(),
            fault: fault.clone(),
            times: *times,
        };
        self.proxy.set(rules.iter().map(rule).collect());
        self.stores.set(self.stores.get() + 1);
        let root = self.kitchen.path(&format!("store-{}", self.stores.get()));
        self.kitchen.larder_in(&root, &["image", "import", "base", self.base.to_str().unwrap()]).ok();
        let out = self.kitchen.path("files");
        let _ = std::fs::remove_dir_all(&out);
        let output = format!("type=local,dest={}", out.display());
        let context = self.kitchen.context();
        let args =
            ["build", "--progress", "plain", "--cache-from", reference, "-o", &output, context.to_str().unwrap()];
        self.kitchen.larder_in(&root, &args).ok();
        assert_eq!(std::fs::read_to_string(out.join("c")).unwrap(), "one\n", "{rules:?}");
        let ran = self.kitchen.larder_in(&root, &["explain", "--format", "json"]).ok();
        let cause = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["cause"].as_str().map(|kind| format!("{kind} {}", value["verdict"]))
        };
        ran.stdout.lines().filter_map(cause).collect()
    }

    fn cache(&self, rules: &[(&'static str, &str, Fault, usize)]) -> BTreeSet<String> {
        self.build(&format!("{}/cache", self.proxy.host), rules)
    }
}

fn kinds(causes: &BTreeSet<String>) -> Vec<&str> {
    let mut kinds: Vec<&str> = causes.iter().map(|c| c.split(' ').next().unwrap_or_default()).collect();
    kinds.dedup();
    kinds
}

#[test]
fn what_passes_costs_no_step() {
    let Some(stall) = Stall::new() else { return };
    let top = format!("blobs/{}", stall.top);
    for rules in [
        vec![],
        vec![("GET", "manifests/latest", Fault::Status(503), 2)],
        vec![("GET", "manifests/latest", Fault::Reset, 1)],
        vec![("GET", "tags/list", Fault::Status(500), ALWAYS)],
        vec![("HEAD", "blobs", Fault::Status(429), 1)],
        vec![("GET", top.as_str(), Fault::Reset, 1)],
        vec![("GET", top.as_str(), Fault::Truncate(20), 1)],
        vec![("GET", top.as_str(), Fault::Status(401), 1)],
        vec![("GET", top.as_str(), Fault::Late(std::time::Duration::from_secs(1)), 1)],
    ] {
        assert_eq!(kinds(&stall.cache(&rules)), Vec::<&str>::new(), "{rules:?}");
    }
}

#[test]
fn a_cache_that_can_not_be_asked() {
    let Some(stall) = Stall::new() else { return };
    // One that is not there yet is no failure.
    assert_eq!(kinds(&stall.build(&format!("{}/none", stall.proxy.host), &[])), ["NeverBuilt"]);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let causes = stall.build(&format!("{closed}/cache"), &[]);
    assert_eq!(kinds(&causes)[0], "BackendUnavailable", "{causes:?}");
    for (path, fault, tries) in [
        ("manifests/latest", Fault::Status(503), r#""tries":4"#),
        ("manifests/latest", Fault::Reset, r#""tries":4"#),
        ("manifests/latest", Fault::Status(401), r#""tries":1"#),
        ("blobs", Fault::Status(500), r#""tries":4"#),
        ("blobs", Fault::Corrupt, r#""tries":1"#),
    ] {
        let causes = stall.cache(&[("GET", path, fault.clone(), ALWAYS)]);
        assert_eq!(kinds(&causes)[0], "BackendUnavailable", "{path} {fault:?}: {causes:?}");
        let text = causes.iter().next().unwrap();
        assert!(text.contains(tries) && text.contains(&stall.proxy.host), "{path} {fault:?}: {text}");
    }
}

#[test]
fn a_blob_that_is_lost_or_damaged() {
    let Some(stall) = Stall::new() else { return };
    let top = format!("blobs/{}", stall.top);
    for (method, fault, kind) in [
        ("HEAD", Fault::Status(404), "BlobMissing"),
        ("GET", Fault::Status(404), "BlobMissing"),
        ("GET", Fault::Corrupt, "BlobCorrupt"),
        ("GET", Fault::Truncate(20), "BackendUnavailable"),
        ("GET", Fault::Status(401), "BackendUnavailable"),
        ("GET", Fault::Reset, "BackendUnavailable"),
    ] {
        let causes = stall.cache(&[(method, top.as_str(), fault.clone(), ALWAYS)]);
        assert_eq!(kinds(&causes), [kind], "{method} {fault:?}: {causes:?}");
        assert_eq!(causes.len(), 1, "only the step whose layer it is: {causes:?}");
        let text = causes.iter().next().unwrap();
        assert!(text.contains(&stall.proxy.host), "{text}");
        assert!(kind == "BackendUnavailable" || text.contains(&stall.top), "{text}");
    }
}

/// What passes while a cache is written costs nothing of it.
#[test]
fn an_export_through_passing_faults_is_whole() {
    let Some(stall) = Stall::new() else { return };
    let slow = Fault::Slow(64, std::time::Duration::from_millis(5));
    for (number, faults) in [
        vec![("PUT", "uploads", Fault::Cut(100)), ("HEAD", "blobs", Fault::Status(429))],
        vec![("PUT", "uploads", Fault::Reset), ("PUT", "manifests", Fault::Reset)],
        vec![("POST", "uploads", Fault::Status(401)), ("PUT", "manifests", Fault::Status(401))],
        vec![("POST", "uploads", Fault::Status(503)), ("PUT", "uploads", Fault::Status(500))],
        vec![("PUT", "uploads", Fault::Status(401)), ("HEAD", "blobs", Fault::Reset)],
        vec![("GET", "manifests", Fault::Truncate(20)), ("GET", "manifests", slow)],
    ]
    .into_iter()
    .enumerate()
    {
        let rules = || {
            let rule = |(method, path, fault): &(&'static str, &str, Fault)| Rule {
                method,
                path: (*path).to_owned(),
                fault: fault.clone(),
                times: 1,
            };
            faults.iter().map(rule).collect::<Vec<_>>()
        };
        // The last one reads what is there, and adds to it.
        let reads = faults[0].0 == "GET";
        let name = if reads { "passing-0".to_owned() } else { format!("passing-{number}") };
        // Larder's takes blobs over from wherever they are: each time a new one. It joins caches, and need not be read.
        let serving = crate::registry::Serving::start(&stall.kitchen.path(&format!("registry-{number}")), &[]);
        let own = testkit::faults::start(&serving.host);
        for proxy in [&stall.proxy, &own].into_iter().take(if reads { 1 } else { 2 }) {
            let reference = format!("{}/{name}", proxy.host);
            let to = format!("type=registry,ref={reference},mode=max,ignore-error=false");
            proxy.set(rules());
            stall.kitchen.build(&["--cache-to", &to, "-o", "type=cacheonly"]).ok();
            assert!(proxy.used(), "{reference}: {faults:?}");
            proxy.set(Vec::new());
            assert_eq!(kinds(&stall.build(&reference, &[])), Vec::<&str>::new(), "{reference}: {faults:?}");
        }
    }
}

/// What stays is told with its cause; the build succeeds all the same, unless the export must not fail.
#[test]
fn an_export_that_fails_is_told() {
    let Some(stall) = Stall::new() else { return };
    let host = stall.proxy.host.clone();
    for (method, path, fault, said) in [
        ("POST", "uploads", Fault::Status(503), "503"),
        ("PUT", "uploads", Fault::Status(507), "507"),
        ("PUT", "uploads", Fault::Cut(10), "can't be reached"),
        ("PUT", "uploads", Fault::Status(401), "docker login"),
        ("PUT", "manifests", Fault::Status(503), "503"),
        ("PUT", "manifests", Fault::Reset, "can't be reached"),
        ("PUT", "manifests", Fault::Status(403), "docker login"),
        ("HEAD", "blobs", Fault::Status(503), "503"),
    ] {
        let what = format!("{method} {path} {fault:?}");
        stall.proxy.set(vec![Rule { method, path: path.to_owned(), fault, times: ALWAYS }]);
        let to = format!("type=registry,ref={host}/new,mode=max");
        let ran = stall.kitchen.build(&["--cache-to", &to, "-o", "type=cacheonly"]).ok();
        assert!(ran.stderr.contains(said) && ran.stderr.contains(&host), "{what}: {}", ran.stderr);
        let strict = format!("{to},ignore-error=false");
        let ran = stall.kitchen.build(&["--cache-to", &strict, "-o", "type=cacheonly"]);
        assert!(ran.code == 1 && ran.stderr.contains(said), "{what}: {}", ran.stderr);
    }
    // What lies there and can't be read as a cache is replaced, or stays and that is told; never a failed build.
    let to = format!("type=registry,ref={host}/cache,mode=max");
    for fault in [Fault::Corrupt, Fault::Truncate(20)] {
        stall.proxy.set(vec![Rule { method: "GET", path: "manifests".to_owned(), fault, times: ALWAYS }]);
        stall.kitchen.build(&["--cache-to", &to, "-o", "type=cacheonly"]).ok();
        stall.proxy.set(Vec::new());
        assert_eq!(kinds(&stall.cache(&[])), Vec::<&str>::new());
    }
}

/// A small disk of its own, gone with the test.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn new(at: std::path::PathBuf, size: &str) -> Option<SmallDisk> {
        std::fs::create_dir(&at).unwrap();
        let size = format!("size={size}");
        let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "small"]).arg(&at).status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: no tmpfs can be mounted here");
            return None;
        }
        Some(SmallDisk(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A layer that does not fit onto the disk costs its step, which may need less room; the cause says what was in the way.
#[test]
fn a_full_disk_costs_a_step_or_an_export_and_says_so() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(registry) = testkit::registry::start() else { return };
    let base = testkit::base::tar(kitchen.path("").as_path()).unwrap();
    let mount = "--mount=type=cache,target=/c,id=a-full-disk";
    kitchen.write("Dockerfile", &format!("FROM base\nRUN {mount} head -c 90000000 /dev/urandom > /c/large\n"));
    kitchen.build(&["-o", "type=cacheonly"]).ok();
    let either =
        format!("FROM base\nRUN {mount} if [ -e /c/large ]; then cat /c/large > /made; else echo small > /made; fi\n");
    let large = "FROM base\nRUN head -c 90000000 /dev/urandom > /made\n";
    let reference = |name: &str| format!("{}/{name}", registry.host);
    for (name, dockerfile) in [("either", either.as_str()), ("large", large)] {
        kitchen.write("Dockerfile", dockerfile);
        kitchen.build(&["--cache-to", &format!("type=registry,ref={}", reference(name)), "-o", "type=cacheonly"]).ok();
    }
    let Some(disk) = SmallDisk::new(kitchen.path("disk"), "64m") else { return };
    let root = disk.0.join("store");
    kitchen.larder_in(&root, &["image", "import", "base", base.to_str().unwrap()]).ok();
    let out = kitchen.path("files");
    let output = format!("type=local,dest={}", out.display());
    let build = |dockerfile: &str, args: &[&str]| {
        kitchen.write("Dockerfile", dockerfile);
        let context = kitchen.context();
        let all = [&["build", "--progress", "plain"], args, &[context.to_str().unwrap()]].concat();
        kitchen.larder_in(&root, &all)
    };
    let ran = build(&either, &["--cache-from", &reference("either"), "-o", &output]).ok();
    assert_eq!(std::fs::read_to_string(out.join("made")).unwrap(), "small\n");
    assert!(ran.stderr.contains("No space left on device"), "{}", ran.stderr);
    // One that has no room itself fails, and says so.
    let ran = build(large, &["--cache-from", &reference("large"), "-o", &output]);
    assert!(ran.code == 1 && ran.stderr.contains("No space left on device"), "{}", ran.stderr);
    // What was made fits, and its packed form does not: the cache is not written, and that is all.
    let fits = "FROM base\nRUN head -c 36000000 /dev/urandom > /made\n";
    let to = format!("type=registry,ref={}", reference("fits"));
    let ran = build(fits, &["--cache-to", &to, "-o", "type=cacheonly"]).ok();
    assert!(ran.stderr.contains("No space left on device"), "{}", ran.stderr);
    let ran = build(fits, &["--cache-to", &format!("{to},ignore-error=false"), "-o", "type=cacheonly"]);
    assert!(ran.code == 1 && ran.stderr.contains("No space left on device"), "{}", ran.stderr);
}

#[test]
fn slow_bodies_only_take_time() {
    let Some(stall) = Stall::new() else { return };
    let top = format!("blobs/{}", stall.top);
    let slow = Fault::Slow(64, std::time::Duration::from_millis(5));
    for path in ["manifests/latest", top.as_str()] {
        assert_eq!(kinds(&stall.cache(&[("GET", path, slow.clone(), ALWAYS)])), Vec::<&str>::new(), "{path}");
    }
}

/// A folder whose files are gone, cut off or changed.
#[test]
fn a_folder_that_lost_or_changed_blobs() {
    let Some(stall) = Stall::new() else { return };
    let folder = stall.kitchen.path("folder");
    let to = format!("type=local,dest={},mode=max", folder.display());
    stall.kitchen.build(&["--cache-to", &to, "-o", "type=cacheonly"]).ok();
    let from = format!("type=local,src={}", folder.display());
    assert_eq!(kinds(&stall.build(&from, &[])), Vec::<&str>::new());
    let blob = folder.join("blobs/sha256").join(&stall.top[7..]);
    let whole = std::fs::read(&blob).unwrap();
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 0x55;
    for (bytes, kind) in [(&whole[..20], "BlobCorrupt"), (&changed[..], "BlobCorrupt")] {
        std::fs::write(&blob, bytes).unwrap();
        let causes = stall.build(&from, &[]);
        assert!(kinds(&causes) == [kind] && causes.len() == 1, "{causes:?}");
    }
    std::fs::remove_file(&blob).unwrap();
    let causes = stall.build(&from, &[]);
    assert!(kinds(&causes) == ["BlobMissing"] && causes.len() == 1, "{causes:?}");
}

/// So many processes export to one reference at once, each something else and half of them for another platform: all of it
/// is there afterwards. `LARDER_ROUNDS` says how often.
fn many_writers(kitchen: &Kitchen, host: &str) {
    let rounds: usize = std::env::var("LARDER_ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(2);
    const WRITERS: usize = 16;
    let platform = |n: usize| if n.is_multiple_of(2) { "linux/amd64" } else { "linux/arm64" };
    kitchen.write("Dockerfile", "FROM scratch AS a\nARG N\nCOPY f$N /f\nFROM scratch\nCOPY --from=a /f /g\n");
    for round in 0..rounds {
        let reference = format!("{host}/shared:{round}");
        let to = format!("type=registry,ref={reference},mode=max,ignore-error=false");
        let context = kitchen.context();
        (0..WRITERS).for_each(|n| kitchen.write(&format!("f{n}"), &format!("{round} {n}")));
        let start = |n: usize| {
            let (root, number) = (kitchen.path(&format!("writer-{n}")), format!("N={n}"));
            let args = ["build", "-q", "--platform", platform(n), "--build-arg", &number, "--cache-to", &to];
            let mut command = kitchen.command(&root, &[&args[..], &["-o", "type=cacheonly"]].concat());
            command.arg(&context).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            command.spawn().unwrap()
        };
        let running: Vec<_> = (0..WRITERS).map(start).collect();
        for mut child in running {
            assert!(child.wait().unwrap().success());
        }
        let root = kitchen.path("reader");
        for n in 0..WRITERS {
            let number = format!("N={n}");
            let args = ["build", "--progress", "plain", "--platform", platform(n), "--build-arg", &number];
            let more = ["--cache-from", &reference, "-o", "type=cacheonly", context.to_str().unwrap()];
            let ran = kitchen.larder_in(&root, &[&args[..], &more].concat()).ok();
            assert_eq!(ran.missed(), 0, "round {round}, writer {n}: {}", ran.stderr);
        }
        // Each round begins with nothing, and leaves nothing.
        let stores = (0..WRITERS).map(|n| kitchen.path(&format!("writer-{n}"))).chain([root]);
        stores.for_each(|store| std::fs::remove_dir_all(store).unwrap());
    }
}

#[test]
fn many_writers_lose_nothing() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(registry) = testkit::registry::start() else { return };
    many_writers(&kitchen, &registry.host);
}

#[test]
fn many_writers_lose_nothing_in_larders_registry() {
    let Some(kitchen) = Kitchen::new() else { return };
    let serving = crate::registry::Serving::start(&kitchen.path("registry"), &[]);
    many_writers(&kitchen, &serving.host);
}
