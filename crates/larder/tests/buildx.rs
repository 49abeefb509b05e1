//! The daemon under real, unmodified docker-buildx clients of several ages: what their users see.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::kitchen::{Kitchen, Ran};
use crate::leaves::{eventually, processes};

/// A daemon on the kitchen's store with one client.
pub struct Daemon<'a> {
    kitchen: &'a Kitchen,
    child: Child,
    pub client: &'a str,
    /// The client adds attestations of itself, as it does for users.
    attests: AtomicBool,
}

impl<'a> Daemon<'a> {
    pub fn start(kitchen: &'a Kitchen, client: &'a str) -> Daemon<'a> {
        Daemon::configured(kitchen, client, None)
    }

    fn configured(kitchen: &'a Kitchen, client: &'a str, config: Option<&str>) -> Daemon<'a> {
        let socket = format!("unix://{}", kitchen.path("larder.sock").display());
        let mut command = kitchen.command(&kitchen.root(), &["daemon", "--addr", &socket]);
        std::fs::create_dir_all(kitchen.path("tmp")).unwrap();
        command.env("TMPDIR", kitchen.path("tmp"));
        if let Some(config) = config {
            std::fs::write(kitchen.path("larder.toml"), config).unwrap();
            command.arg("--config").arg(kitchen.path("larder.toml"));
        }
        let child = command.stderr(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
        let daemon = Daemon { kitchen, child, client, attests: AtomicBool::new(false) };
        let begun = Instant::now();
        while !kitchen.path("larder.sock").exists() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the daemon does not open its socket");
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon.buildx(&["create", "--name", "l", "--driver", "remote", &socket, "--use"]).ok();
        daemon
    }

    /// The client as users have it: it asks for provenance of itself.
    pub fn with_defaults(&self) -> &Self {
        self.attests.store(true, Ordering::Relaxed);
        self
    }

    /// The client is of an age before the build history.
    pub fn is_old(&self) -> bool {
        self.client.contains("trixie")
    }

    /// The daemon's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.client);
        command.args(args).current_dir(self.kitchen.context()).stdin(Stdio::null());
        command.env("BUILDX_CONFIG", self.kitchen.path("buildx")).env("HOME", self.kitchen.path("home"));
        command.env_remove("SOURCE_DATE_EPOCH");
        if !self.attests.load(Ordering::Relaxed) {
            command.env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1");
        }
        command
    }

    pub fn buildx(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    pub fn build(&self, args: &[&str]) -> Ran {
        let mut all = vec!["build", "--progress", "plain"];
        all.extend(args);
        all.push(".");
        self.buildx(&all)
    }

    /// A build that goes on until its step prints `ready`.
    pub fn build_until_ready(&self) -> Child {
        use std::io::{BufRead, BufReader};
        let mut child = self.command(&["build", "--progress", "plain", "."]).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with(" ready")), "the step never began");
        // Whoever is not read any more would stop.
        std::thread::spawn(move || lines.for_each(drop));
        child
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Every client on this machine; says loudly when there is none.
pub fn clients() -> Vec<String> {
    let peers = std::env::var("LARDER_PEERS").unwrap_or_else(|_| "/usr/local/lib/larder-peers".to_owned());
    let found: Vec<String> = ["buildx-trixie", "buildx-sid"]
        .iter()
        .map(|name| format!("{peers}/{name}/docker-buildx"))
        .filter(|path| std::path::Path::new(path).exists())
        .collect();
    if found.is_empty() {
        eprintln!("SKIPPED: no docker-buildx in {peers} (ci/buildx brings it)");
    }
    found
}

