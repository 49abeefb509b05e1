//! Builder's errors as BuildKit's clients show them: with the failed step, and the lines of the Dockerfile it stands on.

use builder::Error;
use builder::build::Faulty;
use dockerfile::LineIndex;
use prost::Message;
use proto::pb;
use proto::refusal::{Detail, status};
use tonic::{Code, Status};

/// The status of a failed build.
#[track_caller]
pub fn of(error: &Error) -> Status {
    let caller = std::panic::Location::caller();
    let stack = Detail::Stack { file: caller.file(), line: caller.line() };
    match error {
        Error::Dockerfile(faulty) => unreadable(faulty, stack),
        Error::Step { step, error, place, .. } => {
            let place = place.as_deref().and_then(source);
            let details: Vec<_> = place.into_iter().chain([Detail::Vertex(step.to_string()), stack]).collect();
            status(Code::Unknown, error, &details)
        }
        Error::Missed(misses) => {
            let lines = misses.iter().map(|(name, cause)| format!("{name}: {cause}"));
            let text = lines.collect::<Vec<_>>().join("; ");
            status(Code::FailedPrecondition, &format!("{error}: {text}"), &[stack])
        }
        Error::Cancelled => Status::cancelled("context canceled"),
        Error::Request(text) => status(Code::InvalidArgument, text, &[stack]),
        error => status(Code::Unknown, &error.to_string(), &[stack]),
    }
}

fn unreadable(faulty: &Faulty, stack: Detail) -> Status {
    let index = LineIndex::new(&faulty.text);
    let errors: Vec<_> = faulty.diagnostics.iter().filter(|d| d.is_error()).collect();
    let info = pb::SourceInfo {
        filename: faulty.filename.clone(),
        data: faulty.text.clone().into_bytes(),
        definition: None,
        language: "Dockerfile".to_owned(),
    };
    let position = |offset: u32| pb::Position { line: index.line(offset) as i32, character: 0 };
    let ranges = errors.iter().take(1).map(|d| pb::Range {
        start: Some(position(d.span.start)),
        end: Some(position(d.span.end.max(d.span.start + 1) - 1)),
    });
    let text = errors.first().map_or_else(
        || format!("{} can't be built", faulty.filename),
        |d| {
            let help = d.help.as_ref().map_or_else(String::new, |help| format!(" ({help})"));
            format!("dockerfile parse error on line {}: {}{help}", index.line(d.span.start), d.message)
        },
    );
    let detail = Detail::Source { info, ranges: ranges.collect() };
    status(Code::InvalidArgument, &text, &[detail, stack])
}

/// Where a step stands in the client's file, in the messages of the clients.
fn source(place: &graph::Place) -> Option<Detail> {
    let info = pb::SourceInfo::decode(place.file.encode_to_vec().as_slice()).ok()?;
    let ranges = place.ranges.iter().map(|range| pb::Range::decode(range.encode_to_vec().as_slice()));
    Some(Detail::Source { info, ranges: ranges.collect::<Result<_, _>>().ok()? })
}
