//! Builder's errors as BuildKit's clients show them: with the failed step, and the lines of the Dockerfile it stands on.

use builder::Error;
use builder::build::{Faulty, Misses};
use builder::driver::Held;
use builder::driver::remains::Part;
use dockerfile::Diagnostic;
use graph::wire::SourceInfo;
use oci::Digest;
use prost::Message;
use proto::pb;
use proto::refusal::{Detail, Subject, own, status};
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use crate::jobs::Refs;

/// An error as larder's own command gets it: it then says what it says without a daemon. Where it stands is told to every
/// client, and not here.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// The Dockerfile can't be built.
    Dockerfile {
        /// The client's name of the file.
        filename: String,
        /// Its text.
        text: String,
        /// What is wrong.
        diagnostics: Vec<Diagnostic>,
        /// It can't even be read.
        parsing: bool,
    },
    /// Something else is wrong at a place.
    Placed {
        /// What.
        error: String,
    },
    /// Steps had to run.
    Missed(Misses),
    /// A step failed.
    Step {
        /// The step.
        step: Digest,
        /// Its name for people.
        name: String,
        /// What went wrong.
        error: String,
    },
}

impl Told {
    fn of(error: &Error) -> Option<Told> {
        Some(match error {
            Error::Dockerfile(faulty) => Told::Dockerfile {
                filename: faulty.place.file.filename.clone(),
                text: String::from_utf8_lossy(&faulty.place.file.data).into_owned(),
                diagnostics: faulty.diagnostics.clone(),
                parsing: faulty.parsing,
            },
            Error::Placed { error, .. } => Told::Placed { error: error.to_string() },
            Error::Missed(misses) => Told::Missed(misses.clone()),
            Error::Step { step, name, error, .. } => {
                Told::Step { step: *step, name: name.clone(), error: error.clone() }
            }
            _ => return None,
        })
    }

    /// The error that a status tells of, if it does.
    pub fn read(status: &Status) -> Option<Error> {
        let place = place(status);
        Some(match serde_json::from_value(own(status)?).ok()? {
            Told::Dockerfile { filename, text, diagnostics, parsing } => {
                let file = SourceInfo { filename, data: text.into_bytes(), ..SourceInfo::default() };
                let place = place.unwrap_or_else(|| graph::Place::new(file, None));
                Error::Dockerfile(Box::new(Faulty { place, diagnostics, parsing }))
            }
            Told::Placed { error } => Error::Placed { place: Box::new(place?), error: Box::new(plain(status, error)) },
            Told::Missed(misses) => Error::Missed(misses),
            Told::Step { step, name, error } => {
                Error::Step { step, name, error, places: place.into_iter().collect(), remains: None }
            }
        })
    }

    fn detail(&self) -> Option<Detail> {
        serde_json::to_value(self).ok().map(Detail::Own)
    }
}

/// An error of which a status tells no more than its words, and perhaps where it stands.
pub fn worded(status: &Status, text: String) -> Error {
    let error = plain(status, text);
    match place(status) {
        Some(place) => Error::Placed { place: Box::new(place), error: Box::new(error) },
        None => error,
    }
}

fn plain(status: &Status, text: String) -> Error {
    if status.code() == Code::InvalidArgument { Error::Request(text) } else { Error::Failed(text) }
}

/// The status of a failed build.
#[track_caller]
pub fn of(error: &Error) -> Status {
    with(error, None)
}

/// The same within a build that goes on: its client may look at what the failed step left, under ids of its own.
#[track_caller]
pub fn in_build(refs: &Refs, error: &Error) -> Status {
    let Error::Step { remains: Some(remains), .. } = error else { return of(error) };
    let keep = |held: &Option<Held>| held.clone().map(|held| refs.keep(held)).unwrap_or_default();
    let part = remains.part.map(|part| match part {
        Part::Action(index) => Subject::File(index as u64),
        Part::Content(index) => Subject::Content(index.into()),
    });
    let solve = Detail::Solve {
        operation: remains.vertex.bytes.clone(),
        description: remains.vertex.metadata.description.clone().into_iter().collect(),
        inputs: remains.inputs.iter().map(keep).collect(),
        mounts: remains.left.iter().map(keep).collect(),
        part,
    };
    with(error, Some(solve))
}

#[track_caller]
fn with(error: &Error, solve: Option<Detail>) -> Status {
    let caller = std::panic::Location::caller();
    let (code, mut details) = read(error);
    details.extend(solve);
    if code != Code::Cancelled {
        details.push(Detail::Stack { file: caller.file(), line: caller.line() });
    }
    details.extend(Told::of(error).and_then(|told| told.detail()));
    let text = match error {
        Error::Step { error, .. } => error.clone(),
        Error::Missed(misses) => {
            let lines = misses.iter().map(|(name, cause)| format!("{name}: {cause}"));
            format!("{error}: {}", lines.collect::<Vec<_>>().join("; "))
        }
        Error::Cancelled => "context canceled".to_owned(),
        error => error.to_string(),
    };
    status(code, &text, &details)
}

fn read(error: &Error) -> (Code, Vec<Detail>) {
    match error {
        Error::Dockerfile(faulty) => (Code::InvalidArgument, source(&faulty.place).into_iter().collect()),
        Error::Placed { place, error } => {
            let (code, mut details) = read(error);
            details.extend(source(place));
            (code, details)
        }
        Error::Step { step, places, remains, .. } => {
            let exit = remains.as_ref().and_then(|remains| remains.exit).map(Detail::Exit);
            // The last that the client gave is the innermost: it comes first, as from BuildKit.
            let places = places.iter().rev().filter_map(source);
            (Code::Unknown, exit.into_iter().chain(places).chain([Detail::Vertex(step.to_string())]).collect())
        }
        Error::Missed(_) => (Code::FailedPrecondition, Vec::new()),
        Error::Cancelled => (Code::Cancelled, Vec::new()),
        error if error.is_request() => (Code::InvalidArgument, Vec::new()),
        _ => (Code::Unknown, Vec::new()),
    }
}

/// A status with the place that led to it, unless it has one of its own.
pub fn placed(status: Status, at: &graph::Place) -> Status {
    match source(at).filter(|_| place(&status).is_none()) {
        Some(detail) => proto::refusal::with(&status, &detail),
        None => status,
    }
}

/// A place in a client's file, in the messages of the clients; one without lines is none.
fn source(place: &graph::Place) -> Option<Detail> {
    place.lines()?;
    let info = pb::SourceInfo::decode(place.file.encode_to_vec().as_slice()).ok()?;
    let ranges = place.ranges.iter().map(|range| pb::Range::decode(range.encode_to_vec().as_slice()));
    Some(Detail::Source { info, ranges: ranges.collect::<Result<_, _>>().ok()? })
}

/// The same, read back.
pub fn place(status: &Status) -> Option<graph::Place> {
    let (info, ranges) = proto::refusal::place(status)?;
    let file = SourceInfo::decode(info.encode_to_vec().as_slice()).ok()?;
    let ranges = ranges.iter().map(|range| graph::wire::Range::decode(range.encode_to_vec().as_slice()));
    Some(graph::Place { file, ranges: ranges.collect::<Result<_, _>>().ok()? })
}
