//! Operations that make new trees from others: run a process, change files, stack and subtract trees.
//! One file each; an operation gets inputs that are there and gives one result an output. None knows about keys.

use std::io;
use std::path::{Path, PathBuf};

pub mod again;
pub mod agent;
pub mod copy;
pub mod exec;
pub mod file;
pub mod mode;
pub mod stack;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Session(#[from] crate::session::Error),
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    #[error("operation {operation} is malformed: {reason}")]
    Malformed { operation: &'static str, reason: String },
    #[error("process {command:?} did not complete successfully: {how}")]
    Exit { command: String, code: i32, how: String },
    #[error("process {command:?} did not complete successfully: {source}")]
    Begin { command: String, source: sandbox::Error },
    #[error("{path} is not a directory in the tree that is written to")]
    NotADirectory { path: PathBuf },
    #[error("{path} is a directory in the tree that is written to, and can't become a file")]
    IsADirectory { path: PathBuf },
    #[error("{path}: no such file or directory")]
    NotFound { path: String },
    #[error("bad pattern `{pattern}`: {reason}")]
    Pattern { pattern: String, reason: String },
    #[error(
        "invalid chmod parameter: '{mode}'. it should be octal string and between 0 and 07777, or terms such as u+x,go=rX"
    )]
    Mode { mode: String },
    #[error("secret {id}: not found: pass it with --secret id={id},src=PATH")]
    NoSecret { id: String },
    #[error("can't {doing} {path}: {source}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("cancelled")]
    Cancelled,
}

/// Adds to an I/O error what was tried, on what.
pub(crate) trait Doing<T> {
    /// The same result with an error of ours.
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { doing, path: path.to_owned(), source })
    }
}
