//! `larder prune`: removes what a filter and sizes name; what somebody needs stays.

use daemon::client::Prune;
use store::lifecycle;

use super::build::csv;
use super::place::{At, Place};
use super::{Failure, Root, du, size};

/// Remove cache that is not needed
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  larder prune --force\n  larder prune --filter until=48h --max-used-space 20gb")]
pub struct Flags {
    #[command(flatten)]
    at: At,
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
pub fn run(root: &Root, flags: &Flags) -> Result<(), Failure> {
    let bytes = |text: &Option<String>| text.as_deref().map_or(Ok(0), csv::bytes).map_err(Failure::usage);
    let (filter, unused) = lifecycle::flags(&flags.filter).map_err(Failure::usage)?;
    lifecycle::Filter::parse(&[&filter]).map_err(Failure::usage)?;
    let prune = Prune {
        filter: vec![filter],
        all: flags.all,
        keep_duration: unused.unwrap_or_default(),
        reserved_space: bytes(&flags.reserved_space)?,
        max_used_space: bytes(&flags.max_used_space)?,
        min_free_space: bytes(&flags.min_free_space)?,
    };
    if !flags.force && !agreed()? {
        return Ok(());
    }
    let gone = Place::find(root, &flags.at)?.prune(prune)?;
    if flags.verbose {
        gone.iter().for_each(|gone| println!("{}\t{}\t{}", gone.id, size(du::bytes(gone)), gone.description));
    }
    println!("Total:\t{}", size(gone.iter().map(du::bytes).sum()));
    Ok(())
}

fn agreed() -> Result<bool, Failure> {
    eprint!("This removes all cache that no image needs. Go on? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
