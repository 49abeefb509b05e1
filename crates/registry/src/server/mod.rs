//! The distribution protocol, the server's side: `larder registry`. A folder of its own (see `format`), plain HTTP on
//! loopback or TLS; it verifies what it keeps, and needs nothing but itself.
//!
//! Why not on top of `store`: a store knows sha256 alone, syncs in the background and has one owner; a registry also keeps
//! sha512, answers only when what it keeps is on disk, and may keep it in a bucket. On one file system both have the same
//! bytes all the same: a blob of the store becomes a blob here by a second name for its file ([`Neighbour`]).

mod answer;
mod collect;
mod contents;
mod digest;
mod discover;
mod disk;
mod document;
mod format;
mod join;
mod listen;
mod manage;
mod name;
mod pull;
mod push;
mod refusal;
mod route;
mod service;
mod storage;
mod uploads;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use collect::Collected;
use contents::Contents;
pub use digest::{Algorithm, ContentDigest};
use disk::Disk;
pub use disk::OpenError;
use storage::Storage;
use uploads::Uploads;

/// Mean time between two looks of the background.
const TEND: Duration = Duration::from_secs(3600);

/// What a registry tells whoever runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request could not be done, and not by the client's fault.
    Failed {
        /// The request.
        what: String,
        /// What went wrong.
        why: String,
    },
}

/// Finds the file of a blob that lies beside the registry, on the same file system: it never changes, and whoever may
/// push may have it.
pub type Neighbour = Box<dyn Fn(&oci::Digest) -> Option<PathBuf> + Send + Sync>;

/// How to run a registry.
pub struct Options {
    /// Its folder.
    pub root: PathBuf,
    /// This process' command line, told to whoever finds the folder in use.
    pub command: String,
    /// For how long what nothing refers to is left alone.
    pub grace: Duration,
    /// Where a blob is taken from that is to be mounted from no repository in particular.
    pub neighbour: Option<Neighbour>,
    /// Hears of events.
    pub tell: Box<dyn Fn(Event) + Send + Sync>,
}

impl Options {
    /// A registry in this folder, with everything else as usual.
    pub fn new(root: &Path) -> Options {
        Options {
            root: root.to_owned(),
            command: String::new(),
            grace: Duration::from_secs(24 * 3600),
            neighbour: None,
            tell: Box::new(|_| {}),
        }
    }
}

/// An open registry.
pub struct Registry {
    contents: Contents,
    uploads: Uploads,
    neighbour: Option<Neighbour>,
    tell: Box<dyn Fn(Event) + Send + Sync>,
}

impl Registry {
    /// Opens the folder, making it when there is none.
    pub fn open(options: Options) -> Result<Arc<Registry>, OpenError> {
        let disk = Disk::open(&options.root, &options.command)?;
        let uploads = Uploads::new(disk.root());
        let contents = Contents::new(Storage::on_disk(disk), options.grace);
        Ok(Arc::new(Registry { contents, uploads, neighbour: options.neighbour, tell: options.tell }))
    }

    /// Removes what nothing refers to. `dry` says what would go, and removes nothing.
    pub async fn collect(&self, dry: bool) -> io::Result<Collected> {
        collect::collect(self, dry).await
    }

    /// Looks after the registry in the background for as long as it is polled.
    pub async fn tend(self: Arc<Registry>) {
        loop {
            // So that many registries do not move together.
            let jitter = random().map_or(0, u64::from_le_bytes) % TEND.as_millis() as u64;
            tokio::time::sleep(TEND / 2 + Duration::from_millis(jitter)).await;
            if let Err(error) = self.collect(false).await {
                self.tell(Event::Failed {
                    what: "collecting what nothing refers to".to_owned(),
                    why: error.to_string(),
                });
            }
        }
    }

    fn tell(&self, event: Event) {
        (self.tell)(event);
    }
}

/// Milliseconds since 1970.
fn millis(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn now() -> u64 {
    millis(SystemTime::now())
}

/// Bytes that nobody can guess.
fn random<const N: usize>() -> io::Result<[u8; N]> {
    use ring::rand::SecureRandom;
    let mut bytes = [0; N];
    let filled = ring::rand::SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| io::Error::other("the system gives no random bytes"))?;
    Ok(bytes)
}
