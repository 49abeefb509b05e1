//! Which system calls Docker's default profile allows to a process with Docker's default capabilities, by number. Data
//! only. Source of the rule: moby/profiles `seccomp/default.json` as of BuildKit v0.32; calls that need a capability
//! outside the default set are absent.

/// Allowed on every 64-bit architecture we know.
#[rustfmt::skip]
const COMMON: &[libc::c_long] = &[
    libc::SYS_accept, libc::SYS_accept4, libc::SYS_adjtimex, libc::SYS_bind, libc::SYS_brk, libc::SYS_capget,
    libc::SYS_capset, libc::SYS_chdir, libc::SYS_chroot, libc::SYS_clock_adjtime, libc::SYS_clock_getres,
    libc::SYS_clock_gettime, libc::SYS_clock_nanosleep, libc::SYS_close, libc::SYS_close_range, libc::SYS_connect,
    libc::SYS_copy_file_range, libc::SYS_dup, libc::SYS_dup3, libc::SYS_epoll_create1, libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_eventfd2, libc::SYS_execve, libc::SYS_execveat,
    libc::SYS_exit, libc::SYS_exit_group, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_fadvise64,
    libc::SYS_fallocate, libc::SYS_fanotify_mark, libc::SYS_fchdir, libc::SYS_fchmod, libc::SYS_fchmodat,
    libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_fcntl, libc::SYS_fdatasync, libc::SYS_fgetxattr,
    libc::SYS_flistxattr, libc::SYS_flock, libc::SYS_fremovexattr, libc::SYS_fsetxattr, libc::SYS_fstat,
    libc::SYS_fstatfs, libc::SYS_fsync, libc::SYS_ftruncate, libc::SYS_futex, libc::SYS_futex_waitv,
    libc::SYS_get_robust_list, libc::SYS_getcpu, libc::SYS_getcwd, libc::SYS_getdents64, libc::SYS_getegid,
    libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getgroups, libc::SYS_getitimer, libc::SYS_getpeername,
    libc::SYS_getpgid, libc::SYS_getpid, libc::SYS_getppid, libc::SYS_getpriority, libc::SYS_getrandom,
    libc::SYS_getresgid, libc::SYS_getresuid, libc::SYS_getrusage, libc::SYS_getsid,
    libc::SYS_getsockname, libc::SYS_getsockopt, libc::SYS_gettid, libc::SYS_gettimeofday, libc::SYS_getuid,
    libc::SYS_getxattr, libc::SYS_inotify_add_watch, libc::SYS_inotify_init1, libc::SYS_inotify_rm_watch,
    libc::SYS_io_cancel, libc::SYS_io_destroy, libc::SYS_io_getevents, libc::SYS_io_setup,
    libc::SYS_io_submit, libc::SYS_ioctl, libc::SYS_ioprio_get, libc::SYS_ioprio_set, libc::SYS_kill,
    libc::SYS_landlock_add_rule, libc::SYS_landlock_create_ruleset, libc::SYS_landlock_restrict_self,
    libc::SYS_lgetxattr, libc::SYS_linkat, libc::SYS_listen, libc::SYS_listxattr, libc::SYS_llistxattr,
    libc::SYS_lremovexattr, libc::SYS_lseek, libc::SYS_lsetxattr, libc::SYS_madvise, libc::SYS_membarrier,
    libc::SYS_memfd_create, libc::SYS_memfd_secret, libc::SYS_mincore, libc::SYS_mkdirat, libc::SYS_mknodat,
    libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_mlockall, libc::SYS_mmap, libc::SYS_mprotect,
    libc::SYS_mq_getsetattr, libc::SYS_mq_notify, libc::SYS_mq_open, libc::SYS_mq_timedreceive,
    libc::SYS_mq_timedsend, libc::SYS_mq_unlink, libc::SYS_mremap, libc::SYS_msgctl, libc::SYS_msgget,
    libc::SYS_msgrcv, libc::SYS_msgsnd, libc::SYS_msync, libc::SYS_munlock, libc::SYS_munlockall, libc::SYS_munmap,
    libc::SYS_name_to_handle_at, libc::SYS_nanosleep, libc::SYS_newfstatat, libc::SYS_openat, libc::SYS_openat2,
    libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal, libc::SYS_pipe2, libc::SYS_pkey_alloc, libc::SYS_pkey_free,
    libc::SYS_pkey_mprotect, libc::SYS_ppoll, libc::SYS_prctl, libc::SYS_pread64, libc::SYS_preadv,
    libc::SYS_preadv2, libc::SYS_prlimit64, libc::SYS_process_mrelease, libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev, libc::SYS_pselect6, libc::SYS_ptrace, libc::SYS_pwrite64, libc::SYS_pwritev,
    libc::SYS_pwritev2, libc::SYS_read, libc::SYS_readahead, libc::SYS_readlinkat, libc::SYS_readv,
    libc::SYS_recvfrom, libc::SYS_recvmmsg, libc::SYS_recvmsg, libc::SYS_remap_file_pages, libc::SYS_removexattr,
    libc::SYS_renameat2, libc::SYS_restart_syscall, libc::SYS_rseq, libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend, libc::SYS_rt_sigtimedwait, libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min, libc::SYS_sched_getaffinity,
    libc::SYS_sched_getattr, libc::SYS_sched_getparam, libc::SYS_sched_getscheduler, libc::SYS_sched_rr_get_interval,
    libc::SYS_sched_setaffinity, libc::SYS_sched_setattr, libc::SYS_sched_setparam, libc::SYS_sched_setscheduler,
    libc::SYS_sched_yield, libc::SYS_seccomp, libc::SYS_semctl, libc::SYS_semget, libc::SYS_semop,
    libc::SYS_semtimedop, libc::SYS_sendfile, libc::SYS_sendmmsg, libc::SYS_sendmsg, libc::SYS_sendto,
    libc::SYS_set_robust_list, libc::SYS_set_tid_address, libc::SYS_setfsgid, libc::SYS_setfsuid, libc::SYS_setgid,
    libc::SYS_setgroups, libc::SYS_setitimer, libc::SYS_setpgid, libc::SYS_setpriority, libc::SYS_setregid,
    libc::SYS_setresgid, libc::SYS_setresuid, libc::SYS_setreuid, libc::SYS_setsid,
    libc::SYS_setsockopt, libc::SYS_setuid, libc::SYS_setxattr, libc::SYS_shmat, libc::SYS_shmctl, libc::SYS_shmdt,
    libc::SYS_shmget, libc::SYS_shutdown, libc::SYS_sigaltstack, libc::SYS_signalfd4, libc::SYS_socketpair,
    libc::SYS_splice, libc::SYS_statfs, libc::SYS_statx, libc::SYS_symlinkat, libc::SYS_sync,
    libc::SYS_syncfs, libc::SYS_sysinfo, libc::SYS_tee, libc::SYS_tgkill,
    libc::SYS_timer_create, libc::SYS_timer_delete, libc::SYS_timer_getoverrun, libc::SYS_timer_gettime,
    libc::SYS_timer_settime, libc::SYS_timerfd_create, libc::SYS_timerfd_gettime, libc::SYS_timerfd_settime,
    libc::SYS_times, libc::SYS_tkill, libc::SYS_truncate, libc::SYS_umask, libc::SYS_uname, libc::SYS_unlinkat,
    libc::SYS_utimensat, libc::SYS_vmsplice, libc::SYS_wait4, libc::SYS_waitid, libc::SYS_write, libc::SYS_writev,
];

