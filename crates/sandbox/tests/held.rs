//! What a step must not be able to do: see or change this machine.

use std::fs;

use sandbox::{Network, Security, User};

use crate::machine::Machine;

#[test]
fn calls_that_change_the_machine_are_denied() {
    let Some(m) = Machine::new("seccomp and capabilities") else { return };
    for script in [
        "mount -t tmpfs none /tmp",
        "umount /proc",
        "unshare -U true",
        "unshare -m true",
        "hostname other",
        "date -s 2000-01-01 2>&1 | grep 'not permitted' >&2; false",
        "nsenter -t 1 -m true",
        "chroot / mount -t proc p /tmp",
        "swapoff -a || swapon /etc/passwd",
        "echo 1 > /proc/sys/kernel/panic",
        "echo h > /proc/sysrq-trigger",
        "mkdir /sys/fs/cgroup/mine || mkdir /sys/fs/cgroup/pids/mine",
        "pivot_root / /tmp",
    ] {
        let ran = m.run(&m.sh(script));
        assert_ne!(ran.exit.status.code(), 0, "{script}: {ran:?}");
        let denied = ["not permitted", "denied", "Read-only", "Invalid", "nonexistent directory", "can't"];
        assert!(denied.iter().any(|d| ran.err.contains(d)), "{script}: {ran:?}");
    }
    assert_eq!(m.prints("mount -t tmpfs none /tmp 2>/dev/null || echo no").trim(), "no");
    let status = m.prints("grep -E 'Cap(Prm|Bnd|Inh|Amb)' /proc/self/status");
    let default = "00000000a80425fb";
    let zero = "0000000000000000";
    assert_eq!(status, format!("CapInh:\t{zero}\nCapPrm:\t{default}\nCapBnd:\t{default}\nCapAmb:\t{zero}\n"));
}

#[test]
fn insecure_may_what_the_caller_may() {
    let Some(m) = Machine::new("insecure") else { return };
    let mut spec = m
        .sh("mount -t tmpfs none /tmp && touch /tmp/x && unshare -m true && echo may; grep Seccomp: /proc/self/status");
    spec.security = Security::Insecure;
    assert_eq!(m.prints_in(&spec), "may\nSeccomp:\t0\n");
    spec = m.sh("grep -E 'Cap(Eff|Amb)' /proc/self/status | cut -f2 | sort -u | wc -l; test -c /dev/fuse && echo fuse");
    spec.security = Security::Insecure;
    spec.user = User::Named("app".into());
    assert_eq!(m.prints_in(&spec), "1\nfuse\n", "another user keeps the capabilities by the ambient set");
}

#[test]
fn masked_and_read_only_paths() {
    let Some(m) = Machine::new("masked paths") else { return };
    assert_eq!(
        m.prints("cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c; ls /sys/firmware | wc -l"),
        "0\n0\n"
    );
    let out = m.prints("for p in /proc/sys /proc/bus /proc/irq /proc/fs /sys; do grep \" $p \" /proc/self/mountinfo | cut -d' ' -f5,6; done");
    assert!(out.lines().count() >= 5, "{out}");
    assert!(out.lines().all(|l| l.split(' ').nth(1).unwrap().starts_with("ro")), "{out}");
}

#[test]
fn namespaces_are_its_own() {
    let Some(m) = Machine::new("namespaces") else { return };
    let inside = m.prints("for n in mnt pid ipc uts net cgroup; do readlink /proc/self/ns/$n; done");
    let outside: Vec<_> = ["mnt", "pid", "ipc", "uts", "net", "cgroup"]
        .iter()
        .map(|n| fs::read_link(format!("/proc/self/ns/{n}")).unwrap().display().to_string())
        .collect();
    for (n, (a, b)) in inside.lines().zip(&outside).enumerate() {
        assert_eq!(a == b, n == 4, "{a} {b}: all but the network are new by default");
    }
    assert_eq!(m.prints("ls /proc | grep -c '^[0-9]'"), "3\n", "sh, ls and grep");
    let mounts = m.prints("cat /proc/self/mountinfo");
    assert!(!mounts.contains("/old") && mounts.lines().next().unwrap().contains(" / / "), "{mounts}");
    let first_roots = mounts.lines().filter(|l| l.split(' ').nth(4) == Some("/")).count();
    assert_eq!(first_roots, 1, "nothing of the old root is left: {mounts}");
}

