//! Whole Dockerfiles: against a real BuildKit's graphs, and as people write them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod epoch;
mod fixtures;
mod peers;
mod refused;
mod vectors;
