//! Answers: their bodies as they are sent, and the headers that every answer has.
//! A large body is read from its file piece by piece.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use futures_util::stream::BoxStream;
use hyper::body::{Bytes, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::refusal::Refusal;
use crate::pieces::Pieces;

/// An answer as it is sent.
pub type Answer = Response<Body>;

/// The body of an answer.
pub enum Body {
    /// It is in memory; taken when it is sent.
    Whole(Option<Bytes>),
    /// It is read while it is sent.
    Reading(Pieces),
    /// It comes from elsewhere while it is sent.
    Arriving {
        /// As it comes.
        stream: BoxStream<'static, io::Result<Bytes>>,
        /// Bytes that are still to come.
        left: u64,
    },
}

impl std::fmt::Debug for Body {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "Body({:?} bytes)", hyper::body::Body::size_hint(self).exact())
    }
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
            Body::Reading(pieces) => Pin::new(pieces).poll_next(context).map_ok(Frame::data),
            Body::Arriving { left: 0, .. } => Poll::Ready(None),
            Body::Arriving { stream, left } => {
                let next = ready!(stream.as_mut().poll_next(context));
                let bytes = next.unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::UnexpectedEof)));
                if let Ok(bytes) = &bytes {
                    *left = left.saturating_sub(bytes.len() as u64);
                }
                Poll::Ready(Some(bytes.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Body::Reading(pieces) => pieces.left() == 0,
            Body::Arriving { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Body::Whole(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Body::Reading(pieces) => pieces.left(),
            Body::Arriving { left, .. } => *left,
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
