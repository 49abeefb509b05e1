//! Exit codes, signals, environment, user, working directory, limits: what the process itself sees.

use std::time::Duration;

use sandbox::{Error, Limits, Rlimit, Status, User};

use crate::machine::{Machine, PATH};

#[test]
fn exit_codes_and_signals() {
    let Some(m) = Machine::new("exit codes") else { return };
    for code in [0, 1, 2, 126, 127, 255] {
        assert_eq!(m.run(&m.sh(&format!("exit {code}"))).exit.status, Status::Code(code));
    }
    // Process 1 is immune to its own signals; a child of it is not.
    assert_eq!(m.run(&m.sh("sh -c 'kill -9 $$'; exit $?")).exit.status, Status::Code(137));
    // A fault of process 1 itself does kill it.
    let mut spec = m.spec(["/bin/sh", "-c", "ulimit -t 1; while :; do :; done"]);
    spec.limits = Limits::default();
    let status = m.run(&spec).exit.status;
    assert!(matches!(status, Status::Signal(9 | 24)), "{status:?}");
    assert_eq!(Status::Signal(9).code(), 137);
}

#[test]
fn output_comes_whole_and_from_both_pipes() {
    let Some(m) = Machine::new("output") else { return };
    let ran = m.run(&m.sh("echo to out; echo to err >&2; head -c 3000000 /dev/zero | tr '\\0' x"));
    assert_eq!(ran.out.len(), "to out\n".len() + 3_000_000);
    assert_eq!(ran.err, "to err\n");
    // A grandchild that outlives process 1 dies with it: its output doesn't hold the run.
    let start = std::time::Instant::now();
    assert_eq!(m.prints("sleep 100 & echo done"), "done\n");
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(m.prints("cat; echo end of input"), "end of input\n");
}

#[test]
fn environment_home_and_hostname() {
    let Some(m) = Machine::new("environment") else { return };
    let mut spec = m.sh("env | sort; hostname; cat /proc/sys/kernel/hostname");
    spec.env.extend(["A=1".into(), "A=two words".into(), "EMPTY=".into()]);
    spec.hostname = "builder-7".into();
    let out = m.prints_in(&spec);
    assert_eq!(out, format!("A=two words\nEMPTY=\nHOME=/root\n{PATH}\nPWD=/\nSHLVL=1\nbuilder-7\nbuilder-7\n"));
}

