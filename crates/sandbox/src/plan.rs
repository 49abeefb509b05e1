//! Everything a child needs, made ready in the parent: detached mounts, resolved destinations, mount points, the user.
//! After [`Plan::make`] nothing needs the heap, a lock or a path of this machine any more.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};

use crate::kernel::{Abilities, attr, fresh, set_attr};
use crate::overlay::{self, clone_tree};
use crate::process::Process;
use crate::resolve::{Found, Made, Make, Tree};
use crate::user::{self, Ids};
use crate::{Error, Mount, MountKind, Network, Security, Spec, User, device, memory};

/// One change of the root's mounts, made by the child.
pub enum Action {
    /// Puts a detached mount there.
    Attach {
        /// The mount.
        mount: OwnedFd,
    },
    /// Puts a copy of a part of a staged mount there.
    Part {
        /// The part, opened inside the staged mount.
        of: OwnedFd,
        /// Attributes of the copy.
        attr: u64,
    },
    /// Puts a new instance of a file system there, one that depends on the namespaces of the child.
    Fresh {
        /// Its type.
        kind: &'static CStr,
        /// Its options.
        options: Vec<(CString, Option<CString>)>,
        /// Attributes of the mount.
        attr: u64,
        /// Whether the process can do without.
        optional: bool,
    },
    /// Makes what is there read-only, if it's there.
    ReadOnly,
    /// Hides what is there, if it's there.
    Mask,
}

/// An [`Action`] and its place.
pub struct Step {
    /// What happens.
    pub action: Action,
    /// Where, relative to the root.
    pub dest: CString,
    /// What is mounted, for messages.
    pub what: String,
}

/// A run made ready.
pub struct Plan {
    /// The root, detached.
    pub root: OwnedFd,
    /// Mounts of which parts are used: attached out of the process's sight.
    pub staged: Vec<OwnedFd>,
    /// In this order.
    pub steps: Vec<Step>,
    /// Hides directories.
    pub empty: OwnedFd,
    /// Whether `/` becomes read-only.
    pub readonly_root: bool,
    /// The process.
    pub process: Process,
    /// Mount points to remove afterwards.
    pub stubs: Vec<Made>,
    /// A network namespace of its own.
    pub own_network: bool,
}

/// What the machine gives a plan.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// What the kernel can do.
    pub abilities: &'a Abilities,
    /// Whether a device cgroup keeps the process from this machine's devices.
    pub devices_held: bool,
    /// Whether the process gets a network namespace of its own.
    pub own_network: bool,
    /// Cgroup hierarchies to show under `/sys/fs/cgroup`.
    pub hierarchies: &'a crate::cgroup::Hierarchies,
}

/// The path of an open descriptor in `/proc`.
pub fn descriptor_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

impl Plan {
    /// Prepares `spec`.
    pub fn make(spec: &Spec, ground: Ground<'_>) -> Result<Plan, Error> {
        let root = overlay::mount(&spec.root, ground.abilities.user_namespace)?;
        let mut maker = Maker {
            tree: Tree::new(root.as_fd()),
            spec,
            ground,
            place: memory::files(attr::NOSUID | attr::NODEV)
                .map_err(|e| Error::kernel("mount a file system for files in memory", e))?,
            staged: Vec::new(),
            steps: Vec::new(),
            dests: Vec::new(),
        };
        if maker.bound() {
            set_attr(root.as_fd(), attr::NODEV, 0, false)
                .map_err(|e| Error::kernel("forbid devices in the root", e))?;
        }
        let ids = maker.user()?;
        let home = user::home(ids.uid, maker.tree.read("/etc/passwd").as_deref()).to_string();
        maker.make_cwd(&ids)?;
        maker.system()?;
        maker.files()?;
        for mount in &spec.mounts {
            maker.mount(mount)?;
        }
        maker.protect();
        let stubs = maker.stubs();
        let (mut staged, steps) = (maker.staged, maker.steps);
        staged.push(maker.place);
        let empty =
            fresh(c"ramfs", &[(c"mode", Some(c"755"))], attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC)
                .map_err(|e| Error::kernel("make an empty directory in memory", e))?;
        Ok(Plan {
            staged,
            steps,
            empty,
            readonly_root: spec.readonly_root && spec.root.upper.is_some(),
            process: Process::of(spec, &ids, &home, ground.abilities.setgroups_denied)?,
            stubs,
            own_network: ground.own_network,
            root,
        })
    }
}

struct Maker<'a> {
    tree: Tree<'a>,
    spec: &'a Spec,
    ground: Ground<'a>,
    /// Holds files that lie in memory only.
    place: OwnedFd,
    staged: Vec<OwnedFd>,
    steps: Vec<Step>,
    /// Resolved destinations whose mount points are removed afterwards.
    dests: Vec<PathBuf>,
}

