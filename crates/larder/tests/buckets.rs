//! Caches in a bucket of a real S3 server that checks every signature: BuildKit's layout, what goes wrong on the way, and
//! many writers at once.

use std::collections::BTreeSet;

use testkit::faults::{Fault, Proxy, Rule};
use testkit::s3::{KEY, SECRET, Server};

use crate::kitchen::{Kitchen, Ran};

/// Every time.
const ALWAYS: usize = 1_000;

const STAGES: &str = "FROM base AS build\nWORKDIR /w\nCOPY src src\nRUN cat src/* > app\n\
    FROM base\nCOPY --from=build /w/app /app\nRUN cat /app > /copy\n";

/// A kitchen with a bucket behind a proxy.
struct Stall {
    kitchen: Kitchen,
    server: Server,
    proxy: Proxy,
    stores: std::cell::Cell<usize>,
}

impl Stall {
    fn new() -> Option<Stall> {
        let kitchen = Kitchen::new()?;
        let server = testkit::s3::start("bkt")?;
        let proxy = testkit::faults::start(&server.host);
        Some(Stall { kitchen, server, proxy, stores: 0.into() })
    }

    /// The attributes of a cache, which a user of AWS leaves out but for the bucket.
    fn cache(&self, more: &str) -> String {
        let host = &self.proxy.host;
        format!("type=s3,bucket=bkt,endpoint_url=http://{host},use_path_style=true,prefix=ci/{more}")
    }