#[test]
fn the_program_is_searched_inside() {
    let Some(m) = Machine::new("program search") else { return };
    assert_eq!(m.prints_in(&m.spec(["echo", "found in PATH"])), "found in PATH\n");
    let text = |spec| m.try_run(&spec).unwrap_err().to_string();
    assert_eq!(text(m.spec(["no-such-program"])), r#"exec: "no-such-program": executable file not found in $PATH"#);
    assert_eq!(text(m.spec(["/no/such"])), r#"exec: "/no/such": no such file or directory"#);
    assert_eq!(text(m.spec(["/etc/passwd"])), r#"exec: "/etc/passwd": Permission denied (os error 13)"#);
    assert!(matches!(m.try_run(&m.spec([])), Err(Error::Spec(_))));
    assert!(matches!(m.try_run(&m.spec(["a\0b"])), Err(Error::Spec(_))));
}

#[test]
fn users_by_name_and_number() {
    let Some(m) = Machine::new("users") else { return };
    let id = |user: &str| {
        let mut spec = m.sh("id -u; id -g; id -G; echo $HOME; cat /proc/self/status | grep CapEff");
        spec.user = User::Named(user.into());
        m.prints_in(&spec).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let caps = "CapEff: 0000000000000000";
    assert_eq!(id(""), "0 0 0 /root CapEff: 00000000a80425fb");
    assert_eq!(id("app"), format!("1000 1001 1001 33 /home/app {caps}"));
    assert_eq!(id("app:web"), format!("1000 33 33 /home/app {caps}"));
    assert_eq!(id("1234:99"), format!("1234 99 99 / {caps}"));
    let mut spec = m.sh("true");
    spec.user = User::Named("ghost".into());
    let text = m.try_run(&spec).unwrap_err().to_string();
    assert_eq!(text, "unable to find user ghost: no matching entries in passwd file");
    spec = m.sh("id -G; echo again > /dev/stdout; echo error > /dev/stderr");
    spec.user = User::Ids { uid: 5, gid: 6, groups: vec![7, 8] };
    assert_eq!(m.prints_in(&spec), "6 7 8\nagain\n");
}

#[test]
fn the_working_directory_is_made_for_its_user() {
    let Some(m) = Machine::new("working directory") else { return };
    let mut spec = m.sh("pwd; stat -c '%u:%g %a' . ..");
    spec.cwd = "/srv/new/app".into();
    spec.user = User::Named("app".into());
    assert_eq!(m.prints_in(&spec), "/srv/new/app\n1000:1001 755\n1000:1001 755\n");
    assert_eq!(crate::machine::tree(&m.upper()), ["srv", "srv/new", "srv/new/app"]);
    spec = m.sh("true");
    spec.cwd = "/etc/passwd".into();
    let text = m.try_run(&spec).unwrap_err().to_string();
    assert!(text.contains("/etc/passwd") && text.contains("Not a directory"), "{text}");
}

#[test]
fn process_one_with_defaults() {
    let Some(m) = Machine::new("process 1") else { return };
    let out = m.prints(
        "echo pid $$; umask; ulimit -n 2>/dev/null >/dev/null; grep -E '^(SigBlk|NoNewPrivs|Seccomp):' /proc/self/status; \
         ls /proc/self/fd | wc -l; cut -d' ' -f6 /proc/1/stat",
    );
    let want = "pid 1\n0022\nSigBlk:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n4\n1\n";
    assert_eq!(out, want, "no blocked signal, no descriptor but stdio and the one being listed; its own session");
}

#[test]
fn resource_limits() {
    let Some(m) = Machine::new("resource limits") else { return };
    let mut spec = m.sh("ulimit -n; ulimit -Hn; ulimit -c");
    let limit = |name: &str, soft, hard| Rlimit { name: name.into(), soft, hard };
    spec.rlimits = vec![limit("nofile", 100, 200), limit("core", 0, -1)];
    assert_eq!(m.prints_in(&spec), "100\n200\n0\n");
    spec.root = m.root();
    spec.rlimits = vec![limit("speed", 1, 1)];
    assert_eq!(m.try_run(&spec).unwrap_err().to_string(), r#"unknown ulimit "speed""#);
}

#[test]
fn usage_counts_children() {
    let Some(m) = Machine::new("usage") else { return };
    let ran = m.run(&m.sh("(i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done); sleep 0.1"));
    let usage = ran.exit.usage;
    assert!(usage.user + usage.system > Duration::from_millis(20), "{usage:?}");
    assert!(usage.wall > Duration::from_millis(100), "{usage:?}");
    assert!(usage.max_rss > 100_000, "{usage:?}");
}

#[test]
fn cgroup_limits_where_writable() {
    let Some(m) = Machine::new("cgroup limits") else { return };
    let mut spec = m.sh("i=0; while [ $i -lt 50 ]; do sleep 5 & i=$((i+1)); done; echo made all");
    spec.limits = Limits { pids: Some(10), ..Limits::default() };
    match m.try_run(&spec) {
        Err(Error::Limit { what, reason }) => {
            eprintln!("SKIPPED: cgroup limits: {what}: {reason}");
            return;
        }
        ran => {
            let ran = ran.unwrap();
            assert!(ran.err.contains("can't fork") && !ran.out.contains("made all"), "{ran:?}");
        }
    }
    spec = m.sh("x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo survived");
    spec.limits = Limits { memory: Some(32 << 20), memory_swap: Some(32 << 20), ..Limits::default() };
    let ran = match m.try_run(&spec) {
        Err(Error::Limit { what, reason }) => return eprintln!("SKIPPED: memory limit: {what}: {reason}"),
        ran => ran.unwrap(),
    };
    assert!(ran.exit.out_of_memory && !ran.out.contains("survived"), "{ran:?}");
    spec = m.sh("grep Cpus_allowed_list /proc/self/status");
    spec.limits = Limits { cpuset_cpus: Some("0".into()), cpu_quota: Some(50_000), ..Limits::default() };
    assert_eq!(m.prints_in(&spec), "Cpus_allowed_list:\t0\n");
}
