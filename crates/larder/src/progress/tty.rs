//! A live picture on a terminal, as buildx draws it: finished steps above, running ones with their last lines of output.
//! It redraws in place with plain ANSI codes and leaves the whole list behind at the end.

use std::io::Write;
use std::os::fd::AsFd;
use std::time::{SystemTime, UNIX_EPOCH};

use builder::event::{Event, What};
use solver::Verdict;

use super::Display;
use super::line::{fit, width, without_tabs};
use super::steps::{Step, Steps};

pub struct Tty<W> {
    out: W,
    steps: Steps,
    causes: std::collections::HashMap<usize, String>,
    /// Columns of each line of the picture that is on the screen now.
    drawn: Vec<usize>,
    began: u64,
    last: u64,
}

/// How many lines of a running step's output are shown.
const OUTPUT_LINES: usize = 6;

impl<W: Write + AsFd + Send> Tty<W> {
    pub fn new(out: W) -> Tty<W> {
        let began = now();
        Tty { out, steps: Steps::default(), causes: Default::default(), drawn: Vec::new(), began, last: 0 }
    }

    fn draw(&mut self, end: bool) {
        let now = now();
        self.last = now;
        let (columns, rows) = window(&self.out);
        let mut lines = self.picture(now, end, columns);
        if !end {
            // The newest lines matter while it runs; the whole list is printed at the end.
            lines.drain(..surplus(lines.len(), rows));
        }
        let count = self.steps.in_order().count();
        let done = self.steps.in_order().filter(|s| s.completed.is_some()).count();
        let state = if end && done == count { " FINISHED" } else { "" };
        let seconds = now.saturating_sub(self.began) as f64 / 1e6;
        lines.insert(0, fit(&format!("[+] Building {seconds:.1}s ({done}/{count}){state}"), columns));
        let mut text = String::new();
        match height(&self.drawn, columns).min(rows - 1) {
            0 => {}
            height => text.push_str(&format!("\x1b[{height}A")),
        }
        text.push_str("\r\x1b[J");
        for line in &lines {
            text.push_str(line);
            text.push_str("\x1b[0m\n");
        }
        self.drawn = lines.iter().map(|line| width(line)).collect();
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
                lines.push(fit(&format!("\x1b[33m => => {}", without_tabs(cause)), columns));
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

/// Rows of so wide lines. A terminal that was narrowed since they were drawn has broken them anew; the few that cut lines
/// instead lose as many lines above the picture.
fn height(widths: &[usize], columns: usize) -> usize {
    widths.iter().map(|width| width.div_ceil(columns).max(1)).sum()
}

/// A step and, at the right edge, its time: a long name gives way to it.
fn headline(name: &str, seconds: f64, columns: usize) -> String {
    let time = format!(" {seconds:.1}s");
    let name = fit(&without_tabs(name), columns.saturating_sub(time.len()));
    let gap = columns.saturating_sub(1 + width(&name) + time.len());
    fit(&format!("{name}{:gap$}{time}", ""), columns)
}

fn output(step: &Step, end: bool) -> impl Iterator<Item = String> {
    let shown = step.error.is_some() || (step.completed.is_none() && !end);
    let lines = if step.error.is_some() { step.tail.len() } else { OUTPUT_LINES };
    let skip = step.tail.len().saturating_sub(lines);
    step.tail.iter().skip(skip).filter(move |_| shown).map(|line| format!("\x1b[2m => => # {}", without_tabs(line)))
}

impl<W: Write + AsFd + Send> Display for Tty<W> {
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
fn window(out: &impl AsFd) -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(out);
    size.ok().filter(|s| s.ws_col > 0 && s.ws_row > 1).map_or((80, 24), |s| (s.ws_col.into(), s.ws_row.into()))
}

#[cfg(test)]
mod tests;
