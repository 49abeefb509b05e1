//! Everything that happened in a build, for whoever looks at it, from its beginning and at any time.
//! Writers never wait for readers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use builder::Events;
use builder::event::Event;
use tokio::sync::Notify;

/// A build's events. Cheap to clone.
#[derive(Clone, Default)]
pub struct Log(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Events that go into the log.
    pub fn events(&self) -> Events {
        let shared = self.0.clone();
        Events::new(move |event| {
            shared.lock().events.push(event);
            shared.changed.notify_waiters();
        })
    }

    /// Nothing more will happen.
    pub fn close(&self) {
        self.0.lock().closed = true;
        self.0.changed.notify_waiters();
    }

    /// What happened after the first `seen` events: waits for something, and is empty at the end.
    pub async fn after(&self, seen: usize) -> Vec<Event> {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.0.lock();
                if state.events.len() > seen {
                    return state.events[seen..].to_vec();
                }
                if state.closed {
                    return Vec::new();
                }
            }
            changed.await;
        }
    }
}
