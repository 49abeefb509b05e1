//! `larder registry` under real clients: skopeo, buildah, larder itself, a docker-buildx that pushes through the daemon;
//! and killed at any moment.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oci::Digest;
use testkit::faults::{Fault, Rule};

use crate::kitchen::{Kitchen, Ran};

/// A registry of its own process.
pub struct Serving {
    child: Child,
    pub host: String,
}

impl Serving {
    pub fn start(root: &Path, more: &[&str]) -> Serving {
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.args(["registry", "--addr", "127.0.0.1:0", "--root"]).arg(root).args(more);
        Serving::of(command)
    }

    /// Starts a command and waits until it says where its registry is.
    fn of(mut command: Command) -> Serving {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = lines.find_map(|line| Some(line.unwrap().split_once("registry is ready on ")?.1.to_owned()));
        let host = ready.expect("it says where it is").split_once("://").unwrap().1.to_owned();
        // Whoever is not read any more would stop.
        std::thread::spawn(move || lines.for_each(drop));
        Serving { child, host }
    }

    /// Waits until it has ended by itself.
    fn ended(mut self) {
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// One request on a connection of its own: the status, and what follows the head. `None` when the connection broke.
    fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Option<(u16, String, Vec<u8>)> {
        let mut stream = TcpStream::connect(&self.host).ok()?;
        let host = &self.host;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        Some((head.split(' ').nth(1)?.parse().ok()?, head, answer[end + 4..].to_vec()))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &str, args: &[&str]) -> Option<Ran> {
    match Command::new(program).args(args).output() {
        Ok(output) => Some(Ran::of(output)),
        Err(_) => {
            eprintln!("SKIPPED: {program} is missing (Debian's package {program})");
            None
        }
    }
}

#[test]
fn skopeo_and_buildah_push_and_pull() {
    let Some(kitchen) = Kitchen::new() else { return };
    let archive = kitchen.path("app.tar");
    kitchen.write("Dockerfile", "FROM base\nRUN echo hello > /hello\n");
    kitchen.build(&["-o", &format!("type=oci,dest={}", archive.display())]).ok();
    let serving = Serving::start(&kitchen.path("registry"), &[]);
    let image = format!("docker://{}/team/app:1", serving.host);
    let source = format!("oci-archive:{}", archive.display());
    let Some(ran) = run("skopeo", &["copy", "--dest-tls-verify=false", &source, &image]) else { return };
    ran.ok();
    let out = format!("oci:{}:1", kitchen.path("out").display());
    run("skopeo", &["copy", "--src-tls-verify=false", &image, &out]).unwrap().ok();
    let tags = run("skopeo", &["list-tags", "--tls-verify=false", &format!("docker://{}/team/app", serving.host)]);
    assert!(tags.unwrap().ok().stdout.contains("\"1\""));

    let (root, runroot) = (kitchen.path("buildah"), kitchen.path("buildah-run"));
    let buildah = |args: &[&str]| {
        let stores =
            ["--root", root.to_str().unwrap(), "--runroot", runroot.to_str().unwrap(), "--storage-driver", "vfs"];
        run("buildah", &[stores.as_slice(), args].concat())
    };
    let plain = format!("{}/team/app:1", serving.host);
    let Some(ran) = buildah(&["pull", "-q", "--tls-verify=false", &plain]) else { return };
    ran.ok();
    let second = format!("docker://{}/team/again:2", serving.host);
    buildah(&["push", "-q", "--tls-verify=false", &plain, &second]).unwrap().ok();
    run("skopeo", &["inspect", "--tls-verify=false", &second]).unwrap().ok();
    // docker-buildx speaks to registries itself where no builder is needed.
    for (number, client) in crate::buildx::clients().iter().enumerate() {
        let (from, to) = (format!("{}/team/app:1", serving.host), format!("{}/team/tools:{number}", serving.host));
        let buildx = |args: &[&str]| {
            let mut command = Command::new(client);
            command.args(args).env("BUILDX_CONFIG", kitchen.path("buildx"));
            Ran::of(command.output().unwrap()).ok()
        };
        buildx(&["imagetools", "create", "-t", &to, &from]);
        assert!(buildx(&["imagetools", "inspect", &to]).stdout.contains(&to));
    }
    // All of it is what it was when it was pushed, also while it is served.
    let mut scrub = Command::new(env!("CARGO_BIN_EXE_larder"));
    Ran::of(scrub.args(["registry", "scrub", "--root"]).arg(kitchen.path("registry")).output().unwrap()).ok();
    let deleted = format!("docker://{}/team/again:2", serving.host);
    run("skopeo", &["delete", "--tls-verify=false", &deleted]).unwrap().ok();
    assert_ne!(run("skopeo", &["inspect", "--tls-verify=false", &second]).unwrap().code, 0);
}

#[test]
fn skopeo_logs_in_over_tls() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some((certificate, key)) = testkit::tls::certificate(&kitchen.path("context")) else { return };
    let users = kitchen.path("users");
    std::fs::write(&users, testkit::registry::USERS).unwrap();
    let flags = [
        "--htpasswd",
        users.to_str().unwrap(),
        "--tls-cert",
        certificate.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ];
    let serving = Serving::start(&kitchen.path("registry"), &flags);
    let archive = kitchen.path("app.tar");
    kitchen.write("Dockerfile", "FROM base\n");
    kitchen.build(&["-o", &format!("type=oci,dest={}", archive.display())]).ok();
    let (source, image) = (format!("oci-archive:{}", archive.display()), format!("docker://{}/app:1", serving.host));
    let push = |login: &[&str]| {
        run("skopeo", &[&["copy", "--dest-tls-verify=false"], login, &[source.as_str(), image.as_str()]].concat())
    };
    let Some(refused) = push(&[]) else { return };
    assert!(refused.code != 0 && refused.stderr.contains("unauthorized"), "{}", refused.stderr);
    assert_ne!(push(&["--dest-creds", "me:wrong"]).unwrap().code, 0);
    push(&["--dest-creds", "me:password"]).unwrap().ok();
}

#[test]
fn the_daemons_own_registry_has_what_was_built_without_a_copy() {
    for client in crate::buildx::clients() {
        let Some(kitchen) = Kitchen::new() else { return };
        let socket = format!("unix://{}", kitchen.path("larder.sock").display());
        let command = kitchen.command(&kitchen.root(), &["daemon", "--addr", &socket, "--registry", "127.0.0.1:0"]);
        let serving = Serving::of(command);
        let buildx = |args: &[&str]| {
            let mut command = Command::new(&client);
            command.args(args).current_dir(kitchen.context()).env("BUILDX_CONFIG", kitchen.path("buildx"));
            Ran::of(command.env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1").output().unwrap())
        };
        crate::leaves::eventually("the socket", || kitchen.path("larder.sock").exists());
        buildx(&["create", "--name", "l", "--driver", "remote", &socket, "--use"]).ok();
        kitchen.write("Dockerfile", "FROM base\nRUN head -c 3000000 /dev/urandom > /large\n");
        let image = format!("{}/team/app:1", serving.host);
        buildx(&["build", "--push", "-t", &image, "."]).ok();
        // Every layer in the registry is the store's own file.
        let blobs = kitchen.root().join("registry/blobs/sha256");
        let mut shared = 0;
        for folder in std::fs::read_dir(&blobs).unwrap() {
            for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
                let data = file.unwrap().metadata().unwrap();
                if data.len() > 100_000 {
                    assert!(data.nlink() > 1, "a layer was copied");
                    shared += 1;
                }
            }
        }
        assert!(shared >= 2, "{shared} layers");
        let out = format!("oci:{}:1", kitchen.path("out").display());
        let Some(ran) = run("skopeo", &["copy", "--src-tls-verify=false", &format!("docker://{image}"), &out]) else {
            return;
        };
        ran.ok();
    }
}

/// A cache that has nothing of a build is passed over by its filter: neither its config nor its layers are asked about.
#[test]
fn a_cache_that_surely_has_nothing_costs_one_question() {
    let Some(kitchen) = Kitchen::new() else { return };
    let serving = Serving::start(&kitchen.path("registry"), &[]);
    let proxy = testkit::faults::start(&serving.host);
    let from = format!("{}/cache:main", proxy.host);
    kitchen.write("Dockerfile", "FROM base\nRUN echo one > /one\nRUN echo two > /two\n");
    let to = format!("type=registry,ref={}/cache:main,mode=max,ignore-error=false", serving.host);
    kitchen.build(&["--cache-to", &to, "-o", "type=cacheonly"]).ok();
    let root = kitchen.other("other");
    let build = |dockerfile: &str| {
        kitchen.write("Dockerfile", dockerfile);
        // The filter's answer is the first one.
        let late = Fault::Late(Duration::from_millis(700));
        proxy.set(vec![Rule { method: "GET", path: "/manifests/".to_owned(), fault: late, times: 1 }]);
        proxy.seen();
        let context = kitchen.context();
        let args = ["build", "--progress", "plain", "--cache-from", &from, "-o", "type=cacheonly"];
        let ran = kitchen.larder_in(&root, &[&args[..], &[context.to_str().unwrap()]].concat()).ok();
        (ran.missed(), proxy.seen().into_iter().filter(|r| r.contains("/blobs/")).count())
    };
    assert_eq!(build("FROM base\nRUN echo other > /one\n"), (1, 0));
    let (missed, asked) = build("FROM base\nRUN echo one > /one\nRUN echo three > /three\n");
    assert!(missed == 1 && asked > 1, "{missed} {asked}");
}

/// What a registry keeps in a bucket is there after it was killed and after it ended, and is looked after like a folder.
#[test]
fn everything_in_a_bucket() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(server) = testkit::s3::start("bkt") else { return };
    let storage = format!("s3://bkt/reg?endpoint=http://{}&path_style=true", server.host);
    let registry = |folder: &str, verb: &[&str]| {
        let mut command = kitchen.command(&kitchen.path(folder), &[&["registry"], verb].concat());
        command.args(["--storage", &storage]);
        command.env("AWS_ACCESS_KEY_ID", testkit::s3::KEY).env("AWS_SECRET_ACCESS_KEY", testkit::s3::SECRET);
        command
    };
    let serve = |folder: &str| Serving::of(registry(folder, &["--addr", "127.0.0.1:0"]));
    let serving = serve("first");
    let archive = kitchen.path("app.tar");
    kitchen.write("Dockerfile", "FROM base\nRUN head -c 20000000 /dev/urandom > /large\nRUN echo two > /two\n");
    let to = format!("type=registry,ref={}/cache:main,mode=max,ignore-error=false", serving.host);
    kitchen.build(&["--cache-to", &to, "-o", &format!("type=oci,dest={}", archive.display())]).ok();
    let push = |serving: &Serving, tag: &str| {
        let image = format!("docker://{}/app:{tag}", serving.host);
        run("skopeo", &["copy", "--dest-tls-verify=false", &format!("oci-archive:{}", archive.display()), &image])
    };
    let pull = |serving: &Serving, tag: &str| {
        let (image, out) = (format!("docker://{}/app:{tag}", serving.host), kitchen.path(&format!("out-{tag}")));
        run("skopeo", &["copy", "--src-tls-verify=false", &image, &format!("oci:{}:1", out.display())]).unwrap().ok();
    };
    let Some(pushed) = push(&serving, "1") else { return };
    pushed.ok();
    let second = Ran::of(registry("second", &["--addr", "127.0.0.1:0"]).output().unwrap());
    assert!(second.code == 1 && second.stderr.contains("in use by process"), "{}", second.stderr);
    serving.kill();
    // Another machine takes over: nothing but the bucket is left.
    let serving = serve("second");
    pull(&serving, "1");
    push(&serving, "2").unwrap().ok();
    let root = kitchen.other("reader");
    let from = format!("{}/cache:main", serving.host);
    let context = kitchen.context();
    let args =
        ["build", "--progress", "plain", "--cache-from", &from, "-o", "type=cacheonly", context.to_str().unwrap()];
    assert_eq!(kitchen.larder_in(&root, &args).ok().missed(), 0);
    Ran::of(registry("third", &["scrub"]).output().unwrap()).ok();
    let busy = Ran::of(registry("third", &["gc"]).output().unwrap());
    assert!(busy.code == 1 && busy.stderr.contains("in use by process"), "{}", busy.stderr);
    // One that ends lets it go at once.
    let pid = rustix::process::Pid::from_child(&serving.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    serving.ended();
    let keep = ["gc", "--keep", "app:*=newest:1", "--keep", "cache:*=newest:0", "--grace", "0"];
    let done = Ran::of(registry("third", &keep).output().unwrap()).ok();
    assert!(done.stdout.contains("cache:main") && done.stdout.contains("app:1"), "{}", done.stdout);
    let serving = serve("third");
    pull(&serving, "2");
    let gone = format!("docker://{}/app:1", serving.host);
    assert_ne!(run("skopeo", &["inspect", "--tls-verify=false", &gone]).unwrap().code, 0);
}

const KILLS: u32 = 50;

/// Clients push without pause while the registry is killed; whatever it acknowledged is there afterwards, and nothing
/// that can be pulled is half.
#[test]
fn any_kill_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let (mut blobs, mut tags) = (Vec::<Digest>::new(), Vec::<(String, Vec<u8>)>::new());
    for round in 1..=KILLS {
        let serving = Serving::start(&root, &[]);
        let pushed: Vec<_> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..3)
                .map(|client| {
                    scope.spawn({
                        let serving = &serving;
                        move || push_until_it_is_gone(serving, round, client)
                    })
                })
                .collect();
            // A fixed walk: each kill comes a little later than the one before.
            std::thread::sleep(Duration::from_millis(u64::from(round * 7 % 180)));
            let pid = rustix::process::Pid::from_child(&serving.child);
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        serving.kill();
        for (more_blobs, more_tags) in pushed {
            blobs.extend(more_blobs);
            tags.extend(more_tags);
        }
        if round % 10 == 0 {
            let serving = Serving::start(&root, &[]);
            for digest in &blobs {
                let path = format!("/v2/a/blobs/{digest}");
                let (status, _, body) = serving.ask("GET", &path, "", b"").unwrap();
                assert_eq!((status, Digest::of(&body)), (200, *digest), "a blob that was acknowledged");
            }
            for (tag, document) in &tags {
                let (status, _, body) = serving.ask("GET", &format!("/v2/a/manifests/{tag}"), "", b"").unwrap();
                assert_eq!((status, &body), (200, document), "the tag {tag} that was acknowledged");
            }
            serving.kill();
            let mut scrub = Command::new(env!("CARGO_BIN_EXE_larder"));
            Ran::of(scrub.args(["registry", "scrub", "--root"]).arg(&root).output().unwrap()).ok();
        }
    }
    // How many there are is the disk's affair; none at all would be no test.
    assert!(blobs.len() > 20 && tags.len() > 5, "{} {}", blobs.len(), tags.len());
}

