//! Fifty builds at once through real clients, some of which fail or vanish: all others finish, memory stays bounded, and
//! nothing is left but what the store remembers.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Instant;

use crate::buildx::{self, Daemon};
use crate::kitchen::{Kitchen, Ran};
use crate::leaves::{cgroups, eventually, nothing, processes};

/// How many clients build at the same time.
const BUILDS: usize = 50;

/// Of every ten builds this one's client is killed while its step sleeps.
const VANISHES: usize = 3;

/// Of every ten builds this one fails by itself.
const FAILS: usize = 7;

/// Most memory of the daemon, in KiB, in a build for tests: measured 70 MiB, and it does not grow with the rounds.
const MEMORY: u64 = 160 << 10;

/// A context of a build's own.
fn context(kitchen: &Kitchen, round: usize, number: usize, mark: &str) -> PathBuf {
    let folder = kitchen.path(&format!("load{number}"));
    std::fs::create_dir_all(folder.join("src")).unwrap();
    for file in 0..20 {
        std::fs::write(folder.join(format!("src/{file}")), format!("{round} {number} {file}")).unwrap();
    }
    let last = match number % 10 {
        VANISHES => format!("RUN {mark}\n"),
        FAILS => "RUN exit 9\n".to_owned(),
        _ => "RUN --mount=type=bind,from=shared,target=/s cat /s/shared src/* > /all\n".to_owned(),
    };
    let text = format!(
        "FROM base AS shared\nRUN echo {round} > /shared\n\
         FROM base\nWORKDIR /w\nCOPY src src\n\
         RUN --mount=type=cache,target=/c,sharing=locked echo {number} >> /c/log\n{last}"
    );
    std::fs::write(folder.join("Dockerfile"), text).unwrap();
    folder
}

fn start(daemon: &Daemon<'_>, folder: &PathBuf) -> Child {
    let mut command = daemon.command(&["build", "--progress", "plain", "."]);
    command.current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A number of `/proc/PID/status`.
fn status(daemon: &Daemon<'_>, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

/// Descriptors, sub-groups of its cgroups, and children of the daemon.
fn held(daemon: &Daemon<'_>) -> (usize, usize, usize) {
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.id())).unwrap().count();
    let folders = cgroups(daemon.id()).into_iter().filter_map(|group| std::fs::read_dir(group).ok()).flatten();
    let groups = folders.filter(|e| e.as_ref().unwrap().file_type().unwrap().is_dir()).count();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.id())).unwrap();
    let children = tasks.filter_map(|t| std::fs::read_to_string(t.unwrap().path().join("children")).ok());
    (open, groups, children.map(|text| text.split_whitespace().count()).sum())
}

fn round(kitchen: &Kitchen, daemon: &Daemon<'_>, round: usize) {
    let mark = format!("sleep 6{round}{:06}", std::process::id());
    let folders: Vec<_> = (0..BUILDS).map(|n| context(kitchen, round, n, &mark)).collect();
    let mut children: Vec<_> = folders.iter().map(|folder| start(daemon, folder)).collect();
    let vanishing = BUILDS / 10;
    eventually("the steps of those that vanish never began", || processes(&mark) >= vanishing);
    for (number, child) in children.iter_mut().enumerate() {
        if number % 10 == VANISHES {
            child.kill().unwrap();
        }
    }
    for (number, child) in children.into_iter().enumerate() {
        let ran = Ran::of(child.wait_with_output().unwrap());
        match number % 10 {
            VANISHES => assert_ne!(ran.code, 0),
            FAILS => assert!(ran.code != 0 && ran.stderr.contains("exit code: 9"), "{}", ran.stderr),
            _ => drop(ran.ok()),
        }
    }
    eventually("a step of a client that is gone runs on", || processes(&mark) == 0);
}

#[test]
fn fifty_builds_at_once_leave_nothing() {
    let Some(client) = buildx::clients().pop() else { return };
    let Some(kitchen) = Kitchen::new() else { return };
    let daemon = Daemon::start(&kitchen, &client);
    kitchen.write("Dockerfile", "FROM base\nRUN true\n");
    daemon.build(&[]).ok();
    let (open, groups, _) = held(&daemon);
    let begun = Instant::now();
    let mut peaks = Vec::new();
    for number in 0..2 {
        round(&kitchen, &daemon, number);
        peaks.push(status(&daemon, "VmHWM"));
    }
    eprintln!("{} builds in {:?}; peaks of memory in KiB after each round: {peaks:?}", 2 * BUILDS, begun.elapsed());
    assert!(peaks.iter().all(|peak| *peak < MEMORY), "the daemon took {peaks:?} KiB");
    // Connections of clients that are gone end a moment later.
    eventually("a descriptor, a cgroup or a process is left", || {
        let now = held(&daemon);
        now.0 <= open + 4 && now.1 == groups && now.2 == 0
    });
    let store = kitchen.root();
    eventually("the trash is not emptied", || std::fs::read_dir(store.join("trash")).unwrap().next().is_none());
    nothing(&store);
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", daemon.id())).unwrap();
    assert_eq!(mounts, std::fs::read_to_string("/proc/self/mountinfo").unwrap());
    let temporary: Vec<_> = std::fs::read_dir(kitchen.path("tmp")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(temporary.is_empty(), "temporary files are left: {temporary:?}");
    // What no build holds can go: the named image's layer alone stays.
    daemon.buildx(&["prune", "--all", "--force"]).ok();
    let snapshots = std::fs::read_dir(store.join("snapshots")).unwrap().count();
    assert!(snapshots <= 1, "{snapshots} snapshots can't be removed");
    assert!(std::fs::read_dir(store.join("volumes")).unwrap().next().is_none(), "a volume can't be removed");
    daemon.build(&[]).ok();
}
