//! Opening a store: take the lock, read the metadata, put right what a killed process or a power loss left.
//! The store is one handle that clones cheaply; its parts (`blobs()`, `snapshots()`, …) borrow it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Doing, Error, Result};
use crate::format::{self, table};
use crate::layer;
use crate::lock::{self, Lock, Owner};
use crate::meta::{self, Batch, Meta, Recovered, SyncPoint};
use crate::{
    Blobs, History, Images, LayerBlobs, Leases, Records, Snapshots, Volumes, clock, leases, trash, uses, volumes,
};

/// A build that leaves more than this in the journals waits until it is folded: the next start reads 1 MB in 1 ms.
const BACKLOG: u64 = 8 << 20;

/// How to open a store.
#[derive(Default)]
pub struct Options<'a> {
    /// This process' command line, told to whoever waits for it.
    pub command: String,
    /// Called once for each owner that this process waits for.
    pub on_wait: Option<&'a mut dyn FnMut(&Owner)>,
    /// How long to wait for the owner; `None` waits until it ends, zero does not wait.
    pub give_up: Option<Duration>,
}

/// An open store. Clones are the same store; the lock is let go when the last one (and the last draft, writer and volume
/// of it) is dropped.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) meta: Meta,
    pub(crate) leases: leases::Table,
    pub(crate) uses: uses::Pending,
    pub(crate) volumes: volumes::Busy,
    pub(crate) packing: layer::Packing,
    pub(crate) members: layer::Members,
    pub(crate) opened: u64,
    recovered: Recovered,
    folding: Mutex<Folding>,
    // Last, so that it is let go last.
    _lock: Lock,
}

/// The checkpoint in the background.
#[derive(Default)]
struct Folding {
    running: Option<JoinHandle<Result<()>>>,
    /// What failed and nobody has heard of yet.
    failed: Option<Error>,
}

impl Folding {
    /// Waits for the one that runs. One that panicked has shown why already.
    fn join(&mut self) {
        if let Some(Ok(Err(error))) = self.running.take().map(JoinHandle::join) {
            self.failed = Some(error);
        }
    }
}

impl Store {
    /// Opens the store at `root`, making it when there is none.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process holds it for longer than `options.give_up`, [`Error::Version`] when another
    /// larder wrote it, [`Error::Damaged`] naming the file that cannot be read.
    pub fn open(root: &Path, options: Options<'_>) -> Result<Store> {
        std::fs::create_dir_all(root).doing("make", root)?;
        let mut ignore = |_: &Owner| {};
        let on_wait = options.on_wait.unwrap_or(&mut ignore);
        let lock = lock::take(root, &lock::this_process(&options.command), options.give_up, on_wait)?;
        check_format(root)?;
        let (meta, recovered) = Meta::open(root, &clock::boot()?)?;
        let store = Store(Arc::new(Inner {
            root: root.to_owned(),
            meta,
            leases: leases::Table::default(),
            uses: uses::Pending::default(),
            volumes: volumes::Busy::default(),
            packing: layer::Packing::default(),
            members: layer::Members::default(),
            opened: clock::now(),
            recovered,
            folding: Mutex::new(Folding::default()),
            _lock: lock,
        }));
        if recovered.dropped > 0 || recovered.new_boot {
            store.forget_missing()?;
        }
        take_ballast(root);
        trash::take_leftovers(root)?;
        trash::empty_in_background(root)?;
        Ok(store)
    }

    /// The folder of the store.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// What opening had to put right.
    pub fn recovered(&self) -> Recovered {
        self.0.recovered
    }

