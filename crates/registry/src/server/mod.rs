//! The distribution protocol, the server's side: `larder registry`. A folder of its own (see `format`), plain HTTP on
//! loopback or TLS; it verifies what it keeps, and needs nothing but itself.
//!
//! Why not on top of `store`: a store knows sha256 alone, syncs in the background and has one owner; a registry also keeps
//! sha512, answers only when what it keeps is on disk, and may keep it in a bucket. On one file system both have the same
//! bytes all the same: a blob of the store becomes a blob here by a second name for its file ([`Neighbour`]).

mod answer;
mod arriving;
mod bucket;
mod collect;
mod contents;
mod digest;
mod discover;
mod disk;
mod document;
mod expire;
mod format;
mod guard;
mod join;
mod listen;
mod manage;
mod mirror;
mod name;
mod pull;
mod push;
mod refusal;
mod retention;
mod route;
mod scrub;
mod service;
mod sign;
mod storage;
mod tls;
mod tokens;
mod uploads;
mod users;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bucket::InBucket;
pub use bucket::Place;
pub use collect::Collected;
use contents::Contents;
pub use digest::{Algorithm, ContentDigest};
use disk::Disk;
pub use disk::OpenError;
pub use expire::Expired;
use guard::Guard;
pub use mirror::Mirrors;
pub use retention::{Reason, Retention};
pub use scrub::Scrubbed;
use storage::Storage;
pub use tls::{Tls, TlsError};
use uploads::Uploads;
pub use users::{Action, Rule, Users, UsersError};

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
    /// Other registries that are read through this one.
    pub mirrors: Option<Mirrors>,
    /// Which tags stay; without rules all do.
    pub retention: Vec<Retention>,
    /// Who is let in; `None` lets anybody do everything.
    pub users: Option<Users>,
    /// What connections are secured with.
    pub tls: Option<Tls>,
    /// Where clients reach the registry, as they are told to ask there for tokens; by default what they call it.
    pub url: Option<String>,
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
            mirrors: None,
            retention: Vec::new(),
            users: None,
            tls: None,
            url: None,
            neighbour: None,
            tell: Box::new(|_| {}),
        }
    }
}

/// An open registry.
pub struct Registry {
    /// The folder's lock, whatever is kept there.
    _disk: Arc<Disk>,
    contents: Contents,
    uploads: Uploads,
    mirrors: Option<Mirrors>,
    memory: mirror::Memory,
    retention: Vec<Retention>,
    /// When pulls of tags were written down, by key.
    pulls: Mutex<HashMap<String, Instant>>,
    guard: Option<Guard>,
    tls: Option<Tls>,
    neighbour: Option<Neighbour>,
    tell: Box<dyn Fn(Event) + Send + Sync>,
}

impl Registry {
    /// Opens the folder, making it when there is none.
    pub fn open(options: Options) -> Result<Arc<Registry>, OpenError> {
        let disk = Arc::new(Disk::open(&options.root, &options.command)?);
        Registry::of(options, disk.clone(), Storage::Disk(disk))
    }

    /// Opens a part of a bucket, waiting until it is clear that no other server uses it. The folder keeps only uploads that
    /// go on and the key that signs tokens.
    pub async fn open_in(options: Options, place: Place) -> Result<Arc<Registry>, OpenError> {
        let disk = Arc::new(Disk::open(&options.root, &options.command)?);
        let storage = Storage::Bucket(Arc::new(InBucket::open(place, &options.command).await?));
        Registry::of(options, disk, storage)
    }

    fn of(options: Options, disk: Arc<Disk>, storage: Storage) -> Result<Arc<Registry>, OpenError> {
        let Options { root, command: _, grace, mirrors, retention, users, tls, url, neighbour, tell } = options;
        let key = || token_key(&disk).map_err(|source| OpenError::Io { root: root.clone(), source });
        let guard = users.map(|users| Ok(Guard::new(users, &key()?, url, tls.is_some()))).transpose()?;
        let uploads = Uploads::new(disk.root());
        let contents = Contents::new(storage, grace);
        Ok(Arc::new(Registry {
            _disk: disk,
            contents,
            uploads,
            mirrors,
            memory: mirror::Memory::default(),
            retention,
            pulls: Mutex::default(),
            guard,
            tls,
            neighbour,
            tell,
        }))
    }

    /// Reads everything in a folder again and says what a disk has changed or lost; also while a registry serves it.
    pub async fn scrub(root: &Path) -> Result<Scrubbed, OpenError> {
        let storage = Storage::Disk(Arc::new(Disk::open_to_read(root)?));
        let scrubbed = scrub::scrub(&Contents::new(storage, Duration::MAX)).await;
        scrubbed.map_err(|source| OpenError::Io { root: root.to_owned(), source })
    }

    /// The same of a part of a bucket.
    pub async fn scrub_in(place: Place) -> Result<Scrubbed, OpenError> {
        let root = place.root();
        let storage = Storage::Bucket(Arc::new(InBucket::to_read(place).await?));
        let scrubbed = scrub::scrub(&Contents::new(storage, Duration::MAX)).await;
        scrubbed.map_err(|source| OpenError::Io { root, source })
    }

    /// Ends: the place where everything is kept may be another server's at once. What is asked for afterwards fails.
    pub async fn close(&self) {
        self.contents.storage.close().await;
    }

    /// Applies the rules for tags. `dry` says what would go, and removes nothing.
    pub async fn expire(&self, dry: bool) -> io::Result<Expired> {
        expire::expire(self, dry).await
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
            if let Err(error) = self.expire(false).await {
                self.tell(Event::Failed { what: "applying the rules for tags".to_owned(), why: error.to_string() });
            }
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

/// The key that signs tokens: made once, so that tokens outlive a restart.
fn token_key(disk: &Disk) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(key) = disk.read(format::TOKEN_KEY)?.filter(|key| key.len() == 32) {
        return Ok(key);
    }
    let key: [u8; 32] = random()?;
    disk.write(format::TOKEN_KEY, &key)?;
    std::fs::set_permissions(disk.path(format::TOKEN_KEY), std::fs::Permissions::from_mode(0o600))?;
    Ok(key.to_vec())
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
