//! Source policies as users of buildx set them, with and without a daemon.

use std::path::PathBuf;

use crate::buildx::{Daemon, clients};
use crate::kitchen::{Kitchen, Ran};

const VARIABLE: &str = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";

fn policy(kitchen: &Kitchen, rules: &str) -> PathBuf {
    let path = kitchen.path("policy.json");
    std::fs::write(&path, format!(r#"{{"version":1,"rules":[{rules}]}}"#)).unwrap();
    path
}

/// Runs `build` on a Dockerfile for several policies.
fn obeyed(kitchen: &Kitchen, build: impl Fn(&PathBuf) -> Ran) {
    kitchen.write(
        "Dockerfile",
        "FROM base AS one\nRUN cp /etc/which /which || echo base > /which\nFROM scratch\nCOPY --from=one /which /\n",
    );
    let out = kitchen.path("out");
    let which = || std::fs::read_to_string(out.join("which")).unwrap();

    build(&policy(kitchen, "")).ok();
    assert_eq!(which(), "base\n");

    let denied = build(&policy(kitchen, r#"{"action":"DENY","selector":{"identifier":"docker-image://*"}}"#));
    assert_ne!(denied.code, 0);
    let text = r#"source "docker-image://docker.io/library/base:latest" denied by policy"#;
    assert!(denied.stderr.contains(text), "{}", denied.stderr);

    let other = r#"{"action":"CONVERT","selector":{"identifier":"docker-image://docker.io/library/base:latest","match_type":"EXACT"},
        "updates":{"identifier":"docker-image://docker.io/mine/other:v1"}}"#;
    build(&policy(kitchen, other)).ok();
    assert_eq!(which(), "other\n");

    // What a rule makes of a source must be allowed as well.
    let rules = format!(r#"{other},{{"action":"DENY","selector":{{"identifier":"docker-image://docker.io/mine/*"}}}}"#);
    let denied = build(&policy(kitchen, &rules));
    assert!(denied.code != 0 && denied.stderr.contains("mine/other:v1\" denied by policy"), "{}", denied.stderr);
}

fn other(kitchen: &Kitchen) {
    kitchen.write("Dockerfile", "FROM base\nRUN mkdir -p /etc && echo other > /etc/which\n");
    kitchen.build(&["-t", "mine/other:v1"]).ok();
}

#[test]
fn a_client_of_the_daemon() {
    for client in clients() {
        let Some(kitchen) = Kitchen::new() else { return };
        other(&kitchen);
        let daemon = Daemon::start(&kitchen, &client);
        let output = format!("type=local,dest={}", kitchen.path("out").display());
        obeyed(&kitchen, |policy| {
            let mut command = daemon.command(&["build", "--progress", "plain", "-o", &output, "."]);
            Ran::of(command.env(VARIABLE, policy).output().unwrap())
        });
    }
}

#[test]
fn without_a_daemon() {
    let Some(kitchen) = Kitchen::new() else { return };
    other(&kitchen);
    let output = format!("type=local,dest={}", kitchen.path("out").display());
    obeyed(&kitchen, |policy| {
        let mut command = kitchen.command(&kitchen.root(), &["build", "-o", &output]);
        Ran::of(command.arg(kitchen.context()).env(VARIABLE, policy).output().unwrap())
    });
}

#[test]
fn a_policy_that_is_none() {
    let Some(kitchen) = Kitchen::new() else { return };
    std::fs::write(kitchen.path("policy.json"), r#"{"rules":[{"action":"FORBID"}]}"#).unwrap();
    let mut command = kitchen.command(&kitchen.root(), &["build"]);
    command.arg(kitchen.context()).env(VARIABLE, kitchen.path("policy.json"));
    let ran = Ran::of(command.output().unwrap());
    assert!(ran.code != 0 && ran.stderr.contains("ALLOW, DENY, CONVERT"), "{}", ran.stderr);
}