    /// Immutable bytes by digest.
    pub fn blobs(&self) -> Blobs<'_> {
        Blobs(self)
    }

    /// Directory trees, layer by layer.
    pub fn snapshots(&self) -> Snapshots<'_> {
        Snapshots(self)
    }

    /// Snapshots as layers of images: diff ids, chain ids and compressed forms.
    pub fn layer_blobs(&self) -> LayerBlobs<'_> {
        LayerBlobs(self)
    }

    /// Directories behind cache mounts.
    pub fn volumes(&self) -> Volumes<'_> {
        Volumes(self)
    }

    /// The cache: records, links, tombstones, file listings.
    pub fn records(&self) -> Records<'_> {
        Records(self)
    }

    /// Named images.
    pub fn images(&self) -> Images<'_> {
        Images(self)
    }

    /// Kept builds.
    pub fn history(&self) -> History<'_> {
        History(self)
    }

    /// What is needed just now.
    pub fn leases(&self) -> Leases<'_> {
        Leases(self)
    }

    /// A path in the store that nothing has. What is left there by a killed process goes at the next start.
    pub fn temporary(&self) -> PathBuf {
        self.0.root.join(format::TMP).join(clock::id_text(clock::id()))
    }

    /// Writes what is only in memory (times of use) and returns what failed in the background since the last call. For
    /// the end of a build: afterwards nothing is lost by `kill -9`. It does not wait for a disk, unless so much was
    /// written that leaving it would make the next start slow.
    pub fn flush(&self) -> Result<()> {
        uses::write(self)?;
        let mut folding = self.0.folding.lock().unwrap_or_else(PoisonError::into_inner);
        if folding.running.as_ref().is_some_and(JoinHandle::is_finished) || self.0.meta.backlog() > BACKLOG {
            folding.join();
        }
        folding.failed.take().map_or(Ok(()), Err)
    }

    /// Makes everything written so far safe from power loss. Slow (a syncfs): for the background, or for a process of its
    /// own through [`Store::sync_point`] and [`sync`].
    pub fn sync(&self) -> Result<()> {
        self.flush()?;
        meta::mark_synced(&self.0.root, self.0.meta.sync_point())
    }

    /// How far the writes reach now; [`sync`] with it makes them safe from power loss.
    pub fn sync_point(&self) -> SyncPoint {
        self.0.meta.sync_point()
    }

    /// Whether something was written that no sync has reached.
    pub fn unsynced(&self) -> Result<bool> {
        self.0.meta.unsynced()
    }

    /// Stages and writes rows together; folds the journal in the background when it has grown.
    pub(crate) fn write<T>(&self, edit: impl FnOnce(&mut Batch<'_>) -> Result<T>) -> Result<T> {
        let answer = self.0.meta.write(edit)?;
        if self.0.meta.wants_checkpoint() {
            let mut folding = self.0.folding.lock().unwrap_or_else(PoisonError::into_inner);
            // The earlier one has ended, or no other would be wanted.
            folding.join();
            let inner = Arc::clone(&self.0);
            let thread = std::thread::Builder::new().name("checkpoint".to_owned());
            match thread.spawn(move || inner.meta.checkpoint()).doing("start a thread for", &self.0.root) {
                Ok(running) => folding.running = Some(running),
                // The write itself is done: whoever flushes hears of this.
                Err(error) => folding.failed = Some(error),
            }
        }
        Ok(answer)
    }

    /// Does `work`; when the disk is too full for it, gives up the ballast and does it once more.
    pub(crate) fn with_ballast<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        match work() {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::StorageFull => {
                // Not there any more, or not removable: the second try says what is wrong.
                let _ = std::fs::remove_file(self.root().join(format::BALLAST));
                work()
            }
            other => other,
        }
    }

    /// After a power loss: removals may be among the rows that were lost, so rows whose files are gone are forgotten too.
    fn forget_missing(&self) -> Result<()> {
        let rows = self.0.meta.rows()?;
        let (mut blobs, mut snapshots, mut volumes) = (Vec::new(), Vec::new(), Vec::new());
        rows.scan(&table::BLOBS, &[], |digest, row| {
            let there = std::fs::metadata(format::blob(&self.0.root, &digest)).is_ok_and(|m| m.len() == row.size);
            blobs.extend((!there).then_some(digest));
            Ok(ControlFlow::Continue(()))
        })?;
        let mut whole = BTreeMap::new();
        rows.scan(&table::SNAPSHOTS, &[], |id, row| {
            if self.snapshots().dir(id).is_dir() {
                whole.insert(id, row);
            } else {
                snapshots.push((id, row));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        // A layer is of no use without what it is built on.
        loop {
            let stands = |row: &crate::snapshots::Row| row.parent.is_none_or(|parent| whole.contains_key(&parent));
            let fallen: Vec<_> = whole.iter().filter(|(_, row)| !stands(row)).map(|(id, _)| *id).collect();
            if fallen.is_empty() {
                break;
            }
            snapshots.extend(fallen.iter().filter_map(|id| Some((*id, whole.remove(id)?))));
        }
        rows.scan(&table::VOLUMES, &[], |id, _| {
            volumes.extend((!volumes::dir(&self.0.root, id).is_dir()).then_some(id));
            Ok(ControlFlow::Continue(()))
        })?;
        drop(rows);
        self.write(|batch| {
            blobs.iter().for_each(|digest| batch.delete(&table::BLOBS, digest));
            volumes.iter().for_each(|id| batch.delete(&table::VOLUMES, id));
            snapshots.iter().try_for_each(|(id, row)| {
                crate::snapshots::forget(batch, *id, row)?;
                crate::snapshots::forget_records(batch, *id, "its result, which a power loss took")
            })
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure; what is lost are times of use since the last `flush`.
        let _ = uses::write_inner(self);
    }
}

/// Makes everything before `point` of the store at `root` safe from power loss, without its lock: a process that ends can
/// leave this to a child.
pub fn sync(root: &Path, point: SyncPoint) -> Result<()> {
    meta::mark_synced(root, point)
}

/// Reserves the ballast if it is not there. Without room for it there is none: that harms only on a full disk.
fn take_ballast(root: &Path) {
    let path = root.join(format::BALLAST);
    if !path.exists()
        && let Ok(file) = std::fs::File::create(&path)
        && rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, format::BALLAST_SIZE).is_err()
    {
        let _ = std::fs::remove_file(&path);
    }
}

/// Refuses a store of another version, and makes the folders of a new one.
fn check_format(root: &Path) -> Result<()> {
    let path = root.join(format::FORMAT);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let found = text.strip_prefix(format::FORMAT_TEXT).map(str::trim);
            if found.and_then(|number| number.parse().ok()) == Some(format::STORE) {
                return Ok(());
            }
            let found = found.unwrap_or("unknown").to_owned();
            Err(Error::Version { path, found, expected: format::STORE })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            for folder in format::FOLDERS {
                let folder = root.join(folder);
                std::fs::create_dir_all(&folder).doing("make", &folder)?;
            }
            // Last, and by rename: a kill before it starts the making anew.
            let new = root.join(format!("{}.new", format::FORMAT));
            std::fs::write(&new, format!("{}{}\n", format::FORMAT_TEXT, format::STORE)).doing("write", &new)?;
            std::fs::rename(&new, &path).doing("write", &path)
        }
        Err(error) => Err(error).doing("read", &path),
    }
}