pub fn each(test: impl Fn(&Kitchen, &Daemon<'_>)) {
    each_configured(None, test);
}

fn each_configured(config: Option<&str>, test: impl Fn(&Kitchen, &Daemon<'_>)) {
    for client in clients() {
        let Some(kitchen) = Kitchen::new() else { return };
        let daemon = Daemon::configured(&kitchen, &client, config);
        test(&kitchen, &daemon);
    }
}

#[test]
fn cached_and_explained() {
    each(|kitchen, daemon| {
        kitchen.write("Dockerfile", "FROM base AS one\nCOPY a /a\nRUN cat /a\nFROM base\nCOPY --from=one /a /b\n");
        kitchen.write("a", "first");
        let first = daemon.build(&[]).ok();
        assert!(first.stderr.contains("[one 3/3] RUN cat /a"), "{}", first.stderr);
        let second = daemon.build(&[]).ok();
        assert!(!second.stderr.contains("because"), "{}", second.stderr);
        assert!(second.stderr.matches("CACHED").count() >= 3, "{}", second.stderr);
        kitchen.write("a", "other");
        let third = daemon.build(&[]).ok();
        assert!(third.stderr.contains("because a changed (content), 1 of 1 files"), "{}", third.stderr);
    });
}

#[test]
fn a_failed_step_shows_its_lines() {
    each(|kitchen, daemon| {
        kitchen.write("Dockerfile", "FROM base\nRUN true\nRUN echo why >&2; exit 7\n");
        let ran = daemon.build(&[]);
        assert_ne!(ran.code, 0);
        for text in [">>> RUN echo why >&2; exit 7", "did not complete successfully: exit code: 7", "why"] {
            assert!(ran.stderr.contains(text), "{text}: {}", ran.stderr);
        }
        kitchen.write("Dockerfile", "FROM base\nRUM true\n");
        let ran = daemon.build(&[]);
        assert_ne!(ran.code, 0);
        assert!(ran.stderr.contains("unknown instruction: RUM (did you mean RUN?)"), "{}", ran.stderr);
        // The daemon lives on.
        kitchen.write("Dockerfile", "FROM base\nRUN true\n");
        daemon.build(&[]).ok();
    });
}

#[test]
fn every_output_and_a_registry() {
    each(|kitchen, daemon| {
        let Some(registry) = testkit::registry::start() else { return };
        kitchen.write("Dockerfile", "FROM base\nCOPY sub /sub\nRUN ln /sub/f /sub/g && ln -s f /sub/l\n");
        kitchen.write("sub/f", "content");
        let out = kitchen.path("out");
        daemon.build(&["-o", &format!("type=local,dest={}", out.display())]).ok();
        assert_eq!(std::fs::read_to_string(out.join("sub/g")).unwrap(), "content");
        assert_eq!(std::fs::read_link(out.join("sub/l")).unwrap().to_str(), Some("f"));
        for kind in ["oci", "docker", "tar"] {
            let file = kitchen.path(&format!("{kind}.tar"));
            daemon.build(&["-t", "app", "-o", &format!("type={kind},dest={}", file.display())]).ok();
            let listed = Command::new("tar").arg("-tf").arg(&file).output().unwrap();
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            let wanted = if kind == "tar" { "sub/f" } else { "index.json" };
            assert!(listed.lines().any(|l| l == wanted), "{kind}: {listed}");
        }
        let name = format!("{}/team/app:1", registry.host);
        let metadata = kitchen.path("metadata.json");
        daemon.build(&["--push", "-t", &name, "--metadata-file", metadata.to_str().unwrap()]).ok();
        let text = std::fs::read_to_string(metadata).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let digest = value["containerimage.digest"].as_str().unwrap();
        let shown = daemon.buildx(&["imagetools", "inspect", &name]).ok();
        assert!(shown.stdout.contains(digest), "{digest}: {}", shown.stdout);
    });
}

#[test]
fn secrets_and_cache_mounts() {
    each(|kitchen, daemon| {
        let text = "FROM base\n\
            RUN --mount=type=secret,id=tok test \"$(cat /run/secrets/tok)\" = hush\n\
            RUN --mount=type=cache,target=/c echo x >> /c/log\n\
            ARG AGAIN\n\
            RUN --mount=type=cache,target=/c echo $AGAIN; wc -l < /c/log; echo x >> /c/log\n";
        kitchen.write("Dockerfile", text);
        kitchen.write("tok", "hush");
        let secret = ["--secret", "id=tok,src=tok"];
        daemon.build(&secret).ok();
        let second = daemon.build(&[&secret[..], &["--build-arg", "AGAIN=1"]].concat()).ok();
        assert!(second.stderr.contains("because ARG AGAIN"), "{}", second.stderr);
        assert!(second.stderr.lines().any(|l| l.ends_with(" 2")), "{}", second.stderr);
        assert_ne!(daemon.build(&["--no-cache"]).code, 0, "a step without its secret passed");
    });
}

#[test]
fn bake_with_linked_targets() {
    each(|kitchen, daemon| {
        kitchen.write("Dockerfile", "FROM base\nRUN echo made > /made\n");
        kitchen.write("app.Dockerfile", "FROM lower\nRUN cat /made > /copy\n");
        kitchen.write(
            "docker-bake.hcl",
            "group \"default\" { targets = [\"lower\", \"app\"] }\n\
             target \"lower\" { dockerfile = \"Dockerfile\" }\n\
             target \"app\" {\n dockerfile = \"app.Dockerfile\"\n contexts = { lower = \"target:lower\" }\n\
             output = [\"type=local,dest=out\"]\n}\n",
        );
        let args = ["bake", "--progress", "plain", "--allow", "fs.write=out"];
        // The flag is younger than the oldest client.
        let old = daemon.client.contains("trixie");
        daemon.buildx(if old { &args[..3] } else { &args }).ok();
        assert_eq!(std::fs::read_to_string(kitchen.context().join("out/copy")).unwrap(), "made\n");
    });
}

#[test]
fn a_cancelled_and_a_vanished_client_leave_nothing() {
    each(|kitchen, daemon| {
        let mark = format!("sleep 3{:07}", std::process::id());
        kitchen.write("Dockerfile", &format!("FROM base\nRUN echo ready && {mark}\n"));
        for signal in [rustix::process::Signal::INT, rustix::process::Signal::KILL] {
            let mut child = daemon.build_until_ready();
            eventually("the step never slept", || processes(&mark) > 0);
            rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
            assert!(!child.wait().unwrap().success());
            eventually("a step of a client that is gone runs on", || processes(&mark) == 0);
            eventually("a mount of a step is left", || {
                let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
                !mounts.contains(kitchen.root().to_str().unwrap())
            });
        }
        kitchen.write("Dockerfile", "FROM base\nRUN true\n");
        daemon.build(&[]).ok();
    });
}

#[test]
fn two_clients_share_one_run() {
    each(|kitchen, daemon| {
        let text = "FROM base\nRUN --mount=type=cache,target=/c echo x >> /c/runs && sleep 2\n";
        kitchen.write("Dockerfile", text);
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..2).map(|_| scope.spawn(|| daemon.build(&[]).ok())).collect();
            all.into_iter().for_each(|ran| drop(ran.join().unwrap()));
        });
        kitchen.write("Dockerfile", "FROM base\nRUN --mount=type=cache,target=/c cp /c/runs /runs\n");
        let out = kitchen.path("out");
        daemon.build(&["-o", &format!("type=local,dest={}", out.display())]).ok();
        assert_eq!(std::fs::read_to_string(out.join("runs")).unwrap(), "x\n");
    });
}

