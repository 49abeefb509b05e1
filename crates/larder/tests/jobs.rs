//! Caches in GitHub's cache service: what jobs of branches read and write, on larder's command and through docker-buildx.

use crate::buildx::each;
use crate::kitchen::{Kitchen, Ran};

const STAGES: &str = "FROM base AS build\nWORKDIR /w\nCOPY src src\nRUN cat src/* > app\n\
    FROM base\nCOPY --from=build /w/app /app\nRUN cat /app > /copy\n";

/// Jobs of one repository.
struct Jobs {
    kitchen: Kitchen,
    service: testkit::gha::Service,
    main: String,
    topic: String,
}

impl Jobs {
    fn new() -> Option<Jobs> {
        let kitchen = Kitchen::new()?;
        kitchen.write("Dockerfile", STAGES);
        kitchen.write("src/a", "one");
        let service = testkit::gha::start();
        let main = service.token(&[("refs/heads/main", 3)]);
        let topic = service.token(&[("refs/heads/topic", 3), ("refs/heads/main", 1)]);
        Some(Jobs { kitchen, service, main, topic })
    }

    /// Builds in a store as a job does that was given `token`.
    fn build_in(&self, store: &str, token: &str, args: &[&str]) -> Ran {
        let (root, context) = (self.kitchen.other(store), self.kitchen.context());
        let mut all = vec!["build", "--progress", "plain", "-o", "type=cacheonly"];
        all.extend(args);
        all.push(context.to_str().unwrap());
        let mut command = self.kitchen.command(&root, &all);
        command.env("ACTIONS_RUNTIME_TOKEN", token).env("ACTIONS_RESULTS_URL", self.service.url());
        Ran::of(command.output().unwrap())
    }

    fn indexes(&self) -> usize {
        self.service.keys().iter().filter(|key| key.starts_with("index-")).count()
    }
}

const TO: [&str; 2] = ["--cache-to", "type=gha,mode=max,ignore-error=false"];
const FROM: [&str; 2] = ["--cache-from", "type=gha"];

#[test]
fn branches_read_mains_and_write_their_own() {
    let Some(jobs) = Jobs::new() else { return };
    let first = jobs.build_in("first", &jobs.main, &TO).ok();
    assert!(first.stderr.contains("exporting to GitHub Actions Cache"), "{}", first.stderr);
    assert!(!first.stderr.contains(&jobs.main), "{}", first.stderr);
    let keys = jobs.service.keys();
    // BuildKit's keys: the version, and 8 digits of the branch's sha256.
    let digits = &oci::Digest::of(b"refs/heads/main").to_string()[7..15];
    assert!(keys.contains(&format!("index-buildkit-1-{digits}#1")), "{keys:?}");
    assert!(keys.iter().filter(|key| key.starts_with("buildkit-blob-1-sha256:")).count() >= 3, "{keys:?}");
    // Nothing is written that is there.
    jobs.build_in("first", &jobs.main, &TO).ok();
    assert_eq!(jobs.service.keys(), keys);
    assert_eq!(jobs.build_in("second", &jobs.topic, &FROM).ok().missed(), 0);
    // What a branch makes is its own.
    jobs.kitchen.write("src/a", "two");
    let both = [FROM, TO].concat();
    assert!(jobs.build_in("third", &jobs.topic, &both).ok().missed() > 0);
    assert!(jobs.build_in("fourth", &jobs.main, &FROM).ok().missed() > 0);
    assert_eq!(jobs.build_in("fifth", &jobs.topic, &FROM).ok().missed(), 0);
    // Another cache of the same branch.
    let other = ["--cache-from", "type=gha,scope=other"];
    assert!(jobs.build_in("sixth", &jobs.topic, &other).ok().missed() > 0);
}

