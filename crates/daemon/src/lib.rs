//! The daemon: BuildKit's API over gRPC, for `docker buildx` and whatever else speaks it.
//! It translates and remembers who is connected; what a build is, it leaves to `builder`.

pub mod address;
mod bridge;
pub mod client;
mod collector;
pub mod config;
mod content;
mod control;
mod history;
mod jobs;
mod listen;
pub mod questions;
mod refusal;
mod session;
mod stat;
pub mod syscall;
mod transfer;
pub mod usage;
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;

use builder::Engine;

pub use address::Address;
pub use listen::{Door, Error, Guard, serve};

/// What all connections share.
#[derive(Clone)]
pub struct Daemon {
    pub(crate) engine: Arc<Engine>,
    pub(crate) sessions: session::Sessions,
    pub(crate) jobs: jobs::Jobs,
    /// Spans of clients.
    pub(crate) traces: history::trace::Traces,
    /// Whoever follows the history hears of it here.
    pub(crate) feed: history::Feed,
    /// Names the worker: the same over restarts.
    pub(crate) worker: String,
    /// Entitlements that builds may be granted.
    pub(crate) allowed: Vec<String>,
    /// Labels of the worker, beside its own.
    pub(crate) labels: BTreeMap<String, String>,
}

impl Daemon {
    /// A daemon for an engine. `allowed` are the entitlements that clients may ask for, `labels` what the
    /// worker shows beside its own.
    pub fn new(engine: Arc<Engine>, allowed: Vec<String>, labels: BTreeMap<String, String>) -> Daemon {
        let worker = oci::Digest::of(engine.store.root().as_os_str().as_encoded_bytes()).hex()[..25].to_owned();
        let (sessions, jobs) = (session::Sessions::default(), jobs::Jobs::default());
        let (traces, feed) = (history::trace::Traces::default(), history::Feed::default());
        Daemon { engine, sessions, jobs, traces, feed, worker, allowed, labels }
    }

    /// Asks clients for files that look unchanged as well, and compares them (`[context] verify = "content"`).
    pub fn verifying(self, verify: bool) -> Daemon {
        Daemon { sessions: session::Sessions::new(verify), ..self }
    }

    /// Looks after the store in the background until the runtime ends.
    pub fn collect(&self) {
        tokio::spawn(collector::run(self.engine.clone(), self.jobs.clone()));
    }
}
