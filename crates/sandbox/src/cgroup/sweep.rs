//! Groups of processes that ended without cleaning up: their name has the owner's process id and start time, so a living
//! owner is never mistaken. Sweeping kills what still runs in them, and removes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{FOLDER, Hierarchies};

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Groups of owners that are gone.
    pub cgroups: usize,
    /// Processes killed in them.
    pub processes: usize,
}

/// The name of this process's groups: its id, when it started, and the namespace in which both mean something.
pub fn owner_name() -> String {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    format!("{pid}-{}-{}", started(pid).unwrap_or_default(), namespace().unwrap_or_default())
}

/// The number of this process's PID namespace.
fn namespace() -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self/ns/pid").ok().map(|m| m.ino())
}

/// When a process started, in clock ticks since boot: field 22 of its `stat`.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

fn alive(name: &str) -> bool {
    let mut parts = name.split('-');
    let mut number = || parts.next().and_then(|p| p.parse().ok());
    match (number(), number(), number()) {
        (Some(pid), Some(start), Some(place)) if Some(place) == namespace() => {
            i32::try_from(pid).is_ok_and(|pid| started(pid) == Some(start))
        }
        // Not one of ours, or of a container with other process ids: hands off.
        _ => true,
    }
}

/// Ends what owners that are gone left in cgroups under `parent` (`None`: the root of each hierarchy): their processes
/// and their groups. A sandbox does it before its first run; cheap when there is nothing.
pub fn sweep(parent: Option<&str>) -> Swept {
    let mut swept = Swept::default();
    let hierarchies = Hierarchies::detect();
    for mount in hierarchies.mounts() {
        let folder = mount.join(parent.unwrap_or_default().trim_matches('/')).join(FOLDER);
        for dir in children(&folder) {
            let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if !alive(&name) {
                swept.processes += kill_all(&dir);
                swept.cgroups += usize::from(remove(&dir));
            }
        }
    }
    swept
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// Kills every process in `dir` and below, and waits a little for them to be gone.
fn kill_all(dir: &Path) -> usize {
    let mut killed = children(dir).iter().map(|c| kill_all(c)).sum();
    for turn in 0..100 {
        let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        let pids: Vec<_> = pids.lines().filter_map(|l| l.parse().ok()).filter_map(Pid::from_raw).collect();
        if pids.is_empty() {
            break;
        }
        if turn == 0 {
            killed += pids.len();
        }
        for pid in pids {
            // It may be gone already.
            let _gone = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    killed
}

/// Removes a group with those below it; whether it's gone.
pub fn remove(dir: &Path) -> bool {
    for child in children(dir) {
        remove(&child);
    }
    fs::remove_dir(dir).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners() {
        assert!(alive(&owner_name()));
        assert!(alive(&format!("{}-insecure", owner_name())));
        let here = namespace().unwrap();
        assert!(!alive(&format!("1-1-{here}")), "process 1 of another boot");
        assert!(!alive(&format!("2147480000-5-{here}-insecure")));
        assert!(alive(&format!("2147480000-5-{}", here + 1)), "of another container");
        assert!(alive("somebody-elses"), "a foreign name is left alone");
    }
}
