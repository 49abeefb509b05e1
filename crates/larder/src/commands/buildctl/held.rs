//! `buildctl du` and `buildctl prune`: what the daemon holds, and what it lets go of.

use std::time::Duration;

use ::daemon::client::{Client, Prune as Wanted};
use futures_util::StreamExt;
use proto::control::UsageRecord;
use serde_json::{Value, json};

use super::rows;
use super::template::Template;
use crate::commands::{Failure, size};

const HEADINGS: &str = "ID\tRECLAIMABLE\tSIZE\tLAST ACCESSED";

#[derive(clap::Args, Debug)]
pub struct Shown {
    /// Filter records
    #[arg(long, short)]
    filter: Vec<String>,
    /// Verbose output
    #[arg(long, short)]
    verbose: bool,
    /// Format the output using the given Go template, e.g, '{{json .}}'
    #[arg(long)]
    format: Option<String>,
}

impl Shown {
    fn template(&self) -> Result<Option<Template>, Failure> {
        self.format.as_deref().map(Template::parse).transpose().map_err(Failure::usage)
    }
}

#[derive(clap::Args, Debug)]
pub struct Du {
    #[command(flatten)]
    shown: Shown,
}

#[derive(clap::Args, Debug)]
pub struct Prune {
    #[command(flatten)]
    shown: Shown,
    /// Keep data newer than this limit
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    keep_duration: Option<Duration>,
    /// Keep data below this limit (in MB)
    #[arg(long, value_name = "MB", value_parser = megabytes, alias = "max-used-space")]
    keep_storage: Option<u64>,
    /// Always allow data above this limit (in MB)
    #[arg(long, value_name = "MB", value_parser = megabytes, alias = "reserved-space")]
    keep_storage_min: Option<u64>,
    /// Keep free data below this limit (in MB)
    #[arg(long, value_name = "MB", value_parser = megabytes, alias = "min-free-space")]
    free_storage: Option<u64>,
    /// Include internal/frontend references
    #[arg(long)]
    all: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    store::lifecycle::parse_duration(text).map_err(|e| e.to_string())
}

/// Bytes of a number of megabytes, which may have a fraction.
fn megabytes(text: &str) -> Result<u64, String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is no number of megabytes"))?;
    if number.is_finite() && number >= 0.0 { Ok((number * 1e6) as u64) } else { Err(format!("`{text}` is below 0")) }
}

fn bytes(n: i64) -> String {
    size(u64::try_from(n).unwrap_or(0))
}

/// Shows what is held.
pub async fn du(client: &Client, flags: &Du) -> Result<(), Failure> {
    let shown = &flags.shown;
    let template = shown.template()?;
    let records = client.usage(shown.filter.clone()).await?;
    if let Some(template) = template {
        let list = Value::Array(records.iter().map(object).collect());
        println!("{}", template.render(&list).map_err(Failure::usage)?);
        return Ok(());
    }
    if shown.verbose {
        records.iter().for_each(|record| rows::print(&verbose(record)));
    } else {
        rows::print(&[HEADINGS.to_owned()].into_iter().chain(records.iter().map(row)).collect::<Vec<_>>());
    }
    if shown.filter.is_empty() {
        rows::print(&summary(&records));
    }
    Ok(())
}

/// Removes, and shows what went.
pub async fn prune(client: &Client, flags: &Prune) -> Result<(), Failure> {
    let shown = &flags.shown;
    let template = shown.template()?;
    let wanted = Wanted {
        filter: shown.filter.clone(),
        all: flags.all,
        keep_duration: flags.keep_duration.unwrap_or_default(),
        reserved_space: flags.keep_storage_min.unwrap_or_default(),
        max_used_space: flags.keep_storage.unwrap_or_default(),
        min_free_space: flags.free_storage.unwrap_or_default(),
    };
    let mut gone = client.prune(wanted).await?;
    let (mut total, mut is_first) = (0, true);
    while let Some(record) = gone.next().await {
        let record = record?;
        total += record.size;
        if let Some(template) = &template {
            println!("{}", template.render(&object(&record)).map_err(Failure::usage)?);
        } else if shown.verbose {
            rows::print(&verbose(&record));
        } else {
            let heading = std::mem::take(&mut is_first).then(|| HEADINGS.to_owned());
            rows::print(&heading.into_iter().chain([row(&record)]).collect::<Vec<_>>());
        }
    }
    if template.is_none() {
        rows::print(&[format!("Total:\t{}", bytes(total))]);
    }
    Ok(())
}

