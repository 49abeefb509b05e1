//! A frontend in an image: its process, with standard input and output for whoever talks with it.
//! What is said over them, and what a frontend may ask, is not known here.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use graph::wire::{self, op};
use graph::{Edge, GraphBuilder};
use oci::{Digest, ImageConfig, Platform, Reference};
use rustix::pipe::{PipeFlags, pipe_with};
use sandbox::{Cancel, Network, Root, Spec, Stdio};
use store::canvas::Canvas;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::build::Build;
use crate::event::{Stream, Task, What};
use crate::{Error, blocking, ops};

/// Program of an image without an entry point (BuildKit's).
const PROGRAM: &str = "/run";
/// Label of an image whose frontend needs no network.
const NO_NETWORK: &str = "moby.buildkit.frontend.network.none";
/// Label that lists what a frontend can do.
const CAPS: &str = "moby.buildkit.frontend.caps";

/// A frontend's image, resolved.
pub struct Image {
    reference: Reference,
    config: ImageConfig,
}

/// Our ends of a frontend's input and output.
pub struct Ends {
    /// What it reads.
    pub input: pipe::Sender,
    /// What it writes.
    pub output: pipe::Receiver,
}

/// A frontend that runs. It is ended when this is dropped.
pub struct Process {
    ended: tokio::task::JoinHandle<Result<sandbox::Exit, Error>>,
    cancel: Cancel,
    task: Option<Task>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Process {
    /// Waits for its end. A frontend that fails is an error.
    pub async fn end(&mut self) -> Result<(), Error> {
        let ended = (&mut self.ended).await.map_err(|_| Error::Thread { what: "a frontend" })?;
        let ended = ended.and_then(|exit| match exit.status.code() {
            0 => Ok(()),
            code => Err(Error::Failed(format!("the frontend ended with exit code {code}"))),
        });
        match self.task.take() {
            Some(task) => task.finish(ended),
            None => ended,
        }
    }
}

impl Image {
    /// Finds the image of a frontend.
    pub async fn find(build: &Build, name: &str) -> Result<Image, Error> {
        let reference = Reference::parse(name).map_err(|e| Error::Request(e.to_string()))?.or_latest();
        let (reference, found) = build.image(&reference, &Platform::host(), "default", &[]).await?;
        let reference = Reference { digest: Some(found.digest), ..reference };
        Ok(Image { reference, config: found.config })
    }

    fn label(&self, name: &str) -> &str {
        let labels = self.config.config.labels.as_ref();
        labels.and_then(|l| l.get(name)).map(String::as_str).unwrap_or_default()
    }

    /// The first of `wanted` that its label does not list (`a,b+forward`).
    pub fn lacks<'a>(&self, wanted: impl Iterator<Item = &'a str>) -> Option<String> {
        let name = |cap: &str| cap.split('+').next().unwrap_or_default().to_owned();
        let known: Vec<String> = self.label(CAPS).split(',').map(name).collect();
        wanted.map(name).find(|cap| !cap.is_empty() && !known.contains(cap))
    }

    /// Starts the frontend with more variables than its image has.
    pub async fn start(&self, build: &Build, env: Vec<String>) -> Result<(Process, Ends), Error> {
        let shown = format!("frontend {}", self.reference.familiar());
        let task = build.events().begin(&format!("{} {shown}", build.request().id), &shown);
        let work = build.work(task.step)?;
        let held = build.evaluate(&Arc::new(self.graph()?)).await?;
        let tree = held.live.snapshot(&work).await?;
        let config = self.config.config.clone();
        let (stdio, input, output, errors) = pipes().map_err(failed)?;
        let step = task.step;
        let events = build.events().clone();
        tokio::spawn(async move {
            let mut errors = errors;
            let mut buffer = vec![0; 16 << 10];
            while let Ok(count @ 1..) = errors.read(&mut buffer).await {
                events.tell(What::Log { step, stream: Stream::Err, bytes: buffer[..count].to_vec() });
            }
        });
        let quiet = matches!(self.label(NO_NETWORK), "1" | "t" | "T" | "true" | "TRUE" | "True");
        let (engine, cancel) = (work.engine.clone(), work.cancel.clone());
        let ended = tokio::spawn(blocking("ran a frontend", move || {
            let _held = held;
            let mut draft = engine.store.snapshots().begin(tree).map_err(ops::Error::from)?;
            Canvas::new(&draft).map_err(ops::Error::from)?.finish().map_err(ops::Error::from)?;
            let work_folder = draft.work().map_err(ops::Error::from)?;
            let root = Root::writable(draft.lower().to_vec(), draft.upper(), &work_folder);
            let args = config.entrypoint.filter(|e| !e.is_empty()).unwrap_or_else(|| vec![PROGRAM.to_owned()]);
            let mut spec = Spec::new(root, args);
            spec.env = config.env.into_iter().chain(env).collect();
            ops::exec::add_path(&mut spec.env);
            if !config.working_dir.is_empty() {
                spec.cwd = PathBuf::from(config.working_dir);
            }
            spec.network = if quiet { Network::None } else { Network::Default };
            engine.sandbox.run_connected(&spec, stdio, &work.cancel, drop).map_err(ops::Error::from)
        }));
        Ok((Process { ended, cancel, task: Some(task) }, Ends { input, output }))
    }

    /// The image as a source.
    fn graph(&self) -> Result<graph::Graph, Error> {
        let invalid = |e: graph::Error| Error::Failed(e.to_string());
        let identifier = format!("docker-image://{}", self.reference);
        let attrs = BTreeMap::from([("image.recordtype".to_owned(), "frontend".to_owned())]);
        let op = wire::Op {
            op: Some(op::Op::Source(wire::SourceOp { identifier, attrs })),
            constraints: Some(wire::WorkerConstraints::default()),
            ..wire::Op::default()
        };
        let mut builder = GraphBuilder::default();
        let vertex: Digest = builder.add(op, wire::OpMetadata::default()).map_err(invalid)?;
        Ok(builder.finish(Some(Edge { vertex, output: 0 }), None))
    }
}

fn failed(source: std::io::Error) -> Error {
    Error::Failed(format!("can't make pipes for a frontend: {source}"))
}

/// The process' ends, and ours of its input, output and errors.
fn pipes() -> std::io::Result<(Stdio, pipe::Sender, pipe::Receiver, pipe::Receiver)> {
    let pipe = || -> std::io::Result<(OwnedFd, OwnedFd)> { Ok(pipe_with(PipeFlags::CLOEXEC)?) };
    let ((input, into), (output, out), (errors, err)) = (pipe()?, pipe()?, pipe()?);
    let stdio = Stdio { fds: [input, out, err], terminal: false };
    let (input, output) = (pipe::Sender::from_owned_fd(into)?, pipe::Receiver::from_owned_fd(output)?);
    Ok((stdio, input, output, pipe::Receiver::from_owned_fd(errors)?))
}
