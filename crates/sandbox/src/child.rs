//! The child between `clone3` and `execve`: plain system calls over a [`Plan`], in one fixed order. No allocation, no
//! lock, no panic: other threads of the parent may have held the allocator's lock when it was cloned. What goes wrong is
//! told to the parent as a [`Failure`] of twelve bytes.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, fstat, openat2, statx,
};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, CapabilitySets, ThreadNameSpaceType, UnshareFlags};

use crate::capability;
use crate::kernel::{attr, close_others_on_exec, make_private, set_attr};
use crate::plan::{Action, Plan, Step};
use crate::process::Process;

/// What was being done when something failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    Session,
    Cgroup,
    Private,
    Staged,
    Root,
    /// The step of that index.
    Step,
    Hostname,
    Loopback,
    Pivot,
    Stdio,
    Limits,
    WorkingDirectory,
    Seccomp,
    Capabilities,
    User,
    Execute,
}

impl Stage {
    const ALL: [Stage; 16] = [
        Stage::Session,
        Stage::Cgroup,
        Stage::Private,
        Stage::Staged,
        Stage::Root,
        Stage::Step,
        Stage::Hostname,
        Stage::Loopback,
        Stage::Pivot,
        Stage::Stdio,
        Stage::Limits,
        Stage::WorkingDirectory,
        Stage::Seccomp,
        Stage::Capabilities,
        Stage::User,
        Stage::Execute,
    ];
}

/// Why the process could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Where.
    pub stage: Stage,
    /// Which step, for [`Stage::Step`].
    pub index: u32,
    /// The error number.
    pub errno: i32,
}

impl Failure {
    /// Its length on the pipe.
    pub const SIZE: usize = 12;

    fn bytes(self) -> [u8; Failure::SIZE] {
        let [a, b, c, d] = (self.stage as u32).to_ne_bytes();
        let [e, f, g, h] = self.index.to_ne_bytes();
        let [i, j, k, l] = self.errno.to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    /// What came through the pipe; `None` when nothing did, which means that the process was started.
    pub fn parse(bytes: &[u8]) -> Option<Failure> {
        let number = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
        let stage = *Stage::ALL.get(number(0)? as usize)?;
        Some(Failure { stage, index: number(4)?, errno: number(8)? as i32 })
    }
}

/// Descriptors that only the child needs.
pub struct Ends {
    /// Standard input, output and error of the process.
    pub stdio: [OwnedFd; 3],
    /// Whether they are a terminal that is to be the process' own.
    pub terminal: bool,
    /// Where a [`Failure`] goes. Closed by a successful `execve`.
    pub status: OwnedFd,
    /// `tasks` files of cgroups of version 1 to join.
    pub tasks: Vec<OwnedFd>,
    /// The seccomp program; empty for none.
    pub filter: Vec<libc::sock_filter>,
}

/// What a child becomes.
pub enum Role<'a> {
    /// The first process of namespaces and mounts of its own.
    First(&'a Plan),
    /// One more process beside a first one, by its pidfd.
    Beside {
        /// The process.
        process: &'a Process,
        /// The first process.
        first: BorrowedFd<'a>,
        /// Whether the first process has a network namespace of its own.
        own_network: bool,
    },
}

impl Role<'_> {
    fn process(&self) -> &Process {
        match self {
            Role::First(plan) => &plan.process,
            Role::Beside { process, .. } => process,
        }
    }
}

/// Becomes the process, or tells why not and ends.
pub fn become_process(role: &Role<'_>, ends: &Ends) -> ! {
    let failure = start(role, ends);
    let _parent_gone = rustix::io::write(&ends.status, &failure.bytes());
    // SAFETY: ends only this process, without running destructors that belong to the parent.
    unsafe { libc::_exit(127) }
}

/// Runs every stage; returns only when one failed.
fn start(role: &Role<'_>, ends: &Ends) -> Failure {
    let at = |stage| move |errno: Errno| Failure { stage, index: 0, errno: errno.raw_os_error() };
    let process = role.process();
    let stages = || -> Result<(), Failure> {
        reset_signals();
        rustix::process::setsid().map_err(at(Stage::Session))?;
        join_cgroups(&ends.tasks).map_err(at(Stage::Cgroup))?;
        match role {
            Role::First(plan) => enter_new(plan)?,
            Role::Beside { first, own_network, .. } => {
                enter_beside(*first, *own_network).map_err(at(Stage::Private))?
            }
        }
        set_stdio(ends).map_err(at(Stage::Stdio))?;
        set_limits(process).map_err(at(Stage::Limits))?;
        rustix::process::chdir(process.cwd.as_c_str()).map_err(at(Stage::WorkingDirectory))?;
        // Without no_new_privs, which would break setuid programs, a filter needs CAP_SYS_ADMIN: before it's dropped.
        install_filter(&ends.filter).map_err(at(Stage::Seccomp))?;
        drop_capabilities(process).map_err(at(Stage::Capabilities))?;
        change_user(process).map_err(at(Stage::User))?;
        set_capabilities(process).map_err(at(Stage::Capabilities))?;
        die_with_parent(ends).map_err(at(Stage::Session))
    };
    match stages() {
        Err(failure) => failure,
        Ok(()) => {
            close_others_on_exec();
            at(Stage::Execute)(execute(process))
        }
    }
}

