//! A child outside of the new namespace that has its ids mapped by `newuidmap` and `newgidmap`, which may because they
//! are set-user-id programs. It lives for a moment and does nothing else.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, getpid, waitpid};

use super::{Error, Ranges};

/// The child, waiting for its parent to be in the namespace.
pub(super) struct Outside {
    child: Pid,
    go: Option<io::PipeWriter>,
    said: io::PipeReader,
}

impl Outside {
    /// Starts it.
    pub(super) fn start(ranges: &Ranges) -> Result<Outside, Error> {
        let failed = |source: io::Error| Error::Kernel { doing: "start a process outside of the namespace", source };
        let pipe = || -> io::Result<(io::PipeReader, io::PipeWriter)> {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            Ok((reader.into(), writer.into()))
        };
        let ((mut wait, go), (said, mut say)) = (pipe().map_err(failed)?, pipe().map_err(failed)?);
        let parent = getpid();
        // SAFETY: this process has one thread, so the child may do whatever it could do itself.
        match unsafe { libc::fork() } {
            -1 => Err(failed(io::Error::last_os_error())),
            0 => {
                drop((go, said));
                // A parent that failed closes the pipe without a word.
                if wait.read(&mut [0]).is_ok_and(|n| n == 1) {
                    let text = map(ranges, parent).err().unwrap_or_default();
                    let _parent_gone = say.write_all(text.as_bytes());
                }
                // SAFETY: ends only this process, without running destructors that belong to the parent.
                unsafe { libc::_exit(0) }
            }
            child => {
                let child = Pid::from_raw(child).ok_or_else(|| failed(io::Error::last_os_error()))?;
                Ok(Outside { child, go: Some(go), said })
            }
        }
    }

    /// Lets it map this process's namespace, and waits until that is done.
    pub(super) fn map(mut self) -> Result<(), Error> {
        let failed = |source: io::Error| Error::Kernel { doing: "have ids mapped from outside", source };
        if let Some(mut go) = self.go.take() {
            go.write_all(b"1").map_err(failed)?;
        }
        let mut text = String::new();
        self.said.read_to_string(&mut text).map_err(failed)?;
        if text.is_empty() { Ok(()) } else { Err(Error::Map(text)) }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // Closing the pipe is its word to end.
        drop(self.go.take());
        let _reaped = waitpid(Some(self.child), WaitOptions::empty());
    }
}

/// In the child: both maps, or what the programs said.
fn map(ranges: &Ranges, process: Pid) -> Result<(), String> {
    for (program, numbers) in [(&ranges.newuidmap, &ranges.uids), (&ranges.newgidmap, &ranges.gids)] {
        let shown = program.display();
        let ran = Command::new(program).arg(process.to_string()).args(numbers).output();
        let ran = ran.map_err(|e| format!("{shown} can't be started: {e}"))?;
        if !ran.status.success() {
            let said = String::from_utf8_lossy(&ran.stderr);
            return Err(format!("{shown} {}failed: {}", unarmed(program), said.trim()));
        }
    }
    Ok(())
}

/// What such a program must have and this one lacks.
fn unarmed(program: &Path) -> &'static str {
    let suid = program.metadata().is_ok_and(|m| m.permissions().mode() & 0o4000 != 0);
    let capable = rustix::fs::getxattr(program, "security.capability", &mut [0u8; 64][..]).is_ok();
    if suid || capable {
        ""
    } else {
        "has neither the set-user-id bit nor file capabilities (install uidmap again), and "
    }
}
