//! Why a process could not be run. Each message says what was tried, on what, and what to do where something can be done.
//! A process that ran and failed is not an error here: that is an [`crate::Exit`].

use std::io;
use std::path::PathBuf;

/// Why a process could not be run in its sandbox.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// [`crate::Cancel::cancel`] was called: the process and its children are gone.
    #[error("cancelled")]
    Cancelled,
    /// The program isn't in the root (or not in `PATH`).
    #[error("exec: {program:?}: {}", if program.contains('/') { "no such file or directory" } else { "executable file not found in $PATH" })]
    NotFound {
        /// `args[0]`.
        program: String,
    },
    /// The program is there but the kernel refused to execute it.
    #[error("exec: {program:?}: {source}")]
    NotExecutable {
        /// `args[0]`.
        program: String,
        /// What `execve` said.
        source: io::Error,
    },
    /// The user string names nobody in the root.
    #[error(transparent)]
    User(#[from] crate::user::Error),
    /// A mount could not be made.
    #[error("cannot mount {what} at {dest}: {source}")]
    Mount {
        /// What was to be mounted.
        what: String,
        /// Where in the root.
        dest: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A path inside the root could not be resolved or made.
    #[error("cannot {doing} {path} inside the root: {source}")]
    Path {
        /// What was tried: `make the mount point`, `make the working directory`…
        doing: &'static str,
        /// The path as given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The spec asks for something impossible.
    #[error("{0}")]
    Spec(String),
    /// A step of the setup failed in the child.
    #[error("cannot {doing} in the sandbox: {source}{}", hint.map(|h| format!(" ({h})")).unwrap_or_default())]
    Setup {
        /// What was tried.
        doing: String,
        /// What the kernel said.
        source: io::Error,
        /// What to do about it.
        hint: Option<&'static str>,
    },
    /// A limit was asked for that this machine cannot hold.
    #[error("cannot limit {what}: {reason}")]
    Limit {
        /// Which limit.
        what: &'static str,
        /// Why, naming the missing controller or file.
        reason: String,
    },
    /// Anything else of the kernel.
    #[error("cannot {doing}: {source}")]
    Kernel {
        /// What was tried, on what.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// This machine cannot run sandboxes for this user.
    #[error(transparent)]
    Rootless(#[from] crate::rootless::Error),
}

impl Error {
    /// An error of a system call with what was tried.
    pub(crate) fn kernel(doing: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::Kernel { doing: doing.into(), source: source.into() }
    }
}