/// Pushes images until the connection breaks; gives the blobs and tags that were acknowledged.
fn push_until_it_is_gone(serving: &Serving, round: u32, client: u32) -> (Vec<Digest>, Vec<(String, Vec<u8>)>) {
    const KIND: &str = "application/vnd.oci.image.manifest.v1+json";
    let (mut blobs, mut tags) = (Vec::new(), Vec::new());
    for number in 0.. {
        let layer = format!("{round} {client} {number} ").repeat(20_000).into_bytes();
        let digest = Digest::of(&layer);
        let Some((202, head, _)) = serving.ask("POST", "/v2/a/blobs/uploads/", "", b"") else { break };
        let location = head.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
        let (first, second) = layer.split_at(layer.len() / 2);
        let Some((202, ..)) = serving.ask("PATCH", location, "", first) else { break };
        let Some((201, ..)) = serving.ask("PUT", &format!("{location}?digest={digest}"), "", second) else { break };
        blobs.push(digest);
        let descriptor = format!(r#"{{"mediaType":"m","digest":"{digest}","size":{}}}"#, layer.len());
        let document = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[]}}"#).into_bytes();
        let tag = format!("r{round}-{client}-{number}");
        let Some((201, ..)) = serving.ask("PUT", &format!("/v2/a/manifests/{tag}"), KIND, &document) else { break };
        tags.push((tag, document));
    }
    (blobs, tags)
}

#[test]
fn it_is_not_open_to_the_world_by_accident() {
    let folder = tempfile::tempdir().unwrap();
    let serve = |more: &[&str]| {
        let args = [&["registry", "--root", folder.path().to_str().unwrap(), "--addr", "0.0.0.0:0"], more].concat();
        Ran::of(Command::new(env!("CARGO_BIN_EXE_larder")).args(args).output().unwrap())
    };
    let open = serve(&[]);
    assert_eq!(open.code, 2);
    assert!(open.stderr.contains("anybody could push there"), "{}", open.stderr);
    let users = folder.path().join("users");
    std::fs::write(&users, "me:$2y$05$abcdefghijklmnopqrstuuWG29KuyeAicPCJODk1zjyGvyQUU2awu\n").unwrap();
    let plain = serve(&["--htpasswd", users.to_str().unwrap()]);
    assert!(plain.code == 2 && plain.stderr.contains("passwords would be read"), "{}", plain.stderr);
}
