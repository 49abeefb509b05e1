//! From what a client asks for to graphs: one file each kind of question. What is built in runs nothing; a frontend in an
//! image is a process.

mod context;
pub mod dockerfile;
pub mod image;
pub mod questions;

use std::sync::Arc;

use ::dockerfile::lower::Lowered;
use graph::Graph;

use crate::attestations::Read;

/// The version of the Dockerfile's language that is built in (that of `docker/dockerfile` images).
pub const LANGUAGE: &str = "1.20.0";

/// One result that is to be built.
pub struct Target {
    /// Its platform.
    pub platform: oci::Platform,
    /// Its operations and configuration.
    pub lowered: Lowered,
    /// What was read to find that out.
    pub read: Read,
    /// The run of a scanner over it, when an SBOM is wanted.
    pub scan: Option<Arc<Graph>>,
}
