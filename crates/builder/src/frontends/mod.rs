//! From what a client asks for to graphs: one file each kind of question. What is built in runs nothing; a frontend in an
//! image is a process.

pub(crate) mod context;
pub mod dockerfile;
pub mod image;
mod lowering;
pub mod options;
pub mod questions;

use std::sync::Arc;

use ::dockerfile::lower::Lowered;
use graph::Graph;

use crate::attestations::Read;

/// The version of the Dockerfile's language that is built in (that of `docker/dockerfile` images).
pub const LANGUAGE: &str = "1.20.0";

/// What the Dockerfile frontend makes of a request.
pub enum Made {
    /// One target a platform.
    Targets(Vec<Target>),
    /// The Dockerfile, or `BUILDKIT_SYNTAX`, asks for another frontend.
    Elsewhere(Elsewhere),
}

/// Who asked for a frontend in an image.
pub struct Elsewhere {
    /// The image, and what else stands on that line.
    pub line: String,
    /// The line in the Dockerfile, if it is the Dockerfile that asks.
    pub place: Option<Box<graph::Place>>,
}

/// Whether the language of a frontend's image is built in: that of `docker/dockerfile` images.
pub fn is_built_in(source: &str) -> bool {
    const BUILT_IN: [&str; 3] = ["dockerfile.v0", "docker/dockerfile", "docker/dockerfile-upstream"];
    let name = source.split(['@', ':']).next().unwrap_or_default();
    BUILT_IN.contains(&name.trim_start_matches("docker.io/"))
}

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
