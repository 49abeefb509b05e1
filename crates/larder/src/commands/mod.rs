//! The verbs, and what they share: where the store is, how a failure ends the process.

mod aws;
pub mod build;
pub mod buildctl;
mod check;
mod completions;
mod configuration;
pub mod daemon;
mod du;
mod explain;
mod history;
mod image;
pub mod place;
mod prune;
mod registry;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use sandbox::rootless::Mode;

use crate::progress::line::width;

/// Builds container images, keeps the build cache, and says why a step was not cached
#[derive(Parser, Debug)]
#[command(name = "larder", version, propagate_version = true, max_term_width = 110)]
pub struct Larder {
    /// Folder of the store [default: /var/lib/larder as root, otherwise $XDG_DATA_HOME/larder]
    #[arg(long, global = true, value_name = "FOLDER", env = "LARDER_ROOT", hide_env_values = true)]
    root: Option<PathBuf>,
    /// Configuration file, with buildkitd.toml's keys
    /// [default: /etc/larder/larder.toml as root, otherwise $XDG_CONFIG_HOME/larder/larder.toml]
    #[arg(long, global = true, value_name = "FILE", env = "LARDER_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    #[command(visible_alias = "b")]
    Build(Box<build::flags::Flags>),
    Daemon(Box<daemon::Flags>),
    Explain(explain::Flags),
    History(history::Flags),
    Du(du::Flags),
    Prune(prune::Flags),
    Image(image::Flags),
    Registry(Box<registry::Flags>),
    Check(check::Flags),
    Completions(completions::Flags),
}

/// How a command failed.
#[derive(Debug)]
pub struct Failure {
    /// The process' exit code: 1 failed, 2 wrong usage or Dockerfile, 3 something had to run, 130 interrupted.
    pub code: u8,
    /// For people.
    pub text: String,
}

impl Failure {
    /// The work failed.
    pub fn failed(text: impl std::fmt::Display) -> Failure {
        Failure { code: 1, text: format!("error: {text}") }
    }

    /// The command line is wrong.
    pub fn usage(text: impl std::fmt::Display) -> Failure {
        Failure { code: 2, text: format!("error: {text}") }
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Failure {
        Failure::failed(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::failed(error)
    }
}

impl Larder {
    /// Does what was asked for.
    pub fn run(self) -> Result<(), Failure> {
        let config = configuration::find(self.config.as_deref())?;
        let root = Root::of(self.root.or_else(|| config.root.clone()));
        match self.verb {
            Verb::Build(flags) => build::run(&root, &config, &flags),
            Verb::Daemon(flags) => daemon::run(&root.path, config, *flags),
            Verb::Explain(flags) => explain::run(&root, &flags),
            Verb::History(flags) => history::run(&root, &flags),
            Verb::Du(flags) => du::run(&root, &flags),
            Verb::Prune(flags) => prune::run(&root, &flags),
            Verb::Image(flags) => image::run(&root, &flags),
            Verb::Registry(flags) => registry::run(&root.path, &flags),
            Verb::Check(flags) => check::run(&flags),
            Verb::Completions(flags) => completions::run(&flags),
        }
    }
}

/// Where a store is unless somebody says another place.
fn default_root() -> PathBuf {
    data_folder().join("larder")
}

/// Where programs keep their data: the machine's for root, else the user's. To be asked before [`open`].
fn data_folder() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib");
    }
    let data = std::env::var_os("XDG_DATA_HOME").filter(|d| !d.is_empty()).map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".local/share");
    data.unwrap_or_else(home)
}

/// Where sockets lie: the machine's folder for root, else the user's. To be asked before [`open`].
fn run_folder() -> PathBuf {
    let user = rustix::process::geteuid();
    if user.is_root() {
        return PathBuf::from("/run");
    }
    let given = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| !d.is_empty()).map(PathBuf::from);
    given.unwrap_or_else(|| PathBuf::from(format!("/run/user/{}", user.as_raw())))
}

