//! One process in a container: what it is, how it is told something, how it ended.
//! It ends with its container; nothing here outlives that.

use std::path::PathBuf;

use graph::wire;
use sandbox::{Exit, Inside, Security, Spec, User};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::{Error, ops};

/// BuildKit's PATH for a process of a container that is said to be for Windows.
const WINDOWS_PATH: &str = "PATH=c:\\Windows\\System32;c:\\Windows;C:\\Windows\\System32\\WindowsPowerShell\\v1.0";

/// What is run.
#[derive(Default)]
pub struct Start {
    /// Program, arguments, variables, working directory, user.
    pub meta: wire::Meta,
    /// Variables that hold secrets.
    pub secrets: Vec<wire::SecretEnv>,
    /// BuildKit's number of the security mode.
    pub security: i32,
    /// Whether its input and output are a terminal.
    pub terminal: bool,
}

impl Start {
    /// The process in the container that `of` describes.
    pub(super) fn spec(self, of: &Spec, secrets: &ops::exec::Given, windows: bool) -> Result<Spec, Error> {
        let has = |env: &[String], name: &str| env.iter().any(|e| e.starts_with(name));
        let mut env = self.meta.env;
        if windows && !has(&env, "PATH=") {
            env.push(WINDOWS_PATH.to_owned());
        }
        ops::exec::add_path(&mut env);
        if self.terminal && !has(&env, "TERM=") {
            env.push("TERM=xterm".to_owned());
        }
        secrets.add_secrets(&self.secrets, &mut env)?;
        Ok(Spec {
            args: self.meta.args,
            env,
            cwd: PathBuf::from(if self.meta.cwd.is_empty() { "/" } else { &self.meta.cwd }),
            user: User::Named(self.meta.user),
            security: if self.security == 1 { Security::Insecure } else { Security::Sandbox },
            ..of.clone()
        })
    }
}

/// A process that was started.
pub struct Process {
    pub(super) inside: Inside,
    args: Vec<String>,
    ended: JoinHandle<Result<Exit, sandbox::Error>>,
}

impl Process {
    /// Runs `run` on a thread of its own until the process has ended; returns once it has begun.
    pub(super) async fn launch<F>(args: Vec<String>, run: F) -> Result<Process, Error>
    where
        F: FnOnce(Box<dyn FnOnce(Inside) + Send>) -> Result<Exit, sandbox::Error> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let started = Box::new(move |inside| {
            // Whoever asked for it may be gone: then its container is, and it ends.
            let _ = tell.send(inside);
        });
        let mut ended = tokio::task::spawn_blocking(move || run(started));
        match told.await {
            Ok(inside) => Ok(Process { inside, args, ended }),
            Err(_) => match join(&mut ended).await {
                Ok(exit) => Err(ops::exec::ended(&args, &exit).into()),
                Err(error) => Err(error),
            },
        }
    }

    /// How to tell it something while somebody waits for its end.
    pub fn inside(&self) -> Inside {
        self.inside.clone()
    }

    /// Waits for its end. One that did not end well is [`ops::Error::Exit`].
    pub async fn end(&mut self) -> Result<(), Error> {
        let exit = join(&mut self.ended).await?;
        match exit.status.code() {
            0 => Ok(()),
            _ => Err(ops::exec::ended(&self.args, &exit).into()),
        }
    }
}

async fn join(ended: &mut JoinHandle<Result<Exit, sandbox::Error>>) -> Result<Exit, Error> {
    match ended.await.map_err(|_| Error::Thread { what: "a process" })? {
        Err(sandbox::Error::Cancelled) => Err(Error::Cancelled),
        exit => Ok(exit.map_err(ops::Error::from)?),
    }
}
