//! Processes whose input and output are their caller's, and more processes beside a first one: containers that a client
//! looks into, frontends that talk. The first process is the container: when it ends, all others do.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use rustix::thread::ThreadNameSpaceType;

use crate::cgroup::Membership;
use crate::child::Role;
use crate::process::Process;
use crate::resolve::Tree;
use crate::run::Running;
use crate::{Cancel, Error, Exit, Sandbox, Spec, User, stubs, user};

/// What a process reads from and writes to. The caller keeps the other ends.
#[derive(Debug)]
pub struct Stdio {
    /// Standard input, output and error: ends of pipes, or one terminal three times.
    pub fds: [OwnedFd; 3],
    /// Whether they are a terminal, which becomes the process' controlling one.
    pub terminal: bool,
}

/// A process that runs. Clones are the same process; one that ended takes no signals.
#[derive(Clone, Debug)]
pub struct Inside(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    pid: i32,
    pidfd: OwnedFd,
    own_network: bool,
    /// The groups that later processes join as well. Let go of at the end.
    membership: Mutex<Option<Arc<Membership>>>,
}

impl Inside {
    fn of(running: &Running, own_network: bool, membership: Arc<Membership>) -> Result<Inside, Error> {
        let pidfd = running.process.pidfd.try_clone();
        let pidfd = pidfd.map_err(|e| Error::kernel("duplicate a process' descriptor", e))?;
        let membership = Mutex::new(Some(membership));
        Ok(Inside(Arc::new(Handle { pid: running.process.pid, pidfd, own_network, membership })))
    }

    /// Sends a signal by its number. The first process of a container gets none that it has no handler for, but KILL.
    pub fn signal(&self, number: i32) -> Result<(), Error> {
        let signal = Signal::from_named_raw(number);
        let signal = signal.ok_or_else(|| Error::Spec(format!("there is no signal {number}")))?;
        match pidfd_send_signal(&self.0.pidfd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(Error::kernel("send a signal", e)),
        }
    }

    fn alive(&self) -> Result<Arc<Membership>, Error> {
        let membership = self.0.membership.lock().unwrap_or_else(PoisonError::into_inner).clone();
        membership.ok_or_else(|| Error::Spec("the container's first process has ended".into()))
    }
}

/// Marks a first process as ended, whatever became of it.
struct Ended(Inside);

impl Drop for Ended {
    fn drop(&mut self) {
        *self.0.0.membership.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Sandbox {
    /// Runs `spec` to its end with its caller's input and output; `started` is told once it runs. Blocks the thread for
    /// as long, and must: the process dies with the thread that made it.
    pub fn run_connected(
        &self,
        spec: &Spec,
        stdio: Stdio,
        cancel: &Cancel,
        started: impl FnOnce(Inside),
    ) -> Result<Exit, Error> {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let plan = self.plan(spec)?;
        let run = || {
            let membership = Arc::new(self.join_groups(spec)?);
            let running = self.launch(spec, Role::First(&plan), stdio, &membership)?;
            let inside = Inside::of(&running, plan.own_network, membership.clone())?;
            let _ended = Ended(inside.clone());
            started(inside);
            finish(running, cancel, &membership)
        };
        let result = run();
        stubs::remove(plan.root.as_fd(), &plan.stubs);
        result
    }

    /// Runs one more process beside `first`, in its namespaces, its root and its groups; of `spec` only what says what the
    /// process is counts: arguments, environment, working directory, user, security, limits of resources.
    pub fn run_beside(
        &self,
        first: &Inside,
        spec: &Spec,
        stdio: Stdio,
        cancel: &Cancel,
        started: impl FnOnce(Inside) + Send,
    ) -> Result<Exit, Error> {
        let membership = first.alive()?;
        let run = || {
            let process = self.process_beside(first, spec)?;
            // For what this thread clones; a thread's own namespace never changes, and so it clones nothing else.
            let entered =
                rustix::thread::move_into_thread_name_spaces(first.0.pidfd.as_fd(), ThreadNameSpaceType::PROCESS_ID);
            entered.map_err(|e| Error::kernel("enter the container's PID namespace", e))?;
            let own_network = first.0.own_network;
            let role = Role::Beside { process: &process, first: first.0.pidfd.as_fd(), own_network };
            let running = self.launch(spec, role, stdio, &membership)?;
            started(Inside::of(&running, own_network, membership.clone())?);
            finish(running, cancel, &membership)
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("larder-beside".into()).spawn_scoped(scope, run);
            let thread = thread.map_err(|e| Error::kernel("start a thread", e))?;
            thread.join().unwrap_or_else(|_| Err(Error::Spec("a thread that ran a process ended early".into())))
        })
    }

    /// The user is looked up in the container's own files.
    fn process_beside(&self, first: &Inside, spec: &Spec) -> Result<Process, Error> {
        let path = PathBuf::from(format!("/proc/{}/root", first.0.pid));
        let opened = open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let root = opened.map_err(|e| Error::kernel("open the container's root", e))?;
        // The number was still the process' own if the process is still there.
        first.alive()?;
        let mut tree = Tree::new(root.as_fd());
        let (passwd, group) = (tree.read("/etc/passwd"), tree.read("/etc/group"));
        let ids = match &spec.user {
            User::Ids { uid, gid, groups } => user::Ids { uid: *uid, gid: *gid, groups: groups.clone() },
            User::Named(text) => match user::literal(text) {
                Some(ids) => ids,
                None => user::resolve(text, passwd.as_deref(), group.as_deref())?,
            },
        };
        let home = user::home(ids.uid, passwd.as_deref()).to_string();
        Process::of(spec, &ids, &home, self.abilities().setgroups_denied)
    }
}

/// Waits for the end, or ends it when `cancel` says so.
fn finish(running: Running, cancel: &Cancel, membership: &Membership) -> Result<Exit, Error> {
    loop {
        let mut fds = [PollFd::new(&running.process.pidfd, PollFlags::IN), PollFd::new(cancel, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            other => other.map_err(|e| Error::kernel("wait for the process", e))?,
        };
        if !fds[0].revents().is_empty() {
            return running.exit(membership);
        }
        if !fds[1].revents().is_empty() {
            running.process.kill();
            running.exit(membership)?;
            return Err(Error::Cancelled);
        }
    }
}
