//! `larder du`: what the store holds and what that takes.

use std::path::Path;

use store::lifecycle::{Filter, Inventory, Rule};

use super::{Failure, open, size, table};
use crate::time;

/// Show what the store holds
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  larder du\n  larder du --filter type=exec.cachemount --verbose")]
pub struct Flags {
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
pub fn run(root: &Path, flags: &Flags) -> Result<(), Failure> {
    let filter = if flags.filter.is_empty() {
        Filter::default()
    } else {
        Rule::default().with_flags(&flags.filter).map_err(Failure::usage)?.filter
    };
    let store = open(root)?;
    let inventory = Inventory::take(&store)?;
    let records: Vec<_> = inventory.usage().filter(|u| filter.matches(u)).collect();
    let total: u64 = records.iter().map(|r| r.size).sum();
    if flags.format == "json" {
        for r in &records {
            let line = serde_json::json!({
                "id": r.id, "parents": r.parents, "createdAt": oci::time::rfc3339_micros(r.created * 1000),
                "lastUsedAt": r.last_used.map(|t| oci::time::rfc3339_micros(t * 1000)), "usageCount": r.usage_count,
                "description": r.description, "type": r.kind.name(), "shared": r.shared, "size": r.size,
                "mutable": r.mutable, "inUse": r.in_use, "reclaimable": !r.in_use,
            });
            println!("{line}");
        }
        return Ok(());
    }
    if flags.verbose {
        for r in &records {
            println!("ID:\t\t{}", r.id);
            println!("Parents:\t{}", r.parents.join(","));
            println!("Created at:\t{}", oci::time::rfc3339_micros(r.created * 1000));
            println!("Type:\t\t{}\nMutable:\t{}\nShared:\t\t{}", r.kind.name(), r.mutable, r.shared);
            println!("Size:\t\t{}\nDescription:\t{}\nUsage count:\t{}\n", size(r.size), r.description, r.usage_count);
        }
    } else {
        let now = builder::event::now_micros();
        let row = |r: &&store::lifecycle::UsageRecord| {
            let used = r.last_used.map_or_else(String::new, |t| time::ago(t * 1000, now));
            let kept = if r.in_use { "false" } else { "true" };
            vec![r.id.clone(), kept.to_owned(), size(r.size), used, r.description.chars().take(60).collect()]
        };
        let rows: Vec<Vec<String>> = records.iter().map(row).collect();
        table(&["ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED", "DESCRIPTION"], &rows);
    }
    println!("Total:\t{}", size(total));
    Ok(())
}