/// Makes the plan's mounts and its root the process'.
fn enter_new(plan: &Plan) -> Result<(), Failure> {
    let at = |stage| move |errno: Errno| Failure { stage, index: 0, errno: errno.raw_os_error() };
    attach_all(plan)?;
    rustix::system::sethostname(&plan.process.hostname).map_err(at(Stage::Hostname))?;
    if plan.own_network {
        raise_loopback().map_err(at(Stage::Loopback))?;
    }
    enter_root(plan).map_err(at(Stage::Pivot))
}

/// Enters the namespaces of a first process, and with them its root. The PID namespace was the cloning thread's to choose.
fn enter_beside(first: BorrowedFd<'_>, own_network: bool) -> Result<(), Errno> {
    let mut kinds = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME;
    if own_network {
        kinds |= ThreadNameSpaceType::NETWORK;
    }
    rustix::thread::move_into_thread_name_spaces(first, kinds)?;
    rustix::process::chdir(c"/")
}

/// Default dispositions, nothing blocked: what a program may expect.
fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: sets dispositions of this process only; those that cannot be set are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an all-zero set is the empty set; the old mask isn't asked for.
    unsafe {
        let none: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

fn join_cgroups(tasks: &[OwnedFd]) -> Result<(), Errno> {
    for file in tasks {
        // "0" in `tasks` moves only the writer, and so needs no lock over all processes.
        rustix::io::write(file, b"0")?;
    }
    // What the process sees of cgroups begins at its own. Old kernels and some containers lack the namespace: then it sees all.
    // SAFETY: a new cgroup namespace changes nothing that Rust code relies on.
    let _without = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWCGROUP) };
    Ok(())
}

fn raw(error: std::io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

fn attach_all(plan: &Plan) -> Result<(), Failure> {
    let at =
        |stage, index: usize| move |errno: Errno| Failure { stage, index: index as u32, errno: errno.raw_os_error() };
    leave_chroot().map_err(at(Stage::Private, 0))?;
    make_private().map_err(raw).map_err(at(Stage::Private, 0))?;
    // The old root is detached at the end, and with it all that is attached over it here.
    let over = |mount: &OwnedFd, path| move_mount(mount, c"", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
    // Not over `/` itself: what lies there between the old root and the new one would be all that a later umount takes,
    // and the old root would stay.
    for (index, mount) in plan.staged.iter().chain([&plan.empty]).enumerate() {
        over(mount, c"/dev").map_err(at(Stage::Staged, index))?;
    }
    over(&plan.root, c"/").map_err(at(Stage::Root, 0))?;
    for (index, step) in plan.steps.iter().enumerate() {
        attach(plan, step).map_err(at(Stage::Step, index))?;
    }
    if plan.readonly_root {
        set_attr(plan.root.as_fd(), attr::RDONLY, 0, false).map_err(raw).map_err(at(Stage::Root, 0))?;
    }
    Ok(())
}

/// Where larder runs in a chroot, the root may be a plain directory: its mount can't be made private and `pivot_root` can't
/// leave it. This namespace is the process' own and nothing of it stays in reach, so its true root is entered first.
fn leave_chroot() -> Result<(), Errno> {
    let about = |path| statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS | StatxFlags::MNT_ID);
    if about(c"/")?.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(());
    }
    rustix::process::chdir(c"/")?;
    // A working directory that isn't beneath the root has parents up to the root of the namespace.
    rustix::process::chroot(c"dev")?;
    loop {
        let (here, above) = (about(c".")?, about(c"..")?);
        if (here.stx_ino, here.stx_mnt_id) == (above.stx_ino, above.stx_mnt_id) {
            return rustix::process::chroot(c".");
        }
        rustix::process::chdir(c"..")?;
    }
}

/// Opens `path` inside the root as mounted so far. The parent has resolved it: a symlink there now is an attack.
fn open_inside(root: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn place(mount: &OwnedFd, over: &OwnedFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", over, c"", flags)
}

/// A copy of one mount, without what is mounted inside or over it.
fn copy(of: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(of, c"", flags)
}

/// A copy with everything that is mounted inside.
fn copy_all(of: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(of, c"", flags | OpenTreeFlags::AT_RECURSIVE)
}

fn attach(plan: &Plan, step: &Step) -> Result<(), Errno> {
    let root = plan.root.as_fd();
    let dest = match (open_inside(root, &step.dest), &step.action) {
        (Err(Errno::NOENT), Action::Mask | Action::ReadOnly | Action::Fresh { optional: true, .. }) => return Ok(()),
        (other, _) => other?,
    };
    match &step.action {
        Action::Attach { mount } => place(mount, &dest),
        Action::Part { of, attr } => {
            let part = copy(of)?;
            set_attr(part.as_fd(), *attr, 0, true).map_err(raw)?;
            place(&part, &dest)
        }
        Action::Fresh { kind, options, attr, optional } => {
            let made = fresh(kind, options, *attr).and_then(|mount| place(&mount, &dest));
            if *optional { Ok(()) } else { made }
        }
        Action::ReadOnly => {
            let same = copy_all(&dest)?;
            set_attr(same.as_fd(), attr::RDONLY, 0, true).map_err(raw)?;
            place(&same, &dest)
        }
        Action::Mask => {
            let directory = FileType::from_raw_mode(fstat(&dest)?.st_mode) == FileType::Directory;
            let mask = if directory { copy(&plan.empty)? } else { copy(open_inside(root, c"dev/null")?)? };
            place(&mask, &dest)
        }
    }
}

type Options = [(std::ffi::CString, Option<std::ffi::CString>)];

fn fresh(kind: &CStr, options: &Options, attr: u64) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(context.as_fd(), key.as_c_str(), value.as_c_str())?,
            None => fsconfig_set_flag(context.as_fd(), key.as_c_str())?,
        }
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(attr as u32))
}

