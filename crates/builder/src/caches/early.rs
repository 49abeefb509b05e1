//! Layers that go to a cache ahead of it: while the build still runs each is packed and sent as soon as its step has ended
//! (only for `mode=max`, where every step's layer is wanted for certain), and when the cache is written each is sent while the
//! next is packed. What fails here is tried again with the rest of the cache, and told there.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use oci::{Descriptor, Digest};
use store::{Resource, SnapshotId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Request;
use super::export::{Options, UPLOADS};
use super::place::Place;
use crate::exporters::assemble;
use crate::{Work, blocking};

/// Tells of results that were made; `None` is the end. Cheap to clone.
#[derive(Clone)]
pub struct Early(mpsc::UnboundedSender<Option<SnapshotId>>);

impl Early {
    /// A step of the build has made this.
    pub fn made(&self, snapshot: SnapshotId) {
        // Nobody listens any more once the cache is being written.
        let _ = self.0.send(Some(snapshot));
    }
}

/// One cache's layers on their way. Dropped, what is on its way is given up.
pub struct Sending {
    early: Early,
    task: JoinHandle<BTreeSet<Digest>>,
}

impl Sending {
    /// Begins, if the cache wants the layers of all steps.
    pub fn begin(work: Work, request: &Request) -> Option<Sending> {
        let options = Options::read(request).ok().filter(|options| !options.min && request.kind != "inline")?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let task = tokio::spawn(send(work, request.clone(), options, receiver));
        Some(Sending { early: Early(sender), task })
    }

    /// Where results are told.
    pub fn early(&self) -> Early {
        self.early.clone()
    }

    /// Waits for what is on its way; gives the blobs that are there for certain.
    pub async fn end(mut self) -> BTreeSet<Digest> {
        let _ = self.early.0.send(None);
        // One that died tells nothing: all of it is asked for, and sent where it is not there.
        (&mut self.task).await.unwrap_or_default()
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Packs and sends what is made until the end is told. Gives what is there then.
async fn send(
    work: Work,
    request: Request,
    options: Options,
    made: mpsc::UnboundedReceiver<Option<SnapshotId>>,
) -> BTreeSet<Digest> {
    let Ok(place) = Place::to_write(&work, &request).await else { return BTreeSet::new() };
    let made = stream::unfold(made, |mut made| async move { Some((made.recv().await??, made)) });
    ahead(work, place, options, made).await
}

/// Packs one layer after the other, and sends each while the next is packed. Gives what is there then.
pub async fn ahead(
    work: Work,
    place: Place,
    options: Options,
    layers: impl Stream<Item = SnapshotId>,
) -> BTreeSet<Digest> {
    let at_once = place.uploads(UPLOADS);
    let target = Arc::new(Target { work, place, options });
    // Packing one layer keeps all cores busy.
    let packed = layers.then(|id| target.clone().pack(id));
    let sent = packed.filter_map(async |packed| packed.ok()).map(|blob| target.clone().send(blob));
    // A place that does not take one layer is not asked for each of the others as well.
    let sent = sent.buffer_unordered(at_once).take_while(|sent| std::future::ready(sent.is_ok()));
    sent.filter_map(async |sent| sent.ok()).collect().await
}

/// A cache that layers are sent to.
struct Target {
    work: Work,
    place: Place,
    options: Options,
}

impl Target {
    async fn pack(self: Arc<Target>, id: SnapshotId) -> Result<Descriptor, crate::Error> {
        let packed = blocking("packed a layer", move || {
            let store = &self.work.engine.store;
            let _held = store.leases().hold(Resource::Snapshot(id))?;
            assemble::layer_blob(store, id, &self.options.recipe, self.options.force)
        });
        Ok(packed.await?.0)
    }

    async fn send(self: Arc<Target>, blob: Descriptor) -> Result<Digest, crate::Error> {
        if !self.place.lacks(&self.work, BTreeSet::from([blob.digest])).await?.is_empty() {
            self.place.put(&self.work, &blob, &[], std::future::ready(Ok(()))).await?;
        }
        Ok(blob.digest)
    }
}
