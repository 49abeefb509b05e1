//! Ctrl-C, and the end of a terminal, in the middle of `larder build`: the step ends with it and nothing is left.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::kitchen::Kitchen;
use crate::leaves::{cgroups, eventually, nothing, processes};

/// A build whose step has begun: it sleeps, in the foreground and in the background, and holds everything that a step can.
fn begun(kitchen: &Kitchen, mark: &str) -> Child {
    let text = format!(
        "FROM base\nRUN --mount=type=cache,target=/c,sharing=locked --mount=type=tmpfs,target=/t --mount=type=secret,id=s \
         --mount=type=bind,source=.,target=/b echo x > /c/x; {mark} & (trap '' INT TERM; echo ready; {mark})\n"
    );
    kitchen.write("Dockerfile", &text);
    kitchen.write("secret", "hush");
    let (context, secret) = (kitchen.context(), format!("id=s,src={}/secret", kitchen.context().display()));
    let args = ["build", "--progress", "plain", "--secret", &secret, context.to_str().unwrap()];
    let mut command = kitchen.command(&kitchen.root(), &args);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = Vec::new();
    for line in lines.by_ref() {
        said.push(line.unwrap());
        if said.last().is_some_and(|l| l.ends_with(" ready")) {
            std::thread::spawn(move || lines.for_each(drop));
            return child;
        }
    }
    panic!("the step never began ({}): {said:?}", child.wait().unwrap());
}

#[test]
fn every_signal_that_ends_a_build_leaves_nothing() {
    let Some(kitchen) = Kitchen::new() else { return };
    for (round, signal) in [Signal::INT, Signal::TERM, Signal::HUP, Signal::KILL].into_iter().enumerate() {
        let mark = format!("sleep 5{round}{:06}", std::process::id());
        let mut child = begun(&kitchen, &mark);
        eventually("the step never slept", || processes(&mark) >= 2);
        assert!(!cgroups(child.id()).is_empty(), "the step has no cgroup");
        kill_process(Pid::from_child(&child), signal).unwrap();
        let code = child.wait().unwrap().code();
        if signal != Signal::KILL {
            assert_eq!(code, Some(130), "{signal:?}");
            assert_eq!(cgroups(child.id()), Vec::<std::path::PathBuf>::new(), "{signal:?}");
            nothing(&kitchen.root());
        }
        eventually("a process of the step is left", || processes(&mark) == 0);
        // The volume that the step had to itself is free again, and what a kill left is gone.
        kitchen.write(
            "Dockerfile",
            &format!("FROM base\nRUN --mount=type=cache,target=/c,sharing=locked cat /c/x && echo {round}\n"),
        );
        kitchen.build(&[]).ok();
        assert_eq!(cgroups(child.id()), Vec::<std::path::PathBuf>::new(), "{signal:?}");
        nothing(&kitchen.root());
    }
    // Nobody holds anything: all of it can go.
    kitchen.larder(&["image", "rm", "base"]).ok();
    kitchen.larder(&["prune", "--all", "--force"]).ok();
    let left = kitchen.larder(&["du"]).ok();
    assert!(left.stdout.lines().any(|l| l.starts_with("Total:") && l.ends_with("0B")), "{}", left.stdout);
    let mut snapshots = std::fs::read_dir(kitchen.root().join("snapshots")).unwrap();
    assert!(snapshots.next().is_none(), "a snapshot is left");
}