/// Allowed calls newer than the libc crate's lists; the same numbers on every architecture.
const NEW: &[u32] = &[
    451, // cachestat
    452, // fchmodat2
    453, // map_shadow_stack
    454, 455, 456, // futex_wake, futex_wait, futex_requeue
    457, 458, // statmount, listmount
    462, // mseal
    463, 464, 465, 466, // setxattrat, getxattrat, listxattrat, removexattrat
];

/// The newest call that the profile's authors knew; anything above is answered with ENOSYS.
pub const NEWEST: u32 = 466;

/// Calls that only this architecture has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OWN: &[libc::c_long] = &[
    libc::SYS_access, libc::SYS_alarm, libc::SYS_arch_prctl, libc::SYS_chmod, libc::SYS_chown, libc::SYS_creat,
    libc::SYS_dup2, libc::SYS_epoll_create, libc::SYS_epoll_ctl_old, libc::SYS_epoll_wait, libc::SYS_epoll_wait_old,
    libc::SYS_eventfd, libc::SYS_fork, libc::SYS_futimesat, libc::SYS_get_thread_area, libc::SYS_getdents,
    libc::SYS_getpgrp, libc::SYS_inotify_init, libc::SYS_lchown, libc::SYS_link, libc::SYS_lstat, libc::SYS_mkdir,
    libc::SYS_mknod, libc::SYS_modify_ldt, libc::SYS_open, libc::SYS_pause, libc::SYS_pipe, libc::SYS_poll,
    libc::SYS_readlink, libc::SYS_rename, libc::SYS_rmdir, libc::SYS_select, libc::SYS_set_thread_area,
    libc::SYS_signalfd, libc::SYS_stat, libc::SYS_symlink, libc::SYS_time, libc::SYS_unlink, libc::SYS_utime,
    libc::SYS_utimes, libc::SYS_vfork,
    333, 335, // io_pgetevents, uretprobe
    libc::SYS_getrlimit, libc::SYS_renameat, libc::SYS_setrlimit, libc::SYS_sync_file_range,
];
#[cfg(target_arch = "aarch64")]
const OWN: &[libc::c_long] = &[
    38, 84, 163, 164, // renameat, sync_file_range, getrlimit, setrlimit
    292, // io_pgetevents
];

