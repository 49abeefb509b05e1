//! Frontends in images, under real clients and without a daemon: a small one of our own (`examples/frontend.rs`), with the
//! libraries that it needs, in an image of the store.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::buildx::each;
use crate::kitchen::{Kitchen, Ran};
use crate::leaves::{cgroups, eventually, nothing, processes};

/// Builds the image `mine/frontend` into the kitchen's store; `None`, and loudly, where the program was not built.
fn image(kitchen: &Kitchen) -> Option<()> {
    let program = Path::new(env!("CARGO_BIN_EXE_larder")).with_file_name("examples").join("frontend");
    if !program.exists() {
        eprintln!("SKIPPED: {} is missing: cargo build -p larder --examples", program.display());
        return None;
    }
    let listed = Command::new("ldd").arg(&program).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    let tree = kitchen.context().join("tree");
    for file in libraries {
        let to = tree.join(file.strip_prefix("/").unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(file, to).unwrap();
    }
    std::fs::copy(program, tree.join("run")).unwrap();
    let caps = "moby.buildkit.frontend.caps=moby.buildkit.frontend.contexts,moby.buildkit.frontend.subrequests";
    kitchen.write("Dockerfile", &format!("FROM scratch\nCOPY tree /\nLABEL {caps}\n"));
    kitchen.build(&["-t", "mine/frontend:v1"]).ok();
    std::fs::remove_dir_all(tree).unwrap();
    Some(())
}

#[test]
fn an_image_answers_as_the_frontend() {
    for client in crate::buildx::clients() {
        let Some(kitchen) = Kitchen::new() else { return };
        let Some(()) = image(&kitchen) else { return };
        let daemon = crate::buildx::Daemon::start(&kitchen, &client);
        let text = "FROM base AS inner\nRUN echo inner > /which\nFROM base\nRUN echo last > /which\n";
        let out = kitchen.path("out");
        let output = format!("type=local,dest={}", out.display());
        let which = || std::fs::read_to_string(out.join("which")).unwrap();

        kitchen.write("Dockerfile", &format!("# syntax=mine/frontend:v1\n{text}"));
        let ran = daemon.build(&["-o", &output]).ok();
        assert_eq!(which(), "inner\n");
        assert!(ran.stderr.contains("the frontend speaks"), "{}", ran.stderr);

        // The argument says more than the file, and the built-in frontend is what it always was.
        kitchen.write("Dockerfile", text);
        daemon.build(&["-o", &output]).ok();
        assert_eq!(which(), "last\n");
        daemon.build(&["-o", &output, "--build-arg", "BUILDKIT_SYNTAX=mine/frontend:v1"]).ok();
        assert_eq!(which(), "inner\n");

        // Its error is the build's, and a frontend that says nothing is an error too.
        let own = ["--build-arg", "BUILDKIT_SYNTAX=mine/frontend:v1", "--build-arg"];
        let ran = daemon.build(&[&own[..], &["fail=1"]].concat());
        assert_ne!(ran.code, 0);
        assert!(ran.stderr.contains("the frontend does not want to"), "{}", ran.stderr);
        let ran = daemon.build(&[&own[..], &["quit=1"]].concat());
        assert_ne!(ran.code, 0);
        assert!(ran.stderr.contains("the frontend ended without a result"), "{}", ran.stderr);
    }
}

#[test]
fn an_image_that_is_no_frontend() {
    each(|kitchen, daemon| {
        kitchen.write("Dockerfile", "# syntax=base\nFROM scratch\n");
        let ran = daemon.build(&[]);
        assert_ne!(ran.code, 0);
        assert!(ran.stderr.contains("\"/run\": no such file or directory"), "{}", ran.stderr);
        // The line that asks for it is shown.
        assert!(ran.stderr.contains("Dockerfile:1"), "{}", ran.stderr);
        kitchen.write("Dockerfile", "FROM base\nRUN true\n");
        daemon.build(&[]).ok();
    });
}

/// Two stages, of which the frontend builds the first.
const TWO: &str = "# syntax=mine/frontend:v1\nFROM base AS inner\nARG fail\nCOPY seed /\n\
    RUN --mount=type=secret,id=word cat /run/secrets/word /seed > /which\nFROM base\nRUN echo last > /which\n";

#[test]
fn without_a_daemon() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(()) = image(&kitchen) else { return };
    kitchen.write("Dockerfile", TWO);
    kitchen.write("seed", "one\n");
    kitchen.write("secret", "hush ");
    let (secret, metadata) = (format!("id=word,src={}/secret", kitchen.context().display()), kitchen.path("metadata"));
    let args = ["--secret", &secret, "--metadata-file", metadata.to_str().unwrap()];
    let which = |args: &[&str]| std::fs::read_to_string(kitchen.files(args).join("which")).unwrap();
    assert_eq!(which(&args), "hush one\n");
    let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&metadata).unwrap()).unwrap();
    let provenance = told["buildx.build.provenance"].to_string();
    assert!(provenance.contains("\"target\":\"inner\""), "{told}");

    // It is one build as any other: kept once, explained, and cached the next time.
    let builds = || kitchen.larder(&["history", "ls"]).ok().stdout.lines().count() - 1;
    let kept = builds();
    assert_eq!(kitchen.cause("COPY seed"), "NeverBuilt");
    let again = kitchen.build(&args).ok();
    assert_eq!((again.missed(), builds()), (0, kept + 1), "{}", again.stderr);
    assert!(again.stderr.contains("the frontend speaks"), "{}", again.stderr);
    let loads = again.stderr.lines().filter(|line| line.contains("load build definition"));
    assert_eq!(loads.count(), 1, "{}", again.stderr);
    kitchen.build(&[&args[..], &["--fail-on-miss"]].concat()).ok();
    kitchen.write("seed", "two\n");
    let missed = kitchen.build(&[&args[..], &["--fail-on-miss"]].concat());
    assert!(missed.code == 3 && missed.stderr.contains("COPY seed"), "{} {}", missed.code, missed.stderr);
    assert_eq!(which(&args), "hush two\n");
    assert_eq!(kitchen.cause("COPY seed"), "FilesChanged");

    // A question is the frontend's to answer, and its failures are the build's.
    let targets = kitchen.build(&["--call", "targets"]).ok();
    assert!(targets.stdout.contains("inner"), "{}", targets.stdout);
    let refused = kitchen.build(&["--build-arg", "fail=1"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("the frontend does not want to"), "{}", refused.stderr);
    assert!(refused.stderr.contains("Dockerfile:1"), "{}", refused.stderr);
    assert_eq!(builds(), kept + 5);

    // What the Dockerfile is read from makes no difference.
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all(".", kitchen.context()).unwrap();
    std::fs::write(kitchen.path("tar"), tar.into_inner().unwrap()).unwrap();
    let mut command = kitchen.command(&kitchen.root(), &["build", "--progress", "plain", "--secret", &secret, "-"]);
    let ran = Ran::of(command.stdin(std::fs::File::open(kitchen.path("tar")).unwrap()).output().unwrap()).ok();
    assert!(ran.stderr.contains("the frontend speaks"), "{}", ran.stderr);
    nothing(&kitchen.root());

    // An operator may forbid it here as well.
    std::fs::write(kitchen.path("larder.toml"), "[frontend.\"gateway.v0\"]\nenabled = false\n").unwrap();
    let config = kitchen.path("larder.toml");
    let forbidden = kitchen.build(&["--config", config.to_str().unwrap()]);
    assert!(forbidden.stderr.contains("is not an allowed gateway source"), "{}", forbidden.stderr);
}

