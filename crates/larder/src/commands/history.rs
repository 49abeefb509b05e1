//! `larder history`: builds that were kept, their steps and what they printed.

use builder::event::What;
use builder::history::Summary;

use super::place::{At, Place};
use super::{Failure, Root, table};
use crate::time;

/// Show builds that were kept
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  larder history ls\n  larder history logs BUILD\n  larder history rm --all")]
pub struct Flags {
    #[command(flatten)]
    at: At,
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
pub fn run(root: &Root, flags: &Flags) -> Result<(), Failure> {
    let place = Place::find(root, &flags.at)?;
    match &flags.verb {
        Verb::Ls { format } => list(&place, format == "json"),
        Verb::Inspect { build } => inspect(&place, build.as_deref()),
        Verb::Logs { build } => logs(&place, build.as_deref()),
        Verb::Rm { builds, all } => remove(&place, builds, *all),
    }
}

fn list(place: &Place, json: bool) -> Result<(), Failure> {
    let all = place.builds()?;
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

fn inspect(place: &Place, build: Option<&str>) -> Result<(), Failure> {
    let summary = place.build(build)?;
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

fn logs(place: &Place, build: Option<&str>) -> Result<(), Failure> {
    use std::io::Write;
    let summary = place.build(build)?;
    let mut names = std::collections::HashMap::new();
    let mut open = None;
    let mut out = std::io::stdout().lock();
    for event in place.events(&summary.id)? {
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

fn remove(place: &Place, builds: &[String], all: bool) -> Result<(), Failure> {
    let ids: Vec<String> = if all {
        place.builds()?.into_iter().map(|s| s.id).collect()
    } else {
        builds.iter().map(|b| place.build(Some(b)).map(|s| s.id)).collect::<Result<_, _>>()?
    };
    if ids.is_empty() && !all {
        return Err(Failure::usage("name the builds, or say --all"));
    }
    place.forget(&ids)
}
