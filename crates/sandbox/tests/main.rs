//! Real processes in real sandboxes: a root of Debian's busybox-static, the kernel of this machine. Skips loudly where
//! the machine cannot (no root, no busybox).

#![allow(clippy::print_stderr, clippy::unwrap_used, clippy::expect_used)]

mod connected;
mod held;
mod leaves_nothing;
mod machine;
mod mounts;
mod process;
