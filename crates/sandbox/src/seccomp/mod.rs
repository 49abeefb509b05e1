//! The seccomp filter of a sandboxed process: Docker's default profile for its default capabilities, as a BPF program.
//! Made once per program; installing it is the child's.
//!
//! Allowed call numbers are kept as runs of consecutive numbers behind a binary search, so that the kernel checks and
//! compiles about two hundred instructions for each step instead of thousands. A program for the machine's 32-bit
//! variant (i386, arm) gets a list of what is forbidden instead: enough to keep namespaces, mounts, keys and kernel
//! interfaces out of its reach.

mod table;

use libc::sock_filter;

use table::{COMPAT_ARCH, COMPAT_FORBIDDEN, NATIVE_ARCH};

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const DENY: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const UNKNOWN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARG0: u32 = 16;

/// Flags of `clone` that make namespaces: mount, UTS, IPC, user, PID, net and cgroup.
const NEW_NAMESPACES: u32 = 0x7e02_0000;

/// The program, ready for `seccomp(SECCOMP_SET_MODE_FILTER)`.
pub fn program() -> Vec<sock_filter> {
    let compat = compat_part();
    let mut program = vec![load(ARCH), jump(libc::BPF_JEQ, NATIVE_ARCH, 0, 1), skip(compat.len() as u32 + 2)];
    program.push(jump(libc::BPF_JEQ, COMPAT_ARCH, 1, 0));
    program.push(ret(KILL));
    program.extend(compat);
    program.extend(native_part());
    program
}

fn native_part() -> Vec<sock_filter> {
    let mut part = vec![load(NUMBER)];
    for (number, block) in [
        (libc::SYS_clone as u32, clone_block()),
        (libc::SYS_socket as u32, socket_block()),
        (libc::SYS_personality as u32, personality_block()),
    ] {
        part.push(jump(libc::BPF_JEQ, number, 0, block.len() as u8));
        part.extend(block);
    }
    // Programs fall back to clone when clone3 seems not to exist; its flags lie where a filter cannot look.
    part.push(jump(libc::BPF_JEQ, libc::SYS_clone3 as u32, 0, 1));
    part.push(ret(UNKNOWN));
    // A call newer than the table is answered as an older kernel would.
    part.push(jump(libc::BPF_JGT, table::NEWEST, 0, 1));
    part.push(ret(UNKNOWN));
    search(&runs(table::allowed()), &mut part);
    part
}

/// Allowed without the flags that make namespaces.
fn clone_block() -> Vec<sock_filter> {
    vec![load(ARG0), jump(libc::BPF_JSET, NEW_NAMESPACES, 0, 1), ret(DENY), ret(ALLOW)]
}

/// Any family but AF_ALG (38) and AF_VSOCK (40).
fn socket_block() -> Vec<sock_filter> {
    vec![
        load(ARG0),
        jump(libc::BPF_JEQ, libc::AF_ALG as u32, 2, 0),
        jump(libc::BPF_JEQ, libc::AF_VSOCK as u32, 1, 0),
        ret(ALLOW),
        ret(DENY),
    ]
}

/// PER_LINUX, PER_LINUX32, both with UNAME26, and the query.
fn personality_block() -> Vec<sock_filter> {
    const PERSONALITIES: [u32; 5] = [0, 0x8, 0x20000, 0x20008, 0xffff_ffff];
    let mut block = vec![load(ARG0)];
    for (n, value) in PERSONALITIES.into_iter().enumerate() {
        block.push(jump(libc::BPF_JEQ, value, (PERSONALITIES.len() - n) as u8, 0));
    }
    block.extend([ret(DENY), ret(ALLOW)]);
    block
}

fn compat_part() -> Vec<sock_filter> {
    let mut part = vec![load(NUMBER)];
    for (number, action) in COMPAT_FORBIDDEN {
        part.extend([jump(libc::BPF_JEQ, *number, 0, 1), ret(if *action { DENY } else { UNKNOWN })]);
    }
    let clone = clone_block();
    part.push(jump(libc::BPF_JEQ, table::COMPAT_CLONE, 0, clone.len() as u8));
    part.extend(clone);
    part.push(ret(ALLOW));
    part
}

/// Sorted numbers as runs `(first, last)`.
fn runs(mut numbers: Vec<u32>) -> Vec<(u32, u32)> {
    numbers.sort_unstable();
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for n in numbers {
        match runs.last_mut() {
            Some((_, last)) if n <= *last + 1 => *last = n,
            _ => runs.push((n, n)),
        }
    }
    runs
}

