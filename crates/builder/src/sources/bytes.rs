//! Where the bytes of images come from: this store, content of the client's, a registry. Everything that comes in
//! is verified against its digest and kept as a blob.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::future::BoxFuture;
use oci::{Descriptor, Digest, Reference};
use registry::Login;

use crate::caches::shelf::Shelf;
use crate::event::What;
use crate::session::{self, Content};
use crate::{Error, Work, sources};

/// An origin of an image's bytes. Whatever it is, what lies in the store is taken from there.
#[derive(Clone)]
pub enum Origin {
    /// Everything must be in the store.
    Store,
    /// Blobs on the client's side.
    Content(Arc<dyn Content>),
    /// The repository of a reference.
    Registry(Reference),
    /// The shelf of a cache.
    Shelf(Arc<dyn Shelf>),
}

/// Blobs that are on their way: who wants one that somebody brings already waits for it, so that it is asked for once.
#[derive(Default)]
pub struct Flights(Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

impl Flights {
    async fn enter(&self, digest: &Digest) -> tokio::sync::OwnedMutexGuard<()> {
        let flight = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let known = flights.get(digest).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                flights.retain(|_, flight| flight.strong_count() > 0);
                let flight = Arc::new(tokio::sync::Mutex::new(()));
                flights.insert(*digest, Arc::downgrade(&flight));
                flight
            })
        };
        flight.lock_owned().await
    }
}

/// The client's credentials, as a registry asks for them.
pub struct ClientLogin(pub session::Shared);

impl Login for ClientLogin {
    fn credentials<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<(String, String)>, String>> {
        Box::pin(async move {
            let found = self.0.credentials(host).await.map_err(|e| e.to_string())?;
            Ok(found.map(|c| (c.user, c.secret)))
        })
    }
}

impl Origin {
    /// What a reference names at a registry now; its manifest is kept.
    pub async fn resolve(&self, work: &Work, reference: &Reference) -> Result<Digest, Error> {
        let login = ClientLogin(work.session.clone());
        let (bytes, _) = work.engine.registry.manifest(reference, &login).await.map_err(sources::Error::from)?;
        Ok(work.engine.store.blobs().put(&bytes)?.digest)
    }

    /// A manifest or index.
    pub async fn manifest(&self, work: &Work, digest: &Digest) -> Result<Vec<u8>, Error> {
        if work.engine.store.blobs().has(digest)? {
            return Ok(work.engine.store.blobs().read(digest)?);
        }
        match self {
            Origin::Registry(reference) => {
                let reference = Reference { digest: Some(*digest), ..reference.clone() };
                self.resolve(work, &reference).await?;
            }
            _ => self.fetch(work, &Descriptor::new("", *digest, 0)).await?,
        }
        Ok(work.engine.store.blobs().read(digest)?)
    }

    /// A small blob.
    pub async fn bytes(&self, work: &Work, what: &Descriptor) -> Result<Vec<u8>, Error> {
        self.fetch(work, what).await?;
        Ok(work.engine.store.blobs().read(&what.digest)?)
    }

    /// Brings a blob into the store, unless it is there.
    pub async fn fetch(&self, work: &Work, what: &Descriptor) -> Result<(), Error> {
        let store = work.engine.store.clone();
        if store.blobs().has(&what.digest)? {
            return Ok(());
        }
        let _one = work.engine.flights.enter(&what.digest).await;
        if store.blobs().has(&what.digest)? {
            return Ok(());
        }
        match self {
            Origin::Store => Err(store::Error::BlobMissing { digest: what.digest }.into()),
            Origin::Content(content) => {
                let mut writer = store.blobs().writer()?;
                content.read(&what.digest, &mut writer).await?;
                Ok(writer.commit(Some(what.digest)).map(drop)?)
            }
            Origin::Registry(_) | Origin::Shelf(_) => self.download(work, what).await,
        }
    }

    async fn download(&self, work: &Work, what: &Descriptor) -> Result<(), Error> {
        let login = ClientLogin(work.session.clone());
        let mut writer = work.engine.store.blobs().writer()?;
        let tell = |current: u64, done: bool| {
            let (part, total) = (what.digest.to_string(), what.size);
            work.events.tell(What::Progress { step: work.step, part, current, total, done });
        };
        tell(0, false);
        let mut progress = |current| tell(current, false);
        let got = match self {
            Origin::Registry(from) => work.engine.registry.blob(from, what, &login, &mut writer, &mut progress).await,
            Origin::Shelf(shelf) => shelf.read(what, &mut writer, &mut progress).await,
            Origin::Store | Origin::Content(_) => return Ok(()),
        };
        got.map_err(sources::Error::from)?;
        let size = writer.size();
        writer.commit(Some(what.digest))?;
        tell(size, true);
        Ok(())
    }
}
