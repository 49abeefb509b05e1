//! Answers: their bodies as they are sent, and the headers that every answer has.
//! A large body is read from its file piece by piece, one piece ahead of the connection.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Bytes, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::task::{JoinHandle, spawn_blocking};

use super::refusal::Refusal;

/// Bytes of one piece of a body.
pub const CHUNK: u64 = 256 << 10;

/// An answer as it is sent.
pub type Answer = Response<Body>;

/// The body of an answer.
#[derive(Debug)]
pub enum Body {
    /// It is in memory; taken when it is sent.
    Whole(Option<Bytes>),
    /// It is read while it is sent.
    Reading(Reading),
}

/// A part of a file on its way.
#[derive(Debug)]
pub struct Reading {
    file: Arc<File>,
    at: u64,
    end: u64,
    /// The piece that is being read.
    next: JoinHandle<io::Result<Bytes>>,
}

impl Reading {
    /// Starts to read `length` bytes from `start`.
    pub fn start(file: File, start: u64, length: u64) -> Reading {
        let file = Arc::new(file);
        let end = start + length;
        Reading { next: piece(&file, start, end), file, at: start, end }
    }
}

/// Reads the piece at `at`.
fn piece(file: &Arc<File>, at: u64, end: u64) -> JoinHandle<io::Result<Bytes>> {
    let file = file.clone();
    spawn_blocking(move || {
        let mut bytes = vec![0; usize::try_from(CHUNK.min(end - at)).unwrap_or(0)];
        file.read_exact_at(&mut bytes, at)?;
        Ok(Bytes::from(bytes))
    })
}

impl Body {
    /// No bytes.
    pub fn empty() -> Body {
        Body::Whole(None)
    }

    /// These bytes.
    pub fn whole(bytes: impl Into<Bytes>) -> Body {
        Body::Whole(Some(bytes.into()))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Body::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Reading(reading) if reading.at == reading.end => Poll::Ready(None),
            Body::Reading(reading) => {
                let read = ready!(Pin::new(&mut reading.next).poll(context));
                let bytes = read.unwrap_or_else(|error| Err(io::Error::other(error)));
                if let Ok(bytes) = &bytes {
                    reading.at += bytes.len() as u64;
                    if reading.at < reading.end {
                        reading.next = piece(&reading.file, reading.at, reading.end);
                    }
                }
                Poll::Ready(Some(bytes.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Body::Reading(reading) => reading.at == reading.end,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Body::Whole(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Body::Reading(reading) => reading.end - reading.at,
        })
    }
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    answer
}

/// An answer with a JSON body of the given type.
pub fn json(status: StatusCode, kind: &'static str, bytes: Vec<u8>) -> Answer {
    let mut answer = Response::new(Body::whole(bytes));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// The answer that a refusal is.
pub fn refused(refusal: &Refusal) -> Answer {
    let answer = json(refusal.status, "application/json", refusal.body());
    refusal.headers.iter().fold(answer, |answer, (name, value)| answer.with(name, value))
}

/// Adding headers.
pub trait With {
    /// With a header; a value that can't be one is left out.
    fn with(self, name: &'static str, value: &str) -> Self;
    /// Without its body but with its length, as an answer to `HEAD`.
    fn head(self) -> Self;
}

impl With for Answer {
    fn with(mut self, name: &'static str, value: &str) -> Answer {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers_mut().append(HeaderName::from_static(name), value);
        }
        self
    }

    fn head(self) -> Answer {
        let length = hyper::body::Body::size_hint(self.body()).exact().unwrap_or(0);
        let (mut parts, _) = self.into_parts();
        parts.headers.entry(CONTENT_LENGTH).or_insert(HeaderValue::from(length));
        Response::from_parts(parts, Body::empty())
    }
}
