//! The real command on real Dockerfiles, in a store of its own: what a user sees, end to end. Needs root (or user
//! namespaces) and busybox-static; says loudly where something is missing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod actions;
mod attested;
mod buckets;
mod buildx;
mod cache_faults;
mod cached;
mod caches;
mod calls;
mod causes;
mod compose;
mod debugged;
mod decoders;
mod docker;
mod doors;
mod failing;
mod forged;
mod frontends;
mod git;
mod hostile;
mod interrupted;
mod jobs;
mod kept;
mod killed;
mod kitchen;
mod layouts;
mod leaves;
mod liars;
mod load;
mod logins;
mod named;
mod outputs;
mod packaging;
mod platforms;
mod policies;
mod registries;
mod registry;
mod rootless;
mod served;
mod several_outputs;
mod ssh;
mod steps;
