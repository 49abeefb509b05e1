//! A step's result that lies in a cache elsewhere. Its bytes are brought when somebody needs its files; then the step is
//! recorded here as if it had run.

use std::sync::{Arc, Mutex, PoisonError};

use oci::Digest;
use solver::{Cause, KeyId, Link, Record};
use store::SnapshotId;
use tokio::sync::OnceCell;

use super::{Import, cause};
use crate::driver::results;
use crate::sources::layers::Layers;
use crate::{Error, Work, blocking};

/// See the module.
pub struct Remote {
    import: Arc<Import>,
    layers: Layers,
    /// What is written down once its files are here; its results are not in it yet.
    record: Record,
    links: Vec<(KeyId, Link, KeyId)>,
    /// The step that it is the result of.
    step: Digest,
    snapshot: OnceCell<Option<SnapshotId>>,
    lost: Mutex<Option<Cause>>,
}

impl Remote {
    /// The result under the record's key, of a step. `None` when the cache can't give it any more.
    pub fn new(import: &Arc<Import>, step: Digest, record: Record, links: Vec<(KeyId, Link, KeyId)>) -> Option<Remote> {
        let layers = import.layers(import.output(record.keys.first()?)?);
        let (snapshot, lost) = (OnceCell::new(), Mutex::default());
        Some(Remote { import: import.clone(), layers, record, links, step, snapshot, lost })
    }

    /// Its layers as they are stored elsewhere.
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// Its files, if they were brought.
    pub fn here(&self) -> Option<Option<SnapshotId>> {
        self.snapshot.get().copied()
    }

    /// Why it can't be had, once that is known.
    pub fn lost(&self) -> Option<Cause> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Brings its blobs, without unpacking them.
    pub async fn fetch(&self, work: &Work) -> Result<(), Error> {
        let work = Work { step: self.step, ..work.clone() };
        let fetched = self.layers.fetch(&work).await;
        self.noting(&work, fetched)
    }

    /// Its files as a snapshot, brought and unpacked now if need be.
    pub async fn snapshot(&self, work: &Work) -> Result<Option<SnapshotId>, Error> {
        let work = Work { step: self.step, ..work.clone() };
        let made = self.snapshot.get_or_try_init(|| self.bring(&work)).await.copied();
        self.noting(&work, made)
    }

    async fn bring(&self, work: &Work) -> Result<Option<SnapshotId>, Error> {
        let top = self.layers.snapshot(work).await?;
        let mut record = self.record.clone();
        record.results = vec![results::text(top)];
        let made_of = store::MadeOf { snapshots: top.into_iter().collect(), blobs: Vec::new() };
        let (store, links) = (work.engine.store.clone(), self.links.clone());
        blocking("wrote a record", move || store.records().save(&record, &links, &made_of)).await?;
        Ok(top)
    }

    /// A failure of the cache's makes the result one that is lost; a cancelled build says nothing about it.
    fn noting<T>(&self, work: &Work, outcome: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &outcome
            && !work.cancel.is_cancelled()
        {
            let cause = cause(&self.import.backend, error);
            if let Some(key) = self.record.keys.first() {
                self.import.lose(*key, cause.clone());
            }
            *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
        }
        outcome
    }
}
