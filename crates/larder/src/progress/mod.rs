//! Progress of a build for people and programs: plain lines, a live terminal, raw JSON, or nothing.
//! Each display is a fold over the build's one stream of events; printing happens on a thread of its own.

mod failures;
pub mod line;
mod plain;
pub mod raw;
mod steps;
mod tty;

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use builder::Events;
use builder::event::Event;

/// A way to show a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Lines, in the manner of buildx's plain progress.
    Plain,
    /// A live picture on a terminal.
    Tty,
    /// One JSON object a line, in the manner of buildx's `rawjson`.
    RawJson,
    /// Nothing.
    Quiet,
}

impl Kind {
    /// Reads `--progress`; `auto` is a terminal's picture where there is a terminal.
    pub fn parse(text: &str) -> Result<Kind, String> {
        match text {
            "auto" | "" if std::io::stderr().is_terminal() => Ok(Kind::Tty),
            "auto" | "" | "plain" => Ok(Kind::Plain),
            "tty" => Ok(Kind::Tty),
            "rawjson" => Ok(Kind::RawJson),
            "quiet" | "none" => Ok(Kind::Quiet),
            other => Err(format!("--progress {other}: expected auto, plain, tty, quiet or rawjson")),
        }
    }
}

/// Where a display prints.
pub enum Target {
    /// Standard error.
    Error,
    /// Standard output.
    Output,
    /// Standard error, and every event as [`Kind::RawJson`] into a file.
    Traced(std::fs::File),
}

/// Something that shows events.
trait Display: Send {
    /// Takes one event.
    fn show(&mut self, event: &Event);
    /// Time has passed without events.
    fn tick(&mut self) {}
    /// The build is over.
    fn finish(&mut self) {}
}

/// A running display. Ends, with everything shown, when all senders are gone and `finish` is called.
pub struct Progress {
    /// Nothing is shown without a thread.
    shown: Option<(mpsc::Sender<Event>, JoinHandle<()>)>,
}

impl Progress {
    /// Starts a display on standard error.
    pub fn start(kind: Kind) -> Progress {
        Progress::start_on(kind, Target::Error)
    }

    /// Starts a display.
    pub fn start_on(kind: Kind, target: Target) -> Progress {
        if kind == Kind::Quiet && !matches!(target, Target::Traced(_)) {
            return Progress { shown: None };
        }
        Progress::of(move || match target {
            Target::Error => display(kind, std::io::stderr()),
            Target::Output => display(kind, std::io::stdout()),
            Target::Traced(file) => Box::new(Both(display(kind, std::io::stderr()), Box::new(raw::Raw::new(file)))),
        })
    }

    /// Starts a display that for people ends with the last lines of each step that failed, as buildx's and buildctl's do.
    pub fn start_summed(kind: Kind, target: Target) -> Progress {
        let (traced, is_for_people) = (matches!(target, Target::Output), matches!(kind, Kind::Plain | Kind::Tty));
        if traced || !is_for_people {
            return Progress::start_on(kind, target);
        }
        Progress::of(move || {
            let shown = display(kind, std::io::stderr());
            let shown: Box<dyn Display> = match target {
                Target::Traced(file) => Box::new(Both(shown, Box::new(raw::Raw::new(file)))),
                _ => shown,
            };
            Box::new(Both(shown, Box::new(failures::Failures::new(std::io::stderr()))))
        })
    }

    fn of(display: impl FnOnce() -> Box<dyn Display> + Send + 'static) -> Progress {
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || run(&receiver, display().as_mut()));
        Progress { shown: Some((sender, thread)) }
    }

    /// Where the build tells its events.
    pub fn events(&self) -> Events {
        let Some((sender, _)) = &self.shown else { return Events::new(drop) };
        let sender = sender.clone();
        // A display that ended early (its output was closed) takes no more events, and the build goes on.
        Events::new(move |event| drop(sender.send(event)))
    }

    /// Shows what is left and ends. Every [`Events`] must be gone.
    pub fn finish(self) {
        let Some((sender, thread)) = self.shown else { return };
        drop(sender);
        drop(thread.join()); // a display that panicked has printed its panic already
    }
}

fn run(receiver: &mpsc::Receiver<Event>, display: &mut dyn Display) {
    loop {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok(event) => display.show(&event),
            Err(mpsc::RecvTimeoutError::Timeout) => display.tick(),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    display.finish();
}

fn display(kind: Kind, out: impl std::io::Write + AsFd + Send + 'static) -> Box<dyn Display> {
    match kind {
        Kind::Plain => Box::new(plain::Plain::new(out)),
        Kind::Tty => Box::new(tty::Tty::new(out)),
        Kind::RawJson => Box::new(raw::Raw::new(out)),
        Kind::Quiet => Box::new(Nothing),
    }
}

/// Two displays of the same events.
struct Both(Box<dyn Display>, Box<dyn Display>);

impl Display for Both {
    fn show(&mut self, event: &Event) {
        self.0.show(event);
        self.1.show(event);
    }
    fn tick(&mut self) {
        self.0.tick();
    }
    fn finish(&mut self) {
        self.0.finish();
        self.1.finish();
    }
}

struct Nothing;

impl Display for Nothing {
    fn show(&mut self, _event: &Event) {}
}
