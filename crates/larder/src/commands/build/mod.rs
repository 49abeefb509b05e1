//! `larder build`: from flags to a request, through the engine in this process, to what is printed and written.
//! Progress goes to standard error; standard output carries only a result that was asked for.

mod attest;
pub mod caches;
pub mod csv;
pub mod flags;
pub mod request;
mod scope;

use std::path::Path;
use std::sync::Arc;

use builder::build::Response;
use builder::{Engine, Error};
use tokio::runtime::Runtime;

use super::place::{self, Place, There};
use super::{Failure, Root, aws};
use crate::progress::{Kind, Progress};
use crate::report;
use flags::Flags;

/// Builds.
pub fn run(root: &Root, flags: &Flags) -> Result<(), Failure> {
    let plan = request::plan(flags).map_err(Failure::usage)?;
    if plan.check {
        return super::check::file(&plan.dockerfile, false);
    }
    plan.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let kind = if flags.quiet { Kind::Quiet } else { Kind::parse(&flags.progress).map_err(Failure::usage)? };
    ::daemon::syscall::keep_heap_small();
    let place = Place::find(root, &flags.at)?;
    let progress = Progress::start(kind);
    let events = progress.events();
    let cache_to = plan.request.cache_to.clone();
    let outcome = match place {
        Place::Here(store) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let sandbox = sandbox::Sandbox::new(sandbox::Config::default()).map_err(Failure::failed)?;
            let engine = Engine::new(store, sandbox, registry::Client::new().with_ambient(aws::ambient()));
            let session = Arc::new(plan.session);
            until_interrupted(runtime, builder::build::build(&engine, session, events, plan.request))
        }
        Place::There(There { runtime, client }) => {
            let mut plan = plan;
            runtime.block_on(aws::lend(&mut plan.request));
            let request = daemon::client::request(&plan.request);
            let offered = place::offered(plan.session);
            until_interrupted(runtime, async move { client.build(offered, request, &events).await })
        }
    };
    progress.finish();
    let response = match outcome {
        None => return Err(Failure { code: 130, text: "interrupted".to_owned() }),
        Some(Err(error)) => return Err(failure(&error)),
        Some(Ok(response)) => response,
    };
    caches::finish(&cache_to, &response.caches).map_err(Failure::failed)?;
    write_results(flags, &response)?;
    Ok(())
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
        Error::Placed { place, error } => Failure { code: 1, text: report::at(&error.to_string(), place) },
        Error::Missed(misses) => {
            let mut text = String::from("error: these steps had to run, and --fail-on-miss forbids it:\n");
            for (name, cause) in misses {
                text.push_str(&format!("  {name}\n    {cause}\n"));
            }
            Failure { code: 3, text }
        }
        Error::Step { name, error, place: Some(place), .. } => {
            Failure { code: 1, text: report::at(&format!("{name}: {error}"), place) }
        }
        error => Failure::failed(error),
    }
}

/// What is written beside the outputs.
fn write_results(flags: &Flags, response: &Response) -> Result<(), Failure> {
    let digest = response.exporter.get("containerimage.digest");
    let write = |path: &Path, text: &[u8]| {
        std::fs::write(path, text).map_err(|e| Failure::failed(format!("can't write {}: {e}", path.display())))
    };
    if let (Some(path), Some(digest)) = (&flags.iidfile, digest) {
        write(path, digest.as_bytes())?;
    }
    if let Some(path) = &flags.metadata_file {
        let json = serde_json::to_vec_pretty(&metadata(response)).map_err(Failure::failed)?;
        write(path, &json)?;
    }
    if flags.quiet
        && let Some(digest) = digest
    {
        println!("{digest}");
    }
    Ok(())
}

/// The response as buildx writes it: the descriptor is an object.
fn metadata(response: &Response) -> serde_json::Value {
    use base64::Engine;
    let mut object = serde_json::Map::new();
    for (key, value) in &response.exporter {
        let decoded = (key == "containerimage.descriptor")
            .then(|| base64::engine::general_purpose::STANDARD.decode(value).ok())
            .flatten()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        object.insert(key.clone(), decoded.unwrap_or_else(|| serde_json::Value::String(value.clone())));
    }
    for (name, provenance) in &response.provenance {
        let suffix = if name.is_empty() { String::new() } else { format!("/{name}") };
        object.insert(format!("buildx.build.provenance{suffix}"), provenance.clone());
    }
    serde_json::Value::Object(object)
}
