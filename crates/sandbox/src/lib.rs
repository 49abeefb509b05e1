//! This kernel: run one process in one root, fast and safe. A [`Spec`] goes in, an [`Exit`] comes out; nothing stays
//! behind (no mount, no process, no cgroup), whatever happened between. Blocking; it never knows what a build, a store
//! or a registry is, and never prints or reads the environment.
//!
//! How it works: the parent prepares every mount as a *detached* file descriptor (`fsopen`, `open_tree`), resolves
//! destinations, makes mount points and looks up the user through those descriptors, where allocation and good errors
//! are cheap. The child then only performs a list of plain system calls over data made ready for it.

mod cancel;
mod capability;
mod cgroup;
mod child;
mod connected;
mod device;
mod error;
mod hosts;
mod kernel;
mod memory;
mod overlay;
mod plan;
mod process;
mod resolve;
pub mod rootless;
mod run;
mod seccomp;
mod spec;
mod stubs;
pub mod user;

pub use cancel::Cancel;
pub use cgroup::{Swept, sweep};
pub use connected::{Inside, Stdio};
pub use error::Error;
pub use kernel::Abilities;
pub use run::{Config, DefaultNetwork, Exit, Sandbox, Status, Stream, Usage};
pub use spec::{Dns, Host, Limits, Mount, MountKind, Network, Rlimit, Root, Security, Spec, User};
