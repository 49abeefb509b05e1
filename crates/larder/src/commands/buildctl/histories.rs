//! Kept builds under buildctl's verbs: `prune-histories`, `debug histories`, `debug monitor`, `debug ctl`.

use ::daemon::client::Client;
use futures_util::StreamExt;
use proto::control::{
    BuildHistoryEvent, BuildHistoryRecord, BuildHistoryRequest, Descriptor, UpdateBuildHistoryRequest,
};
use serde_json::{Map, Value, json};

use super::rows::{self, without_empty};
use super::template::Template;
use crate::commands::Failure;

const HEADINGS: &str = "TYPE\tREF\tCREATED\tCOMPLETED\tGENERATION";

#[derive(clap::Args, Debug)]
pub struct Format {
    /// Format the output using the given Go template, e.g, '{{json .}}'
    #[arg(long)]
    format: Option<String>,
}

#[derive(clap::Args, Debug)]
pub struct Monitor {
    /// show completed builds
    #[arg(long)]
    completed: bool,
    /// show events for a specific build
    #[arg(long = "ref", value_name = "REF", default_value = "", hide_default_value = true)]
    build: String,
}

#[derive(clap::Args, Debug)]
pub struct Ctl {
    /// Build
    #[arg(value_name = "REF")]
    build: String,
    /// Pin build so it will not be garbage collected
    #[arg(long, conflicts_with_all = ["unpin", "delete"])]
    pin: bool,
    /// Unpin build so it will be garbage collected
    #[arg(long, conflicts_with = "delete")]
    unpin: bool,
    /// Delete build record
    #[arg(long)]
    delete: bool,
}

/// The lines of a table as they come: the headings align with the first.
struct Rows {
    headings: Option<String>,
    template: Option<Template>,
}

impl Rows {
    fn new(format: &Format, headings: String) -> Result<Rows, Failure> {
        let template = format.format.as_deref().map(Template::parse).transpose().map_err(Failure::usage)?;
        Ok(Rows { headings: Some(headings), template })
    }

    fn show(&mut self, event: &BuildHistoryEvent, row: String) -> Result<(), Failure> {
        match &self.template {
            Some(template) => println!("{}", template.render(&object(event)).map_err(Failure::usage)?),
            None => rows::print(&self.headings.take().into_iter().chain([row]).collect::<Vec<_>>()),
        }
        Ok(())
    }

    fn finish(self) {
        if let (None, Some(headings)) = (&self.template, self.headings) {
            rows::print(&[headings]);
        }
    }
}

/// Lists kept builds and those that go on.
pub async fn list(client: &Client, format: &Format) -> Result<(), Failure> {
    let mut rows = Rows::new(format, format!("{HEADINGS}\tPINNED"))?;
    let mut events = client.histories(BuildHistoryRequest { early_exit: true, ..Default::default() }).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        let pinned = if event.record.as_ref().is_some_and(|r| r.pinned) { "*" } else { "" };
        rows.show(&event, format!("{}\t{pinned}", row(&event)))?;
    }
    rows.finish();
    Ok(())
}

