//! Containers that a client started in a build, by the ids that it gave them.
//! They end with the build, or before when the client says so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use builder::containers::Container;
use tonic::Status;

/// See the module.
#[derive(Default)]
pub struct Containers(Mutex<HashMap<String, Arc<Container>>>);

impl Containers {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Container>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a container under an id that no other one has.
    pub fn add(&self, id: &str, container: Container) -> Result<(), Status> {
        let mut known = self.lock();
        if known.contains_key(id) {
            return Err(Status::already_exists(format!("there is a container {id} already")));
        }
        known.insert(id.to_owned(), Arc::new(container));
        Ok(())
    }

    /// The container of an id.
    pub fn get(&self, id: &str) -> Result<Arc<Container>, Status> {
        self.lock().get(id).cloned().ok_or_else(|| gone(id))
    }

    /// The same, which then has no id any more.
    pub fn take(&self, id: &str) -> Result<Arc<Container>, Status> {
        self.lock().remove(id).ok_or_else(|| gone(id))
    }

    /// Ends all of them.
    pub fn clear(&self) {
        for (_, container) in self.lock().drain() {
            container.end();
        }
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        self.clear();
    }
}

fn gone(id: &str) -> Status {
    Status::not_found(format!("the container {id:?} was never made, or was released"))
}