    /// Builds in a store, with the keys in the surroundings.
    fn build_in(&self, store: &str, args: &[&str]) -> Ran {
        let (root, context) = (self.kitchen.other(store), self.kitchen.context());
        let mut all = vec!["build", "--progress", "plain"];
        all.extend(args);
        all.push(context.to_str().unwrap());
        let mut command = self.kitchen.command(&root, &all);
        command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET).env("AWS_REGION", "eu-west-1");
        command.env_remove("AWS_PROFILE").env("AWS_EC2_METADATA_DISABLED", "true");
        Ran::of(command.output().unwrap())
    }

    /// Builds in an empty store with the cache; gives the causes of the steps that ran.
    fn causes(&self, cache: &str, rules: &[(&'static str, &str, Fault, usize)]) -> BTreeSet<String> {
        self.set(rules);
        self.stores.set(self.stores.get() + 1);
        let store = format!("store-{}", self.stores.get());
        let out = self.kitchen.path("files");
        let _ = std::fs::remove_dir_all(&out);
        let output = format!("type=local,dest={}", out.display());
        self.build_in(&store, &["--cache-from", cache, "-o", &output]).ok();
        assert_eq!(std::fs::read_to_string(out.join("copy")).unwrap(), "one", "{rules:?}");
        let ran = self.kitchen.larder_in(&self.kitchen.path(&store), &["explain", "--format", "json"]).ok();
        let cause = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["cause"].as_str().map(|kind| format!("{kind} {}", value["verdict"]))
        };
        ran.stdout.lines().filter_map(cause).collect()
    }

    fn set(&self, rules: &[(&'static str, &str, Fault, usize)]) {
        let rule = |(method, path, fault, times): &(&'static str, &str, Fault, usize)| Rule {
            method,
            path: (*path).to_owned(),
            fault: fault.clone(),
            times: *times,
        };
        self.proxy.set(rules.iter().map(rule).collect());
    }

    /// The config under a name.
    fn config(&self, name: &str) -> serde_json::Value {
        let file = self.server.file("bkt", &format!("ci/manifests/{name}"));
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }
}

fn kinds(causes: &BTreeSet<String>) -> Vec<&str> {
    let mut kinds: Vec<&str> = causes.iter().map(|c| c.split(' ').next().unwrap_or_default()).collect();
    kinds.dedup();
    kinds
}

#[test]
fn through_a_bucket_and_back() {
    let Some(stall) = Stall::new() else { return };
    stall.kitchen.write("Dockerfile", STAGES);
    stall.kitchen.write("src/a", "one");
    let cache = stall.cache(",name=app;other");
    let to = format!("{cache},mode=max");
    let first = stall.build_in("first", &["--cache-to", &to, "-o", "type=cacheonly"]).ok();
    assert!(first.stderr.contains("exporting cache to Amazon S3"), "{}", first.stderr);
    assert!(!first.stderr.contains(SECRET), "{}", first.stderr);
    // BuildKit's layout: every layer is a blob, and the config says of each what a descriptor would.
    for name in ["app", "other"] {
        let config = stall.config(name);
        let layers = config["layers"].as_array().unwrap();
        assert!(layers.len() >= 3, "{config}");
        for layer in layers {
            let blob =
                std::fs::read(stall.server.file("bkt", &format!("ci/blobs/{}", layer["blob"].as_str().unwrap())));
            assert_eq!(blob.unwrap().len() as u64, layer["annotations"]["size"].as_u64().unwrap(), "{layer}");
            assert!(layer["annotations"]["diffID"].as_str().unwrap().starts_with("sha256:"), "{layer}");
        }
    }
    // Nothing is sent that is there already.
    stall.proxy.seen();
    let again = stall.build_in("first", &["--cache-to", &to, "-o", "type=cacheonly"]).ok();
    assert!(!again.stderr.contains("writing layer"), "{}", again.stderr);
    let written: Vec<String> = stall.proxy.seen().into_iter().filter(|line| line.starts_with("PUT ")).collect();
    assert_eq!(written, Vec::<String>::new());
    // What is old there is made young again: rules of the bucket remove what is old.
    let young = format!("{to},touch_refresh=0s");
    stall.build_in("first", &["--cache-to", &young, "-o", "type=cacheonly"]).ok();
    let touched = stall.proxy.seen().iter().filter(|line| line.starts_with("PUT ")).count();
    assert!(touched >= 5, "{touched} objects were touched");
    // Another machine.
    assert_eq!(kinds(&stall.causes(&cache, &[])), Vec::<&str>::new());
    assert_eq!(kinds(&stall.causes(&stall.cache(",name=other"), &[])), Vec::<&str>::new());
    assert_eq!(kinds(&stall.causes(&stall.cache(",name=none"), &[])), ["NeverBuilt"]);
}

#[test]
fn what_goes_wrong_costs_steps_and_is_told() {
    let Some(stall) = Stall::new() else { return };
    stall.kitchen.write("Dockerfile", "FROM base\nCOPY src src\nRUN cat src/* > app\nRUN cat app > copy\n");
    stall.kitchen.write("src/a", "one");
    let cache = stall.cache("");
    let to = format!("{cache},mode=max,ignore-error=false");
    stall.set(&[
        ("PUT", "blobs/", Fault::Status(503), 1),
        ("PUT", "manifests/", Fault::Reset, 1),
        ("GET", "list-type", Fault::Status(500), 1),
    ]);
    stall.build_in("first", &["--cache-to", &to, "-o", "type=cacheonly"]).ok();
    assert!(stall.proxy.used());
    let config = stall.config("buildkit");
    // The layer of the last step: no other lies upon it. Go leaves 0 out.
    let layers = config["layers"].as_array().unwrap();
    let parents: BTreeSet<u64> =
        layers.iter().filter_map(|layer| layer["parent"].as_i64().unwrap_or(0).try_into().ok()).collect();
    let tops: Vec<_> = layers.iter().zip(0..).filter(|(_, place)| !parents.contains(place)).collect();
    assert_eq!(tops.len(), 1, "{config}");
    let top = tops[0].0["blob"].as_str().unwrap().replace(':', "%3A");
    for (rules, found) in [
        (vec![("GET", "manifests/buildkit", Fault::Status(503), 2)], ""),
        (vec![("GET", "blobs/", Fault::Truncate(20), 1)], ""),
        (vec![("HEAD", "blobs/", Fault::Reset, 1)], ""),
        (vec![("GET", "manifests/buildkit", Fault::Status(503), ALWAYS)], "BackendUnavailable"),
        (vec![("GET", "list-type", Fault::Status(500), ALWAYS)], "BackendUnavailable"),
        (vec![("GET", "manifests/buildkit", Fault::Status(403), ALWAYS)], "BackendUnavailable"),
        (vec![("HEAD", &top, Fault::Status(404), ALWAYS)], "BlobMissing"),
        (vec![("GET", &top, Fault::Status(404), ALWAYS)], "BlobMissing"),
        (vec![("GET", &top, Fault::Corrupt, ALWAYS)], "BlobCorrupt"),
        (vec![("GET", &top, Fault::Truncate(20), ALWAYS)], "BackendUnavailable"),
    ] {
        let causes = stall.causes(&cache, &rules);
        assert_eq!(kinds(&causes).first().copied().unwrap_or_default(), found, "{rules:?}: {causes:?}");
        assert!(causes.iter().all(|cause| !cause.contains(SECRET)), "{causes:?}");
        if found == "BlobMissing" || found == "BlobCorrupt" {
            assert_eq!(kinds(&causes), [found], "{rules:?}");
        }
    }
    for (method, path) in [("PUT", "blobs/"), ("PUT", "manifests/"), ("HEAD", "blobs/")] {
        stall.set(&[(method, path, Fault::Status(503), ALWAYS)]);
        let to = stall.cache(",prefix=new/,mode=max");
        let ran = stall.build_in("first", &["--cache-to", &to, "-o", "type=cacheonly"]).ok();
        assert!(ran.stderr.contains("503"), "{method} {path}: {}", ran.stderr);
        let strict = format!("{to},ignore-error=false");
        assert_eq!(stall.build_in("first", &["--cache-to", &strict, "-o", "type=cacheonly"]).code, 1);
    }
    // What can't be read is said before anything is built.
    for (attributes, said) in [("type=s3,region=x", "bucket="), ("type=s3,bucket=b,upload_parallelism=0", "above 0")] {
        let ran = stall.build_in("first", &["--cache-to", attributes, "-o", "type=cacheonly"]);
        assert!(ran.code != 0 && ran.stderr.contains(said), "{attributes}: {}", ran.stderr);
    }
}

/// So many processes export to one name at once, each something else: all of it is there afterwards. So is what a writer
/// wrote over that knows of no others.
#[test]
fn many_writers_lose_nothing() {
    let Some(stall) = Stall::new() else { return };
    const WRITERS: usize = 8;
    let kitchen = &stall.kitchen;
    kitchen.write("Dockerfile", "FROM scratch AS a\nARG N\nCOPY f$N /f\nFROM scratch\nCOPY --from=a /f /copy\n");
    (0..=WRITERS).for_each(|n| kitchen.write(&format!("f{n}"), &format!("{n}")));
    let cache = stall.cache("");
    let to = format!("{cache},access_key_id={KEY},secret_access_key={SECRET},mode=max,ignore-error=false");
    let context = kitchen.context();
    let start = |n: usize| {
        let (root, number) = (kitchen.path(&format!("writer-{n}")), format!("N={n}"));
        let args = ["build", "-q", "--build-arg", &number, "--cache-to", &to, "-o", "type=cacheonly"];
        let mut command = kitchen.command(&root, &args);
        command.arg(&context).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command.spawn().unwrap()
    };
    let all = |said: &str| {
        for n in 0..WRITERS {
            let number = format!("N={n}");
            let store = format!("reader-{said}-{n}");
            let ran = stall.build_in(&store, &["--build-arg", &number, "--cache-from", &cache, "-o", "type=cacheonly"]);
            assert_eq!(ran.ok().missed(), 0, "{said}, writer {n}");
        }
    };
    let running: Vec<_> = (0..WRITERS).map(start).collect();
    for mut child in running {
        assert!(child.wait().unwrap().success());
    }
    all("together");
    let head = stall.server.file("bkt", "ci/manifests/buildkit");
    let records = stall.config("buildkit")["records"].as_array().unwrap().len();
    std::fs::write(&head, "{}").unwrap();
    all("written over");
    assert!(start(WRITERS).wait().unwrap().success());
    assert!(stall.config("buildkit")["records"].as_array().unwrap().len() > records);
}
