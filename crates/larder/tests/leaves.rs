//! What a build may leave on the machine: nothing but what its store remembers.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Processes whose command line has `text`.
pub fn processes(text: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = entries.filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).replace('\0', " ").contains(text)).count()
}

/// Waits until it holds.
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// No mount of the store's, no draft and no temporary file, now or when a daemon has written what it keeps of a build.
/// What lies in the trash is out of the store already.
pub fn nothing(store: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(store.to_str().unwrap()), "a mount is left: {mounts}");
    for folder in ["drafts", "tmp"] {
        let left = || std::fs::read_dir(store.join(folder)).unwrap().map(|e| e.unwrap().file_name());
        eventually(&format!("{folder} holds something"), || left().next().is_none());
    }
}

/// Cgroups that a process of this id made.
pub fn cgroups(pid: u32) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let hierarchies = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind) = (words.next()?, words.next()?);
        kind.starts_with("cgroup").then(|| Path::new(place).join("larder"))
    });
    let folders = hierarchies.filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().map(|e| e.unwrap().path());
    let of_it = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&format!("{pid}-")));
    folders.filter(of_it).collect()
}
