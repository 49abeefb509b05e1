//! Tidy tests over the whole repository: floors, file sizes, opening words.

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod tidy;