/// Brings `lo` up in a new network namespace.
fn raise_loopback() -> Result<(), Errno> {
    // SAFETY: an `ifreq` of zeroes is valid; the calls read and write only that structure.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(raw(std::io::Error::last_os_error()));
        }
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        let done = libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw const request);
        let result = if done < 0 { Err(raw(std::io::Error::last_os_error())) } else { Ok(()) };
        libc::close(socket);
        result
    }
}

/// Makes the attached root `/` and lets go of the old one.
fn enter_root(plan: &Plan) -> Result<(), Errno> {
    rustix::process::fchdir(&plan.root)?;
    // The old root then lies over the new one, where it can be detached without a directory for it.
    rustix::process::pivot_root(c".", c".")?;
    unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}

fn set_stdio(ends: &Ends) -> Result<(), Errno> {
    for (target, fd) in (0..).zip(&ends.stdio) {
        // SAFETY: replaces descriptors 0, 1 and 2 of this process, which nothing here owns. The sources are above 2.
        if unsafe { libc::dup2(fd.as_raw_fd(), target) } < 0 {
            return Err(raw(std::io::Error::last_os_error()));
        }
    }
    // The session that began above has no terminal yet.
    if ends.terminal { rustix::process::ioctl_tiocsctty(&ends.stdio[0]) } else { Ok(()) }
}

fn set_limits(process: &Process) -> Result<(), Errno> {
    for (resource, limit) in &process.rlimits {
        rustix::process::setrlimit(*resource, *limit)?;
    }
    rustix::process::umask(Mode::from_raw_mode(process.umask));
    Ok(())
}

fn install_filter(filter: &[libc::sock_filter]) -> Result<(), Errno> {
    if filter.is_empty() {
        return Ok(());
    }
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions of a live slice.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if done == 0 { Ok(()) } else { Err(raw(std::io::Error::last_os_error())) }
}

/// Capabilities that no program started from here can ever regain.
fn drop_capabilities(process: &Process) -> Result<(), Errno> {
    for number in 0..=capability::MOST {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if process.capabilities.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Err(Errno::INVAL) => break,
            other => other?,
        }
    }
    Ok(())
}

fn change_user(process: &Process) -> Result<(), Errno> {
    if process.ambient {
        rustix::thread::set_keep_capabilities(true)?;
    }
    if !process.keep_groups {
        rustix::thread::set_thread_groups(&process.groups)?;
    }
    rustix::thread::set_thread_res_gid(process.gid, process.gid, process.gid)?;
    rustix::thread::set_thread_res_uid(process.uid, process.uid, process.uid)
}

fn set_capabilities(process: &Process) -> Result<(), Errno> {
    let keep = process.capabilities;
    if !process.ambient {
        if !process.uid.is_root() {
            return Ok(());
        }
        let none = CapabilitySet::empty();
        return rustix::thread::set_capabilities(
            None,
            CapabilitySets { effective: keep, permitted: keep, inheritable: none },
        );
    }
    rustix::thread::set_capabilities(None, CapabilitySets { effective: keep, permitted: keep, inheritable: keep })?;
    for number in 0..=capability::MOST {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if keep.contains(one) {
            rustix::thread::configure_capability_in_ambient_set(one, true)?;
        }
    }
    Ok(())
}

/// After the change of user, which would forget it. A parent that is gone already has closed its end of the pipe.
fn die_with_parent(ends: &Ends) -> Result<(), Errno> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut fds = [PollFd::new(&ends.status, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    if fds[0].revents().contains(PollFlags::ERR) { Err(Errno::SRCH) } else { Ok(()) }
}

/// Tries every place of the program; returns the error that says most.
fn execute(process: &Process) -> Errno {
    let mut error = Errno::NOENT;
    for program in &process.programs {
        // SAFETY: the path and both arrays are NUL-terminated and live in the plan.
        unsafe { libc::execve(program.as_ptr(), process.argv(), process.envp()) };
        match raw(std::io::Error::last_os_error()) {
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => error = Errno::ACCESS,
            other => return other,
        }
    }
    error
}
