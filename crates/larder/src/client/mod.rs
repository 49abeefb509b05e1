//! The client's side of a build in this process: the user's directories, secrets, agents, credentials and output files.
//! It answers the builder's `Session` port from this machine and knows nothing of how a build works.

pub mod content;
pub mod outputs;
pub mod secrets;
mod session;
pub mod ssh;

pub use session::{LocalSession, STANDARD_INPUT};
