//! larder under buildctl's name: what docker-buildx's drivers start inside an image, and what its users type.
//! Flags, texts and exit codes are buildctl's; every verb asks a daemon, larder's or BuildKit's.

mod blobs;
mod build;
mod connection;
mod dial;
mod held;
mod histories;
mod llb;
mod rows;
mod template;
mod workers;

use clap::{Parser, Subcommand};

use super::Failure;
use connection::Connection;

/// build utility
#[derive(Parser, Debug)]
#[command(name = "buildctl", version = ::daemon::VERSION, disable_version_flag = true)]
struct Buildctl {
    #[command(flatten)]
    connection: Connection,
    /// print the version
    #[arg(long, short = 'v', action = clap::ArgAction::Version)]
    version: (),
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// disk usage
    Du(held::Du),
    /// clean up build cache
    Prune(held::Prune),
    /// clean up build histories
    PruneHistories(histories::Format),
    /// build
    #[command(visible_alias = "b")]
    Build(Box<build::Flags>),
    /// debug utilities
    #[command(subcommand)]
    Debug(Debug),
    /// Proxy the stdio stream to the daemon connection. Should not be invoked manually.
    #[command(hide = true)]
    DialStdio,
}

#[derive(Subcommand, Debug)]
enum Debug {
    /// dump LLB in human-readable format. LLB can be also passed via stdin. Needs no daemon.
    DumpLlb(llb::Flags),
    /// list workers
    Workers(workers::Flags),
    /// display internal information
    Info(workers::Info),
    /// display build events
    Monitor(histories::Monitor),
    /// display build logs
    Logs(blobs::Logs),
    /// control build records
    Ctl(histories::Ctl),
    /// retrieve a blob from contentstore
    Get(blobs::Get),
    /// list build records
    Histories(histories::Format),
    /// dump the meta in human-readable format: larder has none of BuildKit's databases
    DumpMetadata {
        /// path to state directory
        #[arg(long)]
        root: Option<String>,
    },
}

/// Runs under buildctl's name. Whatever fails, buildctl's exit code is 1.
pub fn run() -> Result<(), Failure> {
    let given = Buildctl::try_parse().unwrap_or_else(|error| {
        let _ = error.print(); // nobody reads
        std::process::exit(i32::from(error.use_stderr()));
    });
    given.connection.check()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let at = &given.connection;
    let done = runtime.block_on(async {
        tokio::select! {
            done = verb(at, given.verb) => done,
            () = super::stopped() => Err(Failure::failed("context canceled")),
        }
    });
    // A read of standard input can't be taken back: it must not hold the end up.
    runtime.shutdown_background();
    done.map_err(|failure| Failure { code: 1, ..failure })
}

async fn verb(at: &Connection, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Build(flags) => build::run(at, *flags).await,
        Verb::Du(flags) => held::du(&at.client().await?, &flags).await,
        Verb::Prune(flags) => held::prune(&at.client().await?, &flags).await,
        Verb::PruneHistories(format) => histories::prune(&at.client().await?, &format).await,
        Verb::DialStdio => dial::run(&at.address()?).await,
        Verb::Debug(Debug::DumpLlb(flags)) => llb::dump(&flags),
        Verb::Debug(Debug::Workers(flags)) => workers::list(&at.client().await?, &flags).await,
        Verb::Debug(Debug::Info(flags)) => workers::info(&at.client().await?, &flags).await,
        Verb::Debug(Debug::Monitor(flags)) => histories::monitor(&at.client().await?, &flags).await,
        Verb::Debug(Debug::Logs(flags)) => blobs::logs(&at.client().await?, &flags).await,
        Verb::Debug(Debug::Ctl(flags)) => histories::ctl(&at.client().await?, &flags).await,
        Verb::Debug(Debug::Get(flags)) => blobs::get(&at.client().await?, &flags).await,
        Verb::Debug(Debug::Histories(format)) => histories::list(&at.client().await?, &format).await,
        Verb::Debug(Debug::DumpMetadata { .. }) => Err(Failure::usage(
            "dump-metadata reads BuildKit's databases; larder has none: see larder du and larder history",
        )),
    }
}