fn row(record: &UsageRecord) -> String {
    let mark = |is: bool| if is { "*" } else { "" };
    let id = format!("{}{}", record.id, mark(record.mutable));
    format!("{id:<71}\t{:<11}\t{}{}\t", !record.in_use, bytes(record.size), mark(record.shared))
}

fn verbose(record: &UsageRecord) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{name}:\t{value}"));
    line("ID", record.id.clone());
    if !record.parents.is_empty() {
        line("Parents", record.parents.join(";"));
    }
    line("Created at", rows::long_time(&record.created_at.unwrap_or_default()));
    line("Mutable", record.mutable.to_string());
    line("Reclaimable", (!record.in_use).to_string());
    line("Shared", record.shared.to_string());
    line("Size", bytes(record.size));
    if !record.description.is_empty() {
        line("Description", record.description.clone());
    }
    line("Usage count", record.usage_count.to_string());
    if let Some(used) = &record.last_used_at {
        line("Last used", rows::long_time(used));
    }
    if !record.record_type.is_empty() {
        line("Type", record.record_type.clone());
    }
    lines.push(String::new());
    lines
}

fn summary(records: &[UsageRecord]) -> Vec<String> {
    let sum =
        |counts: &dyn Fn(&&UsageRecord) -> bool| records.iter().filter(counts).map(|r| r.size.max(0)).sum::<i64>();
    let (total, shared) = (sum(&|_| true), sum(&|r| r.shared));
    let mut lines = Vec::new();
    if shared > 0 {
        lines.push(format!("Shared:\t{}", bytes(shared)));
        lines.push(format!("Private:\t{}", bytes(total - shared)));
    }
    lines.push(format!("Reclaimable:\t{}", bytes(sum(&|r| !r.in_use))));
    lines.push(format!("Total:\t{}", bytes(total)));
    lines
}

/// A record as buildctl's JSON has it.
fn object(record: &UsageRecord) -> Value {
    json!({
        "id": record.id,
        "mutable": record.mutable,
        "inUse": record.in_use,
        "size": record.size,
        "createdAt": rows::json_time(&record.created_at.unwrap_or_default()),
        "lastUsedAt": record.last_used_at.as_ref().map(rows::json_time),
        "usageCount": record.usage_count,
        "parents": (!record.parents.is_empty()).then_some(&record.parents),
        "description": record.description,
        "recordType": record.record_type,
        "shared": record.shared,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_buildctl_prints_it() {
        let time = Some(proto::Timestamp { seconds: 0, nanos: 0 });
        let record = UsageRecord {
            id: "abc".into(),
            mutable: true,
            size: 1_234_567,
            created_at: time,
            description: "RUN make".into(),
            usage_count: 2,
            record_type: "regular".into(),
            shared: true,
            ..UsageRecord::default()
        };
        let id = format!("{:<71}", "abc*");
        assert_eq!(rows::aligned(&[row(&record)]), format!("{id}\ttrue       \t1.23MB*\t\n"));
        insta::assert_snapshot!(rows::aligned(&verbose(&record)).replace('\t', "→"), @r"
        ID:→→abc
        Created at:→1970-01-01 00:00:00 +0000 UTC
        Mutable:→true
        Reclaimable:→true
        Shared:→→true
        Size:→→1.23MB
        Description:→RUN make
        Usage count:→2
        Type:→→regular
        ");
        insta::assert_snapshot!(rows::aligned(&summary(&[record])).replace('\t', "→"), @r"
        Shared:→→1.23MB
        Private:→0B
        Reclaimable:→1.23MB
        Total:→→1.23MB
        ");
        assert_eq!(megabytes("1.5"), Ok(1_500_000));
        assert!(megabytes("-1").is_err());
    }
}
