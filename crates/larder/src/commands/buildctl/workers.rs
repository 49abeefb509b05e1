//! `buildctl debug workers` and `debug info`: what the daemon says of itself. Drivers of docker-buildx ask the first to
//! learn whether the daemon in their container is up.

use ::daemon::client::{Client, WorkerRecord};
use proto::worker::GcPolicy;
use serde_json::{Value, json};

use super::rows;
use super::template::Template;
use crate::commands::{Failure, size};

#[derive(clap::Args, Debug)]
pub struct Flags {
    /// containerd-style filter string slice
    #[arg(long, short)]
    filter: Vec<String>,
    /// Verbose output
    #[arg(long, short)]
    verbose: bool,
    /// Format the output using the given Go template, e.g, '{{json .}}'
    #[arg(long)]
    format: Option<String>,
}

#[derive(clap::Args, Debug)]
pub struct Info {
    /// Format the output using the given Go template, e.g, '{{json .}}'
    #[arg(long)]
    format: Option<String>,
}

/// Shows the workers.
pub async fn list(client: &Client, flags: &Flags) -> Result<(), Failure> {
    let template = flags.format.as_deref().map(Template::parse).transpose().map_err(Failure::usage)?;
    let workers = client.workers(flags.filter.clone()).await?;
    if let Some(template) = template {
        let list = Value::Array(workers.iter().map(object).collect());
        println!("{}", template.render(&list).map_err(Failure::usage)?);
    } else if flags.verbose {
        rows::print(&workers.iter().flat_map(verbose).collect::<Vec<_>>());
    } else {
        let rows = workers.iter().map(|worker| format!("{}\t{}", worker.id, platforms(worker)));
        rows::print(&["ID\tPLATFORMS".to_owned()].into_iter().chain(rows).collect::<Vec<_>>());
    }
    Ok(())
}

/// Shows the daemon's version.
pub async fn info(client: &Client, flags: &Info) -> Result<(), Failure> {
    let template = flags.format.as_deref().map(Template::parse).transpose().map_err(Failure::usage)?;
    let version = client.info().await?;
    match template {
        Some(template) => {
            let mut version_of = self::version(&version.package, &version.version, &version.revision);
            if !version.dockerfile_version.is_empty() {
                version_of["dockerfileVersion"] = json!(version.dockerfile_version);
            }
            let info = json!({ "buildkitVersion": version_of });
            println!("{}", template.render(&info).map_err(Failure::usage)?);
        }
        None if version.dockerfile_version.is_empty() => {
            println!("BuildKit: {} {} {}", version.package, version.version, version.revision);
        }
        None => {
            println!("BuildKit:   {} {} {}", version.package, version.version, version.revision);
            println!("Dockerfile: {}", version.dockerfile_version);
        }
    }
    Ok(())
}

fn platforms(worker: &WorkerRecord) -> String {
    let name = |p: &proto::pb::Platform| oci::Platform::new(&p.os, &p.architecture, &p.variant).to_string();
    worker.platforms.iter().map(name).collect::<Vec<_>>().join(",")
}

fn verbose(worker: &WorkerRecord) -> Vec<String> {
    let mut lines = vec![format!("ID:\t{}", worker.id), format!("Platforms:\t{}", platforms(worker))];
    let version = worker.buildkit_version.clone().unwrap_or_default();
    lines.push(format!("BuildKit:\t{} {} {}", version.package, version.version, version.revision));
    lines.push("Labels:".to_owned());
    let mut labels: Vec<_> = worker.labels.iter().collect();
    labels.sort();
    lines.extend(labels.into_iter().map(|(name, value)| format!("\t{name}:\t{value}")));
    for (number, rule) in worker.gc_policy.iter().enumerate() {
        lines.push(format!("GC Policy rule#{number}:"));
        lines.extend(policy(rule));
    }
    lines.push(String::new());
    lines
}

fn policy(rule: &GcPolicy) -> Vec<String> {
    let mut lines = vec![format!("\tAll:\t{}", rule.all)];
    if !rule.filters.is_empty() {
        lines.push(format!("\tFilters:\t{}", rule.filters.join(" ")));
    }
    if rule.keep_duration > 0 {
        lines.push(format!("\tKeep duration:\t{}", duration(rule.keep_duration)));
    }
    let spaces = [
        ("Reserved space", rule.reserved_space),
        ("Minimum free space", rule.min_free_space),
        ("Maximum used space", rule.max_used_space),
    ];
    let set = spaces.into_iter().filter_map(|(name, n)| Some((name, u64::try_from(n).ok().filter(|n| *n > 0)?)));
    lines.extend(set.map(|(name, n)| format!("\t{name}:\t{}", short(n))));
    lines
}

/// Nanoseconds as Go prints a duration of whole seconds: `48h0m0s`.
fn duration(nanos: i64) -> String {
    let seconds = nanos / 1_000_000_000;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

fn version(package: &str, version: &str, revision: &str) -> Value {
    json!({ "package": package, "version": version, "revision": revision })
}

/// A size with as few digits as it needs: `512MB`.
fn short(bytes: u64) -> String {
    let (text, unit) = (size(bytes), |c: char| c.is_ascii_alphabetic());
    let number = text.trim_end_matches(unit);
    let digits = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
    format!("{digits}{}", &text[number.len()..])
}

/// A worker as buildctl's JSON has it.
fn object(worker: &WorkerRecord) -> Value {
    let platform = |p: &proto::pb::Platform| {
        let mut object = json!({ "architecture": p.architecture, "os": p.os });
        if !p.variant.is_empty() {
            object["variant"] = json!(p.variant);
        }
        object
    };
    let rule = |rule: &GcPolicy| {
        json!({
            "all": rule.all,
            "filter": (!rule.filters.is_empty()).then_some(&rule.filters),
            "keepDuration": rule.keep_duration,
            "reservedSpace": rule.reserved_space,
            "maxUsedSpace": rule.max_used_space,
            "minFreeSpace": rule.min_free_space,
        })
    };
    let by = worker.buildkit_version.clone().unwrap_or_default();
    json!({
        "id": worker.id,
        "labels": worker.labels,
        "platforms": worker.platforms.iter().map(platform).collect::<Vec<_>>(),
        "gcPolicy": worker.gc_policy.iter().map(rule).collect::<Vec<_>>(),
        "buildkitVersion": version(&by.package, &by.version, &by.revision),
        "cdiDevices": null,
    })
}
