//! Builder's errors as BuildKit's clients show them: with the failed step, and the lines of the Dockerfile it stands on.

use builder::Error;
use prost::Message;
use proto::pb;
use proto::refusal::{Detail, status};
use tonic::{Code, Status};

/// The status of a failed build.
#[track_caller]
pub fn of(error: &Error) -> Status {
    let caller = std::panic::Location::caller();
    let (code, mut details) = read(error);
    if code != Code::Cancelled {
        details.push(Detail::Stack { file: caller.file(), line: caller.line() });
    }
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
        Error::Step { step, place, .. } => {
            let place = place.as_deref().and_then(source);
            (Code::Unknown, place.into_iter().chain([Detail::Vertex(step.to_string())]).collect())
        }
        Error::Missed(_) => (Code::FailedPrecondition, Vec::new()),
        Error::Cancelled => (Code::Cancelled, Vec::new()),
        Error::Request(_) => (Code::InvalidArgument, Vec::new()),
        _ => (Code::Unknown, Vec::new()),
    }
}

/// A place in a client's file, in the messages of the clients; one without lines is none.
fn source(place: &graph::Place) -> Option<Detail> {
    place.lines()?;
    let info = pb::SourceInfo::decode(place.file.encode_to_vec().as_slice()).ok()?;
    let ranges = place.ranges.iter().map(|range| pb::Range::decode(range.encode_to_vec().as_slice()));
    Some(Detail::Source { info, ranges: ranges.collect::<Result<_, _>>().ok()? })
}
