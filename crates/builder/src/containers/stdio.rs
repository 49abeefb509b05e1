//! Ends of a process' input and output: pipes, or one terminal. Ours are read and written without a thread.
//! What passes through them is nobody's here.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use sandbox::Stdio;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// Which of its descriptors somebody is at the other end of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Standard input.
    pub input: bool,
    /// Standard output.
    pub output: bool,
    /// Standard error; a terminal has none of its own.
    pub errors: bool,
}

/// Our ends.
#[derive(Default)]
pub struct Ends {
    /// What it reads.
    pub input: Option<pipe::Sender>,
    /// What it writes, by the number of the descriptor.
    pub outputs: Vec<(u32, Output)>,
    /// The terminal, if there is one.
    pub terminal: Option<Terminal>,
}

/// What a process writes.
pub struct Output(pipe::Receiver);

/// A terminal, to be told its size.
pub struct Terminal(OwnedFd);

impl Terminal {
    /// Tells whoever sits at it how large it is now.
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(&self.0, size)?)
    }
}

impl Output {
    /// What was written, as it comes; nothing at the end.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        ended(self.0.read(buffer).await)
    }

    /// What is there now; `None` when that is nothing.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        // Not through the runtime, which may not have heard of the last bytes yet.
        match ended(rustix::io::read(&self.0, buffer).map_err(io::Error::from)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            read => read.map(Some),
        }
    }
}

/// A terminal that nobody sits at any more says so with an error of its own.
fn ended(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => Ok(0),
        read => read,
    }
}

/// Pipes where somebody is at the other end, nothing where nobody is.
pub fn pipes(wanted: Wanted) -> io::Result<(Stdio, Ends)> {
    let mut ends = Ends::default();
    let input = if wanted.input {
        let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
        ends.input = Some(pipe::Sender::from_owned_fd(ours)?);
        theirs
    } else {
        null(OFlags::RDONLY)?
    };
    let mut output = |number: u32, wanted: bool| -> io::Result<OwnedFd> {
        if !wanted {
            return null(OFlags::WRONLY);
        }
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        ends.outputs.push((number, Output(pipe::Receiver::from_owned_fd(ours)?)));
        Ok(theirs)
    };
    let fds = [input, output(1, wanted.output)?, output(2, wanted.errors)?];
    Ok((Stdio { fds, terminal: false }, ends))
}

/// A terminal: what is shown on it is standard output.
pub fn terminal(wanted: Wanted) -> io::Result<(Stdio, Ends)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&ours)?;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags)?;
    let fds = [theirs.try_clone()?, theirs.try_clone()?, theirs];
    rustix::io::ioctl_fionbio(&ours, true)?;
    let mut ends = Ends::default();
    if wanted.input {
        ends.input = Some(pipe::Sender::from_owned_fd_unchecked(ours.try_clone()?)?);
    }
    if wanted.output {
        ends.outputs.push((1, Output(pipe::Receiver::from_owned_fd_unchecked(ours.try_clone()?)?)));
    }
    ends.terminal = Some(Terminal(ours));
    Ok((Stdio { fds, terminal: true }, ends))
}

fn null(flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", flags | OFlags::CLOEXEC, Mode::empty())?)
}
