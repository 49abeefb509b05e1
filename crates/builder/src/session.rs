//! The client's side of a build, behind one port: directories, secrets, SSH agents, credentials, outputs.
//! In the same process it is answered from this machine; over gRPC it is BuildKit's session protocol. What lies behind
//! never shows inside: the builder only ever sees this trait.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use oci::Digest;

/// Names of volumes that hold mirrors of clients' directories begin so: no step may mount one.
pub const MIRRORS: &str = "local:";

/// What went wrong on the client's side.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("the client offers no directory `{name}`: pass it as the context or with --build-context {name}=PATH")]
    NoDirectory { name: String },
    #[error("can't read {path} on the client's side: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("can't write {path} on the client's side: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error(
        "unset ssh forward key {id}: no SSH key or agent of the client's has that id: start an agent, or pass --ssh {id}=PATH"
    )]
    NoSshAgent { id: String },
    #[error(
        "the client offers no content under `{store}`: an OCI layout is passed with --build-context NAME=oci-layout://PATH, a folder for a cache with dest=PATH or src=PATH"
    )]
    NoContent { store: String },
    #[error("the client's content `{store}` has no blob {digest}")]
    NoBlob { store: String, digest: Digest },
    #[error("the client offers no output number {output}")]
    NoOutput { output: usize },
    #[error("the client's session ended while {what} was asked of it")]
    Gone { what: String },
    #[error("{0}")]
    Other(String),
}

/// A directory of the client's, present on this machine.
#[derive(Clone)]
pub struct Directory {
    /// Where it is. May be the user's own directory: only ever read.
    pub root: PathBuf,
    /// Names the directory between builds, so that its stat index is found again.
    pub identity: String,
    /// Set for a mirror of ours: its files are only ever replaced, never changed in place, and lie beside the store, so
    /// that they may be linked. These were hashed as they came.
    pub mirror: Option<store::tree::Known>,
    /// Bytes that were brought from the client for it just now.
    pub transferred: u64,
    /// Keeps the directory as it is until this is dropped. A user's own directory has none.
    pub guard: Option<Arc<dyn Send + Sync>>,
}

/// Which part of a directory is wanted (LLB's `local.*` attributes).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Only these patterns, when there are any.
    pub include: Vec<String>,
    /// Never these patterns; `!` takes back.
    pub exclude: Vec<String>,
    /// Only these paths, with what their symbolic links lead to, when there are any.
    pub follow: Vec<String>,
    /// What the part is for: parts of one directory that are for different things are kept apart between builds.
    pub hint: String,
}

/// User name and secret for a registry; both empty is anonymous. An empty user with a secret is an identity token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub user: String,
    /// Password or token.
    pub secret: String,
}

/// Where an exporter writes.
pub enum Sink {
    /// One stream of bytes (a tar). Closing it is [`Output::finish`].
    Stream(Box<dyn Output>),
    /// A directory on this machine that is the client's, or will be sent to it.
    Directory(Box<dyn Folder>),
    /// Blobs, one by one: the client names what they belong to from the build's response.
    Content(Arc<dyn Content>),
}

/// Blobs by digest on the client's side: an OCI layout, the folder of a cache, the place of an output
/// (`containerd.services.content.v1` over a session). Who reads verifies; who writes says the true digest.
pub trait Content: Send + Sync {
    /// Length of a blob in bytes; `None` when the client does not have it.
    fn size<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Option<u64>, Error>>;

    /// All bytes of a blob into `out`. [`Error::NoBlob`] when the client does not have it.
    fn read<'a>(&'a self, digest: &'a Digest, out: &'a mut (dyn Write + Send)) -> BoxFuture<'a, Result<(), Error>>;

    /// Gives the client a blob: `size` bytes from `from`, which is read on a thread that may block. One that the client
    /// has already is no error, and is not sent.
    fn write<'a>(
        &'a self,
        digest: &'a Digest,
        size: u64,
        from: Box<dyn Read + Send>,
    ) -> BoxFuture<'a, Result<(), Error>>;
}

/// A directory that knows when all was written.
pub trait Folder: Send {
    /// Where to write.
    fn path(&self) -> &Path;
    /// Whose the files become.
    fn owners(&self) -> store::layer::Owners;
    /// Everything is written: bring it to the client.
    fn finish(self: Box<Self>) -> std::io::Result<()>;
}

/// A stream that knows when all was written.
pub trait Output: Write + Send {
    /// Everything is written: make it appear under its name.
    fn finish(self: Box<Self>) -> std::io::Result<()>;
}

/// A file on the client's machine that takes bytes in any order: what stands first may be known last.
pub trait Draft: Output {
    /// Writes `bytes` over as many at `at` that were written before.
    fn amend(&mut self, at: u64, bytes: &[u8]) -> std::io::Result<()>;
    /// Takes back everything from `at` on.
    fn cut(&mut self, at: u64) -> std::io::Result<()>;
}

/// A forwarded SSH agent: a socket on this machine, gone when this is dropped.
pub struct SshSocket {
    /// The listening socket.
    pub path: PathBuf,
    /// Keeps whatever serves the socket alive.
    pub guard: Box<dyn Send + Sync>,
}

/// What a client gives to a build. Every method may be called at any time and from any task.
pub trait Session: Send + Sync {
    /// Names the client's project between builds: builds of one project are compared with each other.
    fn project(&self) -> String;

    /// The directory that the client offers under `name` (`context`, `dockerfile`, a named context), up to date.
    fn directory<'a>(&'a self, name: &'a str, wanted: &'a Filter) -> BoxFuture<'a, Result<Directory, Error>>;

    /// A secret; `None` when the client has none of that id.
    fn secret<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>, Error>>;

    /// A socket that reaches the client's SSH agent of that id.
    fn ssh<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<SshSocket, Error>>;

    /// Credentials for a registry host; `None` is anonymous.
    fn credentials<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Option<Credentials>, Error>>;

    /// The place for output number `output` (its position in the request), after the exporter knows its `response`.
    fn output<'a>(
        &'a self,
        output: usize,
        response: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<Sink, Error>>;

    /// The place for output number `output` before anything is known of it, where that is a file on this machine.
    /// [`Session::output`] is not asked then.
    fn draft(&self, _output: usize) -> Result<Option<Box<dyn Draft>>, Error> {
        Ok(None)
    }

    /// Bytes that the client uploads under `path` (`http://buildkit-session/PATH` contexts), written into `out`.
    fn upload<'a>(&'a self, path: &'a str, out: &'a mut (dyn Write + Send)) -> BoxFuture<'a, Result<(), Error>>;

    /// Blobs that the client keeps under `store`, BuildKit's name for it: `oci:KEY` is the layout of an `oci-layout://KEY`
    /// context, `local:FOLDER` the folder of a cache, `export` the place of an output. `session` is the id of the session
    /// that holds it; empty, or one that is gone, is the build's own.
    fn content<'a>(&'a self, session: &'a str, store: &'a str) -> BoxFuture<'a, Result<Arc<dyn Content>, Error>>;
}

/// A session shared by everything that works for one build.
pub type Shared = Arc<dyn Session>;
