//! What a step costs by itself: the median of 50 runs of `/bin/true` in an overlay root made from busybox, as a table.
//! `cargo run --release -p sandbox --example bench [ballast in MiB]`; needs `/bin/busybox` (Debian: busybox-static).

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use sandbox::{Cancel, Config, Limits, Network, Root, Sandbox, Spec};

fn main() {
    // Memory of the parent: cloning it copies its page tables.
    let ballast: usize = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(0);
    let ballast = vec![1u8; ballast << 20];
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    fs::create_dir_all(base.join("bin")).unwrap();
    fs::copy("/bin/busybox", base.join("bin/busybox")).unwrap();
    symlink("busybox", base.join("bin/true")).unwrap();
    let sandbox = Sandbox::new(Config::default());
    println!("ballast {} MiB, {:?}", ballast.len() >> 20, sandbox.abilities());
    println!("{:<44} {:>8} {:>8}", "", "median", "min");
    let plain = |_: &mut Spec| {};
    measure("overlay, host network", &sandbox, dir.path(), &base, plain);
    measure("overlay, no network", &sandbox, dir.path(), &base, |s| s.network = Network::None);
    measure("overlay, pids limit (a cgroup of its own)", &sandbox, dir.path(), &base, |s| {
        s.limits = Limits { pids: Some(100), ..Limits::default() };
    });
    measure("overlay, insecure (no seccomp, no masks)", &sandbox, dir.path(), &base, |s| {
        s.security = sandbox::Security::Insecure;
    });
}

fn measure(name: &str, sandbox: &Sandbox, dir: &Path, base: &Path, change: impl Fn(&mut Spec)) {
    let cancel = Cancel::new().unwrap();
    let mut times = Vec::new();
    for n in 0..50 {
        let own = dir.join(format!("{n}"));
        fs::create_dir_all(own.join("upper")).unwrap();
        fs::create_dir_all(own.join("work")).unwrap();
        let root = Root::writable(vec![base.to_path_buf()], own.join("upper"), own.join("work"));
        let mut spec = Spec::new(root, ["/bin/true"]);
        change(&mut spec);
        let start = Instant::now();
        let exit = sandbox.run(&spec, &cancel, &mut |_, bytes| print!("{}", String::from_utf8_lossy(bytes))).unwrap();
        times.push(start.elapsed().as_secs_f64() * 1e3);
        assert_eq!(exit.status.code(), 0);
        fs::remove_dir_all(own).unwrap();
    }
    times.sort_by(f64::total_cmp);
    println!("{name:<44} {:>5.2} ms {:>5.2} ms", times[times.len() / 2], times[0]);
}
