//! What to run and in what: plain data, no kernel. Paths named `dest` lie inside the root and are resolved inside it:
//! no symlink leads out. Fields mirror what BuildKit's executor takes (`executor.Meta`, `executor.Mount`).

use std::net::IpAddr;
use std::path::PathBuf;

/// A directory tree made of overlay layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Root {
    /// Layer directories, top first. May be empty when there is an `upper`.
    pub lower: Vec<PathBuf>,
    /// Where changes go, with its work directory on the same file system. `None`: the tree is read-only.
    pub upper: Option<Upper>,
}

/// The writable part of a [`Root`]. Both directories exist and are empty, or hold what an earlier run left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upper {
    /// The upper directory: after the run it holds the changes as overlay writes them.
    pub dir: PathBuf,
    /// The work directory of the overlay: the caller deletes it afterwards.
    pub work: PathBuf,
}

impl Root {
    /// A writable root: `lower` top first, changes into `upper`.
    pub fn writable(lower: Vec<PathBuf>, upper: impl Into<PathBuf>, work: impl Into<PathBuf>) -> Root {
        Root { lower, upper: Some(Upper { dir: upper.into(), work: work.into() }) }
    }

    /// A root that cannot be written: `lower` top first.
    pub fn read_only(lower: Vec<PathBuf>) -> Root {
        Root { lower, upper: None }
    }
}

/// Something mounted inside the root. Mounts are made in the order given: parents before children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path inside the root. Made when it isn't there, and removed after the run (see [`Spec::remove_stub_parents`]).
    pub dest: PathBuf,
    /// What is mounted.
    pub kind: MountKind,
    /// Whether the process may not write through it.
    pub readonly: bool,
}

/// What a [`Mount`] shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A file, directory or socket of this machine.
    Bind {
        /// Its path on this machine.
        source: PathBuf,
        /// A path inside `source`, resolved inside it; empty or `/` for all of it.
        selector: PathBuf,
    },
    /// Another tree of layers. Writable when it has an upper and the mount isn't read-only.
    Overlay {
        /// The layers.
        root: Root,
        /// A path inside the tree, resolved inside it; empty or `/` for all of it.
        selector: PathBuf,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Most bytes it may hold; `None` is the kernel's default, half of the memory.
        size: Option<u64>,
        /// Permission bits of its root, usually `0o1777`.
        mode: u32,
    },
    /// A read-only file that only ever lies in memory that isn't swapped.
    Secret {
        /// The content.
        bytes: Vec<u8>,
        /// Owner inside the root.
        uid: u32,
        /// Group inside the root.
        gid: u32,
        /// Permission bits.
        mode: u32,
    },
}

/// Who the process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// As in a Dockerfile's `USER`: empty, `name`, `uid`, `name:group`, `uid:gid` and mixtures, resolved with the root's
    /// `/etc/passwd` and `/etc/group` by BuildKit's rules.
    Named(String),
    /// Numbers, used as they are.
    Ids {
        /// User id inside the root.
        uid: u32,
        /// Group id inside the root.
        gid: u32,
        /// Supplementary group ids.
        groups: Vec<u32>,
    },
}

/// The network a process sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// What the sandbox's configuration says ([`crate::DefaultNetwork`]).
    #[default]
    Default,
    /// A network namespace of its own with nothing but loopback.
    None,
    /// This machine's network namespace.
    Host,
}

/// How far the process is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Security {
    /// Seccomp profile, Docker's default capabilities, masked paths.
    #[default]
    Sandbox,
    /// All capabilities the caller has, no seccomp, writable `/sys`: BuildKit's `security.insecure`.
    Insecure,
}

/// One line of `/etc/hosts` beside the default ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The name.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
}

/// What goes into `/etc/resolv.conf`. Empty lists mean: as on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of name servers.
    pub nameservers: Vec<String>,
    /// Search domains.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// A resource limit of `setrlimit(2)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rlimit {
    /// Name as in `ulimit` flags of Docker: `nofile`, `nproc`, `core`… in any case.
    pub name: String,
    /// Soft limit; -1 is unlimited.
    pub soft: i64,
    /// Hard limit; -1 is unlimited.
    pub hard: i64,
}

/// Limits held by a cgroup. All absent: the step gets no cgroup of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together; -1 is unlimited.
    pub memory_swap: Option<i64>,
    /// Relative weight, Docker's scale (1024 is normal).
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU in each period.
    pub cpu_quota: Option<i64>,
    /// Length of a period in microseconds; 100,000 when only a quota is given.
    pub cpu_period: Option<u64>,
    /// CPUs, as `0-2,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as `0-1`.
    pub cpuset_mems: Option<String>,
    /// Most processes.
    pub pids: Option<u64>,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Limits::default()
    }
}

/// One process to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// The tree that becomes `/`.
    pub root: Root,
    /// Whether `/` itself is read-only for the process (mount points are still made when `root` has an upper).
    pub readonly_root: bool,
    /// What is mounted inside, parents first.
    pub mounts: Vec<Mount>,
    /// Program and arguments. A program without `/` is searched in `PATH` of `env`, inside the root.
    pub args: Vec<String>,
    /// `NAME=value`; a later entry of the same name wins. `HOME` is set from the root's `/etc/passwd` when absent.
    pub env: Vec<String>,
    /// Absolute working directory; made (owned by the user) when absent.
    pub cwd: PathBuf,
    /// Who runs it.
    pub user: User,
    /// Host name, also a name of 127.0.0.1 in `/etc/hosts`.
    pub hostname: String,
    /// More lines for `/etc/hosts`.
    pub hosts: Vec<Host>,
    /// What goes into `/etc/resolv.conf`.
    pub dns: Dns,
    /// The network.
    pub network: Network,
    /// How far it's held.
    pub security: Security,
    /// Resource limits; anything not named is inherited.
    pub rlimits: Vec<Rlimit>,
    /// Limits held by a cgroup.
    pub limits: Limits,
    /// The cgroup under which the sandbox puts its own, instead of the root of each hierarchy.
    pub cgroup_parent: Option<String>,
    /// Bytes of `/dev/shm`; `None` is 64 MiB.
    pub shm_size: Option<u64>,
    /// File mode mask; `0o022` unless set.
    pub umask: u32,
    /// Whether directories made above a mount point are removed after the run too (BuildKit's
    /// `removeMountStubsRecursive`), or only the mount point.
    pub remove_stub_parents: bool,
}

impl Spec {
    /// A spec with BuildKit's defaults: user root, cwd `/`, default network, sandboxed, umask 022.
    pub fn new<A: Into<String>>(root: Root, args: impl IntoIterator<Item = A>) -> Spec {
        Spec {
            root,
            readonly_root: false,
            mounts: Vec::new(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            user: User::Named(String::new()),
            hostname: String::from("buildkitsandbox"),
            hosts: Vec::new(),
            dns: Dns::default(),
            network: Network::Default,
            security: Security::Sandbox,
            rlimits: Vec::new(),
            limits: Limits::default(),
            cgroup_parent: None,
            shm_size: None,
            umask: 0o022,
            remove_stub_parents: true,
        }
    }
}
