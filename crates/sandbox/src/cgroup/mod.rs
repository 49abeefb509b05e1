//! Cgroups of versions 1 and 2, where they are writable: they keep a step from this machine's devices, hold its limits and
//! count its memory kills. Made late and little: a step without limits joins one shared group, which costs two system
//! calls. Their names tell their owner, so that a later start can sweep what a crash left.

mod devices;
mod hierarchy;
mod limits;
mod sweep;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};

use crate::{Error, Security, Spec};
pub use hierarchy::Hierarchies;
pub use sweep::{Swept, owner_name, sweep};

/// Folder of all our groups, in every hierarchy.
const FOLDER: &str = "larder";

/// This process's groups.
#[derive(Debug)]
pub struct Groups {
    /// What this machine has.
    pub hierarchies: Hierarchies,
    parent: Option<String>,
    owner: String,
    held: OnceLock<Held>,
    next: AtomicU64,
}

/// The group that keeps steps from this machine's devices.
#[derive(Debug)]
enum Held {
    /// `tasks` of a version 1 group.
    V1(OwnedFd),
    /// A version 2 group for all steps, in a folder with the device program.
    V2(OwnedFd),
    /// Nothing could be made.
    Not,
}

/// Where one run's process goes.
#[derive(Debug, Default)]
pub struct Membership {
    /// A version 2 group to be cloned into.
    pub into: Option<OwnedFd>,
    /// `tasks` files of version 1 groups to join.
    pub tasks: Vec<OwnedFd>,
    own: Vec<PathBuf>,
}

impl Groups {
    /// Looks at what there is; makes nothing.
    pub fn new(parent: Option<String>) -> Groups {
        let hierarchies = Hierarchies::detect();
        Groups { hierarchies, parent, owner: owner_name(), held: OnceLock::new(), next: AtomicU64::new(0) }
    }

    /// Whether a process in a group of ours cannot reach this machine's devices.
    pub fn hold_devices(&self) -> bool {
        !matches!(self.held(), Held::Not)
    }

    fn held(&self) -> &Held {
        self.held.get_or_init(|| self.make_held().unwrap_or(Held::Not))
    }

    /// `<hierarchy>/<parent>/larder/<owner>`.
    fn folder(&self, mount: &Path, parent: Option<&str>) -> PathBuf {
        let parent = parent.or(self.parent.as_deref()).unwrap_or_default();
        mount.join(parent.trim_matches('/')).join(FOLDER).join(&self.owner)
    }

    fn make_held(&self) -> io::Result<Held> {
        if let Some(hierarchy) = self.hierarchies.of("devices") {
            let dir = self.folder(&hierarchy.mount, None);
            fs::create_dir_all(&dir)?;
            devices::restrict_v1(&dir)?;
            let tasks = open(dir.join("tasks"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            return Ok(Held::V1(tasks));
        }
        let Some(mount) = &self.hierarchies.v2 else { return Ok(Held::Not) };
        let dir = self.folder(mount, None);
        let free = dir.join("free");
        fs::create_dir_all(&free)?;
        devices::restrict_v2(&dir)?;
        Ok(Held::V2(open_dir(&free)?))
    }

    /// The groups for one run of `spec`: shared where it has no limits, its own where it has.
    pub fn join(&self, spec: &Spec) -> Result<Membership, Error> {
        let mut membership = Membership::default();
        let insecure = spec.security == Security::Insecure;
        let no_descriptor = |e: io::Error| Error::kernel("duplicate a cgroup's descriptor", e);
        if !insecure {
            match self.held() {
                Held::V1(tasks) => membership.tasks.push(tasks.try_clone().map_err(no_descriptor)?),
                Held::V2(free) => membership.into = Some(free.try_clone().map_err(no_descriptor)?),
                Held::Not => {}
            }
        }
        if spec.limits.is_empty() {
            return Ok(membership);
        }
        let name = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        for (controller, settings) in limits::v1(&spec.limits) {
            let Some(hierarchy) = self.hierarchies.of(controller) else { continue };
            let dir = self.folder(&hierarchy.mount, spec.cgroup_parent.as_deref()).join(&name);
            limits::make_v1(&hierarchy.mount, &dir, controller, &settings)?;
            if !membership.own.contains(&dir) {
                let tasks = open(dir.join("tasks"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
                membership.tasks.push(tasks.map_err(|e| Error::kernel(format!("open {}/tasks", dir.display()), e))?);
                membership.own.push(dir);
            }
        }
        let rest: Vec<_> =
            limits::v2(&spec.limits).into_iter().filter(|(c, ..)| self.hierarchies.of(c).is_none()).collect();
        if !rest.is_empty() {
            let Some(mount) = &self.hierarchies.v2 else {
                return Err(Error::Limit {
                    what: rest[0].0,
                    reason: "this machine has no such cgroup controller".into(),
                });
            };
            // A group without the device program, for a step that may use devices.
            let mut folder = self.folder(mount, spec.cgroup_parent.as_deref());
            if insecure {
                folder.set_file_name(format!("{}-insecure", self.owner));
            }
            let dir = folder.join(&name);
            limits::make_v2(mount, &dir, &rest)?;
            membership.into = Some(open_dir(&dir).map_err(|e| Error::kernel(format!("open {}", dir.display()), e))?);
            if spec.cgroup_parent.is_some() && !insecure && !matches!(self.held(), Held::V1(..)) {
                devices::restrict_v2(&dir)
                    .map_err(|e| Error::kernel(format!("restrict devices of {}", dir.display()), e))?;
            }
            membership.own.push(dir);
        }
        Ok(membership)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        if self.held.get().is_none() && self.next.load(Ordering::Relaxed) == 0 {
            // Nothing was run, nothing was made.
            return;
        }
        let folders = self.hierarchies.mounts().map(|m| self.folder(m, None)).collect::<Vec<_>>();
        for folder in folders {
            sweep::remove(&folder);
            sweep::remove(&folder.with_file_name(format!("{}-insecure", self.owner)));
        }
    }
}

impl Membership {
    /// Whether a memory limit killed a process of this run.
    pub fn out_of_memory(&self) -> bool {
        let killed = |file: PathBuf| {
            let text = fs::read_to_string(file).unwrap_or_default();
            text.lines().any(|l| l.strip_prefix("oom_kill ").is_some_and(|n| n.trim() != "0"))
        };
        self.own.iter().any(|dir| killed(dir.join("memory.events")) || killed(dir.join("memory.oom_control")))
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        for dir in &self.own {
            // The last process is reaped, but the kernel may let go of it a moment later.
            for _ in 0..50 {
                match fs::remove_dir(dir) {
                    Err(e) if e.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(Duration::from_millis(1)),
                    _ => break,
                }
            }
        }
    }
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}
