//! What is kept of a build: a summary, and its whole stream of events, one JSON object a line.
//! Whoever shows builds later (`larder explain`, `larder history`, the daemon) reads these and nothing else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
