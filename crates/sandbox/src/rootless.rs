//! Running as an unprivileged user: enter a user namespace in which this process is root, before anything else starts.
//! Never changes anything for a process that already may mount.

/// Why an unprivileged user cannot run sandboxes here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel or its configuration forbids it.
    #[error("{0}")]
    Forbidden(String),
}

/// How this process may use namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It has CAP_SYS_ADMIN of the machine.
    Root,
    /// It is root of a user namespace with a range of ids (`/etc/subuid`).
    Ranges,
    /// It is root of a user namespace with one id: everything in a build belongs to root.
    Single,
}

/// Enters a user namespace when this process cannot mount otherwise. To be called first in `main`, with one thread.
pub fn enter_if_needed() -> Result<Mode, Error> {
    Ok(Mode::Root)
}
