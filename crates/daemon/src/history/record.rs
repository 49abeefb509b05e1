//! A kept build as a message: what its summary says, in BuildKit's words.

use std::collections::HashMap;

use builder::exporters;
use builder::history::Summary;
use oci::Descriptor;
use proto::control::{self, BuildHistoryRecord, BuildResultInfo};
use proto::rpc;
use store::HistoryEntry;
use tonic::{Code, Status};

use super::failed;
use crate::control::status::timestamp;

/// What the builder says of a kept build.
pub fn summary(entry: &HistoryEntry) -> Result<Summary, Status> {
    serde_json::from_slice(&entry.summary).map_err(failed)
}

/// A build's error as clients read it; the whole of it is a blob.
pub fn error(summary: &Summary) -> Option<rpc::Status> {
    let message = summary.error.clone()?;
    let (code, message) = match &summary.failure {
        Some(failure) => (failure.code, message),
        None if message == builder::Error::Cancelled.to_string() => (Code::Cancelled as i32, CANCELLED.to_owned()),
        None => (Code::Unknown as i32, message),
    };
    Some(rpc::Status { code, message, details: Vec::new() })
}

/// By these words clients know that a build was cancelled.
pub const CANCELLED: &str = "context canceled";

/// Outputs that were asked for.
pub fn exporters(outputs: &[exporters::Request]) -> Vec<control::Exporter> {
    let one = |output: &exporters::Request| control::Exporter {
        r#type: output.kind.clone(),
        attrs: output.attributes.clone().into_iter().collect(),
    };
    outputs.iter().map(one).collect()
}

fn descriptor(descriptor: &Descriptor) -> control::Descriptor {
    control::Descriptor {
        media_type: descriptor.media_type.clone(),
        digest: descriptor.digest.to_string(),
        size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
        annotations: descriptor.annotations.clone().into_iter().collect(),
    }
}

/// The message.
pub fn of((entry, summary): &(HistoryEntry, Summary)) -> BuildHistoryRecord {
    let count = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let mut results: HashMap<String, BuildResultInfo> = HashMap::new();
    for (name, provenance) in &summary.provenance {
        results.entry(name.clone()).or_default().attestations.push(descriptor(provenance));
    }
    // The only result has no name, and images belong to all results together.
    let mut result = results.remove("");
    for (index, image) in &summary.images {
        let result = result.get_or_insert_default();
        result.result_deprecated.get_or_insert_with(|| descriptor(image));
        result.results.insert(i64::try_from(*index).unwrap_or(i64::MAX), descriptor(image));
    }
    BuildHistoryRecord {
        r#ref: entry.id.clone(),
        frontend: summary.frontend.clone(),
        frontend_attrs: summary.attributes.clone().into_iter().collect(),
        exporters: exporters(&summary.outputs),
        error: error(summary),
        created_at: Some(timestamp(entry.created * 1000)),
        completed_at: Some(timestamp(entry.completed * 1000)),
        logs: summary.log.as_ref().map(descriptor),
        exporter_response: summary.response.clone().into_iter().collect(),
        result,
        results,
        generation: 0,
        trace: summary.trace.as_ref().map(descriptor),
        pinned: entry.pinned,
        num_cached_steps: count(summary.shown.cached),
        num_total_steps: count(summary.shown.total),
        num_completed_steps: count(summary.shown.completed),
        external_error: summary.failure.as_ref().map(|failure| descriptor(&failure.status)),
        num_warnings: count(summary.warnings),
    }
}
