//! `larder history`: builds that were kept, their steps and what they printed.

use std::io::BufRead;
use std::path::Path;

use builder::event::{Event, What};
use builder::history::Summary;
use store::Store;

use super::{Failure, open, table};
use crate::time;

/// Show builds that were kept
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  larder history ls\n  larder history logs BUILD\n  larder history rm --all")]
pub struct Flags {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// List builds, newest first
    Ls {
        /// `table` or `json`
        #[arg(long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
        format: String,
    },
    /// Show one build and its steps
    Inspect {
        /// Its id, or the start of it [default: the newest]
        build: Option<String>,
    },
    /// Print what its steps printed
    Logs {
        /// Its id, or the start of it [default: the newest]
        build: Option<String>,
    },
    /// Forget builds
    Rm {
        /// Their ids
        builds: Vec<String>,
        /// All of them
        #[arg(long)]
        all: bool,
    },
}

/// Shows.
pub fn run(root: &Path, flags: &Flags) -> Result<(), Failure> {
    let store = open(root)?;
    match &flags.verb {
        Verb::Ls { format } => list(&store, format == "json"),
        Verb::Inspect { build } => inspect(&store, build.as_deref()),
        Verb::Logs { build } => logs(&store, build.as_deref()),
        Verb::Rm { builds, all } => remove(&store, builds, *all),
    }
}

/// All kept builds, newest first.
pub fn summaries(store: &Store) -> Result<Vec<Summary>, Failure> {
    let read = |entry: store::HistoryEntry| {
        serde_json::from_slice(&entry.summary)
            .map_err(|e| Failure::failed(format!("the summary of build {} can't be read: {e}", entry.id)))
    };
    store.history().list()?.into_iter().map(read).collect()
}

/// The build that a text means; without one, the newest.
pub fn find(store: &Store, build: Option<&str>) -> Result<Summary, Failure> {
    let all = summaries(store)?;
    let Some(text) = build else {
        return all.into_iter().next().ok_or_else(|| Failure::failed("no build was kept yet"));
    };
    let mut found = all.into_iter().filter(|s| s.id.starts_with(text));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(one), Some(_)) if one.id == text => Ok(one),
        (Some(_), Some(_)) => Err(Failure::usage(format!("several builds begin with `{text}`: give more of the id"))),
        (None, _) => Err(Failure::usage(format!("there is no build `{text}`: see `larder history ls`"))),
    }
}

/// The events of a build.
pub fn events(store: &Store, id: &str) -> Result<Vec<Event>, Failure> {
    let file = std::io::BufReader::new(store.history().events(id)?);
    let read = |line: std::io::Result<String>| {
        serde_json::from_str(&line?).map_err(|e| Failure::failed(format!("the events of {id} can't be read: {e}")))
    };
    file.lines().map(read).collect()
}

fn list(store: &Store, json: bool) -> Result<(), Failure> {
    let all = summaries(store)?;
    if json {
        for summary in &all {
            println!("{}", serde_json::to_string(summary).map_err(Failure::failed)?);
        }
        return Ok(());
    }
    let now = builder::event::now_micros();
    let row = |s: &Summary| {
        let status = if s.error.is_some() { "Error" } else { "Completed" };
        let seconds = format!("{:.1}s", s.completed.saturating_sub(s.started) as f64 / 1e3);
        let steps = format!("{}/{}", s.cached, s.steps);
        vec![s.id.clone(), s.name.clone(), status.into(), time::ago(s.started * 1000, now), seconds, steps]
    };
    table(&["BUILD", "NAME", "STATUS", "CREATED", "DURATION", "CACHED"], &all.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

fn inspect(store: &Store, build: Option<&str>) -> Result<(), Failure> {
    let summary = find(store, build)?;
    println!("Build:     {}", summary.id);
    println!("Context:   {}", summary.project);
    println!("Started:   {}", oci::time::rfc3339_micros(summary.started * 1000));
    println!("Duration:  {:.3}s", summary.completed.saturating_sub(summary.started) as f64 / 1e3);
    println!("Status:    {}", summary.error.as_deref().unwrap_or("completed"));
    println!("Steps:     {} ({} cached)", summary.steps, summary.cached);
    for (name, value) in &summary.attributes {
        println!("  {name}={value}");
    }
    for (name, value) in &summary.response {
        println!("{name}: {value}");
    }
    Ok(())
}

fn logs(store: &Store, build: Option<&str>) -> Result<(), Failure> {
    use std::io::Write;
    let summary = find(store, build)?;
    let mut names = std::collections::HashMap::new();
    let mut open = None;
    let mut out = std::io::stdout().lock();
    for event in events(store, &summary.id)? {
        match event.what {
            What::Known { step, name, .. } => drop(names.insert(step, name)),
            What::Log { step, bytes, .. } => {
                if open != Some(step) {
                    writeln!(out, "{}", names.get(&step).map(String::as_str).unwrap_or_default())?;
                    open = Some(step);
                }
                out.write_all(&bytes)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn remove(store: &Store, builds: &[String], all: bool) -> Result<(), Failure> {
    let ids: Vec<String> = if all {
        summaries(store)?.into_iter().map(|s| s.id).collect()
    } else {
        builds.iter().map(|b| find(store, Some(b)).map(|s| s.id)).collect::<Result<_, _>>()?
    };
    if ids.is_empty() && !all {
        return Err(Failure::usage("name the builds, or say --all"));
    }
    for id in ids {
        store.history().remove(&id)?;
    }
    Ok(store.flush()?)
}
