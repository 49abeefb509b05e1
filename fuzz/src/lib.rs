//! The targets of the tests, for fuzzers.

#[path = "../../crates/larder/tests/decoders/targets.rs"]
pub mod targets;
