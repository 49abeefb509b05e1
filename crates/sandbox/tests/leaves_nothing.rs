//! After a run, a cancel or a crash of the parent: no process, no mount, no cgroup, no descriptor.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use sandbox::{Cancel, Error, Limits};

use crate::machine::{Machine, run_with};

fn lines(path: &str) -> usize {
    fs::read_to_string(path).unwrap().lines().count()
}

/// Groups of ours, in every hierarchy, that belong to `owner` (a process id).
fn cgroups(owner: u32) -> usize {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = text.lines().filter(|l| l.contains(" - cgroup")).map(|l| l.split(' ').nth(4).unwrap().to_string());
    mounts
        .map(|mount| {
            let Ok(entries) = fs::read_dir(Path::new(&mount).join("larder")) else { return 0 };
            let of_owner = |e: &fs::DirEntry| e.file_name().to_string_lossy().starts_with(&format!("{owner}-"));
            entries.flatten().filter(of_owner).map(|e| 1 + subdirs(&e.path())).sum()
        })
        .sum()
}

fn subdirs(dir: &Path) -> usize {
    fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir()).count()
}

/// Processes of this machine whose command line has `marker`.
fn processes(marker: &str) -> usize {
    let of = |e: fs::DirEntry| fs::read(e.path().join("cmdline")).map(|c| String::from_utf8_lossy(&c).into_owned());
    fs::read_dir("/proc").unwrap().flatten().filter_map(|e| of(e).ok()).filter(|c| c.contains(marker)).count()
}

/// The machine's first process may bury orphans late, and a group of theirs goes only then.
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(90), "{what} doesn't happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn two_hundred_runs_leak_nothing() {
    let Some(m) = Machine::new("200 runs") else { return };
    m.run(&m.sh("true"));
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let (mounts, before) = (lines("/proc/self/mountinfo"), descriptors());
    for n in 0..200 {
        let mut spec = m.sh("sleep 50 & true");
        if n % 10 == 0 {
            spec.limits = Limits { pids: Some(50), ..Limits::default() };
        }
        if n % 10 == 1 {
            spec.args = vec!["/missing".into()];
            m.try_run(&spec).unwrap_err();
            continue;
        }
        m.run(&spec);
    }
    assert_eq!(lines("/proc/self/mountinfo"), mounts);
    // Other tests of this process open a few at the same time; a leak would be hundreds.
    assert!(descriptors() < before + 60, "{} descriptors, {before} before", descriptors());
}

#[test]
fn cancel_ends_everything() {
    let Some(m) = Machine::new("cancel") else { return };
    let mounts = lines("/proc/self/mountinfo");
    // A marker that only this test's processes have.
    let marker = format!("31{}", std::process::id());
    // The one that all tests share: another of the same process would take its cgroups with it when it ends.
    let sandbox = m.sandbox;
    for limits in [Limits::default(), Limits { pids: Some(100), ..Limits::default() }] {
        let mut spec = m.sh(&format!("trap '' TERM INT; setsid sleep {marker} & sleep {marker}; sleep {marker}"));
        spec.limits = limits;
        let cancel = Cancel::new().unwrap();
        let other = cancel.clone();
        let start = Instant::now();
        std::thread::scope(|scope| {
            let run = scope.spawn(move || run_with(sandbox, &spec, &cancel));
            wait_until("the start", || processes(&marker) >= 2);
            other.cancel();
            assert!(matches!(run.join().unwrap(), Err(Error::Cancelled)));
        });
        assert_eq!(processes(&marker), 0, "all are gone when run returns");
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(matches!(run_with(sandbox, &m.sh("true"), &other), Err(Error::Cancelled)), "and stays cancelled");
    }
    assert_eq!(lines("/proc/self/mountinfo"), mounts);
}

#[test]
fn a_panicking_reader_leaves_nothing() {
    let Some(m) = Machine::new("panic in the callback") else { return };
    let marker = format!("32{}", std::process::id());
    let spec = m.sh(&format!("echo x; sleep {marker}"));
    let cancel = Cancel::new().unwrap();
    let run = std::panic::AssertUnwindSafe(|| m.sandbox.run(&spec, &cancel, &mut |_, _| panic!("reader")));
    assert!(std::panic::catch_unwind(run).is_err());
    assert_eq!(processes(&marker), 0);
}

/// Not a test of its own: what [`killing_the_parent_kills_the_step`] starts in a process of its own.
#[test]
fn victim() {
    let Ok(marker) = std::env::var("SANDBOX_TEST_VICTIM") else { return };
    let Some(m) = Machine::new("victim") else { return };
    let mut spec = m.sh(&format!("setsid sleep {marker} & sleep {marker}"));
    spec.user = sandbox::User::Named("app".into());
    spec.limits = Limits { pids: Some(100), ..Limits::default() };
    m.run(&spec);
}

#[test]
fn killing_the_parent_kills_the_step() {
    let Some(_) = Machine::new("death of the parent") else { return };
    let marker = format!("33{}", std::process::id());
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["leaves_nothing::victim", "--exact", "--nocapture"])
        .env("SANDBOX_TEST_VICTIM", &marker)
        // It must not keep the test's own pipes open, should it outlive it.
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // Both sleeps; the victim's environment isn't in its command line.
    wait_until("the start", || processes(&marker) >= 2);
    let owner = victim.id();
    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_until("the step's death", || processes(&marker) == 0);
    // A group goes when the last of its dead is buried; the first run of another test may have swept it as well.
    wait_until("the sweep", || {
        sandbox::sweep(None);
        cgroups(owner) == 0
    });
    std::fs::remove_dir_all(std::env::temp_dir().join(format!("sandbox-test-base-{owner}"))).unwrap();
}
