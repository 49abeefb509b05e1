//! Builds that go on: found by their reference from every call that speaks of them, and for a while after their end.
//! A job holds what its client refers to by id; it decides nothing.

pub mod containers;
pub mod log;
pub mod refs;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use builder::build::Build;
use proto::bridge;
use tokio::sync::{Notify, oneshot};
use tonic::Status;

pub use containers::Containers;
pub use log::Log;
pub use refs::Refs;

/// How long `Status` waits for a build that is about to be asked for.
const STATUS_WAIT: Duration = Duration::from_secs(6);
/// How long the bridge does.
const BRIDGE_WAIT: Duration = Duration::from_secs(3);
/// How long a build that ended can still be found.
const LINGER: Duration = Duration::from_secs(10);
/// How long no build goes on before the daemon takes it that none comes.
const IDLE: Duration = Duration::from_millis(500);

/// What a client that drives its build itself ends it with.
pub type Returned = Result<bridge::Result, Status>;

/// One build.
pub struct Job {
    /// Its reference, given by the client.
    pub id: String,
    /// The session that it was asked for with.
    pub session: String,
    /// Everything that happened.
    pub log: Log,
    /// The build itself.
    pub build: Build,
    /// Results by the ids that the client knows.
    pub refs: Refs,
    /// Containers that the client started in it.
    pub containers: Containers,
    returned: Mutex<Option<oneshot::Sender<Returned>>>,
}

impl Job {
    /// Ends the client's part of the build. Only the first time counts.
    pub fn give_back(&self, returned: Returned) {
        let sender = self.returned.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sender) = sender {
            let _ = sender.send(returned); // a build that ended already asks no more
        }
    }
}

/// All builds of the daemon.
#[derive(Clone, Default)]
pub struct Jobs(Arc<Table>);

#[derive(Default)]
struct Table {
    jobs: Mutex<HashMap<String, Entry>>,
    /// How many builds there were since the start.
    count: AtomicU64,
    changed: Notify,
}

/// What is known of a build. One that ended is only its log: it must keep nothing of its client's or the store's.
struct Entry {
    log: Log,
    job: Option<Arc<Job>>,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job that runs: dropping it ends it, whatever became of it.
pub struct Running {
    /// The job.
    pub job: Arc<Job>,
    jobs: Jobs,
}

impl Jobs {
    /// Adds a build. The receiver gets what its client returns.
    pub fn begin(
        &self,
        id: &str,
        session: &str,
        log: Log,
        build: Build,
    ) -> Result<(Running, oneshot::Receiver<Returned>), Status> {
        let (send, receive) = oneshot::channel();
        let refs = Refs::new(id);
        let returned = Mutex::new(Some(send));
        let job = Arc::new(Job {
            id: id.to_owned(),
            session: session.to_owned(),
            log,
            build,
            refs,
            containers: Containers::default(),
            returned,
        });
        let mut jobs = self.0.lock();
        if jobs.contains_key(id) {
            return Err(Status::already_exists(format!("there is a build {id} already")));
        }
        jobs.insert(id.to_owned(), Entry { log: job.log.clone(), job: Some(job.clone()) });
        drop(jobs);
        self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0.changed.notify_waiters();
        Ok((Running { job, jobs: self.clone() }, receive))
    }

    /// The build of that reference; waits a while for one that is not there yet.
    pub async fn find(&self, id: &str) -> Result<Arc<Job>, Status> {
        let found = self.entry(id, BRIDGE_WAIT, |entry| entry.job.clone()).await?;
        found.ok_or_else(|| Status::not_found(format!("the build {id} has ended")))
    }

    /// The log of a build that goes on or has just ended; waits a while for one that is not there yet.
    pub async fn log(&self, id: &str) -> Result<Log, Status> {
        self.entry(id, STATUS_WAIT, |entry| entry.log.clone()).await
    }

    async fn entry<T>(&self, id: &str, wait: Duration, take: impl Fn(&Entry) -> T) -> Result<T, Status> {
        let waiting = async {
            loop {
                let changed = self.0.changed.notified();
                if let Some(entry) = self.0.lock().get(id) {
                    return take(entry);
                }
                changed.await;
            }
        };
        let found = tokio::time::timeout(wait, waiting).await;
        found.map_err(|_| Status::not_found(format!("no such job {id}")))
    }

    /// How many builds there were since the start.
    pub fn count(&self) -> u64 {
        self.0.count.load(Ordering::Relaxed)
    }

    /// When the oldest build that goes on began, milliseconds since 1970.
    pub fn going_since(&self) -> Option<u64> {
        self.active().iter().map(|job| job.build.started() / 1000).min()
    }

    /// Builds that go on now.
    pub fn active(&self) -> Vec<Arc<Job>> {
        self.0.lock().values().filter_map(|entry| entry.job.clone()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A build that nobody waits for any more ends here; one that finished has written its history already.
        let gone = self.job.build.finish(&Err(builder::Error::Cancelled));
        if let Err(error) = gone {
            let short = format!("the history of this build could not be written: {error}");
            let step = oci::Digest::of(self.job.id.as_bytes());
            let warning = builder::event::Warning { short, ..Default::default() };
            self.job.build.events().tell(builder::event::What::Warning { step, warning });
        }
        self.job.containers.clear();
        self.job.refs.clear();
        self.job.log.close();
        if let Some(entry) = self.jobs.0.lock().get_mut(&self.job.id) {
            entry.job = None;
        }
        let (jobs, id) = (self.jobs.clone(), self.job.id.clone());
        let forget = async move {
            let builds = jobs.count();
            tokio::time::sleep(IDLE).await;
            if jobs.count() == builds && jobs.active().is_empty() {
                tokio::task::spawn_blocking(crate::syscall::give_code_back);
            }
            tokio::time::sleep(LINGER - IDLE).await;
            jobs.0.lock().remove(&id);
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(forget);
            runtime.spawn_blocking(crate::syscall::give_heap_back);
        }
    }
}
