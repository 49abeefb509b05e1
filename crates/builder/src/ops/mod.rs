//! Operations that make new trees from others: run a process, change files, stack and subtract trees.
//! One file each; an operation gets inputs that are there and gives one result an output. None knows about keys.

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Session(#[from] crate::session::Error),
    #[error("operation {operation} is malformed: {reason}")]
    Malformed { operation: &'static str, reason: String },
}
