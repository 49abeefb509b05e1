//! `larder explain`: why each step of a kept build ran, or was a hit. It reads the build's events and computes nothing.

use std::collections::HashMap;

use builder::event::What;
use solver::{Cause, HitSource, Verdict};

use super::place::{At, Place};
use super::{Failure, Root};

/// Say why the steps of a build ran
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  larder explain\n  larder explain BUILD 'RUN cargo build'\n  larder explain --format json"
)]
pub struct Flags {
    #[command(flatten)]
    at: At,
    /// The build's id, or the start of it [default: the newest]
    build: Option<String>,
    /// Only steps whose name contains this
    step: Option<String>,
    /// `text` or `json`
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    format: String,
}

/// Explains.
pub fn run(root: &Root, flags: &Flags) -> Result<(), Failure> {
    let place = Place::find(root, &flags.at)?;
    // `larder explain STEP` is meant when nothing is named like a build.
    let (summary, step) = match (&flags.build, &flags.step) {
        (Some(text), None) => match place.build(Some(text)) {
            Ok(summary) => (summary, None),
            Err(_) => (place.build(None)?, Some(text)),
        },
        (build, step) => (place.build(build.as_deref())?, step.as_ref()),
    };
    let mut names = HashMap::new();
    let mut verdicts = Vec::new();
    for event in place.events(&summary.id)? {
        match event.what {
            What::Known { step, name, .. } => drop(names.insert(step, name)),
            What::Verdict { step, verdict } => verdicts.push((step, verdict)),
            _ => {}
        }
    }
    let mut shown = 0;
    for (digest, verdict) in verdicts {
        let name = names.get(&digest).cloned().unwrap_or_default();
        if step.is_some_and(|s| !name.contains(s.as_str())) {
            continue;
        }
        shown += 1;
        if flags.format == "json" {
            let kind = if let Verdict::Miss { cause } = &verdict { Some(cause.kind()) } else { None };
            let line = serde_json::json!({"build": summary.id, "step": name, "cause": kind, "verdict": verdict});
            println!("{line}");
        } else {
            print(&name, &verdict);
        }
    }
    if let (Some(step), 0) = (step, shown) {
        return Err(Failure::usage(format!("build {} has no step like `{step}`", summary.id)));
    }
    Ok(())
}

fn print(name: &str, verdict: &Verdict) {
    match verdict {
        Verdict::Hit { source } => println!("{name}\n  cached: {}", found(source)),
        Verdict::Miss { cause } => {
            println!("{name}\n  ran {cause}");
            details(cause);
        }
    }
}

fn found(source: &HitSource) -> String {
    let text = match source {
        HitSource::Imported(backend) => return format!("the cache {backend} has it"),
        HitSource::Definition => "the same step on the same inputs was built before",
        HitSource::Content => "its inputs have the same content as before",
        HitSource::SameInput => "an input ran again and gave the same files",
        HitSource::Shared => "another build made it at the same time",
        HitSource::NotNeeded => "nothing needed it",
    };
    text.to_owned()
}

/// Evidence that does not fit into one line.
fn details(cause: &Cause) {
    if let Cause::FilesChanged { from, paths, changed, .. } = cause {
        for (path, change) in paths {
            println!("    {from}: {path} ({change})");
        }
        let more = changed.saturating_sub(paths.len() as u64);
        if more > 0 {
            println!("    and {more} more");
        }
    }
}
