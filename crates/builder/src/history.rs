//! What is kept of a build: a summary, and its whole stream of events, one JSON object a line.
//! Whoever shows builds later (`larder explain`, `larder history`, the daemon) reads these and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci::{Descriptor, Digest};
use serde::{Deserialize, Serialize};
use solver::Verdict;
use store::{HistoryBlobs, HistoryEntry, HistoryWriter, Store};

use crate::attestations::statement;
use crate::build::{Request, Response};
use crate::event::{Event, What, now_millis};
use crate::{Error, Events, exporters};

/// The summary of a build, kept as JSON in the store's history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The build's id.
    pub id: String,
    /// For people: the base name of the project with the target.
    pub name: String,
    /// The context's identity.
    pub project: String,
    /// Milliseconds since 1970.
    pub started: u64,
    /// Milliseconds since 1970.
    pub completed: u64,
    /// The error's text, if it failed.
    pub error: Option<String>,
    /// Steps of the graph.
    pub steps: u32,
    /// How many of them were hits.
    pub cached: u32,
    /// How many warnings.
    pub warnings: u32,
    /// The request's attributes, without values that look like secrets.
    pub attributes: BTreeMap<String, String>,
    /// The exporter's response.
    pub response: BTreeMap<String, String>,
    /// The frontend that was asked, if one was.
    #[serde(default)]
    pub frontend: String,
    /// The client's place in a trace (W3C `traceparent`).
    #[serde(default)]
    pub traceparent: String,
    /// The outputs that were asked for.
    #[serde(default)]
    pub outputs: Vec<exporters::Request>,
    /// What images became, by the position of their outputs.
    #[serde(default)]
    pub images: BTreeMap<usize, Descriptor>,
    /// How each result was built, by its name: in-toto predicates.
    #[serde(default)]
    pub provenance: BTreeMap<String, Descriptor>,
    /// Statements in images, by what they say but for when.
    #[serde(default)]
    pub statements: BTreeMap<Digest, Digest>,
    /// All that progress showed, steps of the graph and others.
    #[serde(default)]
    pub shown: Shown,
    /// What the client was told of the failure.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// The log, in the form of BuildKit's clients, once somebody asked for it.
    #[serde(default)]
    pub log: Option<Descriptor>,
    /// The trace, in the form of BuildKit's clients, once it is finished.
    #[serde(default)]
    pub trace: Option<Descriptor>,
}

/// How many steps progress showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// All.
    pub total: u32,
    /// Those that came to an end.
    pub completed: u32,
    /// Those that were hits.
    pub cached: u32,
}

/// A failure as a client was told of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Code of the gRPC status.
    pub code: i32,
    /// The whole status, as a blob.
    pub status: Descriptor,
}

/// Media type of a failure's status (spelt so by BuildKit).
const STATUS: &str = "application/vnd.googeapis.google.rpc.status+proto";

/// Earlier statements are looked for in so many kept builds.
const LOOKED_AT: usize = 50;

/// Statements in images of the newest kept builds, by what they say but for when.
pub(crate) fn statements(store: &Store) -> Result<BTreeMap<Digest, Digest>, Error> {
    let mut all = BTreeMap::new();
    for entry in store.history().list()?.iter().take(LOOKED_AT).rev() {
        // What can't be read has no statement to offer.
        if let Ok(summary) = serde_json::from_slice::<Summary>(&entry.summary) {
            all.extend(summary.statements);
        }
    }
    Ok(all)
}

/// Why kept builds can't be shown.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum KeptError {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("what was kept of build {id} can't be read: {reason}")]
    Unreadable { id: String, reason: String },
}

/// All kept builds, newest first.
pub fn builds(store: &Store) -> Result<Vec<Summary>, KeptError> {
    let read = |entry: HistoryEntry| {
        let summary = serde_json::from_slice(&entry.summary);
        summary.map_err(|e| KeptError::Unreadable { id: entry.id, reason: e.to_string() })
    };
    store.history().list()?.into_iter().map(read).collect()
}

/// The events of a kept build.
pub fn events(store: &Store, id: &str) -> Result<Vec<Event>, KeptError> {
    let file = std::io::BufReader::new(store.history().events(id)?);
    let unreadable = |reason: String| KeptError::Unreadable { id: id.to_owned(), reason };
    let read = |line: std::io::Result<String>| {
        let line = line.map_err(|e| unreadable(e.to_string()))?;
        serde_json::from_str(&line).map_err(|e| unreadable(e.to_string()))
    };
    std::io::BufRead::lines(file).map(read).collect()
}

/// Writes the history of one build while it goes on.
#[derive(Clone)]
pub(crate) struct Keeper(Arc<Mutex<Kept>>);

struct Kept {
    summary: Summary,
    writer: Option<HistoryWriter>,
    steps: BTreeSet<Digest>,
    /// Of everything that was shown: whether it ended, whether it was a hit.
    shown: BTreeMap<Digest, (bool, bool)>,
    blobs: HistoryBlobs,
    /// Writing failed once: the build goes on without its history, and says so at the end.
    failed: Option<std::io::Error>,
}

