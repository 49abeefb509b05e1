//! `larder build`: from flags to a request, through the engine in this process, to what is printed and written.
//! Progress goes to standard error; standard output carries only a result that was asked for.

mod attest;
pub mod caches;
mod call;
mod contexts;
pub mod csv;
pub mod flags;
mod metadata;
mod outputs;
mod perform;
pub mod policy;
pub mod request;
mod scope;

use std::path::Path;
use std::sync::Arc;

use builder::Error;
use builder::build::Response;
use daemon::Daemon;
use daemon::config::Config;
use sandbox::Sandbox;
use store::Store;
use tokio::runtime::Runtime;

use super::place::{Place, There, several_threads};
use super::{Failure, Root, aws, configuration};
use crate::progress::{Kind, Progress};
use crate::report;
use flags::Flags;
use perform::{Asked, Done};

/// Builds.
pub fn run(root: &Root, config: &Config, flags: &Flags) -> Result<(), Failure> {
    let plan = request::plan(flags).map_err(Failure::usage)?;
    plan.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let kind = if flags.is_quiet() { Kind::Quiet } else { Kind::parse(&flags.progress).map_err(Failure::usage)? };
    ::daemon::syscall::keep_heap_small();
    let place = Place::find(root, &flags.at)?;
    let progress = Progress::start(kind);
    let cache_to = plan.request.cache_to.clone();
    let written = caches::Written::default();
    let warned = metadata::Warned::default();
    let events = warned.listening(written.listening(progress.events()));
    let build = plan.request.id.clone();
    let mut asked = Asked {
        session: Arc::new(plan.session),
        events,
        request: plan.request,
        wants_answer: plan.call.is_some(),
        wants_provenance: flags.metadata_file.is_some() && metadata::Told::wanted() != metadata::Told::Nothing,
    };
    let done = match place {
        Place::Here(store) => here(config, store, asked)?,
        Place::There(There { runtime, client }) => {
            runtime.block_on(aws::lend(&mut asked.request));
            until_interrupted(runtime, perform::through(client, asked))
        }
    };
    progress.finish();
    // A build that failed leaves what succeeded: its caches get their names before anything else is said.
    let named = written.name(&cache_to);
    match done {
        None => Err(Failure { code: 130, text: "interrupted".to_owned() }),
        Some(Err(error)) => Err(failure(&error)),
        Some(Ok(Done::Answered(answer))) => {
            let Some(call) = &plan.call else { return Ok(()) };
            let (text, ended) = call.show(&answer, &plan.dockerfile);
            print!("{text}");
            ended
        }
        Some(Ok(Done::Built(response))) => {
            named.map_err(Failure::failed)?;
            write_results(flags, &response, &build, &warned)
        }
    }
}

/// Without a daemon, or with one that is for this build alone.
fn here(config: &Config, store: Store, asked: Asked) -> Result<Option<Result<Done, Error>>, Failure> {
    let engine = || configuration::engine(config, store.clone(), Sandbox::new(sandbox::Config::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = until_interrupted(runtime, perform::here(engine()?, asked.clone()));
    if !matches!(done, Some(Err(Error::Elsewhere { .. }))) {
        return Ok(done);
    }
    // Who asks is who allows.
    let allowed = asked.request.entitlements.clone();
    let settings = ::daemon::Settings { allowed, ..configuration::settings(config)? };
    let daemon = Daemon::new(engine()?, settings);
    Ok(until_interrupted(several_threads()?, perform::by_own_daemon(daemon, asked)))
}

/// What a build comes to; `None` when the user interrupts it. Nothing tells of progress any more afterwards.
pub fn until_interrupted<T>(runtime: Runtime, building: impl Future<Output = T>) -> Option<T> {
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = building => Some(outcome),
            () = crate::commands::stopped() => None,
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(10));
    outcome
}

fn failure(error: &Error) -> Failure {
    match error {
        Error::Dockerfile(faulty) => {
            let file = &faulty.place.file;
            let text = String::from_utf8_lossy(&file.data);
            Failure { code: 2, text: report::dockerfile(&file.filename, &text, &faulty.diagnostics) }
        }
        Error::Placed { place, error } => {
            let code = if error.is_request() { 2 } else { 1 };
            Failure { code, text: report::at(&error.to_string(), place) }
        }
        Error::Missed(misses) => {
            let mut text = String::from("error: these steps had to run, and --fail-on-miss forbids it:\n");
            for (name, cause) in misses {
                text.push_str(&format!("  {name}\n    {cause}\n"));
            }
            Failure { code: 3, text }
        }
        Error::Step { name, error, places, .. } if !places.is_empty() => {
            Failure { code: 1, text: report::at(&format!("{name}: {error}"), &places[0]) }
        }
        error if error.is_request() => Failure::usage(error),
        error => Failure::failed(error),
    }
}

/// What is written beside the outputs.
fn write_results(flags: &Flags, response: &Response, build: &str, warned: &metadata::Warned) -> Result<(), Failure> {
    // An image's id is its configuration's digest; several images in an index have only that one's.
    let id =
        ["containerimage.config.digest", "containerimage.digest"].iter().find_map(|key| response.exporter.get(*key));
    let write = |path: &Path, text: &[u8]| {
        std::fs::write(path, text).map_err(|e| Failure::failed(format!("can't write {}: {e}", path.display())))
    };
    if let Some(path) = &flags.iidfile {
        write(path, id.map(String::as_bytes).unwrap_or_default())?;
    }
    if let Some(path) = &flags.metadata_file {
        let json = serde_json::to_vec_pretty(&metadata::of(response, build, warned)).map_err(Failure::failed)?;
        write(path, &json)?;
    }
    if let (true, Some(id)) = (flags.is_quiet(), id) {
        println!("{id}");
    }
    Ok(())
}
