//! What stands at the end of a failed build: each step that failed, with the last lines of its output.

use std::collections::HashMap;
use std::io::Write;

use builder::event::{Event, What};
use oci::Digest;

use super::Display;
use super::steps::Steps;

/// Lines of a step that are shown.
const LINES: usize = 10;

pub struct Failures<W> {
    out: W,
    steps: Steps,
    lines: HashMap<Digest, Vec<String>>,
    failed: Vec<Digest>,
}

impl<W: Write + Send> Failures<W> {
    pub fn new(out: W) -> Failures<W> {
        Failures { out, steps: Steps::default(), lines: HashMap::new(), failed: Vec::new() }
    }

    fn keep(&mut self, step: Digest, at: u64, lines: Vec<String>) {
        let seconds = self.steps.get(&step).map(|s| s.seconds(at)).unwrap_or_default();
        let kept = self.lines.entry(step).or_default();
        kept.extend(lines.into_iter().map(|line| format!("{seconds:.3} {line}")));
        let excess = kept.len().saturating_sub(LINES);
        kept.drain(..excess);
    }
}

impl<W: Write + Send> Display for Failures<W> {
    fn show(&mut self, event: &Event) {
        self.steps.take(event);
        match &event.what {
            What::Log { step, bytes, .. } => {
                let lines = self.steps.lines(*step, bytes);
                self.keep(*step, event.at, lines);
            }
            What::Completed { step, error, .. } => {
                let lines = self.steps.last_line(*step);
                self.keep(*step, event.at, lines);
                let is_failure = error.as_deref().is_some_and(|e| e != "cancelled" && !e.ends_with("context canceled"));
                if is_failure && !self.failed.contains(step) {
                    self.failed.push(*step);
                }
            }
            _ => {}
        }
    }

    fn finish(&mut self) {
        for step in &self.failed {
            let name = self.steps.get(step).map(|s| s.name.as_str()).unwrap_or_default();
            let lines: String = self.lines.get(step).into_iter().flatten().map(|line| format!("{line}\n")).collect();
            // Nobody reads any more.
            drop(write!(self.out, "------\n > {name}:\n{lines}"));
        }
        if !self.failed.is_empty() {
            drop(writeln!(self.out, "------"));
        }
        drop(self.out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use builder::event::Stream;

    #[test]
    fn last_lines_of_what_failed() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let mut out = Vec::new();
        let mut failures = Failures::new(&mut out);
        let known = |step, name: &str| What::Known { step, name: name.into(), inputs: vec![], group: None };
        let text: String = (0..12).map(|n| format!("line {n}\n")).collect();
        let ended = |step, error: &str| What::Completed { step, cached: false, error: Some(error.into()) };
        let whats = [
            known(a, "RUN a"),
            known(b, "RUN b"),
            What::Started { step: a },
            What::Log { step: a, stream: Stream::Out, bytes: format!("{text}end").into() },
            ended(b, "context canceled"),
            ended(a, "exit code: 1"),
        ];
        for (at, what) in whats.into_iter().enumerate() {
            failures.show(&Event { at: at as u64 * 1000, what });
        }
        failures.finish();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("------\n > RUN a:\n0.001 line 3\n") && text.ends_with("0.003 end\n------\n"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 13);
    }
}
