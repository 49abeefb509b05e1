//! The way to stop a running process from another thread: an eventfd that the run waits on beside its pipes.
//! Once cancelled it stays cancelled.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::Error;

/// A handle to cancel one or several runs. Clones cancel the same runs.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<OwnedFd>);

impl Cancel {
    /// A handle that isn't cancelled. Costs one file descriptor.
    pub fn new() -> Result<Cancel, Error> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::kernel("make an eventfd for cancellation", e))?;
        Ok(Cancel(Arc::new(fd)))
    }

    /// Ends every run that holds this handle, with SIGKILL for all its processes, and every later one before it starts.
    pub fn cancel(&self) {
        // The write can only fail when the counter is full, and then it's readable anyway.
        let _full = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        let mut fds = [PollFd::new(&*self.0, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(n) if n > 0)
    }
}

impl AsFd for Cancel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
