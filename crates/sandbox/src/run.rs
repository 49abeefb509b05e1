//! One run from start to end: prepare, clone, pass on what it prints, wait, clean up. Whatever goes wrong, the process
//! and everything it started are gone when [`Sandbox::run`] returns.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, pidfd_send_signal};

use crate::cgroup::{Groups, Membership, sweep};
use crate::child::{self, Ends, Failure, Role, Stage};
use crate::connected::Stdio;
use crate::kernel::{Cloned, clone3};
use crate::plan::{Ground, Plan, own_network};
use crate::{Abilities, Cancel, Error, Security, Spec, seccomp, stubs};

/// How a sandbox behaves on this machine, decided once by the operator.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// What [`crate::Network::Default`] means.
    pub default_network: DefaultNetwork,
    /// The cgroup under which every run's cgroup is made, unless its spec names one; a path from the hierarchy's root.
    pub cgroup_parent: Option<String>,
}

/// What a build's default network is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DefaultNetwork {
    /// This machine's, as BuildKit does without a CNI configuration.
    #[default]
    Host,
    /// Loopback only.
    None,
    /// A bridge of our own. Not built yet: a run says so.
    Bridge,
}

/// Which pipe some output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// How a process ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It exited with this code.
    Code(i32),
    /// A signal of this number killed it.
    Signal(i32),
}

impl Status {
    /// As a shell and BuildKit show it: the code, or 128 and the signal.
    pub fn code(self) -> i32 {
        match self {
            Status::Code(c) => c,
            Status::Signal(s) => 128 + s,
        }
    }
}

/// What a run consumed, its children included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time from clone to exit.
    pub wall: Duration,
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// Largest memory of any one process, in bytes.
    pub max_rss: u64,
    /// Bytes read from disks.
    pub read_bytes: u64,
    /// Bytes written to disks.
    pub written_bytes: u64,
}

/// A process that ran and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// How.
    pub status: Status,
    /// Whether the memory limit killed something in it.
    pub out_of_memory: bool,
    /// What it took.
    pub usage: Usage,
}

/// Runs processes on this machine. One for the whole program; shared by threads.
#[derive(Debug)]
pub struct Sandbox {
    config: Config,
    abilities: OnceLock<Abilities>,
    groups: OnceLock<Groups>,
    filter: OnceLock<Filter>,
}

struct Filter(Vec<libc::sock_filter>);

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} instructions", self.0.len())
    }
}

impl Sandbox {
    /// Free: the first run looks at what the machine can do, and many a build runs nothing.
    pub fn new(config: Config) -> Sandbox {
        Sandbox { config, abilities: OnceLock::new(), groups: OnceLock::new(), filter: OnceLock::new() }
    }

    /// What this machine can do.
    pub fn abilities(&self) -> &Abilities {
        self.abilities.get_or_init(Abilities::detect)
    }

    /// Our cgroups. What processes that were killed left of theirs goes first.
    fn groups(&self) -> &Groups {
        self.groups.get_or_init(|| {
            sweep(self.config.cgroup_parent.as_deref());
            Groups::new(self.config.cgroup_parent.clone())
        })
    }

    /// Runs `spec` to its end and hands out what it prints as it comes. A process that fails is an [`Exit`]; an error
    /// means it never ran, or was cancelled ([`Error::Cancelled`]). Blocks; call it from a thread that may.
    pub fn run(&self, spec: &Spec, cancel: &Cancel, output: &mut dyn FnMut(Stream, &[u8])) -> Result<Exit, Error> {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let plan = self.plan(spec)?;
        let result = self.run_plan(spec, &plan, cancel, output);
        // All processes are gone, so is their view of the mounts: the root's descriptor shows the bare root again.
        stubs::remove(plan.root.as_fd(), &plan.stubs);
        result
    }

    /// Makes a run ready.
    pub(crate) fn plan(&self, spec: &Spec) -> Result<Plan, Error> {
        let own_network = own_network(spec.network, self.config.default_network)?;
        Plan::make(
            spec,
            Ground {
                abilities: self.abilities(),
                devices_held: self.groups().hold_devices(),
                own_network,
                hierarchies: &self.groups().hierarchies,
            },
        )
    }

