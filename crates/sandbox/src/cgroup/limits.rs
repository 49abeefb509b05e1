//! [`Limits`] as files of a cgroup: `v1` and `v2` say what to write, `make_v1` and `make_v2` make the group and write it.

use std::fs;
use std::io;
use std::path::Path;

use crate::{Error, Limits};

/// A file of a group and what to write into it.
pub type Setting = (&'static str, String);

/// Length of a CPU period when only a quota is given, in microseconds.
const PERIOD: u64 = 100_000;

/// By controller of version 1.
pub fn v1(limits: &Limits) -> Vec<(&'static str, Vec<Setting>)> {
    let mut memory = Vec::new();
    if let Some(bytes) = limits.memory {
        memory.push(("memory.limit_in_bytes", bytes.to_string()));
    }
    if let Some(bytes) = limits.memory_swap {
        memory.push(("memory.memsw.limit_in_bytes", bytes.to_string()));
    }
    let mut cpu = Vec::new();
    if let Some(shares) = limits.cpu_shares {
        cpu.push(("cpu.shares", shares.to_string()));
    }
    if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
        cpu.push(("cpu.cfs_period_us", limits.cpu_period.unwrap_or(PERIOD).to_string()));
        cpu.push(("cpu.cfs_quota_us", limits.cpu_quota.unwrap_or(-1).to_string()));
    }
    let pids = limits.pids.map(|n| vec![("pids.max", n.to_string())]).unwrap_or_default();
    let groups = [("memory", memory), ("cpu", cpu), ("cpuset", cpuset(limits)), ("pids", pids)];
    groups.into_iter().filter(|(_, settings)| !settings.is_empty()).collect()
}

/// By controller of version 2.
pub fn v2(limits: &Limits) -> Vec<(&'static str, Vec<Setting>)> {
    let mut memory = Vec::new();
    if let Some(bytes) = limits.memory {
        memory.push(("memory.max", bytes.to_string()));
    }
    if let Some(both) = limits.memory_swap {
        // Version 2 counts swap alone; -1 is unlimited.
        let swap = u64::try_from(both).map(|b| b.saturating_sub(limits.memory.unwrap_or(0)).to_string());
        memory.push(("memory.swap.max", swap.unwrap_or_else(|_| "max".into())));
    }
    let mut cpu = Vec::new();
    if let Some(shares) = limits.cpu_shares {
        cpu.push(("cpu.weight", weight(shares).to_string()));
    }
    if limits.cpu_quota.is_some() || limits.cpu_period.is_some() {
        let quota = limits.cpu_quota.filter(|q| *q > 0).map_or("max".into(), |q| q.to_string());
        cpu.push(("cpu.max", format!("{quota} {}", limits.cpu_period.unwrap_or(PERIOD))));
    }
    let pids = limits.pids.map(|n| vec![("pids.max", n.to_string())]).unwrap_or_default();
    let groups = [("memory", memory), ("cpu", cpu), ("cpuset", cpuset(limits)), ("pids", pids)];
    groups.into_iter().filter(|(_, settings)| !settings.is_empty()).collect()
}

fn cpuset(limits: &Limits) -> Vec<Setting> {
    let cpus = limits.cpuset_cpus.iter().map(|v| ("cpuset.cpus", v.clone()));
    cpus.chain(limits.cpuset_mems.iter().map(|v| ("cpuset.mems", v.clone()))).collect()
}

/// Shares of version 1 (2..=262144) as a weight of version 2 (1..=10000), as runc converts them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Makes the version 1 group `dir` below the hierarchy at `mount`, and writes `settings`.
pub fn make_v1(mount: &Path, dir: &Path, controller: &'static str, settings: &[Setting]) -> Result<(), Error> {
    let failed =
        |e: io::Error| Error::Limit { what: controller, reason: format!("cannot set up {}: {e}", dir.display()) };
    fs::create_dir_all(dir).map_err(failed)?;
    if controller == "cpuset" {
        // A group of version 1 takes no process before it has CPUs and memory nodes; new ones are empty.
        let below = dir.strip_prefix(mount).unwrap_or(dir);
        let mut at = mount.to_path_buf();
        for part in below.components() {
            let above = at.clone();
            at.push(part);
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if fs::read_to_string(at.join(file)).map_err(failed)?.trim().is_empty() {
                    fs::write(at.join(file), fs::read(above.join(file)).map_err(failed)?).map_err(failed)?;
                }
            }
        }
    }
    write_all(dir, controller, settings)
}

/// Makes the version 2 group `dir` below the hierarchy at `mount` with the controllers it needs, and writes the settings.
pub fn make_v2(mount: &Path, dir: &Path, groups: &[(&'static str, Vec<Setting>)]) -> Result<(), Error> {
    for (controller, _) in groups {
        let failed = |path: &Path, e: io::Error| Error::Limit {
            what: controller,
            reason: format!("cannot enable the controller in {}: {e}", path.display()),
        };
        fs::create_dir_all(dir).map_err(|e| failed(dir, e))?;
        let below = dir.parent().and_then(|p| p.strip_prefix(mount).ok()).unwrap_or(Path::new(""));
        let mut at = mount.to_path_buf();
        for part in [None].into_iter().chain(below.components().map(Some)) {
            at.extend(part);
            let control = at.join("cgroup.subtree_control");
            let enabled = fs::read_to_string(&control).map_err(|e| failed(&control, e))?;
            if !enabled.split_whitespace().any(|c| c == *controller) {
                fs::write(&control, format!("+{controller}")).map_err(|e| failed(&control, e))?;
            }
        }
    }
    groups.iter().try_for_each(|(controller, settings)| write_all(dir, controller, settings))
}

fn write_all(dir: &Path, controller: &'static str, settings: &[Setting]) -> Result<(), Error> {
    for (file, value) in settings {
        let path = dir.join(file);
        fs::write(&path, value).map_err(|e| Error::Limit {
            what: controller,
            reason: format!("cannot write {value} to {}: {e}", path.display()),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_both_versions() {
        let limits = Limits {
            memory: Some(1 << 30),
            memory_swap: Some(3 << 30),
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            cpuset_cpus: Some("0-1".into()),
            pids: Some(100),
            ..Limits::default()
        };
        let old = v1(&limits);
        assert_eq!(old[0].1[1], ("memory.memsw.limit_in_bytes", "3221225472".into()));
        assert_eq!(old[1].1[2], ("cpu.cfs_quota_us", "50000".into()));
        let new = v2(&limits);
        assert_eq!(new[0].1, [("memory.max", "1073741824".into()), ("memory.swap.max", "2147483648".into())]);
        assert_eq!(new[1].1, [("cpu.weight", "39".into()), ("cpu.max", "50000 100000".into())]);
        assert_eq!(new[2].1, [("cpuset.cpus", "0-1".into())]);
        assert_eq!(new[3].1, [("pids.max", "100".into())]);
        let unlimited = v2(&Limits { memory_swap: Some(-1), ..Limits::default() });
        assert_eq!(unlimited[0].1, [("memory.swap.max", "max".into())]);
        assert!(v1(&Limits::default()).is_empty() && v2(&Limits::default()).is_empty());
        assert_eq!((weight(2), weight(262_144)), (1, 10_000));
    }
}
