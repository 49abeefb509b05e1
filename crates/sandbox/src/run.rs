//! One run from start to end: prepare, clone, pass on what it prints, wait, clean up. Whatever goes wrong, the process
//! and everything it started are gone when [`Sandbox::run`] returns.

use std::time::Duration;

use crate::{Abilities, Cancel, Error, Spec};

/// How a sandbox behaves on this machine, decided once by the operator.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// What [`crate::Network::Default`] means.
    pub default_network: DefaultNetwork,
    /// The cgroup under which every run's cgroup is made, unless its spec names one; a path from the hierarchy's root.
    pub cgroup_parent: Option<String>,
}

/// What a build's default network is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DefaultNetwork {
    /// This machine's, as BuildKit does without a CNI configuration.
    #[default]
    Host,
    /// Loopback only.
    None,
    /// A bridge of our own. Not built yet: a run says so.
    Bridge,
}

/// Which pipe some output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// How a process ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It exited with this code.
    Code(i32),
    /// A signal of this number killed it.
    Signal(i32),
}

impl Status {
    /// As a shell and BuildKit show it: the code, or 128 and the signal.
    pub fn code(self) -> i32 {
        match self {
            Status::Code(c) => c,
            Status::Signal(s) => 128 + s,
        }
    }
}

/// What a run consumed, its children included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time from clone to exit.
    pub wall: Duration,
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// Largest memory of any one process, in bytes.
    pub max_rss: u64,
    /// Bytes read from disks.
    pub read_bytes: u64,
    /// Bytes written to disks.
    pub written_bytes: u64,
}

/// A process that ran and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// How.
    pub status: Status,
    /// Whether the memory limit killed something in it.
    pub out_of_memory: bool,
    /// What it took.
    pub usage: Usage,
}

/// Runs processes on this machine. One for the whole program; shared by threads.
#[derive(Debug)]
pub struct Sandbox {
    config: Config,
    abilities: Abilities,
}

impl Sandbox {
    /// Looks at what the machine can do. Cheap; nothing is made before the first run.
    pub fn new(config: Config) -> Result<Sandbox, Error> {
        Ok(Sandbox { config, abilities: Abilities {} })
    }

    /// What this machine can do.
    pub fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// Runs `spec` to its end and hands out what it prints as it comes. A process that fails is an [`Exit`]; an error
    /// means it never ran, or was cancelled ([`Error::Cancelled`]). Blocks; call it from a thread that may.
    pub fn run(&self, spec: &Spec, cancel: &Cancel, output: &mut dyn FnMut(Stream, &[u8])) -> Result<Exit, Error> {
        let _ = (spec, output, &self.config);
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        Err(Error::Spec("running processes is not built yet".into()))
    }
}