/// BuildKit ships a stale file here: same size, and a time that the last sync had seen already.
#[test]
fn a_file_that_changed_within_its_own_time_is_not_stale() {
    each(|kitchen, daemon| {
        kitchen.write("Dockerfile", "FROM scratch\nCOPY a /a\n");
        kitchen.write("a", "first");
        let path = kitchen.context().join("a");
        let soon = std::time::SystemTime::now() + Duration::from_secs(5);
        let set = |time| std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        set(soon);
        daemon.build(&[]).ok();
        kitchen.write("a", "other");
        set(soon);
        let out = kitchen.path("out");
        daemon.build(&["-o", &format!("type=local,dest={}", out.display())]).ok();
        assert_eq!(std::fs::read_to_string(out.join("a")).unwrap(), "other");
    });
}

/// `[context] verify = "content"`: a file that was changed behind size and time is found, and an unchanged one stays.
#[test]
fn verified_content_is_never_stale() {
    each_configured(Some("[context]\nverify = \"content\"\n"), |kitchen, daemon| {
        kitchen.write("Dockerfile", "FROM scratch\nCOPY a b /\n");
        let long_ago = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let out = kitchen.path("out");
        for text in ["first", "other", "other", "third"] {
            for (name, text) in [("a", text), ("b", "same")] {
                kitchen.write(name, text);
                let file = std::fs::File::options().write(true).open(kitchen.context().join(name)).unwrap();
                file.set_modified(long_ago).unwrap();
            }
            daemon.build(&["-o", &format!("type=local,dest={}", out.display())]).ok();
            assert_eq!(std::fs::read_to_string(out.join("a")).unwrap(), text);
            assert_eq!(std::fs::read_to_string(out.join("b")).unwrap(), "same");
        }
    });
}

