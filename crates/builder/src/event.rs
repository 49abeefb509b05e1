//! The one stream of events of a build: progress, history, metrics and `explain` all read it.
//! Events are plain data with a time; nobody who reads them can change the build.

use std::sync::Arc;
use std::time::SystemTime;

use graph::wire;
use oci::{Descriptor, Digest};
use serde::{Deserialize, Serialize};
use solver::Verdict;

/// Something that happened in a build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Microseconds since 1970.
    pub at: u64,
    /// What happened.
    pub what: What,
}

/// What happened. Steps are named by the digest of their vertex.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum What {
    /// A step is known. Comes once, before anything else of that step.
    Known {
        step: Digest,
        name: String,
        inputs: Vec<Digest>,
        group: Option<String>,
    },
    Started {
        step: Digest,
    },
    /// `cached`: nothing ran for it. `error`: its text, when it failed.
    Completed {
        step: Digest,
        cached: bool,
        error: Option<String>,
    },
    /// Why it was a hit or had to run. Comes at most once a step and build.
    Verdict {
        step: Digest,
        verdict: Verdict,
    },
    Log {
        step: Digest,
        stream: Stream,
        bytes: Vec<u8>,
    },
    /// A part of a step's work, such as one blob that is fetched. `total` 0 is unknown.
    Progress {
        step: Digest,
        part: String,
        current: u64,
        total: u64,
        done: bool,
    },
    Warning {
        step: Digest,
        warning: Warning,
    },
    /// A cache was written, also after a failure: its position among those that were asked for, and its manifest.
    Cache {
        step: Digest,
        position: usize,
        manifest: Descriptor,
    },
}

/// Which of a process' two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Stream {
    Out,
    Err,
}

/// A warning about the client's files, as BuildKit's `VertexWarning`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    /// One line: `Rule: message (line N)`.
    pub short: String,
    /// More text.
    pub detail: Vec<String>,
    /// Page about the rule.
    pub url: String,
    /// The higher, the less it is for everybody; 0 is 1, which is everybody.
    #[serde(default)]
    pub level: u32,
    /// File it is about.
    pub file: String,
    /// Lines from 1: first and last.
    pub lines: Option<(u32, u32)>,
    /// The file's text, for whoever shows the lines. It is not kept.
    #[serde(default, skip_serializing)]
    pub text: String,
}

/// Where events go. Cheap to clone.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl Events {
    /// Hands every event to `sink`, which must not block for long.
    pub fn new(sink: impl Fn(Event) + Send + Sync + 'static) -> Events {
        Events(Arc::new(sink))
    }

    /// Tells that `what` happened now.
    pub fn tell(&self, what: What) {
        self.pass(Event { at: now_micros(), what });
    }

    /// Hands on an event that happened before.
    pub fn pass(&self, event: Event) {
        (self.0)(event);
    }

    /// A step that belongs to no operation of the graph, such as `[internal] load .dockerignore`: known and started.
    /// Its digest is derived from `identity`.
    pub fn begin(&self, identity: &str, name: &str) -> Task {
        let step = Digest::of(identity.as_bytes());
        self.tell(What::Known { step, name: name.to_owned(), inputs: Vec::new(), group: None });
        self.tell(What::Started { step });
        Task { events: self.clone(), step, open: true }
    }
}

/// Microseconds since 1970.
pub fn now_micros() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970.
pub fn now_millis() -> u64 {
    now_micros() / 1000
}

/// An open step; it completes when it is finished, or as cancelled when it is dropped before.
pub struct Task {
    events: Events,
    /// The step's digest.
    pub step: Digest,
    open: bool,
}

impl Task {
    /// Completes the step, with the error's text if it failed.
    pub fn finish<T, E: std::fmt::Display>(mut self, result: Result<T, E>) -> Result<T, E> {
        self.open = false;
        let error = result.as_ref().err().map(ToString::to_string);
        self.events.tell(What::Completed { step: self.step, cached: false, error });
        result
    }

    /// Tells of a part of the step's work.
    pub fn progress(&self, part: &str, current: u64, total: u64, done: bool) {
        self.events.tell(What::Progress { step: self.step, part: part.to_owned(), current, total, done });
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.open {
            let error = Some("cancelled".to_owned());
            self.events.tell(What::Completed { step: self.step, cached: false, error });
        }
    }
}

/// The row under which progress shows a vertex, if it shares one.
pub fn group(metadata: &wire::OpMetadata) -> Option<String> {
    metadata.progress_group.as_ref().map(|g| if g.name.is_empty() { g.id.clone() } else { g.name.clone() })
}