/// Allows a number that lies in one of `runs`, by halving.
fn search(runs: &[(u32, u32)], program: &mut Vec<sock_filter>) {
    match runs {
        [] => program.push(ret(DENY)),
        [(first, last)] => {
            program.extend([jump(libc::BPF_JGE, *first, 0, 2), jump(libc::BPF_JGT, *last, 1, 0), ret(ALLOW), ret(DENY)])
        }
        _ => {
            let (left, right) = runs.split_at(runs.len() / 2);
            let mut below = Vec::new();
            search(left, &mut below);
            program.push(jump(libc::BPF_JGE, right[0].0, 0, 1));
            program.push(skip(below.len() as u32));
            program.extend(below);
            search(right, program);
        }
    }
}

fn load(offset: u32) -> sock_filter {
    sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

fn jump(condition: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | condition | libc::BPF_K) as u16, jt, jf, k }
}

fn skip(count: u32) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | libc::BPF_JA) as u16, jt: 0, jf: 0, k: count }
}

fn ret(action: u32) -> sock_filter {
    sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: action }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn verdict(arch: u32, number: u32, arg0: u32) -> u32 {
        let program = program();
        let (mut at, mut acc) = (0usize, 0u32);
        loop {
            let i = program[at];
            at += 1;
            let code = u32::from(i.code);
            match code & 0x07 {
                libc::BPF_LD => {
                    acc = match i.k {
                        NUMBER => number,
                        ARCH => arch,
                        ARG0 => arg0,
                        other => panic!("loads {other}"),
                    }
                }
                libc::BPF_RET => return i.k,
                libc::BPF_JMP => {
                    let taken = match code & 0xf0 {
                        libc::BPF_JA => {
                            at += i.k as usize;
                            continue;
                        }
                        libc::BPF_JEQ => acc == i.k,
                        libc::BPF_JGT => acc > i.k,
                        libc::BPF_JGE => acc >= i.k,
                        libc::BPF_JSET => acc & i.k != 0,
                        other => panic!("jumps by {other}"),
                    };
                    at += usize::from(if taken { i.jt } else { i.jf });
                }
                other => panic!("instruction {other}"),
            }
        }
    }

    fn native(number: libc::c_long, arg0: u32) -> u32 {
        verdict(NATIVE_ARCH, number as u32, arg0)
    }

    #[test]
    fn every_number_gets_what_the_table_says() {
        let allowed = table::allowed();
        let special = [libc::SYS_clone, libc::SYS_clone3, libc::SYS_socket, libc::SYS_personality].map(|n| n as u32);
        for number in (0..table::NEWEST + 50).filter(|n| !special.contains(n)) {
            let want = match number {
                n if allowed.contains(&n) => ALLOW,
                n if n > table::NEWEST => UNKNOWN,
                _ => DENY,
            };
            assert_eq!(verdict(NATIVE_ARCH, number, 0), want, "call {number}");
        }
        assert!(program().len() < 600, "{} instructions", program().len());
    }

    #[test]
    fn arguments_decide_for_clone_socket_and_personality() {
        assert_eq!(native(libc::SYS_clone, libc::SIGCHLD as u32), ALLOW);
        assert_eq!(native(libc::SYS_clone, libc::CLONE_NEWUSER as u32), DENY);
        assert_eq!(native(libc::SYS_clone3, 0), UNKNOWN);
        assert_eq!(native(libc::SYS_socket, libc::AF_INET as u32), ALLOW);
        assert_eq!(native(libc::SYS_socket, libc::AF_VSOCK as u32), DENY);
        assert_eq!(native(libc::SYS_socket, libc::AF_ALG as u32), DENY);
        assert_eq!(native(libc::SYS_socket, 39), ALLOW);
        assert_eq!(native(libc::SYS_personality, 0xffff_ffff), ALLOW);
        assert_eq!(native(libc::SYS_personality, 0x0040_0000), DENY);
        for forbidden in [libc::SYS_mount, libc::SYS_unshare, libc::SYS_keyctl, libc::SYS_bpf, libc::SYS_io_uring_setup]
        {
            assert_eq!(native(forbidden, 0), DENY, "call {forbidden}");
        }
    }

    #[test]
    fn other_architectures() {
        assert_eq!(verdict(0x1234, 1, 0), KILL);
        assert_eq!(verdict(COMPAT_ARCH, 3, 0), ALLOW, "read");
        assert_eq!(verdict(COMPAT_ARCH, 21, 0), DENY, "mount");
        assert_eq!(verdict(COMPAT_ARCH, table::COMPAT_CLONE, NEW_NAMESPACES), DENY);
        assert_eq!(verdict(COMPAT_ARCH, table::COMPAT_CLONE, 0), ALLOW);
    }
}
