//! What tests of all floors share: vectors of a real BuildKit, real registries and base images. Never part of a release.
//! Everything here runs real parts; what is missing on a machine is said loudly and skipped.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::print_stderr)] // it only ever runs in tests

pub mod base;
pub mod faults;
pub mod gha;
pub mod registry;
pub mod s3;
pub mod tls;
pub mod tokens;
pub mod vectors;

use std::path::PathBuf;

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
