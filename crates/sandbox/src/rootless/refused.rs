//! Why this machine refuses a user namespace, as a sentence that names the file or the feature and what to do.
//! Pure but for the reader it is given: it never changes anything.

use rustix::io::Errno;

const CLONE: &str = "/proc/sys/kernel/unprivileged_userns_clone";
const APPARMOR: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
const MOST: &str = "/proc/sys/user/max_user_namespaces";
const MOST_MOUNTS: &str = "/proc/sys/user/max_mnt_namespaces";
const FEATURE: &str = "/proc/self/ns/user";

/// Whether a setting is there and has this value.
fn is(read: &dyn Fn(&str) -> Option<String>, file: &str, value: &str) -> bool {
    read(file).is_some_and(|text| text.trim() == value)
}

/// Why `unshare` failed with `error`. `exists` asks for a path, `read` for a file's text.
pub fn unshare(error: Errno, exists: &dyn Fn(&str) -> bool, read: &dyn Fn(&str) -> Option<String>) -> String {
    if !exists(FEATURE) {
        return format!("this kernel has no user namespaces ({FEATURE} is missing): it takes CONFIG_USER_NS");
    }
    for (file, closed, open) in [(CLONE, "0", "1"), (MOST, "0", "15000"), (MOST_MOUNTS, "0", "15000")] {
        if is(read, file, closed) {
            let name = file.trim_start_matches("/proc/sys/").replace('/', ".");
            return format!("{file} is {closed}; as root: sysctl -w {name}={open}");
        }
    }
    match error {
        Errno::NOSPC => format!("too many namespaces exist: raise {MOST} and {MOST_MOUNTS}"),
        Errno::USERS => "user namespaces are nested too deep: the kernel allows 32".to_owned(),
        Errno::PERM => "it is not permitted: inside a container, its seccomp profile or capabilities forbid it \
             (Docker: --security-opt seccomp=unconfined); inside a chroot the kernel does"
            .to_owned(),
        other => std::io::Error::from(other).to_string(),
    }
}

/// Why a new user namespace may not mount.
pub fn powerless(error: &std::io::Error, read: &dyn Fn(&str) -> Option<String>) -> String {
    if is(read, APPARMOR, "1") {
        return format!(
            "AppArmor takes all rights from user namespaces of programs without a profile ({APPARMOR} is 1); as root: \
             sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or a profile for larder with `userns,`"
        );
    }
    if error.raw_os_error() == Some(Errno::NOSYS.raw_os_error()) {
        return "it takes Linux 5.12 (mount_setattr)".to_owned();
    }
    format!("a user namespace was made, but it may not mount ({error}): a security module or a container forbids it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_named() {
        let none = |_: &str| None;
        let there = |_: &str| true;
        assert!(unshare(Errno::INVAL, &|_| false, &none).contains("CONFIG_USER_NS"));
        let off = |file: &str| (file == CLONE).then(|| "0\n".to_owned());
        let text = unshare(Errno::PERM, &there, &off);
        assert!(text.ends_with("as root: sysctl -w kernel.unprivileged_userns_clone=1"), "{text}");
        let zero = |file: &str| (file == MOST).then(|| "0\n".to_owned());
        assert!(unshare(Errno::NOSPC, &there, &zero).starts_with(MOST));
        assert!(unshare(Errno::NOSPC, &there, &none).contains("too many"));
        assert!(unshare(Errno::PERM, &there, &none).contains("seccomp"));
        let armed = |file: &str| (file == APPARMOR).then(|| "1\n".to_owned());
        assert!(powerless(&Errno::PERM.into(), &armed).contains(APPARMOR));
    }
}
