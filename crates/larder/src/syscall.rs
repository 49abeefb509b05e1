//! The one thing that safe Rust can't say here: a file descriptor that another program passed to this one.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

/// Takes a descriptor that was open when this process began and that nothing in it has used. Programs that are started
/// from here do not get it. One that is not open is an error.
pub fn passed(fd: i32) -> std::io::Result<OwnedFd> {
    // SAFETY: it is only asked for its flags, which fails with EBADF if nothing is open there.
    let asked = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_setfd(asked, rustix::io::FdFlags::CLOEXEC)?;
    // SAFETY: it is open, and the caller says that nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