impl Maker<'_> {
    /// Whether devices can only be binds: no node works in a user namespace, and none is safe without a device cgroup.
    fn bound(&self) -> bool {
        let insecure = self.spec.security == Security::Insecure;
        self.ground.abilities.user_namespace || !(insecure || self.ground.devices_held)
    }

    fn user(&mut self) -> Result<Ids, Error> {
        match &self.spec.user {
            User::Ids { uid, gid, groups } => {
                let mut groups = groups.clone();
                if !groups.contains(gid) {
                    groups.insert(0, *gid);
                }
                Ok(Ids { uid: *uid, gid: *gid, groups })
            }
            User::Named(text) => match user::literal(text) {
                Some(ids) => Ok(ids),
                None => {
                    let (passwd, group) = (self.tree.read("/etc/passwd"), self.tree.read("/etc/group"));
                    Ok(user::resolve(text, passwd.as_deref(), group.as_deref())?)
                }
            },
        }
    }

    fn make_cwd(&mut self, ids: &Ids) -> Result<(), Error> {
        let cwd = &self.spec.cwd;
        if !cwd.is_absolute() {
            return Err(Error::Spec(format!("the working directory {cwd:?} is not absolute")));
        }
        let writable = self.spec.root.upper.is_some();
        let make = if writable { Make::Dir(ids.uid, ids.gid) } else { Make::No };
        let failed = |source| Error::Path { doing: "make the working directory", path: cwd.clone(), source };
        match self.tree.resolve(cwd, make) {
            // It may lie in a mount of a read-only root; the child finds out.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !writable => Ok(()),
            other => other.map(drop).map_err(failed),
        }
    }

    /// Whether the spec itself mounts something at `dest`: then ours isn't made, as in BuildKit.
    fn taken(&self, dest: &str) -> bool {
        self.spec.mounts.iter().any(|m| m.dest == Path::new(dest))
    }

    fn system(&mut self) -> Result<(), Error> {
        use attr::{NODEV, NOEXEC, NOSUID, RDONLY};
        let insecure = self.spec.security == Security::Insecure;
        let quiet = NOSUID | NOEXEC | NODEV;
        let read_only = if insecure { quiet } else { quiet | RDONLY };
        self.fresh("/proc", c"proc", &[], quiet, false)?;
        self.dev(insecure)?;
        let mut pts = vec![("newinstance", None), ("ptmxmode", Some("0666")), ("mode", Some("0620"))];
        if self.ground.abilities.tty_group {
            pts.push(("gid", Some("5")));
        }
        self.fresh("/dev/pts", c"devpts", &pts, NOSUID | NOEXEC, false)?;
        if !self.taken("/dev/shm") {
            let size = self.spec.shm_size.unwrap_or(64 << 20).to_string();
            let shm = memory::tmpfs(Some(&size), 0o1777, quiet).map_err(|e| mount_error("tmpfs", "/dev/shm", e))?;
            self.attach(Path::new("/dev/shm"), shm, Make::Dir(0, 0), "tmpfs")?;
        }
        self.fresh("/dev/mqueue", c"mqueue", &[], quiet, false)?;
        if self.ground.abilities.user_namespace && !self.ground.own_network {
            // Only the owner of a network namespace may mount a sysfs for it: show this machine's.
            if self.taken("/sys") {
                return Ok(());
            }
            let sys = clone_tree(CWD, c"/sys", true).map_err(|e| mount_error("/sys of this machine", "/sys", e))?;
            set_attr(sys.as_fd(), RDONLY | NOSUID | NOEXEC | NODEV, 0, true)
                .map_err(|e| mount_error("/sys", "/sys", e))?;
            return self.attach(Path::new("/sys"), sys, Make::Dir(0, 0), "/sys of this machine").map(drop);
        }
        self.fresh("/sys", c"sysfs", &[], read_only, false)?;
        self.cgroups(read_only)
    }

    fn dev(&mut self, insecure: bool) -> Result<(), Error> {
        if self.taken("/dev") {
            return Ok(());
        }
        let dev = device::dev(self.bound(), insecure).map_err(|e| mount_error("devices", "/dev", e))?;
        self.attach(Path::new("/dev"), dev.mount, Make::Dir(0, 0), "tmpfs")?;
        for (name, bind) in dev.binds {
            self.attach(&Path::new("/dev").join(name), bind, Make::File, name)?;
        }
        Ok(())
    }

    fn cgroups(&mut self, attr: u64) -> Result<(), Error> {
        const PLACE: &str = "/sys/fs/cgroup";
        if self.taken(PLACE) {
            return Ok(());
        }
        let hierarchies = self.ground.hierarchies;
        if hierarchies.v1.is_empty() {
            return self.fresh(PLACE, c"cgroup2", &[], attr, true);
        }
        let failed = |e| mount_error("cgroups", PLACE, e);
        let place = memory::tmpfs(None, 0o755, attr & !attr::RDONLY).map_err(failed)?;
        for name in hierarchies.names() {
            rustix::fs::mkdirat(&place, name, Mode::from_raw_mode(0o755)).map_err(|e| failed(e.into()))?;
        }
        set_attr(place.as_fd(), attr & attr::RDONLY, 0, false).map_err(failed)?;
        self.attach(Path::new(PLACE), place, Make::No, "tmpfs")?;
        for hierarchy in &hierarchies.v1 {
            let options: Vec<_> = hierarchy.options.iter().map(|(k, v)| (k.as_str(), v.as_deref())).collect();
            self.fresh(&format!("{PLACE}/{}", hierarchy.name), c"cgroup", &options, attr, true)?;
        }
        if hierarchies.v2.is_some() {
            self.fresh(&format!("{PLACE}/unified"), c"cgroup2", &[], attr, true)?;
        }
        Ok(())
    }

    /// `/etc/hosts`, `/etc/resolv.conf`.
    fn files(&mut self) -> Result<(), Error> {
        let own = self.ground.own_network;
        let resolv = crate::hosts::resolv_conf(&crate::hosts::machine_dns(own), &self.spec.dns, own);
        let hosts = crate::hosts::hosts(&self.spec.hostname, &self.spec.hosts);
        let files = [("/etc/resolv.conf", resolv), ("/etc/hosts", hosts)];
        for (n, (dest, content)) in files.iter().enumerate() {
            if !self.taken(dest) {
                let file = memory::file(&self.place, &n.to_string(), content.as_bytes(), (0, 0), 0o644);
                let file = file.map_err(|e| mount_error("a file in memory", dest, e))?;
                self.part(Path::new(dest), file, attr::RDONLY | attr::NOEXEC, "a file in memory")?;
            }
        }
        Ok(())
    }

    fn mount(&mut self, mount: &Mount) -> Result<(), Error> {
        let dest = &mount.dest;
        let nodev = if self.bound() { attr::NODEV } else { 0 };
        let attr = nodev | if mount.readonly { attr::RDONLY } else { 0 };
        match &mount.kind {
            MountKind::Secret { bytes, uid, gid, mode } => {
                let name = format!("secret{}", self.steps.len());
                let file = memory::file(&self.place, &name, bytes, (*uid, *gid), *mode);
                let noexec = if mode & 0o111 == 0 { attr::NOEXEC } else { 0 };
                let file = file.map_err(|e| mount_error("a secret", dest, e))?;
                self.part(dest, file, attr::RDONLY | noexec, "a secret")
            }
            MountKind::Tmpfs { size, mode } => {
                let size = size.filter(|s| *s > 0).map(|s| s.to_string());
                let tmpfs = memory::tmpfs(size.as_deref(), *mode, attr | attr::NOSUID);
                let tmpfs = tmpfs.map_err(|e| mount_error("tmpfs", dest, e))?;
                self.attach(dest, tmpfs, Make::Dir(0, 0), "tmpfs").map(drop)
            }
            MountKind::Bind { source, selector } => {
                let what = source.display().to_string();
                let failed = |e: io::Error| mount_error(&what, dest, e);
                let found =
                    open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|e| failed(e.into()))?;
                let found = select(found, selector).map_err(failed)?;
                let make = make_for(&found).map_err(failed)?;
                let copy = clone_tree(found.as_fd(), c"", true).map_err(failed)?;
                set_attr(copy.as_fd(), attr, 0, true).map_err(failed)?;
                self.attach(dest, copy, make, &what).map(drop)
            }
            MountKind::Overlay { root, selector } => {
                let whole = overlay::mount(root, self.ground.abilities.user_namespace)?;
                let failed = |e: io::Error| mount_error("a snapshot", dest, e);
                if selector.as_os_str().is_empty() || selector == Path::new("/") {
                    set_attr(whole.as_fd(), attr, 0, false).map_err(failed)?;
                    return self.attach(dest, whole, Make::Dir(0, 0), "a snapshot").map(drop);
                }
                let part = select(whole.try_clone().map_err(failed)?, selector).map_err(failed)?;
                self.staged.push(whole);
                self.part(dest, part, attr, "a snapshot")
            }
        }
    }

    /// Masked and read-only paths of the OCI default.
    fn protect(&mut self) {
        const MASKED: [&CStr; 11] = [
            c"proc/acpi",
            c"proc/asound",
            c"proc/kcore",
            c"proc/keys",
            c"proc/latency_stats",
            c"proc/timer_list",
            c"proc/timer_stats",
            c"proc/sched_debug",
            c"proc/scsi",
            c"sys/firmware",
            c"sys/devices/virtual/powercap",
        ];
        const READ_ONLY: [&CStr; 5] = [c"proc/bus", c"proc/fs", c"proc/irq", c"proc/sys", c"proc/sysrq-trigger"];
        if self.spec.security == Security::Insecure {
            return;
        }
        let step = |dest: &CStr, action, what: &str| Step { action, dest: dest.to_owned(), what: what.to_string() };
        self.steps.extend(MASKED.map(|p| step(p, Action::Mask, "a mask")));
        self.steps.extend(READ_ONLY.map(|p| step(p, Action::ReadOnly, "a read-only copy")));
    }

    fn resolve(&mut self, dest: &Path, make: Make) -> Result<Found, Error> {
        if !dest.is_absolute() {
            return Err(Error::Spec(format!("the mount destination {dest:?} is not absolute")));
        }
        let found = self.tree.resolve(dest, make);
        let found =
            found.map_err(|source| Error::Path { doing: "make the mount point", path: dest.to_path_buf(), source })?;
        if found.path.is_empty() {
            return Err(Error::Spec(format!("the mount destination {dest:?} is the root itself")));
        }
        self.dests.push(found.path.iter().collect());
        Ok(found)
    }

    fn step(&mut self, found: &Found, action: Action, what: &str) -> Result<(), Error> {
        let dest = found.c_path().map_err(|e| mount_error(what, found.display(), e))?;
        self.steps.push(Step { action, dest, what: what.to_string() });
        Ok(())
    }

    fn attach(&mut self, dest: &Path, mount: OwnedFd, make: Make, what: &str) -> Result<Found, Error> {
        let found = self.resolve(dest, make)?;
        self.tree.mounted(&found, Some(mount.as_fd())).map_err(|e| mount_error(what, dest, e))?;
        self.step(&found, Action::Attach { mount }, what)?;
        Ok(found)
    }

    fn part(&mut self, dest: &Path, of: OwnedFd, attr: u64, what: &str) -> Result<(), Error> {
        let make = make_for(&of).map_err(|e| mount_error(what, dest, e))?;
        let found = self.resolve(dest, make)?;
        self.tree.mounted(&found, Some(of.as_fd())).map_err(|e| mount_error(what, dest, e))?;
        self.step(&found, Action::Part { of, attr }, what)
    }

    fn fresh(
        &mut self,
        dest: &str,
        kind: &'static CStr,
        options: &[(&str, Option<&str>)],
        attr: u64,
        optional: bool,
    ) -> Result<(), Error> {
        if self.taken(dest) {
            return Ok(());
        }
        let found = self.resolve(Path::new(dest), Make::Dir(0, 0))?;
        let what = kind.to_string_lossy();
        let c = |s: &str| CString::new(s).map_err(|e| mount_error(&what, dest, e.into()));
        let mut list = Vec::new();
        for (key, value) in options {
            list.push((c(key)?, value.map(c).transpose()?));
        }
        self.tree.mounted(&found, None).map_err(|e| mount_error(&what, dest, e))?;
        self.step(&found, Action::Fresh { kind, options: list, attr, optional }, &what)
    }

    /// What was made for a mount and isn't to stay. `/proc`, `/dev` and `/sys` stay, as they do with BuildKit.
    fn stubs(&self) -> Vec<Made> {
        let system = ["proc", "dev", "sys"].map(PathBuf::from);
        let wanted = |m: &&Made| {
            self.dests
                .iter()
                .filter(|d| !system.contains(d))
                .any(|dest| m.path == *dest || (self.spec.remove_stub_parents && dest.starts_with(&m.path)))
        };
        self.tree.made.iter().filter(wanted).cloned().collect()
    }
}

fn make_for(fd: &OwnedFd) -> io::Result<Make> {
    let directory = FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Directory;
    Ok(if directory { Make::Dir(0, 0) } else { Make::File })
}

/// What `selector` leads to inside `tree`.
fn select(tree: OwnedFd, selector: &Path) -> io::Result<OwnedFd> {
    if selector.as_os_str().is_empty() || selector == Path::new("/") {
        return Ok(tree);
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(&tree, selector, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

fn mount_error(what: &str, dest: impl Into<PathBuf>, source: io::Error) -> Error {
    Error::Mount { what: what.to_string(), dest: dest.into(), source }
}

/// Whether `network` means a network namespace of its own.
pub fn own_network(network: Network, default: crate::DefaultNetwork) -> Result<bool, Error> {
    match (network, default) {
        (Network::None, _) | (Network::Default, crate::DefaultNetwork::None) => Ok(true),
        (Network::Host, _) | (Network::Default, crate::DefaultNetwork::Host) => Ok(false),
        (Network::Default, crate::DefaultNetwork::Bridge) => {
            Err(Error::Spec("a bridge network is not built yet: configure the host's network or none".into()))
        }
    }
}