    fn run_plan(
        &self,
        spec: &Spec,
        plan: &Plan,
        cancel: &Cancel,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Exit, Error> {
        let pipes = Pipes::make().map_err(|e| Error::kernel("make pipes", e))?;
        let membership = self.groups().join(spec)?;
        let mut running =
            self.launch(spec, Role::First(plan), Stdio { fds: pipes.ends, terminal: false }, &membership)?;
        pass_on(&mut running.process, &pipes.stdout, &pipes.stderr, cancel, output)?;
        running.exit(&membership)
    }

    /// Clones a child and waits until it is the process of `spec`.
    pub(crate) fn launch(
        &self,
        spec: &Spec,
        role: Role<'_>,
        stdio: Stdio,
        membership: &Membership,
    ) -> Result<Running, Error> {
        let filter = if spec.security == Security::Sandbox {
            self.filter.get_or_init(|| Filter(seccomp::program())).0.clone()
        } else {
            Vec::new()
        };
        let (process, plan) = match &role {
            Role::First(plan) => (&plan.process, Some(*plan)),
            Role::Beside { process, .. } => (*process, None),
        };
        let words = |failure| explain(failure, spec, process, plan, self.abilities());
        give_to(&stdio, process.uid).map_err(|e| match e.raw_os_error() {
            // The first thing that an id without a place in the namespace can't have.
            libc::EINVAL => words(Failure { stage: Stage::User, index: 0, errno: libc::EINVAL }),
            _ => Error::kernel("give standard output to the user", e),
        })?;
        let (status, told) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| Error::kernel("make a pipe", e))?;
        let tasks = membership.tasks.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>();
        let tasks = tasks.map_err(|e| Error::kernel("duplicate a cgroup's descriptor", e))?;
        let ends = Ends { stdio: stdio.fds, terminal: stdio.terminal, status: told, tasks, filter };
        let started = Instant::now();
        let mut process = spawn(&role, ends, membership.into.as_ref())?;
        if let Some(failure) = read_failure(&status) {
            process.reap();
            return Err(words(failure));
        }
        Ok(Running { process, started })
    }

    /// The groups for one run of `spec`.
    pub(crate) fn join_groups(&self, spec: &Spec) -> Result<Membership, Error> {
        self.groups().join(spec)
    }
}

/// A process that has begun.
pub(crate) struct Running {
    pub process: Process,
    started: Instant,
}

impl Running {
    /// Waits until it has ended.
    pub fn exit(mut self, membership: &Membership) -> Result<Exit, Error> {
        let gone = || Error::kernel("wait for the process", Errno::CHILD);
        let (status, mut usage) = self.process.reap().ok_or_else(gone)?;
        usage.wall = self.started.elapsed();
        Ok(Exit { status, out_of_memory: membership.out_of_memory(), usage })
    }
}

/// Makes the user the owner of what it writes to, so that it may open /dev/stdout again by its path.
fn give_to(stdio: &Stdio, user: rustix::fs::Uid) -> rustix::io::Result<()> {
    if user.is_root() {
        return Ok(());
    }
    stdio.fds[1..].iter().try_for_each(|end| rustix::fs::fchown(end, Some(user), None))
}

/// The parent's ends, and the child's.
struct Pipes {
    stdout: OwnedFd,
    stderr: OwnedFd,
    ends: [OwnedFd; 3],
}

impl Pipes {
    fn make() -> rustix::io::Result<Pipes> {
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let (stdout, out) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, err) = pipe_with(PipeFlags::CLOEXEC)?;
        for end in [&stdout, &stderr] {
            rustix::io::ioctl_fionbio(end, true)?;
        }
        Ok(Pipes { stdout, stderr, ends: [null, out, err] })
    }
}

/// A child that is killed and reaped when this is dropped, whatever happens.
pub(crate) struct Process {
    pub pid: i32,
    pub pidfd: OwnedFd,
    reaped: bool,
}

impl Process {
    /// Ends it and everything that it started.
    pub fn kill(&self) {
        // Process 1 of a PID namespace takes all others with it. It may have ended already.
        let _ended = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits for the end; `None` when somebody else has reaped it.
    fn reap(&mut self) -> Option<(Status, Usage)> {
        self.reaped = true;
        let mut status = 0;
        // SAFETY: an all-zero rusage is valid.
        let mut used: libc::rusage = unsafe { std::mem::zeroed() };
        loop {
            // SAFETY: the kernel writes only to the two values given.
            let done = unsafe { libc::wait4(self.pid, &raw mut status, libc::__WALL, &raw mut used) };
            if done == self.pid {
                break;
            }
            if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return None;
            }
        }
        let status = if libc::WIFSIGNALED(status) {
            Status::Signal(libc::WTERMSIG(status))
        } else {
            Status::Code(libc::WEXITSTATUS(status))
        };
        let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
        let usage = Usage {
            wall: Duration::ZERO,
            user: time(used.ru_utime),
            system: time(used.ru_stime),
            max_rss: used.ru_maxrss as u64 * 1024,
            read_bytes: used.ru_inblock as u64 * 512,
            written_bytes: used.ru_oublock as u64 * 512,
        };
        Some((status, usage))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            self.reap();
        }
    }
}

/// Clones the child. Consumes its ends, so that the parent doesn't hold the pipes open.
fn spawn(role: &Role<'_>, ends: Ends, cgroup: Option<&OwnedFd>) -> Result<Process, Error> {
    let namespaces = match role {
        Role::First(plan) => {
            let network = if plan.own_network { libc::CLONE_NEWNET } else { 0 };
            libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | network
        }
        Role::Beside { .. } => 0,
    };
    let blocked = BlockedSignals::new();
    // SAFETY: the child calls only `become_process`, which keeps to system calls and never returns.
    let cloned = unsafe { clone3(namespaces as u64, cgroup.map(AsFd::as_fd)) };
    match cloned {
        Ok(Cloned::Child) => child::become_process(role, &ends),
        Ok(Cloned::Parent { pid, pidfd }) => {
            drop(blocked);
            Ok(Process { pid, pidfd, reaped: false })
        }
        Err(e) => Err(Error::Setup {
            doing: "make namespaces for a process".into(),
            hint: (e.raw_os_error() == Some(libc::EPERM))
                .then_some("it takes root, or a user namespace (docs/rootless.md)"),
            source: e,
        }),
    }
}

