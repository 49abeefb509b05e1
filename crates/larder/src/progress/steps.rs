//! What a display remembers of the steps: numbers in order of appearance, names, times, outcome.
//! A fold over events, without any output.

use std::collections::HashMap;

use builder::event::{Event, What};
use oci::Digest;

/// One step as a display knows it.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Number shown to people, from 1, once it has begun.
    pub number: Option<usize>,
    /// Display name.
    pub name: String,
    /// Row it shares with other steps.
    pub group: Option<String>,
    /// Microseconds since 1970.
    pub started: Option<u64>,
    /// Microseconds since 1970.
    pub completed: Option<u64>,
    /// Nothing ran.
    pub cached: bool,
    /// Error text.
    pub error: Option<String>,
    /// Last lines of its output, for a failure or a live picture.
    pub tail: Vec<String>,
}

impl Step {
    /// Seconds from start to completion, or to `now` (microseconds since 1970).
    pub fn seconds(&self, now: u64) -> f64 {
        let Some(started) = self.started else { return 0.0 };
        self.completed.unwrap_or(now).saturating_sub(started) as f64 / 1e6
    }
}

/// All steps of a build.
#[derive(Default)]
pub struct Steps {
    steps: HashMap<Digest, Step>,
    numbered: Vec<Digest>,
    /// Output that has no line end yet.
    partial: HashMap<Digest, Vec<u8>>,
}

/// How many of a step's last lines are kept.
const TAIL: usize = 20;

impl Steps {
    /// Takes an event.
    pub fn take(&mut self, event: &Event) {
        match &event.what {
            What::Known { step, name, group, .. } => {
                let entry = self.steps.entry(*step).or_default();
                entry.name.clone_from(name);
                entry.group.clone_from(group);
            }
            What::Started { step } => {
                self.number(*step);
                let entry = self.steps.entry(*step).or_default();
                entry.started.get_or_insert(event.at);
                entry.completed = None;
            }
            What::Completed { step, cached, error } => {
                self.number(*step);
                let entry = self.steps.entry(*step).or_default();
                entry.completed = Some(event.at);
                entry.cached = *cached;
                entry.error.clone_from(error);
            }
            _ => {}
        }
    }

    /// The step, if it is known.
    pub fn get(&self, step: &Digest) -> Option<&Step> {
        self.steps.get(step)
    }

    /// The number of a step, given now if it has none.
    pub fn number(&mut self, step: Digest) -> usize {
        let entry = self.steps.entry(step).or_default();
        *entry.number.get_or_insert_with(|| {
            self.numbered.push(step);
            self.numbered.len()
        })
    }

    /// Steps in the order of their numbers.
    pub fn in_order(&self) -> impl Iterator<Item = &Step> {
        self.numbered.iter().filter_map(|d| self.steps.get(d))
    }

    /// Takes output and gives its whole lines; the rest waits for its end. Lines join the step's tail.
    pub fn lines(&mut self, step: Digest, bytes: &[u8]) -> Vec<String> {
        let buffer = self.partial.entry(step).or_default();
        buffer.extend_from_slice(bytes);
        let Some(end) = buffer.iter().rposition(|b| *b == b'\n') else { return Vec::new() };
        let rest = buffer.split_off(end + 1);
        let whole = std::mem::replace(buffer, rest);
        self.keep(step, &whole)
    }

    /// The output that never got its line end.
    pub fn last_line(&mut self, step: Digest) -> Vec<String> {
        let rest = self.partial.remove(&step).unwrap_or_default();
        if rest.is_empty() { Vec::new() } else { self.keep(step, &rest) }
    }

    fn keep(&mut self, step: Digest, bytes: &[u8]) -> Vec<String> {
        let text = String::from_utf8_lossy(bytes);
        // A carriage return redraws a line on a terminal: only what stays last is worth a line.
        let last = |line: &str| line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default().to_owned();
        let lines: Vec<String> = text.lines().map(last).collect();
        let tail = &mut self.steps.entry(step).or_default().tail;
        tail.extend(lines.iter().cloned());
        let excess = tail.len().saturating_sub(TAIL);
        tail.drain(..excess);
        lines
    }
}
