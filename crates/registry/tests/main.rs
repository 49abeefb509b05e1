//! The registry over HTTP, by the specification's words: each `MUST` of the four workflows of distribution-spec v1.1 that
//! is a server's has a test here, named after what it asks for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod attended;
mod bucket;
mod collect;
mod discover;
mod expire;
mod guard;
mod join;
mod manage;
mod mirror;
mod pull;
mod push;
mod scrub;
mod served;
mod service;
mod spec;
mod stored;
