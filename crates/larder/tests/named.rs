//! larder under the names `buildkitd` and `buildctl`: what users of these see. A real buildctl, where one is on the PATH, is
//! asked the same of the same daemon.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use prost::Message;
use proto::pb;

use crate::kitchen::{Kitchen, Ran};
use crate::leaves::eventually;

/// The binary under BuildKit's names.
pub struct Named<'a> {
    kitchen: &'a Kitchen,
    folder: PathBuf,
}

impl<'a> Named<'a> {
    pub fn new(kitchen: &'a Kitchen) -> Named<'a> {
        let folder = kitchen.path("names");
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["buildkitd", "buildctl"] {
            let link = folder.join(name);
            if !link.exists() {
                symlink(env!("CARGO_BIN_EXE_larder"), link).unwrap();
            }
        }
        Named { kitchen, folder }
    }

    pub fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.folder.join(name));
        command.args(args).env("HOME", self.kitchen.path("home")).env_remove("SOURCE_DATE_EPOCH");
        command.env_remove("LARDER_ROOT").env("BUILDKIT_HOST", self.address()).current_dir(self.kitchen.path(""));
        command.stdin(Stdio::null());
        command
    }

    pub fn buildctl(&self, args: &[&str]) -> Ran {
        Ran::of(self.command("buildctl", args).output().unwrap())
    }

    /// buildctl with something on standard input.
    pub fn feed(&self, args: &[&str], bytes: &[u8]) -> Ran {
        let mut command = self.command("buildctl", args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        Ran::of(child.wait_with_output().unwrap())
    }

    fn build(&self, args: &[&str]) -> Ran {
        let context = format!("context={}", self.kitchen.context().display());
        let dockerfile = format!("dockerfile={}", self.kitchen.context().display());
        let all =
            ["build", "--progress=plain", "--frontend=dockerfile.v0", "--local", &context, "--local", &dockerfile];
        self.buildctl(&[&all, args].concat())
    }

    fn address(&self) -> String {
        format!("unix://{}", self.kitchen.path("buildkitd.sock").display())
    }

    /// buildkitd on the kitchen's store; what it said until it was ready.
    pub fn start(&self, args: &[&str]) -> Daemon {
        let (root, address) = (self.kitchen.root(), self.address());
        let all = [&["--root", root.to_str().unwrap(), "--addr", &address], args].concat();
        let log = self.kitchen.path("buildkitd.log");
        let mut command = self.command("buildkitd", &all);
        let child = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
        let daemon = Daemon { child, log };
        let begun = Instant::now();
        while !daemon.said().contains("is ready") {
            assert!(begun.elapsed() < Duration::from_secs(20), "buildkitd is not ready: {}", daemon.said());
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon
    }
}

/// A running buildkitd, ended with this.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

#[test]
fn builds_through_buildctl() {
    let Some(kitchen) = Kitchen::new() else { return };
    let named = Named::new(&kitchen);
    let _daemon = named.start(&[]);
    kitchen.write(
        "Dockerfile",
        "FROM base AS one\nARG WHO\nCOPY a /a\nRUN --mount=type=secret,id=tok echo $WHO >> /a; cat /run/secrets/tok\nFROM one AS two\nRUN exit 7\n",
    );
    kitchen.write("a", "first\n");
    std::fs::write(kitchen.path("tok"), "hush").unwrap();
    let at = |name: &str| kitchen.path(name).display().to_string();
    let (meta, reference, trace) = (at("meta.json"), at("ref"), at("trace"));
    let (out, tok) = (format!("type=local,dest={}", at("out")), format!("id=tok,src={}", at("tok")));
    let cache = format!("type=local,dest={}", at("cache"));
    let given = ["--opt", "target=one", "--opt", "build-arg:WHO", "--secret", &tok, "--output", &out];
    let beside = ["--metadata-file", &meta, "--ref-file", &reference, "--trace", &trace, "--export-cache", &cache];
    let ran =
        Ran::of(named.command("buildctl", &[]).env("WHO", "me").args(full(&named, &given, &beside)).output().unwrap());
    assert!(ran.ok().stderr.contains("[one 3/3] RUN --mount=type=secret"));
    assert_eq!(std::fs::read_to_string(kitchen.path("out/a")).unwrap(), "first\nme\n");
    let traced = std::fs::read_to_string(&trace).unwrap();
    assert!(traced.lines().all(|l| l.starts_with("{\"")) && traced.contains("\"completed\""), "{traced}");
    let reference = std::fs::read_to_string(&reference).unwrap();
    assert!(std::fs::read_to_string(kitchen.path("cache/index.json")).unwrap().contains("latest"));
    // The daemon knows it under the name in the file.
    let logs = named.buildctl(&["debug", "logs", "--progress=plain", &reference]).ok();
    assert!(logs.stdout.contains("COPY a /a") && logs.stdout.contains("hush"), "{}", logs.stdout);
    // Images: into the store with metadata, as a stream, as a layout with its name.
    let same = ["--opt", "build-arg:WHO=me", "--secret", &tok];
    let one = [&same[..], &["--opt", "target=one"]].concat();
    let image = ["--output", "type=image,name=registry.example/app:1", "--metadata-file", &meta];
    named.build(&[&one[..], &image].concat()).ok();
    let value: serde_json::Value = serde_json::from_slice(&std::fs::read(&meta).unwrap()).unwrap();
    assert!(value["containerimage.digest"].as_str().unwrap().starts_with("sha256:"), "{value}");
    assert!(value["containerimage.descriptor"]["size"].as_u64().unwrap() > 0, "{value}");
    let stream = full(&named, &one, &["--output", "type=tar"]);
    let stream = named.command("buildctl", &[]).args(stream).output().unwrap().stdout;
    assert!(tar::Archive::new(&*stream).entries().unwrap().any(|e| e.unwrap().path().unwrap().ends_with("a")));
    let layout = format!("type=oci,tar=false,name=app:2,dest={}", at("layout"));
    named.build(&[&one[..], &["--output", &layout]].concat()).ok();
    let index = std::fs::read_to_string(kitchen.path("layout/index.json")).unwrap();
    assert!(index.contains("app:2"), "{index}");
    assert!(named.build(&["--output", "type=local"]).stderr.contains("output directory is required"));
    // A failure as buildctl shows it.
    let failed = named.build(&same);
    assert_eq!(failed.code, 1);
    let shown = "Dockerfile:6\n--------------------\n   4 |     RUN --mount";
    assert!(failed.stderr.contains(shown), "{}", failed.stderr);
    assert!(failed.stderr.contains("   6 | >>> RUN exit 7\n"), "{}", failed.stderr);
    let last = "error: failed to solve: process \"/bin/sh -c exit 7\" did not complete successfully: exit code: 7\n";
    assert!(failed.stderr.ends_with(last), "{}", failed.stderr);
    assert!(failed.stderr.contains("------\n > [two 1/1] RUN exit 7:\n"), "{}", failed.stderr);
    // The trace of a build is there a moment after its end.
    let spans = || named.buildctl(&["debug", "logs", "--trace", &reference]).stdout;
    eventually("the build has no trace", || spans().contains("SpanContext"));
    // A question to the frontend.
    let targets = named.build(&["--opt", "requestid=frontend.targets"]).ok();
    assert!(targets.stdout.contains("one") && targets.stdout.contains("two (default)"), "{}", targets.stdout);
}

/// The arguments of a Dockerfile build.
fn full(named: &Named<'_>, given: &[&str], beside: &[&str]) -> Vec<String> {
    let context = named.kitchen.context().display().to_string();
    let locals = [format!("context={context}"), format!("dockerfile={context}")];
    let mut all = vec!["build".to_owned(), "--progress=plain".to_owned(), "--frontend=dockerfile.v0".to_owned()];
    all.extend(locals.into_iter().flat_map(|local| ["--local".to_owned(), local]));
    all.extend(given.iter().chain(beside).map(|arg| (*arg).to_owned()));
    all
}

/// A graph: one process over the base image.
fn graph() -> Vec<u8> {
    let source =
        pb::SourceOp { identifier: "docker-image://docker.io/library/base:latest".to_owned(), ..Default::default() };
    let source = pb::Op { op: Some(pb::op::Op::Source(source)), ..Default::default() }.encode_to_vec();
    let input = |bytes: &[u8]| pb::Input { digest: oci::Digest::of(bytes).to_string(), index: 0 };
    let args = ["/bin/sh", "-c", "echo a graph > /out"].map(str::to_owned).to_vec();
    let meta = pb::Meta { args, cwd: "/".to_owned(), ..Default::default() };
    let mount = pb::Mount { dest: "/".to_owned(), ..Default::default() };
    let exec = pb::ExecOp { meta: Some(meta), mounts: vec![mount], ..Default::default() };
    let exec = pb::Op { inputs: vec![input(&source)], op: Some(pb::op::Op::Exec(exec)), ..Default::default() };
    let exec = exec.encode_to_vec();
    let last = pb::Op { inputs: vec![input(&exec)], ..Default::default() }.encode_to_vec();
    pb::Definition { def: vec![source, exec, last], ..Default::default() }.encode_to_vec()
}

#[test]
fn graphs_on_standard_input() {
    let Some(kitchen) = Kitchen::new() else { return };
    let named = Named::new(&kitchen);
    let _daemon = named.start(&[]);
    let feed = |args: &[&str], bytes: &[u8]| named.feed(args, bytes);
    let out = format!("type=local,dest={}", kitchen.path("out").display());
    let args = ["build", "--progress=plain", "--output", &out];
    assert!(!feed(&args, &graph()).ok().stderr.contains("CACHED"));
    assert_eq!(std::fs::read_to_string(kitchen.path("out/out")).unwrap(), "a graph\n");
    assert!(feed(&args, &graph()).ok().stderr.contains("CACHED"));
    let again = feed(&[&args[..], &["--no-cache"]].concat(), &graph()).ok();
    assert!(!again.stderr.contains("CACHED"), "{}", again.stderr);
    assert!(feed(&args, b"").stderr.contains("empty definition sent to build"));
    assert!(feed(&args, &[0xff; 9]).stderr.contains("failed to parse input"));
    let dumped = feed(&["debug", "dump-llb"], &graph()).ok();
    assert_eq!(dumped.stdout.lines().count(), 3);
    assert!(dumped.stdout.contains("\"args\":[\"/bin/sh\",\"-c\",\"echo a graph > /out\"]"), "{}", dumped.stdout);
    let picture = feed(&["debug", "dump-llb", "--dot"], &graph()).ok();
    assert!(
        picture.stdout.starts_with("digraph {\n") && picture.stdout.contains("shape=\"ellipse\""),
        "{}",
        picture.stdout
    );
}

#[test]
fn what_is_held_and_kept() {
    let Some(kitchen) = Kitchen::new() else { return };
    let named = Named::new(&kitchen);
    let daemon = named.start(&["--oci-worker-labels=team=kitchen", "--debug"]);
    assert!(daemon.said().contains("--debug is left out"), "{}", daemon.said());
    kitchen.write("Dockerfile", "FROM base\nRUN --mount=type=cache,target=/c echo x > /c/x\n");
    named.build(&[]).ok();
    // Tables have buildctl's columns, and formats its JSON.
    let du = named.buildctl(&["du"]).ok().stdout;
    assert!(du.starts_with("ID") && du.contains("\tRECLAIMABLE\tSIZE\t") && du.contains("\nReclaimable:\t"), "{du}");
    let verbose = named.buildctl(&["du", "-v", "--filter", "type==exec.cachemount"]).ok().stdout;
    assert!(verbose.contains("Type:\t\texec.cachemount") && !verbose.contains("Total:"), "{verbose}");
    let listed = named.buildctl(&["du", "--format", "{{range .}}{{.RecordType}} {{end}}"]).ok().stdout;
    assert!(listed.contains("exec.cachemount"), "{listed}");
    let json: serde_json::Value =
        serde_json::from_str(&named.buildctl(&["du", "--format={{json .}}"]).ok().stdout).unwrap();
    assert!(json[0]["createdAt"].as_str().unwrap().ends_with('Z'), "{json}");
    let workers = named.buildctl(&["debug", "workers", "--verbose"]).ok().stdout;
    assert!(workers.contains("team:") && workers.contains("GC Policy rule#0:"), "{workers}");
    assert!(named.buildctl(&["debug", "info"]).ok().stdout.starts_with("BuildKit:   larder v"));
    for name in ["buildctl", "buildkitd"] {
        // Clients take the third word for the version.
        let version = Ran::of(named.command(name, &["--version"]).output().unwrap()).ok().stdout;
        assert!(version.split_whitespace().nth(2).unwrap().starts_with("v0."), "{version}");
    }
    let kept = named.buildctl(&["debug", "histories"]).ok().stdout;
    let reference = kept.lines().nth(1).unwrap().split('\t').nth(1).unwrap().to_owned();
    named.buildctl(&["debug", "ctl", "--pin", &reference]).ok();
    assert!(!named.buildctl(&["prune-histories"]).ok().stdout.contains(&reference));
    named.buildctl(&["debug", "ctl", "--unpin", &reference]).ok();
    let event: serde_json::Value =
        serde_json::from_str(&named.buildctl(&["debug", "histories", "--format", "json"]).ok().stdout).unwrap();
    let log = event["record"]["logs"]["digest"].as_str().unwrap().to_owned();
    assert!(!named.buildctl(&["debug", "get", &log]).ok().stdout.is_empty());
    assert!(named.buildctl(&["prune-histories"]).ok().stdout.contains(&reference));
    assert_eq!(named.buildctl(&["debug", "get", "nothing"]).code, 1);
    // What went, by its rules.
    let kept = named.buildctl(&["prune", "--keep-storage", "100000", "--keep-duration", "1h"]).ok();
    assert_eq!(kept.stdout, "Total:\t0B\n");
    let gone = named.buildctl(&["prune", "--all", "--filter", "type==exec.cachemount"]).ok().stdout;
    assert!(gone.contains("*") && gone.contains("Total:\t"), "{gone}");
    let gone = named.buildctl(&["prune", "--all", "--format", "{{.ID}}"]).ok().stdout;
    assert!(!gone.contains("Total"), "{gone}");
    // Nobody answers.
    let nobody = named.buildctl(&["--addr", "unix:///not/here", "--timeout", "1", "--wait", "du"]);
    assert!(
        nobody.code == 1 && nobody.stderr.contains("no daemon answers on unix:///not/here within 1 s"),
        "{}",
        nobody.stderr
    );
}

#[test]
fn a_whole_configuration_acts_or_says_why_not() {
    let Some(kitchen) = Kitchen::new() else { return };
    let named = Named::new(&kitchen);
    let config = kitchen.path("buildkitd.toml");
    let write = |text: &str| std::fs::write(&config, text).unwrap();
    let flag = ["--config", config.to_str().unwrap()];
    write(
        r#"
        [worker.oci]
          platforms = ["linux/riscv64", "linux/amd64"]
          binary = "crun"
          max-parallelism = 1
          reservedSpace = "1GB"
        [worker.oci.labels]
          a = "b"
        [grpc]
          gid = 7
        [dns]
          nameservers = ["192.0.2.1"]
          searchDomains = ["kitchen.example"]
        [history]
          maxEntries = 1
          maxAge = "0s"
        [frontend."gateway.v0"]
          enabled = false
        [nonsense]
          x = 1
        "#,
    );
    let daemon = named.start(&flag);
    let said = daemon.said();
    for text in ["worker.oci.binary is left out", "nonsense.x is left out: larder does not know it"] {
        assert!(said.contains(text), "{said}");
    }
    let workers = named.buildctl(&["debug", "workers", "-v"]).ok().stdout;
    for text in ["linux/riscv64,linux/amd64", "\ta:", "Reserved space:\t1.07GB"] {
        assert!(workers.contains(text), "{text}: {workers}");
    }
    let data = std::fs::metadata(kitchen.path("buildkitd.sock")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::gid(&data), 7);
    kitchen.write("Dockerfile", "FROM base\nRUN cat /etc/resolv.conf\n");
    let ran = named.build(&[]).ok();
    assert!(
        ran.stderr.contains("nameserver 192.0.2.1") && ran.stderr.contains("search kitchen.example"),
        "{}",
        ran.stderr
    );
    named.build(&[]).ok();
    std::thread::sleep(Duration::from_millis(5)); // older than the age that stays
    named.build(&[]).ok();
    let kept = named.buildctl(&["debug", "histories"]).ok().stdout;
    assert_eq!(kept.lines().count(), 2, "{kept}");
    let gateway = named.buildctl(&["build", "--frontend=gateway.v0", "--opt", "source=docker/dockerfile"]);
    assert!(gateway.stderr.contains("gateway.v0 is turned off"), "{}", gateway.stderr);
    kitchen.write("Dockerfile", "# syntax=registry.example/other\nFROM base\n");
    assert!(named.build(&[]).stderr.contains("is not an allowed gateway source"));
    drop(daemon);
    // A promise that can't be kept, and a value that can't be read, end the start.
    for (text, why) in [
        ("[worker.oci]\nselinux = true", "steps are not confined by SELinux"),
        ("[worker.oci]\nreservedSpace = \"10 parsecs\"", "is no space on a disk"),
        ("[[worker.oci.gcpolicy]]\nfilters = [\"type~=(\"]", "gcpolicy 0"),
        ("[registry.\"registry.example\"]\ntlsconfigdir = [\"/not/here\"]", "/not/here"),
        ("x = ", "is wrong"),
    ] {
        write(text);
        let root = kitchen.path("never-opened");
        let args = [&flag[..], &["--root", root.to_str().unwrap()]].concat();
        let ran = Ran::of(named.command("buildkitd", &args).output().unwrap());
        assert!(ran.code == 2 && ran.stderr.contains(why), "{why}: {}", ran.stderr);
    }
}
