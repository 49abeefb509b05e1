//! Which cgroup hierarchies are mounted, read from `/proc/self/mountinfo`.

use std::fs;
use std::path::{Path, PathBuf};

/// The mounted hierarchies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// Those of version 1.
    pub v1: Vec<Hierarchy>,
    /// Where version 2 is mounted.
    pub v2: Option<PathBuf>,
}

/// A hierarchy of version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// The name of its folder under `/sys/fs/cgroup`.
    pub name: String,
    /// Where it's mounted.
    pub mount: PathBuf,
    /// Mount options that choose it: controllers, or `none` and a name.
    pub options: Vec<(String, Option<String>)>,
}

impl Hierarchies {
    /// Reads them.
    pub fn detect() -> Hierarchies {
        Hierarchies::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    /// Reads the text of a `mountinfo`. Only what is mounted below `/sys/fs/cgroup`, first come.
    fn parse(text: &str) -> Hierarchies {
        const GENERAL: [&str; 8] =
            ["rw", "ro", "xattr", "clone_children", "noprefix", "nsdelegate", "favordynmods", "seclabel"];
        let mut found = Hierarchies::default();
        for line in text.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(mount) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut right = right.split(' ');
            let (kind, options) = (right.next(), right.nth(1).unwrap_or_default());
            if !mount.starts_with("/sys/fs/cgroup") {
                continue;
            }
            match kind {
                Some("cgroup2") if found.v2.is_none() => found.v2 = Some(mount),
                Some("cgroup") => {
                    let Some(name) = mount.file_name().map(|n| n.to_string_lossy().into_owned()) else { continue };
                    let chosen =
                        options.split(',').filter(|o| !GENERAL.contains(o) && !o.starts_with("release_agent="));
                    let mut list = Vec::new();
                    for option in chosen {
                        if let Some(named) = option.strip_prefix("name=") {
                            list.push(("none".to_string(), None));
                            list.push(("name".to_string(), Some(named.to_string())));
                        } else {
                            list.push((option.to_string(), None));
                        }
                    }
                    if found.v1.iter().all(|h| h.name != name) {
                        found.v1.push(Hierarchy { name, mount, options: list });
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// The version 1 hierarchy of a controller.
    pub fn of(&self, controller: &str) -> Option<&Hierarchy> {
        self.v1.iter().find(|h| h.options.iter().any(|(key, _)| key == controller))
    }

    /// Names of the folders under `/sys/fs/cgroup` where version 1 is in use.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.v1.iter().map(|h| h.name.as_str()).chain(self.v2.as_ref().map(|_| "unified"))
    }

    /// Every mount.
    pub fn mounts(&self) -> impl Iterator<Item = &Path> {
        self.v1.iter().map(|h| h.mount.as_path()).chain(self.v2.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_and_unified() {
        let hybrid = Hierarchies::parse(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             36 31 0:33 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n",
        );
        assert_eq!(hybrid.names().collect::<Vec<_>>(), ["cpu,cpuacct", "devices", "systemd", "unified"]);
        assert_eq!(hybrid.of("cpuacct").map(|h| h.name.as_str()), Some("cpu,cpuacct"));
        assert_eq!(hybrid.of("memory"), None);
        assert_eq!(hybrid.v1[2].options, [("none".into(), None), ("name".into(), Some("systemd".into()))]);

        let unified = Hierarchies::parse("30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!(unified, Hierarchies { v1: vec![], v2: Some("/sys/fs/cgroup".into()) });
    }
}
