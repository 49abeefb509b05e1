//! The daemon: BuildKit's API over gRPC, for `docker buildx` and whatever else speaks it.
//! It translates and remembers who is connected; what a build is, it leaves to `builder`.

pub mod address;
mod bridge;
pub mod client;
mod collector;
pub mod config;
mod content;
mod control;
#[doc(hidden)]
pub mod decoders;
mod history;
mod jobs;
mod listen;
pub mod policies;
mod private;
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
    /// What its operator has set.
    pub(crate) settings: Arc<Settings>,
}

/// What an operator sets for a daemon.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Entitlements that clients may ask for.
    pub allowed: Vec<String>,
    /// Labels of the worker, beside its own.
    pub labels: BTreeMap<String, String>,
    /// Platforms of the worker, instead of the machine's own.
    pub platforms: Vec<oci::Platform>,
    /// Asks clients for files that look unchanged as well, and compares them (`[context] verify = "content"`).
    pub verify: bool,
    /// Whose policy the collector follows; without one it does not run by itself.
    pub collector: Option<config::Worker>,
    /// Which frontends builds may use.
    pub frontends: config::Frontends,
}

impl Daemon {
    /// A daemon for an engine.
    pub fn new(engine: Arc<Engine>, settings: Settings) -> Daemon {
        let worker = oci::Digest::of(engine.store.root().as_os_str().as_encoded_bytes()).hex()[..25].to_owned();
        let (sessions, jobs) = (session::Sessions::new(settings.verify), jobs::Jobs::default());
        let (traces, feed) = (history::trace::Traces::default(), history::Feed::default());
        Daemon { engine, sessions, jobs, traces, feed, worker, settings: Arc::new(settings) }
    }

    /// Looks after the store in the background until the runtime ends.
    pub fn collect(&self) {
        let Some(worker) = self.settings.collector.clone() else { return };
        tokio::spawn(collector::run(self.engine.clone(), self.jobs.clone(), worker));
    }
}

/// What the daemon and its client call themselves, in the form that BuildKit's clients read: package, version, revision.
pub const VERSION: &str = concat!("larder v0.30.0 larder-", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    #[test]
    fn one_version_everywhere() {
        let version = crate::workers::version();
        assert_eq!(crate::VERSION, format!("{} {} {}", version.package, version.version, version.revision));
    }
}
