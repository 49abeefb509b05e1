//! Sending a request and waiting for its answer for as long as bytes move: what is large takes its time, and silence is an
//! error that says so. It never tries again.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use hyper::body::Bytes;
use reqwest::header::CONTENT_LENGTH;
use reqwest::{Body, RequestBuilder, Response};
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::root_cause;
use crate::pieces::Pieces;

/// How long the other side may be silent where nothing else is said.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);
/// So many times as long after a body: the other side has something to do with it.
const WORK: u32 = 3;
/// Bytes from memory that are sent as they are; more go in pieces of this length.
const PIECE: usize = 256 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("{}", root_cause(.0))]
    Http(#[from] reqwest::Error),
    #[error("nothing came for {} seconds", .0.as_secs_f32())]
    Silent(Duration),
}

impl Broken {
    /// Nobody is there.
    pub(crate) fn is_connect(&self) -> bool {
        matches!(self, Broken::Http(error) if error.is_connect())
    }

    /// Somebody is there and says nothing.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Broken::Silent(_))
    }

    /// Whether another try may help after so many: silence is not waited for three times.
    pub(crate) fn may_pass(&self, tries: u32, most: u32) -> bool {
        tries < if self.is_silence() { most.min(2) } else { most } && !self.is_connect()
    }
}

/// How the body of an answer broke off.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) reason: String,
    silent: bool,
}

impl Stopped {
    /// It can't go on, for a reason of our own.
    pub(crate) fn because(reason: &str) -> Stopped {
        Stopped { reason: reason.to_owned(), silent: false }
    }

    /// See [`Broken::may_pass`].
    pub(crate) fn may_pass(&self, tries: u32, most: u32) -> bool {
        tries < if self.silent { most.min(2) } else { most }
    }
}

impl From<reqwest::Error> for Stopped {
    fn from(error: reqwest::Error) -> Stopped {
        let mut inner: &(dyn std::error::Error + 'static) = &error;
        let mut silent = false;
        while let Some(source) = inner.source() {
            silent |= source.downcast_ref::<Broken>().is_some_and(Broken::is_silence);
            inner = source;
        }
        Stopped { reason: inner.to_string(), silent }
    }
}

/// Sends a request without a body, or with a short one.
pub(crate) async fn send(request: RequestBuilder, silence: Duration) -> Result<Response, Broken> {
    match timeout(silence, request.send()).await {
        Ok(answer) => Ok(attended(answer?, silence)),
        Err(_) => Err(Broken::Silent(silence)),
    }
}

/// Sends a request with bytes from memory.
pub(crate) async fn send_bytes(request: RequestBuilder, bytes: Bytes, silence: Duration) -> Result<Response, Broken> {
    if bytes.len() <= PIECE {
        return send(request.body(bytes), silence).await;
    }
    let size = bytes.len() as u64;
    let pieces = (0..bytes.len()).step_by(PIECE).map(move |at| Ok(bytes.slice(at..bytes.len().min(at + PIECE))));
    send_body(request, stream::iter(pieces).boxed(), size, silence).await
}

/// Sends a request with an open file.
pub(crate) async fn send_file(
    request: RequestBuilder,
    file: std::fs::File,
    size: u64,
    silence: Duration,
) -> Result<Response, Broken> {
    send_body(request, Pieces::new(file, 0, size).boxed(), size, silence).await
}

async fn send_body(
    request: RequestBuilder,
    body: BoxStream<'static, io::Result<Bytes>>,
    size: u64,
    silence: Duration,
) -> Result<Response, Broken> {
    let moved = Arc::new(Mutex::new(Instant::now()));
    let noted = moved.clone();
    let note = move |_: &Bytes| *noted.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    let body = Body::wrap_stream(body.inspect_ok(note));
    let sent = request.header(CONTENT_LENGTH, size).body(body).send();
    tokio::pin!(sent);
    let patience = silence * WORK;
    loop {
        let until = *moved.lock().unwrap_or_else(PoisonError::into_inner) + patience;
        tokio::select! {
            answer = &mut sent => return Ok(attended(answer?, silence)),
            () = sleep_until(until) => {}
        }
        if *moved.lock().unwrap_or_else(PoisonError::into_inner) + patience <= Instant::now() {
            return Err(Broken::Silent(patience));
        }
    }
}

/// An answer whose body breaks where it is silent.
fn attended(answer: Response, silence: Duration) -> Response {
    let (parts, body) = hyper::Response::<Body>::from(answer).into_parts();
    let body = Response::from(hyper::Response::new(body)).bytes_stream().boxed();
    let pieces = stream::try_unfold(body, move |mut body| async move {
        match timeout(silence, body.next()).await {
            Err(_) => Err(Broken::Silent(silence)),
            Ok(None) => Ok(None),
            Ok(Some(Err(error))) => Err(error.into()),
            Ok(Some(Ok(piece))) => Ok(Some((piece, body))),
        }
    });
    Response::from(hyper::Response::from_parts(parts, Body::wrap_stream(pieces)))
}