/// All allowed numbers that need no look at the arguments.
pub fn allowed() -> Vec<u32> {
    COMMON.iter().chain(OWN).map(|n| *n as u32).chain(NEW.iter().copied()).collect()
}

/// `AUDIT_ARCH_X86_64` and `AUDIT_ARCH_I386`.
#[cfg(target_arch = "x86_64")]
pub const NATIVE_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "x86_64")]
pub const COMPAT_ARCH: u32 = 0x4000_0003;
/// `AUDIT_ARCH_AARCH64` and `AUDIT_ARCH_ARM`.
#[cfg(target_arch = "aarch64")]
pub const NATIVE_ARCH: u32 = 0xc000_00b7;
#[cfg(target_arch = "aarch64")]
pub const COMPAT_ARCH: u32 = 0x4000_0028;

/// `clone` of both 32-bit architectures.
pub const COMPAT_CLONE: u32 = 120;

/// Forbidden to 32-bit programs: `true` is EPERM, `false` ENOSYS. Numbers from 403 up are the same on both.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
pub const COMPAT_FORBIDDEN: &[(u32, bool)] = &[
    (21, true), (22, true), (52, true), // mount, umount, umount2
    (25, true), (51, true), (79, true), (87, true), (88, true), (115, true), // stime, acct, settimeofday, swapon, reboot, swapoff
    (101, true), (103, true), (110, true), (111, true), // ioperm, syslog, iopl, vhangup
    (74, true), (121, true), // sethostname, setdomainname
    (86, true), (127, true), (128, true), (129, true), (130, true), (135, true), (149, true), // uselib, module calls, sysfs, _sysctl
    (131, true), (169, true), (253, true), (217, true), (264, true), // quotactl, nfsservctl, lookup_dcookie, pivot_root, clock_settime
    (274, true), (275, true), (276, true), (294, true), (317, true), // mbind, get_mempolicy, set_mempolicy, migrate_pages, move_pages
    (283, true), (286, true), (287, true), (288, true), // kexec_load, add_key, request_key, keyctl
    (310, true), (346, true), (336, true), (338, true), (342, true), (349, true), (350, true), // unshare, setns, perf_event_open, fanotify_init, open_by_handle_at, kcmp, finit_module
    (357, true), (374, true), // bpf, userfaultfd
    (404, true), (425, true), (426, true), (427, true), (428, true), (429, true), (430, true), (431, true), (432, true), (433, true), // clock_settime64, io_uring, new mount API
    (435, false), (438, true), (440, true), (442, true), (443, true), (450, true), // clone3, pidfd_getfd, process_madvise, mount_setattr, quotactl_fd, set_mempolicy_home_node
];
#[cfg(target_arch = "aarch64")]
#[rustfmt::skip]
pub const COMPAT_FORBIDDEN: &[(u32, bool)] = &[
    (21, true), (52, true), // mount, umount2
    (51, true), (79, true), (87, true), (88, true), (115, true), // acct, settimeofday, swapon, reboot, swapoff
    (103, true), (111, true), (74, true), (121, true), // syslog, vhangup, sethostname, setdomainname
    (86, true), (128, true), (129, true), (135, true), (149, true), // uselib, module calls, sysfs, _sysctl
    (131, true), (169, true), (218, true), (249, true), (262, true), // quotactl, nfsservctl, pivot_root, lookup_dcookie, clock_settime
    (319, true), (320, true), (321, true), (400, true), (344, true), // mbind, get_mempolicy, set_mempolicy, migrate_pages, move_pages
    (347, true), (309, true), (310, true), (311, true), // kexec_load, add_key, request_key, keyctl
    (337, true), (375, true), (364, true), (367, true), (371, true), (378, true), (379, true), // unshare, setns, perf_event_open, fanotify_init, open_by_handle_at, kcmp, finit_module
    (386, true), (388, true), // bpf, userfaultfd
    (404, true), (425, true), (426, true), (427, true), (428, true), (429, true), (430, true), (431, true), (432, true), (433, true), // clock_settime64, io_uring, new mount API
    (435, false), (438, true), (440, true), (442, true), (443, true), (450, true), // clone3, pidfd_getfd, process_madvise, mount_setattr, quotactl_fd, set_mempolicy_home_node
];
