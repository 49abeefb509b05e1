//! What one build has seen of sources that may change while it runs: it asks for each once, and whoever of it asks again
//! gets the same. It keeps nothing for other builds.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::{git, http};
use crate::Error;

/// See the module.
#[derive(Default)]
pub struct Seen {
    /// Files from the web, by their address and how they are asked for.
    pub(super) files: Once<String, http::Got>,
    /// What references of git repositories name.
    pub(super) references: Once<git::Asked, git::Found>,
}

/// Answers by their questions.
pub(super) struct Once<Q, A>(Mutex<HashMap<Q, Arc<OnceCell<A>>>>);

impl<Q, A> Default for Once<Q, A> {
    fn default() -> Once<Q, A> {
        Once(Mutex::default())
    }
}

impl<Q: Eq + Hash, A: Clone> Once<Q, A> {
    /// The answer, which `ask` gives the first time. While it is under way the others wait for it; a failure is not kept.
    pub(super) async fn ask<F: Future<Output = Result<A, Error>>>(
        &self,
        question: Q,
        ask: impl FnOnce() -> F,
    ) -> Result<A, Error> {
        let cell = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(question).or_default().clone();
        cell.get_or_try_init(ask).await.cloned()
    }
}
