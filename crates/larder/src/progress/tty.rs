//! A live picture on a terminal, as buildx draws it: finished steps above, running ones with their last lines of output.
//! It redraws in place with plain ANSI codes and leaves the whole list behind at the end.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use builder::event::{Event, What};
use solver::Verdict;

use super::Display;
use super::steps::{Step, Steps};

pub struct Tty<W> {
    out: W,
    steps: Steps,
    causes: std::collections::HashMap<usize, String>,
    /// Lines of the picture that is on the screen now.
    drawn: usize,
    began: u64,
    last: u64,
}

/// How many lines of a running step's output are shown.
const OUTPUT_LINES: usize = 6;

impl<W: Write + Send> Tty<W> {
    pub fn new(out: W) -> Tty<W> {
        let began = now();
        Tty { out, steps: Steps::default(), causes: Default::default(), drawn: 0, began, last: 0 }
    }

    fn draw(&mut self, end: bool) {
        let now = now();
        self.last = now;
        let (columns, rows) = window();
        let mut lines = self.picture(now, end, columns);
        if !end {
            // The newest lines matter while it runs; the whole list is printed at the end.
            lines.drain(..surplus(lines.len(), rows));
        }
        let count = self.steps.in_order().count();
        let done = self.steps.in_order().filter(|s| s.completed.is_some()).count();
        let state = if end && done == count { " FINISHED" } else { "" };
        let seconds = now.saturating_sub(self.began) as f64 / 1e6;
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        text.push_str(&format!("\r\x1b[J[+] Building {seconds:.1}s ({done}/{count}){state}\n"));
        for line in &lines {
            text.push_str(line);
            text.push_str("\x1b[0m\n");
        }
        self.drawn = lines.len() + 1;
        // Nobody looks any more (a closed terminal): the build goes on without its display.
        drop(self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()));
    }

    /// Lines that fit into `columns`.
    fn picture(&self, now: u64, end: bool, columns: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for step in self.steps.in_order() {
            let mark = match (&step.error, step.cached, step.completed) {
                (Some(_), ..) => "ERROR ",
                (None, true, _) => "CACHED ",
                (None, false, None) if end => "CANCELED ",
                _ => "",
            };
            let colour = match (&step.error, step.completed) {
                (Some(_), _) => "\x1b[31m",
                (None, Some(_)) => "\x1b[34m",
                (None, None) => "",
            };
            lines.push(colour.to_owned() + &headline(&format!(" => {mark}{}", step.name), step.seconds(now), columns));
            if let Some(cause) = step.number.and_then(|n| self.causes.get(&n)) {
                lines.push(fit(&format!("\x1b[33m => => {cause}"), columns));
            }
            lines.extend(output(step, end).map(|line| fit(&line, columns)));
        }
        lines
    }
}

/// How many of so many lines are too many beside the headline and the line of the cursor: a screen that moves up by itself
/// can't be drawn over.
fn surplus(lines: usize, rows: usize) -> usize {
    (lines + 2).saturating_sub(rows).min(lines)
}

/// A step and, at the right edge, its time: a long name gives way to it.
fn headline(name: &str, seconds: f64, columns: usize) -> String {
    let time = format!(" {seconds:.1}s");
    let name = fit(name, columns.saturating_sub(time.len()));
    let gap = columns.saturating_sub(1 + name.chars().count() + time.len());
    format!("{name}{:gap$}{time}", "")
}

fn output(step: &Step, end: bool) -> impl Iterator<Item = String> {
    let shown = step.error.is_some() || (step.completed.is_none() && !end);
    let lines = if step.error.is_some() { step.tail.len() } else { OUTPUT_LINES };
    let skip = step.tail.len().saturating_sub(lines);
    step.tail.iter().skip(skip).filter(move |_| shown).map(|line| format!("\x1b[2m => => # {line}"))
}

impl<W: Write + Send> Display for Tty<W> {
    fn show(&mut self, event: &Event) {
        self.steps.take(event);
        match &event.what {
            What::Log { step, bytes, .. } => drop(self.steps.lines(*step, bytes)),
            What::Completed { step, .. } => drop(self.steps.last_line(*step)),
            What::Verdict { step, verdict: Verdict::Miss { cause, .. } } => {
                let number = self.steps.number(*step);
                self.causes.insert(number, cause.to_string());
            }
            _ => {}
        }
        if now().saturating_sub(self.last) > 80_000 {
            self.draw(false);
        }
    }

    fn tick(&mut self) {
        self.draw(false);
    }

    fn finish(&mut self) {
        self.draw(true);
    }
}

fn now() -> u64 {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    u64::try_from(micros).unwrap_or(u64::MAX)
}

/// Columns and rows of the terminal, or 80 and 24 where it does not say.
fn window() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    size.ok().filter(|s| s.ws_col > 0 && s.ws_row > 1).map_or((80, 24), |s| (s.ws_col.into(), s.ws_row.into()))
}

/// Cuts a line to `columns` visible characters; colour codes take no room.
fn fit(line: &str, columns: usize) -> String {
    let (mut cut, mut width, mut escape) = (String::new(), 0, false);
    for c in line.chars() {
        if escape {
            escape = c != 'm';
        } else if c == '\x1b' {
            escape = true;
        } else if width + 1 >= columns {
            break;
        } else if c.is_control() {
            continue;
        } else {
            width += 1;
        }
        cut.push(c);
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_to_the_screen() {
        assert_eq!(fit("\x1b[31mabcdef", 4), "\x1b[31mabc");
        assert_eq!(fit("a\tb", 10), "ab");
        assert_eq!(headline("RUN x", 0.25, 16), "RUN x      0.2s");
        assert_eq!([surplus(8, 10), surplus(9, 10), surplus(20, 10), surplus(3, 1)], [0, 1, 12, 3]);
        assert_eq!(headline("RUN a long command", 12.0, 16), "RUN a lon 12.0s");
    }
}
