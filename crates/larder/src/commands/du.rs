//! `larder du`: what the store holds and what that takes.

use proto::Timestamp;
use proto::control::UsageRecord;
use store::lifecycle;

use super::place::{At, Place};
use super::{Failure, Root, size, table};
use crate::time;

/// Show what the store holds
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  larder du\n  larder du --filter type=exec.cachemount --verbose")]
pub struct Flags {
    #[command(flatten)]
    at: At,
    /// Only records that match (`type=regular`, `id=abc`, `description~=make`, `inuse`, `shared`)
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Every field of every record
    #[arg(long)]
    verbose: bool,
    /// `table` or `json`
    #[arg(long, value_name = "FORMAT", default_value = "table", value_parser = ["table", "json"])]
    format: String,
}

/// Shows.
pub fn run(root: &Root, flags: &Flags) -> Result<(), Failure> {
    let (filter, _) = lifecycle::flags(&flags.filter).map_err(Failure::usage)?;
    // What can't be read is the user's mistake, wherever the store is.
    lifecycle::Filter::parse(&[&filter]).map_err(Failure::usage)?;
    let records = Place::find(root, &flags.at)?.usage(vec![filter])?;
    let total = records.iter().map(bytes).sum();
    if flags.format == "json" {
        records.iter().for_each(|r| println!("{}", json(r)));
        return Ok(());
    }
    if flags.verbose {
        records.iter().for_each(verbose);
    } else {
        let now = builder::event::now_micros();
        let row = |r: &UsageRecord| {
            let used = r.last_used_at.as_ref().map_or_else(String::new, |t| time::ago(micros(t), now));
            let kept = if r.in_use { "false" } else { "true" };
            vec![r.id.clone(), kept.to_owned(), size(bytes(r)), used, r.description.chars().take(60).collect()]
        };
        let rows: Vec<Vec<String>> = records.iter().map(row).collect();
        table(&["ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED", "DESCRIPTION"], &rows);
    }
    println!("Total:\t{}", size(total));
    Ok(())
}

/// A record's size.
pub fn bytes(record: &UsageRecord) -> u64 {
    u64::try_from(record.size).unwrap_or(0)
}

/// Microseconds since 1970.
fn micros(time: &Timestamp) -> u64 {
    u64::try_from(time.seconds).unwrap_or(0) * 1_000_000 + u64::try_from(time.nanos).unwrap_or(0) / 1000
}

fn moment(time: Option<&Timestamp>) -> Option<String> {
    time.map(|time| oci::time::rfc3339_micros(micros(time)))
}

fn json(r: &UsageRecord) -> serde_json::Value {
    serde_json::json!({
        "id": r.id, "parents": r.parents, "createdAt": moment(r.created_at.as_ref()),
        "lastUsedAt": moment(r.last_used_at.as_ref()), "usageCount": r.usage_count,
        "description": r.description, "type": r.record_type, "shared": r.shared, "size": r.size,
        "mutable": r.mutable, "inUse": r.in_use, "reclaimable": !r.in_use,
    })
}

/// Every field, as buildctl and buildx show it.
pub fn verbose(r: &UsageRecord) {
    println!("ID:\t\t{}", r.id);
    println!("Parents:\t{}", r.parents.join(","));
    println!("Created at:\t{}", moment(r.created_at.as_ref()).unwrap_or_default());
    println!("Type:\t\t{}\nMutable:\t{}\nShared:\t\t{}", r.record_type, r.mutable, r.shared);
    println!("Size:\t\t{}\nDescription:\t{}\nUsage count:\t{}\n", size(bytes(r)), r.description, r.usage_count);
}
