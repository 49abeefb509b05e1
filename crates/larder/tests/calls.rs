//! `larder build --call`: what is printed in place of a build, in this process and through a daemon, and that it is what
//! docker-buildx prints.

use crate::buildx::{self, clients};
use crate::kitchen::{Kitchen, Ran};
use crate::served::Served;

const DOCKERFILE: &str = "\
ARG VERSION=1.2
# base is what the others stand on
FROM base AS base
ARG VERSION
# TOKEN names a file
ARG TOKEN
RUN --mount=type=secret,id=key,required=true --mount=type=ssh true
FROM base AS Test
MAINTAINER nobody
FROM base
ENTRYPOINT echo hello
";

const CALLS: [&str; 8] = [
    "outline",
    "outline,format=json",
    "targets",
    "targets,format=json",
    "check",
    "lint,format=json",
    "check,ignorestatus=true",
    "subrequests.describe",
];

fn run(mut command: std::process::Command, kitchen: &Kitchen, call: &str) -> Ran {
    let all = ["build", "--progress", "none", "--call", call, "."];
    Ran::of(command.args(all).current_dir(kitchen.context()).output().unwrap())
}

fn here(kitchen: &Kitchen, call: &str) -> Ran {
    run(kitchen.command(&kitchen.root(), &[]), kitchen, call)
}

/// Without the base64 of how the Dockerfile is got, which names the build's session.
fn sessionless(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with("          \"")).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_is_printed() {
    let Some(kitchen) = Kitchen::new() else { return };
    kitchen.write("Dockerfile", DOCKERFILE);
    let mut all = String::new();
    for call in CALLS.iter().filter(|call| !call.contains("json")) {
        let ran = here(&kitchen, call);
        all.push_str(&format!("--call {call}: exit code {}\n{}{}\n", ran.code, ran.stdout, ran.stderr));
    }
    kitchen.write("Dockerfile", "FROM base\nRUN true\nCOPY --from=none / /\nMAINTAINER x\nRUN --nosuch true\n");
    let broken = here(&kitchen, "check");
    all.push_str(&format!("broken: exit code {}\n{}{}\n", broken.code, broken.stdout, broken.stderr));
    kitchen.write("Dockerfile", "FROM base\nRUN true\n");
    let clean = kitchen.build(&["--check"]).ok();
    all.push_str(&clean.stdout);
    insta::assert_snapshot!(all);
    // A question leaves no build behind, and a wrong one builds nothing.
    assert_eq!(kitchen.larder(&["history", "ls", "--format", "json"]).ok().stdout, "");
    let unknown = here(&kitchen, "nosuch");
    assert_eq!((unknown.code, unknown.stdout.as_str()), (2, ""));
    assert!(unknown.stderr.contains("knows no question `nosuch`"), "{}", unknown.stderr);
    assert_eq!(here(&kitchen, "check,nosuch=1").code, 2);
}

#[test]
fn docker_buildx_prints_the_same() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(client) = clients().into_iter().find(|client| client.contains("sid")) else { return };
    let daemon = buildx::Daemon::start(&kitchen, &client);
    let broken = "FROM base\nMAINTAINER x\nRUN --nosuch true\n";
    for text in [DOCKERFILE, "FROM base\nRUN true\n", broken] {
        kitchen.write("Dockerfile", text);
        for call in CALLS {
            let theirs = run(daemon.command(&[]), &kitchen, call);
            let ours = run(kitchen.command(&kitchen.root(), &[]), &kitchen, call);
            let (stdout, expected) = (sessionless(&ours.stdout), sessionless(&theirs.stdout));
            if ours.code == 2 {
                // The question failed, as a build of this file would: larder has a code and a report of its own for that.
                assert_eq!((stdout, theirs.code), (expected, 1), "{call}: {}", ours.stderr);
                continue;
            }
            assert_eq!((stdout, ours.code), (expected, theirs.code), "{call}: {}", ours.stderr);
            // What is wrong is said after another first word.
            let lines = |ran: &Ran| ran.stderr.trim_end().to_lowercase();
            assert_eq!(lines(&ours), lines(&theirs), "{call} of {text}");
        }
    }
}

#[test]
fn a_daemon_answers_the_same() {
    for is_near in [true, false] {
        let Some(kitchen) = Kitchen::new() else { return };
        kitchen.write("Dockerfile", DOCKERFILE);
        let expected: Vec<Ran> = CALLS.iter().map(|call| here(&kitchen, call)).collect();
        let addr = (!is_near).then(|| format!("tcp://127.0.0.1:{}", crate::served::port()));
        let served = Served::start(&kitchen, addr, &["--without-tls"]);
        for (call, expected) in CALLS.iter().zip(expected) {
            let ran = run(served.command(&[]), &kitchen, call);
            let (stdout, theirs) = (sessionless(&ran.stdout), sessionless(&expected.stdout));
            assert_eq!((stdout, ran.stderr, ran.code), (theirs, expected.stderr, expected.code), "{call}");
        }
        let unknown = run(served.command(&[]), &kitchen, "nosuch");
        assert_eq!(unknown.code, 1);
        assert!(unknown.stderr.contains("frontend.nosuch"), "{}", unknown.stderr);
        assert_eq!(served.larder(&["history", "ls", "--format", "json"]).ok().stdout, "");
    }
}
