//! Containers that a client starts to look around: a result's tree, or what a failed step left, with the mounts that a
//! step can have, and processes in it. The first process is the container: when it ends, the others do.
//! What is changed in one is never anybody's result, and goes with it.

mod process;
pub mod stdio;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use graph::wire;
use sandbox::{Cancel, Inside};
use store::view::View;
use tokio::sync::{Mutex, RwLock};

use crate::build::Build;
use crate::driver::Held;
use crate::{Engine, Error, blocking, ops, session};

pub use process::{Process, Start};

/// What a container is made of.
#[derive(Default)]
pub struct Request {
    /// Mounts as a step has them; `input` is a position in `trees`.
    pub mounts: Vec<wire::Mount>,
    /// Trees.
    pub trees: Vec<Held>,
    /// Which network it sees.
    pub network: i32,
    /// Host name; empty for the one that steps have.
    pub hostname: String,
    /// More lines of `/etc/hosts`.
    pub hosts: Vec<wire::HostIp>,
    /// The platform that it is for, when that is another system's.
    pub windows: bool,
}

/// See the module. Dropping it ends everything in it.
pub struct Container {
    engine: Arc<Engine>,
    session: session::Shared,
    entitlements: Vec<String>,
    request: Request,
    ready: Arc<ops::exec::Prepared>,
    cancel: Cancel,
    begun: AtomicBool,
    /// The first process, once there was one.
    first: Mutex<Option<Inside>>,
    /// Read by whatever runs in it.
    running: Arc<RwLock<()>>,
}

impl Drop for Container {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Container {
    /// Makes a container ready. Nothing runs in it yet.
    pub async fn new(build: &Build, id: &str, request: Request) -> Result<Container, Error> {
        let work = build.work(oci::Digest::of(id.as_bytes()))?;
        let mut trees = Vec::new();
        for tree in &request.trees {
            trees.push(tree.live.snapshot(&work).await?);
        }
        let given = ops::exec::Given::ask(&work.session, &request.mounts, &[]).await?;
        let op = operation(&request);
        let (engine, cancel, name) = (work.engine.clone(), work.cancel.clone(), format!("container {id}"));
        let ready = blocking("made a container ready", move || {
            let exec = ops::exec::Exec {
                store: &engine.store,
                sandbox: &engine.sandbox,
                op: &op,
                resources: None,
                dns: &engine.settings.dns,
                inputs: &trees,
                given: &given,
                name: &name,
                cancel: &cancel,
            };
            exec.prepare()
        });
        Ok(Container {
            ready: Arc::new(ready.await?),
            engine: work.engine,
            session: work.session,
            entitlements: build.request().entitlements.clone(),
            request,
            cancel: work.cancel,
            begun: AtomicBool::default(),
            first: Mutex::default(),
            running: Arc::default(),
        })
    }

    /// Whether a process was begun in it before this was asked; the next one is not the first then.
    pub fn begun(&self) -> bool {
        self.begun.swap(true, Ordering::Relaxed)
    }

    /// Starts a process with these ends of its input and output; it runs when this returns.
    pub async fn start(&self, start: Start, stdio: sandbox::Stdio) -> Result<Process, Error> {
        self.allow(&start)?;
        let secrets = ops::exec::Given::ask(&self.session, &[], &start.secrets).await?;
        let spec = start.spec(&self.ready.spec, &secrets, self.request.windows)?;
        let running = self.running.clone().read_owned().await;
        // Others wait here until the first one runs: they enter its namespaces.
        let mut first = self.first.lock().await;
        let (engine, cancel, beside) = (self.engine.clone(), self.cancel.clone(), first.clone());
        let ready = self.ready.clone();
        let process = Process::launch(spec.args.clone(), move |started| {
            let _held = (ready, running);
            let ended = match beside {
                Some(first) => engine.sandbox.run_beside(&first, &spec, stdio, &cancel, started),
                None => engine.sandbox.run_connected(&spec, stdio, &cancel, started),
            };
            match ended {
                // The end of the first process may be heard of before the order to end.
                Ok(exit) if cancel.is_cancelled() && exit.status == sandbox::Status::Signal(9) => {
                    Err(sandbox::Error::Cancelled)
                }
                ended => ended,
            }
        });
        let process = match process.await {
            // Whatever else is wrong with a container that is released.
            Err(_) if self.cancel.is_cancelled() => return Err(Error::Cancelled),
            process => process?,
        };
        if first.is_none() {
            *first = Some(process.inside.clone());
        }
        Ok(process)
    }

    /// Ends whatever runs in it, and lets nothing run in it again.
    pub fn end(&self) {
        self.cancel.cancel();
    }

    /// Ends whatever runs in it, and waits until it is gone. [`Error::Cancelled`] when something had to be ended.
    pub async fn release(&self) -> Result<(), Error> {
        let busy = self.running.try_write().is_err();
        self.cancel.cancel();
        drop(self.running.write().await);
        if busy { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// The files that a mount shows now, by its position.
    pub fn view(&self, mount: usize) -> Result<View, Error> {
        let count = self.request.mounts.len();
        if mount >= count {
            return Err(Error::Request(format!("mount index {mount} is out of bounds ({count} available)")));
        }
        let layers: &[PathBuf] = self.ready.layers(mount).ok_or_else(|| {
            let dest = Path::new(&self.request.mounts[mount].dest).display();
            Error::Request(format!("what is mounted at {dest} is no tree of files"))
        })?;
        Ok(View::of_layers(layers.to_vec()))
    }

    /// What a process may only do when the client grants it.
    fn allow(&self, start: &Start) -> Result<(), Error> {
        let needed = match (self.request.network, start.security) {
            (1, _) => "network.host",
            (_, 1) => "security.insecure",
            (_, 0) => return Ok(()),
            (_, other) => return Err(Error::Request(format!("invalid security mode {other}"))),
        };
        if self.entitlements.iter().any(|granted| granted == needed) {
            return Ok(());
        }
        Err(Error::Request(format!("{needed} is not allowed: pass --allow {needed}")))
    }
}

/// A container as a step, but for its processes.
fn operation(request: &Request) -> wire::ExecOp {
    let meta = wire::Meta {
        hostname: request.hostname.clone(),
        extra_hosts: request.hosts.clone(),
        remove_mount_stubs_recursive: true,
        ..wire::Meta::default()
    };
    wire::ExecOp {
        meta: Some(meta),
        mounts: request.mounts.clone(),
        network: request.network,
        ..wire::ExecOp::default()
    }
}
