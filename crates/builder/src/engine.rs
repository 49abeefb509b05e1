//! What every build of one process shares, and what one running step is given.
//! The engine owns no build: builds come and go, and use it at the same time.

use std::sync::Arc;

use oci::Digest;
use serde_json::{Map, Value};

use crate::attestations::asked::Producers;
use crate::driver::Driver;
use crate::event::Events;
use crate::session;
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
    /// Which frontends made which graphs, in builds that go on.
    pub producers: Producers,
    /// What provenance tells of this builder beside what it knows itself.
    pub provenance: Map<String, Value>,
}

impl Engine {
    /// Puts the parts together.
    pub fn new(store: store::Store, sandbox: sandbox::Sandbox, registry: registry::Client) -> Arc<Engine> {
        Engine::with_provenance(store, sandbox, registry, Map::new())
    }

    /// The same, of a builder whose operator adds `provenance` to every statement.
    pub fn with_provenance(
        store: store::Store,
        sandbox: sandbox::Sandbox,
        registry: registry::Client,
        provenance: Map<String, Value>,
    ) -> Arc<Engine> {
        Arc::new_cyclic(|engine| {
            let (driver, producers) = (Driver::new(engine.clone()), Producers::default());
            Engine { store, sandbox, registry, driver, flights: Flights::default(), producers, provenance }
        })
    }
}

/// What one step's work is given.
#[derive(Clone)]
pub struct Work {
    /// The shared parts.
    pub engine: Arc<Engine>,
    /// The client that wants it (one of them, when several builds want the same step).
    pub session: session::Shared,
    /// Where to tell what happens.
    pub events: Events,
    /// The step: digest of its vertex.
    pub step: Digest,
    /// Set when nobody wants the step any more.
    pub cancel: sandbox::Cancel,
}