#[test]
fn a_frontend_gives_a_cache_with_what_it_asks_for() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(()) = image(&kitchen) else { return };
    let Some(registry) = testkit::registry::start() else { return };
    let reference = format!("{}/app:cache", registry.host);
    kitchen.write("Dockerfile", "FROM base AS inner\nRUN head -c 99 /dev/urandom | md5sum > /which\n");
    let which = |args: &[&str]| std::fs::read_to_string(kitchen.files(args).join("which")).unwrap();
    let first = which(&["--cache-to", &format!("type=registry,ref={reference},mode=max")]);
    let syntax = ["--build-arg", "BUILDKIT_SYNTAX=mine/frontend:v1"];
    let cache = format!("cache={reference}");
    kitchen.larder(&["prune", "--all", "--force"]).ok();
    assert_eq!(which(&[&syntax[..], &["--build-arg", &cache]].concat()), first);
    kitchen.larder(&["prune", "--all", "--force"]).ok();
    assert_ne!(which(&syntax), first);
}

/// A build sees one version of a source, however often it looks at it.
#[test]
fn what_a_frontend_resolved_is_what_is_built() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(()) = image(&kitchen) else { return };
    let mut asked = 0;
    let url = crate::git::answering(move || {
        asked += 1;
        format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n{asked}").into_bytes()
    });
    kitchen.write("Dockerfile", &format!("FROM base AS inner\nADD {url}/file /\n"));
    let resolve = format!("resolve={url}/file");
    let args = ["--build-arg", "BUILDKIT_SYNTAX=mine/frontend:v1", "--build-arg", &resolve];
    let file = || std::fs::read_to_string(kitchen.files(&args).join("file")).unwrap();
    assert_eq!((file(), file()), ("1".to_owned(), "2".to_owned()));
}

#[test]
fn without_a_daemon_and_interrupted() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(()) = image(&kitchen) else { return };
    let mark = format!("sleep 6{:06}", std::process::id());
    let text = format!(
        "# syntax=mine/frontend:v1\nFROM base AS inner\nRUN (trap '' INT TERM; echo ready; {mark})\nFROM base\n"
    );
    kitchen.write("Dockerfile", &text);
    let context = kitchen.context();
    let mut command = kitchen.command(&kitchen.root(), &["build", "--progress", "plain", context.to_str().unwrap()]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with(" ready")), "the step never began");
    std::thread::spawn(move || lines.for_each(drop));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    eventually("a process of the step is left", || processes(&mark) == 0);
    assert_eq!(cgroups(child.id()), Vec::<PathBuf>::new());
    nothing(&kitchen.root());
    let builds = kitchen.larder(&["history", "ls"]).ok().stdout;
    assert!(builds.lines().any(|line| line.contains("context  Error")), "{builds}");
}
