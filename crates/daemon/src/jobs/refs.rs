//! Results that a client was told of by id: graphs, evaluated when somebody needs their files.
//! An id means something within its build only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use builder::attestations::Making;
use builder::driver::Held;
use graph::Graph;
use tokio::sync::OnceCell;

use super::Job;

/// One result.
#[derive(Clone)]
pub struct Ref {
    /// How it is made.
    pub making: Making,
    result: Arc<OnceCell<Held>>,
}

impl Ref {
    /// A result that is not made yet.
    pub fn new(making: Making) -> Ref {
        Ref { making, result: Arc::default() }
    }

    /// Makes it, once.
    pub async fn evaluate(&self, job: &Job) -> Result<Held, builder::Error> {
        self.result.get_or_try_init(|| job.build.evaluate(&self.making.graph)).await.cloned()
    }
}

/// All results of a build.
pub struct Refs {
    prefix: String,
    known: Mutex<HashMap<String, Ref>>,
}

impl Refs {
    /// None yet.
    pub fn new(build: &str) -> Refs {
        Refs { prefix: build.to_owned(), known: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Ref>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a result and gives its id; an empty graph has the empty id.
    pub fn add(&self, making: Making) -> String {
        if making.graph.head.is_none() {
            return String::new();
        }
        let mut known = self.lock();
        let id = format!("{}-{}", self.prefix, known.len());
        known.insert(id.clone(), Ref::new(making));
        id
    }

    /// Adds a tree that is there, though no graph gives it, and gives its id.
    pub fn keep(&self, held: Held) -> String {
        let mut known = self.lock();
        let id = format!("{}-{}", self.prefix, known.len());
        known.insert(id.clone(), Ref { making: Making::default(), result: Arc::new(OnceCell::new_with(Some(held))) });
        id
    }

    /// The result of an id; the empty id is the empty tree.
    pub fn get(&self, id: &str) -> Option<Ref> {
        if id.is_empty() {
            return Some(Ref::new(Making::default()));
        }
        self.lock().get(id).cloned()
    }

    /// Graphs of all results but these.
    pub fn graphs_beside(&self, ids: &[String]) -> Vec<Arc<Graph>> {
        let known = self.lock();
        let others = known.iter().filter(|(id, _)| !ids.contains(id));
        others.map(|(_, one)| one.making.graph.clone()).collect()
    }

    /// Lets go of all results.
    pub fn clear(&self) {
        self.lock().clear();
    }
}
