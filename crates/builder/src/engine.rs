//! What every build of one process shares, and what one running step is given.
//! The engine owns no build: builds come and go, and use it at the same time.

use std::sync::Arc;

use oci::Digest;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::attestations::asked::Producers;
use crate::caches::Known;
use crate::driver::Driver;
use crate::event::Events;
use crate::session;
use crate::sources::Seen;
use crate::sources::bytes::Flights;

/// The parts that builds share.
pub struct Engine {
    /// This disk.
    pub store: store::Store,
    /// This kernel.
    pub sandbox: sandbox::Sandbox,
    /// Registries, asked lazily: no connection and no certificate is loaded before the first request.
    pub registry: registry::Client,
    /// Runs steps, each once however many builds want it.
    pub driver: Driver,
    /// Blobs that are being brought.
    pub(crate) flights: Flights,
    /// What registries have of caches, as it was found lately.
    pub(crate) known: Known,
    /// Which frontends made which graphs, in builds that go on.
    pub producers: Producers,
    /// What an operator has set.
    pub settings: Settings,
    /// As many as steps may run at the same time.
    turns: Option<Semaphore>,
}

/// What an operator sets for every build.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What provenance tells of this builder beside what it knows itself.
    pub provenance: Map<String, Value>,
    /// Which kept builds stay.
    pub retention: store::Retention,
    /// Steps that run at the same time; 0 is no limit.
    pub parallelism: usize,
    /// Names on the network, in steps; what is empty is the machine's.
    pub dns: sandbox::Dns,
}

impl Engine {
    /// Puts the parts together.
    pub fn new(store: store::Store, sandbox: sandbox::Sandbox, registry: registry::Client) -> Arc<Engine> {
        Engine::with_settings(store, sandbox, registry, Settings::default())
    }

    /// The same, as an operator wants it.
    pub fn with_settings(
        store: store::Store,
        sandbox: sandbox::Sandbox,
        registry: registry::Client,
        settings: Settings,
    ) -> Arc<Engine> {
        let turns = (settings.parallelism > 0).then(|| Semaphore::new(settings.parallelism));
        Arc::new_cyclic(|engine| {
            let (driver, producers) = (Driver::new(engine.clone()), Producers::default());
            let (flights, known) = (Flights::default(), Known::default());
            Engine { store, sandbox, registry, driver, flights, known, producers, settings, turns }
        })
    }

    /// Waits until one more step may run; it may while the answer lives.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.turns.as_ref()?.acquire().await.ok()
    }
}

/// What one step's work is given.
#[derive(Clone)]
pub struct Work {
    /// The shared parts.
    pub engine: Arc<Engine>,
    /// The client that wants it (one of them, when several builds want the same step).
    pub session: session::Shared,
    /// What that client's build has seen of sources.
    pub seen: Arc<Seen>,
    /// Where to tell what happens.
    pub events: Events,
    /// The step: digest of its vertex.
    pub step: Digest,
    /// Set when nobody wants the step any more.
    pub cancel: sandbox::Cancel,
}