/// What a mirror keeps between builds follows the client: kinds, links, modes, attributes, and what is gone.
#[test]
fn a_directory_that_changes_its_shape_is_what_it_is() {
    each(|kitchen, daemon| {
        kitchen.write("Dockerfile", "FROM scratch\nCOPY d /d\n");
        let at = |name: &str| kitchen.context().join(name);
        let out = kitchen.path("out");
        let changes: [(&str, &dyn Fn()); 7] = [
            ("files and links", &|| {
                (0..70).for_each(|i| kitchen.write(&format!("d/{}/f{i}", i % 7), &format!("file {i}")));
                std::os::unix::fs::symlink("f1", at("d/1/l")).unwrap();
                std::fs::hard_link(at("d/1/f1"), at("d/2/hard")).unwrap();
            }),
            ("nothing", &|| {}),
            ("a file becomes a folder", &|| {
                std::fs::remove_file(at("d/3/f3")).unwrap();
                kitchen.write("d/3/f3/in", "it");
            }),
            ("a folder becomes a file", &|| {
                std::fs::remove_dir_all(at("d/4")).unwrap();
                kitchen.write("d/4", "flat");
            }),
            ("a link leads elsewhere", &|| {
                std::fs::remove_file(at("d/1/l")).unwrap();
                std::os::unix::fs::symlink("f8", at("d/1/l")).unwrap();
            }),
            ("the linked file changes", &|| kitchen.write("d/1/f1", "both names")),
            ("a folder and a file are gone", &|| {
                std::fs::remove_dir_all(at("d/5")).unwrap();
                std::fs::remove_file(at("d/6/f6")).unwrap();
            }),
        ];
        for (what, change) in changes {
            change();
            let _ = std::fs::remove_dir_all(&out);
            daemon.build(&["-o", &format!("type=local,dest={}", out.display())]).ok();
            let same = Command::new("diff").args(["-r", "--no-dereference"]).arg(at("d")).arg(out.join("d")).output();
            let same = same.unwrap();
            assert!(same.status.success(), "{what}: {}", String::from_utf8_lossy(&same.stdout));
        }
    });
}

#[test]
fn du_prune_and_history() {
    each(|kitchen, daemon| {
        kitchen.write("Dockerfile", "FROM base\nRUN echo x > /x\n");
        daemon.build(&[]).ok();
        let du = daemon.buildx(&["du"]).ok();
        assert!(du.stdout.contains("Reclaimable:"), "{}", du.stdout);
        let gone = daemon.buildx(&["prune", "--force"]).ok();
        assert!(gone.stdout.contains("Total:"), "{}", gone.stdout);
        let again = daemon.build(&[]).ok();
        assert!(again.stderr.contains("because"), "{}", again.stderr);
        // `history` is younger than the oldest client.
        if !daemon.client.contains("trixie") {
            let history = daemon.buildx(&["history", "ls"]).ok();
            assert!(history.stdout.contains("Completed"), "{}", history.stdout);
            assert!(daemon.buildx(&["history", "logs"]).ok().stderr.contains("RUN echo x"));
        }
    });
}

