//! From what a client asks for to graphs: one file each kind of question. A frontend runs nothing.

mod context;
pub mod dockerfile;
pub mod questions;

/// One result that is to be built.
pub struct Target {
    /// Its platform.
    pub platform: oci::Platform,
    /// Its operations and configuration.
    pub lowered: dockerfile_crate::lower::Lowered,
}

use ::dockerfile as dockerfile_crate;
