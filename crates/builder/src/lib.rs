//! The work of a build: it drives the solver, fetches sources, runs operations, writes outputs, through one session port.
//! It decides nothing about cache keys or causes (`solver` does) and knows no wire format of any client (`daemon` will).
//! Whatever blocks enters through [`blocking`].

pub mod attestations;
pub mod build;
pub mod caches;
pub mod containers;
pub mod csv;
pub mod driver;
pub mod engine;
pub mod event;
pub mod exporters;
pub mod frontends;
pub mod history;
pub mod images;
pub mod live;
pub mod ops;
pub mod policy;
pub mod session;
pub mod sources;

pub use engine::{Engine, Settings, Work};
pub use event::Events;
pub use live::Live;

/// Why a build, or one step of it, failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Session(#[from] session::Error),
    #[error(transparent)]
    Source(#[from] sources::Error),
    #[error(transparent)]
    Operation(#[from] ops::Error),
    #[error(transparent)]
    Export(#[from] exporters::Error),
    #[error(transparent)]
    Cache(#[from] caches::Error),
    /// A layer could not be brought here or unpacked.
    #[error("{digest}: {error}")]
    Blob { digest: oci::Digest, error: Box<Error> },
    #[error("{0}")]
    Dockerfile(Box<build::Faulty>),
    /// What lines of a client's file asked for can't be had.
    #[error("{error}")]
    Placed { place: Box<graph::Place>, error: Box<Error> },
    /// There is no such image, and a stage is called almost so.
    #[error("{error} (there is a stage `{stage}`: was that meant?)")]
    Near { stage: String, error: Box<Error> },
    #[error("{} steps had to run, and --fail-on-miss forbids it", .0.len())]
    Missed(build::Misses),
    /// A step of the graph failed.
    #[error("{name}: {error}")]
    Step {
        step: oci::Digest,
        name: String,
        error: String,
        /// Where clients' files ask for it, if they say so.
        places: Vec<graph::Place>,
        /// What it left for who wants to look.
        remains: Option<std::sync::Arc<driver::Remains>>,
    },
    #[error(transparent)]
    Policy(#[from] policy::Error),
    /// What was asked for can't be: the command line, the request or the file that says so is wrong.
    #[error("{0}")]
    Request(String),
    /// What was asked for is fine, and something went wrong on the way.
    #[error("{0}")]
    Failed(String),
    /// The Dockerfile is for a frontend in an image. Whoever hosts one (the daemon's bridge) builds it.
    #[error("the Dockerfile asks for the frontend {line}, an image, which is not run here")]
    Elsewhere { line: String },
    #[error("cancelled")]
    Cancelled,
    #[error("a worker thread of larder ended early while it did {what}: this is a defect of larder, please report it")]
    Thread { what: &'static str },
}

impl Error {
    /// Whether the request itself is wrong: asked again, it fails again, on any machine.
    pub fn is_request(&self) -> bool {
        match self {
            Error::Request(_) | Error::Dockerfile(_) => true,
            Error::Placed { error, .. } | Error::Near { error, .. } => error.is_request(),
            Error::Export(error) => error.is_request(),
            Error::Cache(error) => error.is_request(),
            _ => false,
        }
    }
}

/// The one door from async code to code that blocks: runs `work` on a thread where it may.
pub async fn blocking<T, E, F>(what: &'static str, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    E: Send + 'static,
    Error: From<E>,
    F: FnOnce() -> Result<T, E> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Error::from),
        Err(_) => Err(Error::Thread { what }),
    }
}