#[test]
fn networks() {
    let Some(m) = Machine::new("networks") else { return };
    let links = "ip -o link | cut -d: -f2 | tr -d ' ' | sort | tr '\\n' ' '";
    let mut spec = m.sh(&format!("{links}; ping -c1 -W1 127.0.0.1 >/dev/null && echo loopback up; ip route | wc -l"));
    spec.network = Network::None;
    let out = m.prints_in(&spec);
    assert!(out.starts_with("lo ") && out.ends_with("loopback up\n0\n"), "{out}");
    let mut spec = m.sh("readlink /proc/self/ns/net");
    spec.network = Network::Host;
    let own = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    assert_eq!(m.prints_in(&spec).trim(), own);
}

#[test]
fn devices() {
    let Some(m) = Machine::new("devices") else { return };
    let out = m.prints(
        "cd /dev; ls | tr '\\n' ' '; for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' $d; done; \
         head -c2 zero | wc -c; echo x > null; readlink fd; readlink ptmx; stat -c %a shm; touch shm/x mqueue/y && ls pts",
    );
    assert_eq!(
        out,
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero \
         null 1:3 666\nzero 1:5 666\nfull 1:7 666\nrandom 1:8 666\nurandom 1:9 666\ntty 5:0 666\n2\n/proc/self/fd\npts/ptmx\n1777\nptmx\n"
    );
}

#[test]
fn disks_of_this_machine_cannot_be_read() {
    let Some(m) = Machine::new("device cgroup") else { return };
    let disk = fs::read_to_string("/proc/partitions").unwrap();
    let Some(line) = disk.lines().skip(2).find(|l| !l.contains("loop") && !l.contains("ram")) else {
        return eprintln!("SKIPPED: device cgroup: this machine has no disk");
    };
    let numbers: Vec<_> = line.split_whitespace().take(2).collect();
    let (major, minor) = (numbers[0], numbers[1]);
    for place in ["/disk", "/dev/disk", "/tmp/disk"] {
        let ran = m.run(&m.sh(&format!("mknod {place} b {major} {minor} && echo made; head -c1 {place}")));
        assert_eq!((ran.out.as_str(), ran.exit.status.code()), ("made\n", 1), "{ran:?}");
        assert!(ran.err.contains("not permitted") || ran.err.contains("denied"), "{ran:?}");
    }
    let ran = m.run(&m.sh("mknod /null c 1 3 && echo x > /null && test -c /null && echo works"));
    assert_eq!(ran.out, "works\n", "{ran:?}");
}

#[test]
fn programs_of_the_32_bit_kind_are_held_too() {
    let Some(m) = Machine::new("32-bit programs") else { return };
    if !cfg!(target_arch = "x86_64") {
        return eprintln!("SKIPPED: 32-bit programs: written for x86_64");
    }
    // mount(2) by int 0x80, then exit with its error number: no 32-bit C library is needed for that.
    let source = "int main(){int r; __asm__ volatile(\"int $0x80\":\"=a\"(r):\"a\"(21),\"b\"(0),\"c\"(0),\"d\"(0):\"memory\"); return -r;}";
    let file = m.dir.path().join("m.c");
    fs::write(&file, source).unwrap();
    let binary = m.dir.path().join("m");
    let built = std::process::Command::new("gcc").args(["-static", "-o"]).arg(&binary).arg(&file).status();
    if !built.is_ok_and(|s| s.success()) {
        return eprintln!("SKIPPED: 32-bit programs: no gcc that links statically");
    }
    let spec = m.spec(["/m"]);
    fs::copy(&binary, m.upper().join("m")).unwrap();
    let code = m.run(&spec).exit.status.code();
    if code == 38 {
        return eprintln!("SKIPPED: 32-bit programs: this kernel runs none");
    }
    assert_eq!(code, 1, "mount fails with EPERM");
}
