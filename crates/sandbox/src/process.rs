//! What `execve` and the calls just before it need, made ready in the parent: NUL-terminated strings, pointer arrays,
//! numbers. Decides how a program is searched and what the environment holds; runs nothing.

use std::ffi::{CString, NulError};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Gid, Uid};
use rustix::process::{Resource, Rlimit as KernelLimit};
use rustix::thread::CapabilitySet;

use crate::user::Ids;
use crate::{Error, Rlimit, Security, Spec, capability};

/// A process before it exists.
pub struct Process {
    /// Paths to try, in order.
    pub programs: Vec<CString>,
    argv: Strings,
    envp: Strings,
    /// Working directory.
    pub cwd: CString,
    /// Host name.
    pub hostname: Vec<u8>,
    /// User.
    pub uid: Uid,
    /// Group.
    pub gid: Gid,
    /// Supplementary groups.
    pub groups: Vec<Gid>,
    /// Limits to set.
    pub rlimits: Vec<(Resource, KernelLimit)>,
    /// File mode mask.
    pub umask: u32,
    /// Capabilities to keep.
    pub capabilities: CapabilitySet,
    /// Whether a user other than root keeps them too.
    pub ambient: bool,
    /// Whether the user namespace forbids `setgroups`.
    pub keep_groups: bool,
}

/// Strings with the array of pointers that `execve` wants.
struct Strings {
    _owned: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Strings {
    fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Strings, NulError> {
        let owned = texts.map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let pointers = owned.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Ok(Strings { _owned: owned, pointers })
    }
}

impl Process {
    /// The process of `spec` for a resolved user with a home, in a user namespace that may forbid `setgroups`.
    pub fn of(spec: &Spec, ids: &Ids, home: &str, keep_groups: bool) -> Result<Process, Error> {
        let nul = |_: NulError| Error::Spec("a NUL byte in an argument, environment variable or path".into());
        let environment = environment(&spec.env, home);
        let path = environment.iter().rev().find_map(|e| e.strip_prefix("PATH="));
        let insecure = spec.security == Security::Insecure;
        let own = || rustix::thread::capabilities(None).map(|c| c.permitted);
        let capabilities = if insecure {
            own().map_err(|e| Error::kernel("read the capabilities of this process", e))?
        } else {
            capability::DEFAULT
        };
        let program =
            spec.args.first().filter(|a| !a.is_empty()).ok_or_else(|| Error::Spec("no program to run".into()))?;
        Ok(Process {
            programs: programs(program, path).into_iter().map(CString::new).collect::<Result<_, _>>().map_err(nul)?,
            argv: Strings::of(spec.args.iter().map(String::as_str)).map_err(nul)?,
            envp: Strings::of(environment.iter().map(String::as_str)).map_err(nul)?,
            cwd: CString::new(spec.cwd.as_os_str().as_bytes()).map_err(nul)?,
            hostname: spec.hostname.as_bytes().to_vec(),
            uid: Uid::from_raw(ids.uid),
            gid: Gid::from_raw(ids.gid),
            groups: ids.groups.iter().map(|g| Gid::from_raw(*g)).collect(),
            rlimits: spec.rlimits.iter().map(rlimit).collect::<Result<_, _>>()?,
            umask: spec.umask,
            capabilities,
            ambient: insecure,
            keep_groups,
        })
    }

    /// For `execve`; valid as long as `self`.
    pub fn argv(&self) -> *const *const libc::c_char {
        self.argv.pointers.as_ptr()
    }

    /// For `execve`; valid as long as `self`.
    pub fn envp(&self) -> *const *const libc::c_char {
        self.envp.pointers.as_ptr()
    }
}

/// The environment with the last value of each name, and `HOME`.
fn environment(given: &[String], home: &str) -> Vec<String> {
    let name = |e: &str| e.split_once('=').map(|(n, _)| n.to_string());
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<String> =
        given.iter().rev().filter(|e| name(e).is_some_and(|n| !n.is_empty() && seen.insert(n))).cloned().collect();
    kept.reverse();
    if !kept.iter().any(|e| e.strip_prefix("HOME=").is_some_and(|v| !v.is_empty())) {
        kept.retain(|e| !e.starts_with("HOME="));
        kept.push(format!("HOME={home}"));
    }
    kept
}

/// Where a program may lie: itself when it has a `/`, else in each absolute directory of `path`.
fn programs(program: &str, path: Option<&str>) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_string()];
    }
    // A relative directory would let the step's own files stand in for a program; runc refuses those too.
    let dirs = path.unwrap_or_default().split(':').filter(|d| d.starts_with('/'));
    dirs.map(|d| format!("{}/{program}", d.trim_end_matches('/'))).collect()
}

fn rlimit(limit: &Rlimit) -> Result<(Resource, KernelLimit), Error> {
    let resource = match limit.name.to_ascii_lowercase().trim_start_matches("rlimit_") {
        "cpu" => Resource::Cpu,
        "fsize" => Resource::Fsize,
        "data" => Resource::Data,
        "stack" => Resource::Stack,
        "core" => Resource::Core,
        "rss" => Resource::Rss,
        "nproc" => Resource::Nproc,
        "nofile" => Resource::Nofile,
        "memlock" => Resource::Memlock,
        "as" => Resource::As,
        "locks" => Resource::Locks,
        "sigpending" => Resource::Sigpending,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        other => return Err(Error::Spec(format!("unknown ulimit {other:?}"))),
    };
    let value = |v: i64| u64::try_from(v).ok();
    Ok((resource, KernelLimit { current: value(limit.soft), maximum: value(limit.hard) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_name_wins_and_home_is_there() {
        let given = ["A=1", "broken", "B=2", "A=3", "=x"].map(String::from);
        assert_eq!(environment(&given, "/root"), ["B=2", "A=3", "HOME=/root"]);
        assert_eq!(environment(&["HOME=/x".into()], "/root"), ["HOME=/x"]);
        assert_eq!(environment(&["HOME=".into()], "/root"), ["HOME=/root"]);
    }

    #[test]
    fn programs_are_searched_in_absolute_directories_only() {
        assert_eq!(programs("sh", Some("/bin:.:/usr/bin/::")), ["/bin/sh", "/usr/bin/sh"]);
        assert_eq!(programs("./sh", Some("/bin")), ["./sh"]);
        assert!(programs("sh", None).is_empty());
    }

    #[test]
    fn limits_by_name() {
        let limit = |name: &str| rlimit(&Rlimit { name: name.into(), soft: 1024, hard: -1 });
        assert_eq!(limit("NoFile").unwrap().1, KernelLimit { current: Some(1024), maximum: None });
        assert!(limit("speed").is_err());
    }
}