/// Keeps this process's signal handlers from running in the child before it has reset them.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> BlockedSignals {
        // SAFETY: fills and reads two local sets; changes this thread's mask only.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut old: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
            BlockedSignals(old)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: puts back the mask that was there.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

/// What the child told before it became the process. Blocks until it did, or failed.
fn read_failure(status: &OwnedFd) -> Option<Failure> {
    let mut bytes = [0u8; Failure::SIZE];
    loop {
        match rustix::io::read(status, &mut bytes) {
            Err(Errno::INTR) => {}
            Ok(n) => return Failure::parse(bytes.get(..n)?),
            Err(_) => return None,
        }
    }
}

/// Hands out output until the process has ended and its pipes are empty, or `cancel` says stop.
fn pass_on(
    process: &mut Process,
    stdout: &OwnedFd,
    stderr: &OwnedFd,
    cancel: &Cancel,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<(), Error> {
    let mut buffer = vec![0u8; 64 << 10];
    let mut open = [Some((Stream::Stdout, stdout.as_fd())), Some((Stream::Stderr, stderr.as_fd()))];
    loop {
        let mut fds = vec![PollFd::new(&process.pidfd, PollFlags::IN), PollFd::new(cancel, PollFlags::IN)];
        fds.extend(open.iter().flatten().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            other => other.map_err(|e| Error::kernel("wait for the process", e))?,
        };
        if !fds[1].revents().is_empty() {
            process.kill();
            process.reap();
            return Err(Error::Cancelled);
        }
        let ended = !fds[0].revents().is_empty();
        for slot in &mut open {
            if let Some((stream, fd)) = *slot
                && drain(fd, stream, &mut buffer, ended, output)
            {
                *slot = None;
            }
        }
        if ended {
            return Ok(());
        }
    }
}

/// Reads what is there: one piece, or `all` of it. Whether the pipe is closed.
fn drain(
    fd: BorrowedFd<'_>,
    stream: Stream,
    buffer: &mut [u8],
    all: bool,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> bool {
    loop {
        match rustix::io::read(fd, &mut *buffer) {
            Ok(0) => return true,
            Ok(n) => output(stream, &buffer[..n]),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => return false,
            Err(_) => return true,
        }
        if !all {
            return false;
        }
    }
}

/// A failure of the child in words.
fn explain(
    failure: Failure,
    spec: &Spec,
    process: &crate::process::Process,
    plan: Option<&Plan>,
    abilities: &Abilities,
) -> Error {
    let source = io::Error::from_raw_os_error(failure.errno);
    let program = spec.args.first().cloned().unwrap_or_default();
    let errno = failure.errno;
    let doing = match failure.stage {
        Stage::Execute if errno == libc::ENOENT || errno == libc::ENOTDIR => return Error::NotFound { program },
        Stage::Execute => return Error::NotExecutable { program, source },
        Stage::Step => {
            let Some(step) = plan.and_then(|plan| plan.steps.get(failure.index as usize)) else {
                return Error::kernel("mount in the sandbox", source);
            };
            let dest = std::path::Path::new("/").join(step.dest.to_string_lossy().as_ref());
            return Error::Mount { what: step.what.clone(), dest, source };
        }
        Stage::WorkingDirectory => format!("change to the working directory {}", spec.cwd.display()),
        Stage::Session => "start a session".into(),
        Stage::Cgroup => "join a cgroup".into(),
        Stage::Private if plan.is_none() => "enter the namespaces of the container's first process".into(),
        Stage::Private => "make a private mount namespace".into(),
        Stage::Staged => "mount what parts are taken from".into(),
        Stage::Root => "mount the root".into(),
        Stage::Hostname => format!("set the host name {:?}", spec.hostname),
        Stage::Loopback => "bring up the loopback interface".into(),
        Stage::Pivot => "change the root".into(),
        Stage::Stdio => "set up standard input and output".into(),
        Stage::Limits => "set resource limits".into(),
        Stage::Seccomp => "install the seccomp filter".into(),
        Stage::Capabilities => "drop capabilities".into(),
        Stage::User => format!("become user {}:{}", process.uid.as_raw(), process.gid.as_raw()),
    };
    let hint = match (failure.stage, errno) {
        (Stage::User, libc::EINVAL) if abilities.user_namespace => {
            Some("this id isn't in the user namespace: give the user a range in /etc/subuid and /etc/subgid")
        }
        (Stage::Pivot, libc::EINVAL) => {
            Some("the root of this machine is an initramfs, which cannot be left by pivot_root")
        }
        (Stage::Private, libc::ENOSYS) => Some("it takes Linux 5.12"),
        (Stage::Seccomp, libc::EINVAL) => Some("the kernel lacks CONFIG_SECCOMP_FILTER"),
        _ => None,
    };
    Error::Setup { doing, source, hint }
}
