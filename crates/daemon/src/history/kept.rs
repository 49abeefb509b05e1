//! Blobs that a kept build has for clients only: its log and its trace. They are made from its events when somebody asks,
//! so that a build at which nobody looks costs nothing; once made, they are kept with it.

use std::io::Write;

use builder::event::{now_micros, now_millis};
use builder::history::Summary;
use oci::Descriptor;
use prost::Message;
use proto::control::StatusResponse;
use store::{HistoryEntry, Store};
use tonic::Status;

use super::trace::{self, Traces};
use super::{TOGETHER, TRACED_AFTER, events, failed};
use crate::control::status::Translator;

/// Media type of a log: frames of a length (32 bits, little endian) and a `StatusResponse` each.
const LOG: &str = "application/vnd.buildkit.status.v0";
/// Media type of a trace: spans as JSON, one after the other.
const TRACE: &str = "application/vnd.buildkit.otlp.json.v0";

/// A kept build with its log, and with its trace when its client has had time to send spans.
pub fn complete(
    store: &Store,
    traces: &Traces,
    entry: HistoryEntry,
    summary: Summary,
) -> Result<(HistoryEntry, Summary), Status> {
    let (entry, summary) = if summary.log.is_some() { (entry, summary) } else { with_log(store, &entry)? };
    let age = now_millis().saturating_sub(entry.completed);
    if summary.trace.is_some() || u128::from(age) < TRACED_AFTER.as_millis() {
        return Ok((entry, summary));
    }
    finish_trace(store, &entry.id, &summary, traces)
}

fn with_log(store: &Store, entry: &HistoryEntry) -> Result<(HistoryEntry, Summary), Status> {
    let mut blob = store.blobs().writer().map_err(failed)?;
    let mut translator = Translator::default();
    let mut some = Vec::new();
    let mut write = |message: &StatusResponse| -> Result<(), Status> {
        let length = u32::try_from(message.encoded_len()).map_err(failed)?;
        let frame = [&length.to_le_bytes()[..], &message.encode_to_vec()].concat();
        blob.write_all(&frame).map_err(failed)
    };
    for event in events(store, &entry.id)? {
        some.push(event?);
        if some.len() == TOGETHER {
            write(&translator.translate(&some))?;
            some.clear();
        }
    }
    write(&translator.translate(&some))?;
    write(&translator.finish(entry.completed * 1000))?;
    let blob = blob.commit(None).map_err(failed)?;
    attach(store, &entry.id, Descriptor::new(LOG, blob.digest, blob.size), |summary, log| summary.log = Some(log))
}

/// Makes and keeps a build's trace: its steps, and what its client has sent.
pub fn finish_trace(
    store: &Store,
    id: &str,
    summary: &Summary,
    traces: &Traces,
) -> Result<(HistoryEntry, Summary), Status> {
    let events: Vec<_> = events(store, id)?.collect::<Result<_, _>>()?;
    let text = trace::write(summary, &events, traces, now_micros());
    let blob = store.blobs().put(text.as_bytes()).map_err(failed)?;
    let trace = Descriptor::new(TRACE, blob.digest, blob.size);
    attach(store, id, trace, |summary, trace| summary.trace = Some(trace))
}

/// Keeps a blob with a build.
fn attach(
    store: &Store,
    id: &str,
    blob: Descriptor,
    note: impl FnOnce(&mut Summary, Descriptor),
) -> Result<(HistoryEntry, Summary), Status> {
    let mut noted = Ok(Summary::default());
    let entry = store.history().change(id, |entry, blobs| {
        noted = serde_json::from_slice::<Summary>(&entry.summary).and_then(|mut summary| {
            blobs.own.push(blob.digest);
            note(&mut summary, blob);
            entry.summary = serde_json::to_vec(&summary)?;
            Ok(summary)
        });
    });
    Ok((entry.map_err(failed)?, noted.map_err(failed)?))
}
