//! What is kept of a build: a summary, and its whole stream of events, one JSON object a line.
//! Whoever shows builds later (`larder explain`, `larder history`, the daemon) reads these and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use solver::Verdict;
use store::{HistoryEntry, HistoryWriter, Store};

use crate::build::{Request, Response};
use crate::event::{Event, What, now_millis};
use crate::{Error, Events};

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
}

/// Writes the history of one build while it goes on.
#[derive(Clone)]
pub(crate) struct Keeper(Arc<Mutex<Kept>>);

struct Kept {
    summary: Summary,
    writer: Option<HistoryWriter>,
    steps: BTreeSet<oci::Digest>,
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
            ..Summary::default()
        };
        let writer = Some(store.history().begin(&request.id)?);
        let kept = Kept { summary, writer, steps: BTreeSet::new(), failed: None };
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

    /// Ends the history.
    pub(crate) fn finish(&self, store: &Store, outcome: &Result<Response, Error>) -> Result<(), Error> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.summary.completed = now_millis();
        kept.summary.error = outcome.as_ref().err().map(ToString::to_string);
        kept.summary.steps = u32::try_from(kept.steps.len()).unwrap_or(u32::MAX);
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
            writer.finish(&entry)?;
        }
        store.history().retain(store::Retention::default(), now_millis())?;
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