#[test]
fn what_the_service_lost_or_refuses_costs_steps() {
    let Some(jobs) = Jobs::new() else { return };
    let bare = jobs.kitchen.build(&[&FROM[..], &["--cache-to", "type=gha", "-o", "type=cacheonly"]].concat()).ok();
    assert!(bare.stderr.contains("ACTIONS_RUNTIME_TOKEN"), "outside of a job it is left out: {}", bare.stderr);
    jobs.build_in("first", &jobs.main, &TO).ok();
    // Too many requests are waited for.
    jobs.service.refuse(2);
    assert_eq!(jobs.build_in("second", &jobs.main, &FROM).ok().missed(), 0);
    let stranger = format!("{}x", jobs.main);
    jobs.build_in("third", &stranger, &FROM).ok();
    let causes = |store: &str| jobs.kitchen.causes_in(&jobs.kitchen.path(store));
    assert!(causes("third").iter().any(|(_, cause)| cause == "BackendUnavailable"), "{:?}", causes("third"));
    assert!(jobs.build_in("fourth", "none", &FROM).ok().missed() > 0);
    assert!(causes("fourth").iter().any(|(_, cause)| cause == "BackendUnavailable"), "{:?}", causes("fourth"));
    let strict = jobs.build_in("fourth", &stranger, &TO);
    assert!(strict.code == 1 && strict.stderr.contains("unauthenticated"), "{}", strict.stderr);
    // Entries are evicted: only what they held is made again.
    jobs.service.evict(|key| key.starts_with("buildkit-blob-"));
    jobs.build_in("fifth", &jobs.main, &FROM).ok();
    assert!(causes("fifth").iter().any(|(_, cause)| cause == "BlobMissing"), "{:?}", causes("fifth"));
    let old = ["--cache-to", "type=gha,version=1"];
    let ran = jobs.build_in("fifth", &jobs.main, &old);
    assert!(ran.code != 0 && ran.stderr.contains("switched off"), "{}", ran.stderr);
}

/// Jobs that export at the same time, one that died with a number reserved, and BuildKit, which writes only its own.
#[test]
fn many_writers_lose_nothing() {
    let Some(jobs) = Jobs::new() else { return };
    const WRITERS: usize = 6;
    let kitchen = &jobs.kitchen;
    kitchen.write("Dockerfile", "FROM scratch AS a\nARG N\nCOPY f$N /f\nFROM scratch\nCOPY --from=a /f /copy\n");
    (0..=WRITERS).for_each(|n| kitchen.write(&format!("f{n}"), &format!("{n}")));
    let write = |n: usize| {
        let number = format!("N={n}");
        jobs.build_in(&format!("writer-{n}"), &jobs.main, &[&["--build-arg", number.as_str()], &TO[..]].concat()).ok();
    };
    let all = |said: &str, count: usize| {
        for n in 0..count {
            let number = format!("N={n}");
            let args = [&["--build-arg", number.as_str()], &FROM[..]].concat();
            let ran = jobs.build_in(&format!("reader-{said}-{n}"), &jobs.main, &args).ok();
            assert_eq!(ran.missed(), 0, "{said}, writer {n}: {}", ran.stderr);
        }
    };
    std::thread::scope(|scope| (0..WRITERS).for_each(|n| drop(scope.spawn(move || write(n)))));
    all("together", WRITERS);
    assert_eq!(jobs.indexes(), WRITERS);
    // BuildKit writes the next number with nothing but its own.
    let digits = &oci::Digest::of(b"refs/heads/main").to_string()[7..15];
    let index = format!("index-buildkit-1-{digits}#");
    jobs.service.put("refs/heads/main", &format!("{index}{}", WRITERS + 1), Some(b"{}"));
    all("after BuildKit", WRITERS);
    write(WRITERS);
    all("after larder", WRITERS + 1);
}

#[test]
fn docker_buildx_hands_the_job_on() {
    each(|kitchen, daemon| {
        let Some(server) = testkit::s3::start("bkt") else { return };
        let service = testkit::gha::start();
        let token = service.token(&[("refs/heads/main", 3)]);
        kitchen.write("Dockerfile", STAGES);
        kitchen.write("src/a", "one");
        // A client that is older than the service's second version is told of it.
        let told = if daemon.is_old() { format!(",version=2,url={}", service.url()) } else { String::new() };
        let host = &server.host;
        for cache in [
            format!("type=gha,scope=x{told}"),
            format!("type=s3,bucket=bkt,region=x,endpoint_url=http://{host},use_path_style=true"),
        ] {
            let build = |args: &[&str]| {
                let mut command = daemon.command(&[&["build", "--progress", "plain"], args, &["."]].concat());
                command.env("ACTIONS_RUNTIME_TOKEN", &token).env("ACTIONS_RESULTS_URL", service.url());
                command.env("ACTIONS_CACHE_SERVICE_V2", "true").env("AWS_EC2_METADATA_DISABLED", "true");
                command.env("AWS_ACCESS_KEY_ID", testkit::s3::KEY).env("AWS_SECRET_ACCESS_KEY", testkit::s3::SECRET);
                Ran::of(command.output().unwrap())
            };
            build(&["--cache-to", &format!("{cache},mode=max,ignore-error=false")]).ok();
            daemon.buildx(&["prune", "--all", "--force"]).ok();
            let again = build(&["--cache-from", &cache]).ok();
            assert!(again.stderr.contains("importing cache manifest from"), "{}", again.stderr);
            assert_eq!(again.missed(), 0, "{cache}: {}", again.stderr);
        }
    });
}
