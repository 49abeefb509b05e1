//! Which devices a sandboxed process may open: those of [`crate::device::DEVICES`], terminals, and none of this
//! machine's disks. Nodes of any kind may be made (unpacking an archive needs that), as with runc.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::device::DEVICES;

/// Pseudo-terminals: `/dev/pts/*`, `/dev/ptmx`, `/dev/console`.
const TERMINALS: [(u32, Option<u32>); 3] = [(136, None), (5, Some(2)), (5, Some(1))];

fn open_allowed() -> impl Iterator<Item = (u32, Option<u32>)> {
    DEVICES.iter().map(|(_, major, minor)| (*major, Some(*minor))).chain(TERMINALS)
}

/// Writes the rules into a version 1 group.
pub fn restrict_v1(dir: &Path) -> io::Result<()> {
    fs::write(dir.join("devices.deny"), "a")?;
    let allow = dir.join("devices.allow");
    for rule in ["c *:* m", "b *:* m"] {
        fs::write(&allow, rule)?;
    }
    for (major, minor) in open_allowed() {
        let minor = minor.map_or("*".to_string(), |m| m.to_string());
        fs::write(&allow, format!("c {major}:{minor} rwm"))?;
    }
    Ok(())
}

/// One eBPF instruction (`struct bpf_insn`).
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    /// Low four bits: destination register; high four: source.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers, offset, immediate }
}

/// The program of a version 2 group: gets `{ access << 16 | type, major, minor }`, answers 1 (may) or 0.
fn program() -> Vec<Instruction> {
    const LOAD: u8 = 0x61; // 32 bits from memory
    const COPY: u8 = 0xbf;
    const SET: u8 = 0xb7;
    const AND: u8 = 0x57;
    const SHIFT_RIGHT: u8 = 0x77;
    const IF_NOT: u8 = 0x55;
    const IF: u8 = 0x15;
    const EXIT: u8 = 0x95;
    const CHARACTER: i32 = 2;
    const MKNOD: i32 = 1;
    let mut p = vec![
        instruction(LOAD, 0x12, 0, 0),         // r2 = access and type
        instruction(LOAD, 0x13, 4, 0),         // r3 = major
        instruction(LOAD, 0x14, 8, 0),         // r4 = minor
        instruction(COPY, 0x25, 0, 0),         // r5 = r2
        instruction(SHIFT_RIGHT, 0x05, 0, 16), // r5: access
        instruction(AND, 0x02, 0, 0xffff),     // r2: type
        instruction(SET, 0x00, 0, 1),
        instruction(IF_NOT, 0x05, 1, MKNOD), // only making a node: may
        instruction(EXIT, 0, 0, 0),
        instruction(IF, 0x02, 2, CHARACTER), // a block device: may not
        instruction(SET, 0x00, 0, 0),
        instruction(EXIT, 0, 0, 0),
    ];
    for (major, minor) in open_allowed() {
        p.push(instruction(IF_NOT, 0x03, if minor.is_some() { 2 } else { 1 }, major as i32));
        if let Some(minor) = minor {
            p.push(instruction(IF_NOT, 0x04, 1, minor as i32));
        }
        p.push(instruction(EXIT, 0, 0, 0));
    }
    p.extend([instruction(SET, 0x00, 0, 0), instruction(EXIT, 0, 0, 0)]);
    p
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Groups below may add programs; all of them must agree.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// `union bpf_attr` for BPF_PROG_LOAD, as far as we fill it.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// `union bpf_attr` for BPF_PROG_ATTACH.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Attaches the program to a version 2 group; it holds for all groups below, for as long as the group exists.
pub fn restrict_v2(dir: &Path) -> io::Result<()> {
    let code = program();
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the structure and the instructions it points to live through the call, which only reads them.
    let program = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of_val(&load)) };
    if program < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, which nobody else owns.
    let program = unsafe { OwnedFd::from_raw_fd(program as i32) };
    let group = super::open_dir(dir)?;
    let attach = Attach {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: as above.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, size_of_val(&attach)) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