/// Removes kept builds that are not pinned.
pub async fn prune(client: &Client, format: &Format) -> Result<(), Failure> {
    let mut rows = Rows::new(format, HEADINGS.to_owned())?;
    let mut events = client.histories(BuildHistoryRequest { early_exit: true, ..Default::default() }).await?;
    let mut failed = Vec::new();
    while let Some(event) = events.next().await {
        let event = event?;
        let Some(record) = event.record.as_ref().filter(|record| !record.pinned) else { continue };
        let request = UpdateBuildHistoryRequest { r#ref: record.r#ref.clone(), delete: true, ..Default::default() };
        match client.update(request).await {
            Ok(()) => rows.show(&event, row(&event))?,
            Err(error) => failed.push(error.to_string()),
        }
    }
    rows.finish();
    if failed.is_empty() { Ok(()) } else { Err(Failure::failed(failed.join("\n"))) }
}

/// Pins, unpins or removes one.
pub async fn ctl(client: &Client, flags: &Ctl) -> Result<(), Failure> {
    if !flags.pin && !flags.unpin && !flags.delete {
        return Err(Failure::usage("must specify one of --pin, --unpin, --delete"));
    }
    let build = flags.build.clone();
    let request =
        UpdateBuildHistoryRequest { r#ref: build, pinned: flags.pin, delete: flags.delete, ..Default::default() };
    Ok(client.update(request).await?)
}

/// Shows what happens to builds until it is ended.
pub async fn monitor(client: &Client, flags: &Monitor) -> Result<(), Failure> {
    let request =
        BuildHistoryRequest { active_only: !flags.completed, r#ref: flags.build.clone(), ..Default::default() };
    let mut events = client.histories(request).await?;
    while let Some(event) = events.next().await {
        told(&event?).iter().for_each(|line| println!("{line}"));
    }
    Ok(())
}

fn kind(event: &BuildHistoryEvent) -> &'static str {
    match event.r#type {
        0 => "STARTED",
        1 => "COMPLETE",
        2 => "DELETED",
        _ => "UNKNOWN",
    }
}

fn row(event: &BuildHistoryEvent) -> String {
    let record = event.record.clone().unwrap_or_default();
    let (created, completed) =
        (rows::short_time(record.created_at.as_ref()), rows::short_time(record.completed_at.as_ref()));
    format!("{}\t{}\t{created}\t{completed}\t{}", kind(event), record.r#ref, record.generation)
}

/// The lines of one event for `monitor`.
fn told(event: &BuildHistoryEvent) -> Vec<String> {
    let record = event.record.clone().unwrap_or_default();
    let mut lines = vec![format!("event: {} ref:{}", kind(event), record.r#ref)];
    if record.num_total_steps != 0 {
        lines.push(format!("  cache: {}/{}", record.num_cached_steps, record.num_total_steps));
    }
    if record.num_warnings != 0 {
        lines.push(format!("  warnings: {}", record.num_warnings));
    }
    let mut blob = |name: &str, descriptor: &Descriptor| {
        let Descriptor { media_type, digest, size, .. } = descriptor;
        lines.push(format!("  {name}: media_type:\"{media_type}\" digest:\"{digest}\" size:{size}"));
    };
    record.logs.iter().for_each(|d| blob("logs", d));
    record.trace.iter().for_each(|d| blob("trace", d));
    if let Some(result) = &record.result {
        let all = result.results.values().chain(result.result_deprecated.iter().filter(|_| result.results.is_empty()));
        all.for_each(|d| blob("descriptor", d));
        result.attestations.iter().for_each(|d| blob("attestation", d));
    }
    for (platform, result) in &record.results {
        let all = result.results.values().chain(result.result_deprecated.iter().filter(|_| result.results.is_empty()));
        all.for_each(|d| blob(&format!("[{platform}] descriptor"), d));
        result.attestations.iter().for_each(|d| blob(&format!("[{platform}] attestation"), d));
    }
    lines
}

/// An event as buildctl's JSON has it: Go's JSON of the message, without what is empty.
fn object(event: &BuildHistoryEvent) -> Value {
    let mut object = Map::new();
    if event.r#type != 0 {
        object.insert("type".to_owned(), event.r#type.into());
    }
    object.extend(event.record.as_ref().map(|record| ("record".to_owned(), self::record(record))));
    Value::Object(object)
}

fn record(record: &BuildHistoryRecord) -> Value {
    let time = |time: &Option<proto::Timestamp>| {
        time.map(|t| without_empty(json!({ "seconds": t.seconds, "nanos": t.nanos })))
    };
    let blob = |d: &Descriptor| {
        without_empty(
            json!({ "media_type": d.media_type, "digest": d.digest, "size": d.size, "annotations": d.annotations }),
        )
    };
    let exporter = |e: &proto::control::Exporter| without_empty(json!({ "Type": e.r#type, "Attrs": e.attrs }));
    let result = |r: &proto::control::BuildResultInfo| {
        let results: Map<String, Value> = r.results.iter().map(|(k, d)| (k.to_string(), blob(d))).collect();
        without_empty(json!({
            "ResultDeprecated": r.result_deprecated.as_ref().map(blob),
            "Attestations": r.attestations.iter().map(blob).collect::<Vec<_>>(),
            "Results": results,
        }))
    };
    let results: Map<String, Value> = record.results.iter().map(|(k, r)| (k.clone(), result(r))).collect();
    without_empty(json!({
        "Ref": record.r#ref,
        "Frontend": record.frontend,
        "FrontendAttrs": record.frontend_attrs,
        "Exporters": record.exporters.iter().map(exporter).collect::<Vec<_>>(),
        "error": record.error.as_ref().map(|e| without_empty(json!({ "code": e.code, "message": e.message }))),
        "CreatedAt": time(&record.created_at),
        "CompletedAt": time(&record.completed_at),
        "logs": record.logs.as_ref().map(blob),
        "ExporterResponse": record.exporter_response,
        "Result": record.result.as_ref().map(result),
        "Results": results,
        "Generation": record.generation,
        "trace": record.trace.as_ref().map(blob),
        "pinned": record.pinned,
        "numCachedSteps": record.num_cached_steps,
        "numTotalSteps": record.num_total_steps,
        "numCompletedSteps": record.num_completed_steps,
        "externalError": record.external_error.as_ref().map(blob),
        "numWarnings": record.num_warnings,
    }))
}
