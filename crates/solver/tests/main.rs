//! The solver against a real BuildKit's graphs and caches.

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod vectors;