/// The folder of a store, and the sockets on which a daemon that has it may answer.
pub struct Root {
    /// The folder.
    pub path: PathBuf,
    /// In the order in which they are tried.
    pub sockets: Vec<PathBuf>,
}

impl Root {
    /// The store that a user named, or else the usual one, whose daemon listens in the folder for sockets as well.
    fn of(named: Option<PathBuf>) -> Root {
        let is_usual = named.is_none();
        let path = named.unwrap_or_else(default_root);
        let usual = is_usual.then(|| run_folder().join(USUAL_SOCKET));
        let sockets = [path.join(SOCKET)].into_iter().chain(usual).collect();
        Root { path, sockets }
    }
}

/// The socket of the usual store's daemon, in the folder for sockets.
pub const USUAL_SOCKET: &str = "larder/larderd.sock";

/// Name of the daemon's socket in the store's folder.
pub const SOCKET: &str = "larder.sock";

/// Without root, this process enters a user namespace: what lies in a store belongs to many ids. To be called before a
/// store is opened and before there is a second thread.
pub fn enter() -> Result<(), Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Mode::Single { why } = sandbox::rootless::enter_if_needed(&path).map_err(Failure::failed)? {
        eprintln!(
            "warning: larder has a single user id here ({why}): a step can't have files of other owners or run as another user"
        );
    }
    Ok(())
}

/// Opens the store; while another process has it, says whose turn it is and waits. See [`enter`].
pub fn open(root: &Path) -> Result<store::Store, Failure> {
    enter()?;
    let mut told = false;
    loop {
        if let Some(store) = open_within(root, std::time::Duration::from_secs(3600), &mut told)? {
            return Ok(store);
        }
    }
}

/// Opens the store, unless another process has it for longer than `patience`. Says once whose turn it is.
pub fn open_within(
    root: &Path,
    patience: std::time::Duration,
    told: &mut bool,
) -> Result<Option<store::Store>, Failure> {
    let mut waits = |owner: &store::Owner| {
        if !std::mem::replace(told, true) {
            eprintln!("waiting for {owner}, which has the store {}", root.display());
        }
    };
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    let options = store::Options { command, on_wait: Some(&mut waits), give_up: Some(patience) };
    match store::Store::open(root, options) {
        Ok(store) => Ok(Some(store)),
        Err(store::Error::Locked { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns when somebody wants this process to end: Ctrl-C, `kill`, or a terminal that was closed.
pub async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = async |kind| match signal(kind) {
        Ok(mut signals) => drop(signals.recv().await),
        // Without a handler the signal ends the process by itself.
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::hangup()) => {}
    }
}

/// Bytes for people: `12.3MB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes}B") } else { format!("{value:.2}{}", UNITS[unit]) }
}

/// Rows under headings, each column as wide as it needs.
pub fn table(headings: &[&str], rows: &[Vec<String>]) {
    print!("{}", lines(headings, rows));
}

fn lines(headings: &[&str], rows: &[Vec<String>]) -> String {
    let most = |i: usize| rows.iter().map(|r| width(&r[i])).chain([width(headings[i])]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..headings.len()).map(most).collect();
    let line = |cells: Vec<&str>| {
        let gap = |cell: &str, most: usize| " ".repeat(most - width(cell));
        let padded = cells.into_iter().zip(&widths).map(|(cell, most)| format!("{cell}{}", gap(cell, *most)));
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let rows = rows.iter().map(|row| row.iter().map(String::as_str).collect());
    std::iter::once(headings.to_vec()).chain(rows).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_a_terminal_shows_them() {
        let row = |name: &str| vec![name.to_owned(), "1s".to_owned()];
        insta::assert_snapshot!(lines(&["NAME", "TIME"], &[row("构建镜像"), row("kitchen")]), @r"
        NAME      TIME
        构建镜像  1s
        kitchen   1s
        ");
    }
}
