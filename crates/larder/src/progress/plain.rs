//! Plain lines, as buildx prints into a pipe: `#5 [build 2/3] RUN make`, its output with seconds, `#5 DONE 1.2s`.
//! What larder adds is the cause under a step that ran.

use std::collections::HashSet;
use std::io::Write;

use builder::event::{Event, What};
use oci::Digest;
use solver::Verdict;

use super::Display;
use super::steps::Steps;

pub struct Plain<W> {
    out: W,
    steps: Steps,
    /// The step whose block is open; another step's line opens a block of its own.
    open: Option<Digest>,
    /// Steps of which the last word was that they are done: two frontends may ask for the same, and once is enough.
    done: HashSet<Digest>,
}

impl<W: Write + Send> Plain<W> {
    pub fn new(out: W) -> Plain<W> {
        Plain { out, steps: Steps::default(), open: None, done: HashSet::new() }
    }

    fn line(&mut self, step: Digest, text: &str) {
        let number = self.steps.number(step);
        self.done.remove(&step);
        if self.open != Some(step) {
            let name = self.steps.get(&step).map(|s| s.name.clone()).unwrap_or_default();
            let gap = if self.open.is_some() { "\n" } else { "" };
            self.print(&format!("{gap}#{number} {name}\n"));
            self.open = Some(step);
        }
        if !text.is_empty() {
            self.print(&format!("#{number} {text}\n"));
        }
    }

    fn print(&mut self, text: &str) {
        // Nobody reads any more (a closed pipe): the build goes on without its display.
        drop(self.out.write_all(text.as_bytes()));
    }

    fn completed(&mut self, step: Digest, at: u64) {
        for line in self.steps.last_line(step) {
            self.log(step, at, &line);
        }
        let Some(known) = self.steps.get(&step) else { return };
        let well = known.error.is_none();
        if well && self.done.contains(&step) {
            return;
        }
        let text = match &known.error {
            Some(error) => format!("ERROR: {error}"),
            None if known.cached => "CACHED".to_owned(),
            None => format!("DONE {:.1}s", known.seconds(at)),
        };
        self.line(step, &text);
        if well {
            self.done.insert(step);
        }
    }

    fn log(&mut self, step: Digest, at: u64, line: &str) {
        let seconds = self.steps.get(&step).map(|s| s.seconds(at)).unwrap_or_default();
        self.line(step, &format!("{seconds:.3} {line}"));
    }
}

impl<W: Write + Send> Display for Plain<W> {
    fn show(&mut self, event: &Event) {
        self.steps.take(event);
        match &event.what {
            What::Known { .. } | What::Cache { .. } => {}
            What::Started { step } if self.done.contains(step) => {}
            What::Started { step } => self.line(*step, ""),
            What::Completed { step, .. } => self.completed(*step, event.at),
            What::Verdict { step, verdict: Verdict::Miss { cause, .. } } => self.line(*step, &cause.to_string()),
            What::Verdict { .. } => {}
            What::Log { step, bytes, .. } => {
                for line in self.steps.lines(*step, bytes) {
                    self.log(*step, event.at, &line);
                }
            }
            What::Progress { step, part, current, total, done } => {
                if *done {
                    let bytes = *current.max(total);
                    let size = if bytes == 0 { String::new() } else { format!("{} ", size(bytes)) };
                    self.line(*step, &format!("{part} {size}done"));
                }
            }
            What::Warning { step, warning } => {
                self.line(*step, &format!("WARN: {}", warning.short));
            }
        }
    }

    fn finish(&mut self) {
        drop(self.out.flush());
    }
}

/// A size for people: `1.50MB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes}B") } else { format!("{value:.2}{}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use builder::event::Stream;

    fn shown(whats: Vec<(u64, What)>) -> String {
        let mut out = Vec::new();
        let mut plain = Plain::new(&mut out);
        for (at, what) in whats {
            plain.show(&Event { at, what });
        }
        plain.finish();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn steps_interleave_as_blocks() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let known = |step, name: &str| What::Known { step, name: name.into(), inputs: vec![], group: None };
        let log = |step, text: &str| What::Log { step, stream: Stream::Out, bytes: text.into() };
        let text = shown(vec![
            (0, known(a, "[1/2] RUN a")),
            (0, known(b, "[2/2] RUN b")),
            (0, What::Started { step: a }),
            (1_500_000, log(a, "one\ntw")),
            (1_600_000, What::Started { step: b }),
            (1_700_000, log(a, "o\n")),
            (2_000_000, What::Completed { step: a, cached: false, error: None }),
            (2_000_000, What::Completed { step: b, cached: true, error: None }),
            (3_000_000, What::Started { step: a }),
            (3_000_000, What::Completed { step: a, cached: false, error: None }),
            (4_000_000, What::Started { step: b }),
            (5_000_000, log(b, "more\n")),
            (5_000_000, What::Completed { step: b, cached: false, error: None }),
        ]);
        insta::assert_snapshot!(text, @r"
        #1 [1/2] RUN a
        #1 1.500 one

        #2 [2/2] RUN b

        #1 [1/2] RUN a
        #1 1.700 two
        #1 DONE 2.0s

        #2 [2/2] RUN b
        #2 CACHED
        #2 3.400 more
        #2 DONE 3.4s
        ");
    }
}