impl Keeper {
    /// Starts the history of a build.
    pub(crate) fn begin(store: &Store, request: &Request, project: &str) -> Result<Keeper, Error> {
        let base = project.rsplit('/').next().unwrap_or(project);
        let target = request.attributes.get("target").filter(|t| !t.is_empty());
        let shown = |(name, value): (&String, &String)| (name.clone(), solver::shown(name, value));
        let summary = Summary {
            id: request.id.clone(),
            name: target.map_or_else(|| base.to_owned(), |target| format!("{base} ({target})")),
            project: project.to_owned(),
            started: now_millis(),
            attributes: request.attributes.iter().map(shown).collect(),
            frontend: request.frontend.clone(),
            traceparent: request.traceparent.clone(),
            outputs: request.outputs.clone(),
            ..Summary::default()
        };
        let writer = Some(store.history().begin(&request.id)?);
        let (steps, shown, blobs) = (BTreeSet::new(), BTreeMap::new(), HistoryBlobs::default());
        let kept = Kept { summary, writer, steps, shown, blobs, failed: None };
        Ok(Keeper(Arc::new(Mutex::new(kept))))
    }

    /// Events that are kept before `events` gets them.
    pub(crate) fn listen(&self, events: Events) -> Events {
        let kept = self.0.clone();
        Events::new(move |event| {
            kept.lock().unwrap_or_else(PoisonError::into_inner).keep(&event);
            events.pass(event);
        })
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what the outputs became, and how each result was built.
    pub(crate) fn wrote(
        &self,
        store: &Store,
        written: &exporters::Written,
        provenance: &BTreeMap<String, (&'static str, Vec<u8>)>,
    ) -> Result<(), Error> {
        let mut all = BTreeMap::new();
        for (name, (kind, said)) in provenance {
            let blob = store.blobs().put(said)?;
            let mut descriptor = Descriptor::new(statement::MEDIA, blob.digest, blob.size);
            descriptor.annotations.insert(statement::PREDICATE.to_owned(), (*kind).to_owned());
            all.insert(name.clone(), descriptor);
        }
        let mut kept = self.lock();
        kept.blobs.own.extend(all.values().map(|d| d.digest));
        kept.blobs.results.extend(&written.small);
        kept.summary.images.clone_from(&written.images);
        kept.summary.statements.clone_from(&written.statements);
        kept.summary.provenance = all;
        Ok(())
    }

    /// Keeps what a client is told of the failure.
    pub(crate) fn failed(&self, store: &Store, code: i32, status: &[u8]) -> Result<(), Error> {
        let blob = store.blobs().put(status)?;
        let mut kept = self.lock();
        kept.blobs.own.push(blob.digest);
        kept.summary.failure = Some(Failure { code, status: Descriptor::new(STATUS, blob.digest, blob.size) });
        Ok(())
    }

    /// Writes no history: another may begin under the same name, whoever still tells of events.
    pub(crate) fn forget(&self) {
        self.lock().writer = None;
    }

    /// Ends the history.
    pub(crate) fn finish(
        &self,
        store: &Store,
        retention: store::Retention,
        outcome: &Result<Response, Error>,
    ) -> Result<(), Error> {
        let mut kept = self.lock();
        kept.summary.completed = now_millis();
        kept.summary.error = outcome.as_ref().err().map(ToString::to_string);
        kept.summary.steps = u32::try_from(kept.steps.len()).unwrap_or(u32::MAX);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        kept.summary.shown = Shown {
            total: count(kept.shown.len()),
            completed: count(kept.shown.values().filter(|(ended, _)| *ended).count()),
            cached: count(kept.shown.values().filter(|(_, cached)| *cached).count()),
        };
        if let Ok(response) = outcome {
            kept.summary.response.clone_from(&response.exporter);
        }
        let summary = serde_json::to_vec(&kept.summary).unwrap_or_default();
        let entry = HistoryEntry {
            id: kept.summary.id.clone(),
            created: kept.summary.started,
            completed: kept.summary.completed,
            pinned: false,
            summary,
        };
        // What can't be written is dropped: a history never fails a build.
        if let (Some(writer), None) = (kept.writer.take(), kept.failed.take()) {
            writer.finish(&entry, &kept.blobs)?;
        }
        store.history().retain(retention, now_millis())?;
        Ok(())
    }
}

impl Kept {
    fn keep(&mut self, event: &Event) {
        match &event.what {
            What::Verdict { step, verdict } if self.steps.insert(*step) && matches!(verdict, Verdict::Hit { .. }) => {
                self.summary.cached += 1;
            }
            What::Warning { .. } => self.summary.warnings += 1,
            What::Known { step, .. } => drop(self.shown.entry(*step).or_default()),
            What::Completed { step, cached, .. } => {
                let shown = self.shown.entry(*step).or_default();
                *shown = (true, shown.1 || *cached);
            }
            _ => {}
        }
        let Some(writer) = self.writer.as_mut().filter(|_| self.failed.is_none()) else { return };
        let written = serde_json::to_vec(event).map_err(std::io::Error::other).and_then(|mut line| {
            line.push(b'\n');
            writer.write_all(&line)
        });
        self.failed = written.err();
    }
}