/// buildx's drivers for containers start `buildctl dial-stdio` inside an image: larder under that name serves.
#[test]
fn a_client_through_dial_stdio() {
    use std::os::fd::OwnedFd;
    each(|kitchen, daemon| {
        let buildctl = kitchen.path("buildctl");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_larder"), &buildctl).unwrap();
        let address = format!("unix://{}", kitchen.path("larder.sock").display());
        let workers = Command::new(&buildctl).args(["--addr", &address, "debug", "workers"]).output().unwrap();
        assert!(String::from_utf8_lossy(&workers.stdout).contains("linux/"), "{workers:?}");
        let listener = std::os::unix::net::UnixListener::bind(kitchen.path("through.sock")).unwrap();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let other = stream.try_clone().unwrap();
                let mut command = Command::new(&buildctl);
                command.args(["--addr", &address, "dial-stdio"]);
                let mut child = command.stdin(OwnedFd::from(stream)).stdout(OwnedFd::from(other)).spawn().unwrap();
                std::thread::spawn(move || child.wait());
            }
        });
        let through = format!("unix://{}", kitchen.path("through.sock").display());
        daemon.buildx(&["create", "--name", "t", "--driver", "remote", &through, "--use"]).ok();
        kitchen.write("Dockerfile", "FROM base\nCOPY f /f\nRUN cat /f\n");
        kitchen.write("f", "through pipes");
        let ran = daemon.build(&[]).ok();
        assert!(ran.stderr.contains("through pipes"), "{}", ran.stderr);
    });
}

/// Cache backends are not built yet: a build that names one passes, and says so.
#[test]
fn caches_in_folders_registries_and_images() {
    each(|kitchen, daemon| {
        let Some(registry) = testkit::registry::start() else { return };
        kitchen.write("Dockerfile", "FROM base AS a\nCOPY f /f\nRUN cat /f > /g\nFROM base\nCOPY --from=a /g /g\n");
        kitchen.write("f", "one");
        let folder = kitchen.path("cache");
        let _ = std::fs::remove_dir_all(&folder);
        let (folder, image) = (folder.display(), format!("{}/app", registry.host));
        let reference = format!("{image}:cache");
        let to = [format!("type=local,dest={folder},mode=max"), format!("type=registry,ref={reference},mode=max")];
        let out = format!("type=image,name={image},push=true");
        let inline = ["--build-arg", "BUILDKIT_INLINE_CACHE=1", "-o", &out];
        let args = [&["--cache-to", &to[0], "--cache-to", &to[1]][..], &inline].concat();
        let made = daemon.build(&args).ok();
        for step in ["exporting cache to client directory", "exporting cache to registry"] {
            assert!(made.stderr.contains(step), "{}", made.stderr);
        }
        for from in [format!("type=local,src={folder}"), reference.clone(), image.clone()] {
            // As if it had never been built here.
            daemon.buildx(&["prune", "--all", "--force"]).ok();
            let files = kitchen.path("files");
            let out = format!("type=local,dest={}", files.display());
            let ran = daemon.build(&["--cache-from", &from, "-o", &out]).ok();
            assert!(ran.stderr.contains("importing cache manifest from"), "{}", ran.stderr);
            // The image holds what it is made of, not the stage that it copied from.
            assert_eq!(ran.missed(), 0, "{from}: {}", ran.stderr);
            assert_eq!(std::fs::read_to_string(files.join("g")).unwrap(), "one");
        }
        let none = format!("{image}:none");
        let ran = daemon.build(&["--cache-from", &none]).ok();
        assert!(ran.stderr.contains(&format!("{none} is not there")), "{}", ran.stderr);
    });
}

#[test]
fn an_unknown_output_is_refused_before_anything_runs() {
    each(|kitchen, daemon| {
        kitchen.write("Dockerfile", "FROM base\nRUN echo was built\n");
        let ran = daemon.build(&["-o", "type=zip,dest=x"]);
        assert_ne!(ran.code, 0);
        assert!(ran.stderr.contains("`zip` is not an output type"), "{}", ran.stderr);
        assert!(!ran.stderr.contains("was built"), "{}", ran.stderr);
    });
}
