//! An SSH agent as one step's mount shows it: a socket of its own, with the owner and mode that the mount says, whose
//! connections are passed on to the agent. What passes is never read; the user's own socket is never touched.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use graph::wire;
use rustix::fs::{Mode, OFlags};
use store::canvas::{Attributes, set_owner_and_mode};

use super::{Doing, Error};

/// Ends the passing on and removes the socket when dropped.
pub struct AgentSocket {
    folder: PathBuf,
    path: PathBuf,
    listener: UnixListener,
    accepting: Option<JoinHandle<()>>,
}

impl AgentSocket {
    /// A socket in `folder`, which is made, for the agent at `agent`.
    pub fn open(folder: PathBuf, agent: &Path, opt: &wire::SshOpt) -> Result<AgentSocket, Error> {
        std::fs::create_dir(&folder).doing("make", &folder)?;
        let path = folder.join("agent");
        let listener = bind(&folder).doing("listen on", &path)?;
        let mut socket = AgentSocket { folder, path, listener, accepting: None };
        let mode = if opt.mode == 0 { 0o600 } else { opt.mode & 0o777 };
        let attributes = Attributes::made(mode, Some((opt.uid, opt.gid)), None);
        set_owner_and_mode(&socket.path, &attributes).doing("set owner and mode of", &socket.path)?;
        let listener = socket.listener.try_clone().doing("listen on", &socket.path)?;
        let agent = agent.to_owned();
        let accept = move || {
            // Ends when the listener is shut down.
            for stream in listener.incoming().map_while(Result::ok) {
                // A connection that fails is seen by the process that made it.
                let _ = pass_on(stream, &agent);
            }
        };
        let thread = std::thread::Builder::new().name("agent".to_owned()).spawn(accept);
        socket.accepting = Some(thread.doing("start a thread for", &socket.path)?);
        Ok(socket)
    }

    /// Where it is on this machine.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        // Wakes `accept`. All of it is gone at the next start if it can't be removed here.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Through a descriptor: the path of a socket has at most 107 bytes.
fn bind(folder: &Path) -> io::Result<UnixListener> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    UnixListener::bind(format!("/proc/self/fd/{}/agent", folder.as_raw_fd()))
}

/// Copies both ways until both sides are done; each direction's end is told to the other side.
fn pass_on(step: UnixStream, agent: &Path) -> io::Result<()> {
    let agent = UnixStream::connect(agent)?;
    for (from, to) in [(step.try_clone()?, agent.try_clone()?), (agent, step)] {
        let copy = move || {
            let (mut reader, mut writer) = (&from, &to);
            // Either side may hang up at any moment.
            let _ = io::copy(&mut reader, &mut writer);
            let _ = to.shutdown(Shutdown::Write);
        };
        std::thread::Builder::new().name("agent".to_owned()).spawn(copy)?;
    }
    Ok(())
}
