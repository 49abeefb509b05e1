//! `larder prune`: removes what a filter and sizes name; what somebody needs stays.

use std::path::Path;

use store::lifecycle::{Inventory, Policy, Rule, plan, sweep};

use super::build::csv;
use super::{Failure, open, size};

/// Remove cache that is not needed
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  larder prune --force\n  larder prune --filter until=48h --max-used-space 20gb")]
pub struct Flags {
    /// Also internal records and what named images share
    #[arg(short, long)]
    all: bool,
    /// Only records that match (`until=24h`, `type=exec.cachemount`, …)
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Keep at least so much
    #[arg(long, value_name = "SIZE", visible_alias = "keep-storage")]
    reserved_space: Option<String>,
    /// Go down to so much
    #[arg(long, value_name = "SIZE")]
    max_used_space: Option<String>,
    /// Go down until so much of the disk is free
    #[arg(long, value_name = "SIZE")]
    min_free_space: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// List every record that goes
    #[arg(long)]
    verbose: bool,
}

/// Removes.
pub fn run(root: &Path, flags: &Flags) -> Result<(), Failure> {
    let bytes = |text: &Option<String>| text.as_deref().map_or(Ok(0), csv::bytes).map_err(Failure::usage);
    let rule = Rule {
        name: "larder prune".to_owned(),
        all: flags.all,
        reserved_space: bytes(&flags.reserved_space)?,
        max_used_space: bytes(&flags.max_used_space)?,
        min_free_space: bytes(&flags.min_free_space)?,
        ..Rule::default()
    };
    let rule = if flags.filter.is_empty() { rule } else { rule.with_flags(&flags.filter).map_err(Failure::usage)? };
    if !flags.force && !agreed()? {
        return Ok(());
    }
    let store = open(root)?;
    let inventory = Inventory::take(&store)?;
    let policy = Policy::asked("larder prune", rule);
    let now = builder::event::now_millis();
    let swept = sweep(&store, plan(&inventory, &policy, now))?;
    store.flush()?;
    if flags.verbose {
        for gone in &swept.gone {
            println!("{}\t{}\t{}", gone.usage.id, size(gone.usage.size), gone.usage.description);
        }
    }
    println!("Total:\t{}", size(swept.bytes));
    Ok(())
}

fn agreed() -> Result<bool, Failure> {
    eprint!("This removes all cache that no image needs. Go on? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
