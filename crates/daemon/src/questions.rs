//! What larder's own command asks of a daemon beyond BuildKit's API: events as they are, kept builds whole, images.
//! One call, `/larder.v1.Larder/Ask`: a stream of bytes each way, of which the asker's first message is the question as
//! JSON. A daemon that is not larder refuses it as unknown, and its askers do with less.

use std::io::Write;

use futures_util::stream::{self, BoxStream, StreamExt};
use proto::calls::Calls;
use proto::control::BytesMessage;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::Grpc;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::Daemon;
use crate::session::MESSAGE;
use crate::usage::blocking;

/// Path of the one call.
pub const ASK: &str = "/larder.v1.Larder/Ask";
/// Bytes of a message that carries a file.
pub const PIECE: usize = 1 << 20;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Kept builds, newest first. Each message is one [`builder::history::Summary`] as JSON.
    Builds,
    /// What happens in a build that goes on, or happened in a kept one. Messages are events as JSON, one a line.
    Events {
        /// The build.
        id: String,
    },
    /// Forgets a kept build. No answer but the end.
    Forget {
        /// The build.
        id: String,
    },
    /// Images of the store. Each message is one [`builder::images::Listed`] as JSON.
    Images,
    /// Removes an image's name. No answer but the end.
    RemoveImage {
        /// The name.
        name: String,
    },
    /// An image as an OCI archive: the answer is its bytes.
    SaveImage {
        /// The name.
        name: String,
    },
    /// Takes in an image: the bytes of a tar follow the question. No answer but the end.
    ImportImage {
        /// The name.
        name: String,
        /// `NAME=value` of the environment, for a root file system.
        env: Vec<String>,
    },
}

type Answers = BoxStream<'static, Result<BytesMessage, Status>>;

/// The service.
#[derive(Clone)]
pub struct Questions(pub Daemon);

impl Calls for Questions {
    const NAME: &'static str = "larder.v1.Larder";

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        if request.uri().path() != ASK {
            return Status::unimplemented("larder knows no such call").into_http();
        }
        let Questions(daemon) = self;
        let service = tower::service_fn(move |request: Request<Streaming<BytesMessage>>| {
            let daemon = daemon.clone();
            async move { answer(&daemon, request.into_inner()).await.map(Response::new) }
        });
        let mut grpc = Grpc::new(ProstCodec::<BytesMessage, BytesMessage>::default());
        grpc = grpc.apply_max_message_size_config(Some(MESSAGE), None);
        grpc.streaming(service, request).await
    }
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::unknown(error.to_string())
}

async fn answer(daemon: &Daemon, mut asker: Streaming<BytesMessage>) -> Result<Answers, Status> {
    let first = asker.message().await?.ok_or_else(|| Status::invalid_argument("a question is missing"))?;
    let question: Question = serde_json::from_slice(&first.data).map_err(|e| {
        Status::invalid_argument(format!("larder {} knows no such question: {e}", env!("CARGO_PKG_VERSION")))
    })?;
    let store = daemon.engine.store.clone();
    match question {
        Question::Builds => {
            let kept = blocking(move || builder::history::builds(&store).map_err(failed)).await?;
            each(&kept)
        }
        Question::Events { id } => events(daemon, &id).await,
        Question::Forget { id } => {
            blocking(move || store.history().remove(&id).and_then(|()| store.flush()).map_err(failed)).await?;
            Ok(stream::empty().boxed())
        }
        Question::Images => each(&blocking(move || builder::images::list(&store).map_err(failed)).await?),
        Question::RemoveImage { name } => {
            blocking(move || builder::images::remove(&store, &name).map_err(failed)).await?;
            Ok(stream::empty().boxed())
        }
        Question::SaveImage { name } => Ok(save(store, name)),
        Question::ImportImage { name, env } => {
            let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
            while let Some(piece) = asker.message().await? {
                file.write_all(&piece.data).map_err(failed)?;
            }
            blocking(move || builder::images::import(&store, &name, file.path(), &env).map_err(failed)).await?;
            Ok(stream::empty().boxed())
        }
    }
}

/// One message for each.
fn each<T: Serialize>(items: &[T]) -> Result<Answers, Status> {
    let message = |item| Ok(BytesMessage { data: serde_json::to_vec(item).map_err(failed)? });
    let messages = items.iter().map(message).collect::<Result<Vec<_>, Status>>()?;
    Ok(stream::iter(messages.into_iter().map(Ok)).boxed())
}

async fn events(daemon: &Daemon, id: &str) -> Result<Answers, Status> {
    let history = daemon.engine.store.history();
    if history.get(id).map_err(failed)?.is_some() {
        let file = history.events(id).map_err(failed)?;
        return Ok(file_pieces(file));
    }
    let log = daemon.jobs.log(id).await?;
    let messages = stream::unfold((log, 0), |(log, seen)| async move {
        let events = log.after(seen).await;
        if events.is_empty() {
            return None;
        }
        let mut data = Vec::new();
        for event in &events {
            if let Err(error) = serde_json::to_writer(&mut data, event) {
                return Some((Err(failed(error)), (log, seen + events.len())));
            }
            data.push(b'\n');
        }
        Some((Ok(BytesMessage { data }), (log, seen + events.len())))
    });
    Ok(messages.boxed())
}

/// A file, piece by piece.
fn file_pieces(mut file: std::fs::File) -> Answers {
    pieces(move |out| std::io::copy(&mut file, out).map(drop).map_err(failed))
}

fn save(store: store::Store, name: String) -> Answers {
    pieces(move |out| builder::images::save(&store, &name, out).map_err(failed))
}

/// What a thread writes, as messages.
fn pieces(write: impl FnOnce(&mut Pieces) -> Result<(), Status> + Send + 'static) -> Answers {
    let (send, receive) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let mut out = Pieces(send);
        if let Err(status) = write(&mut out) {
            let _ = out.0.blocking_send(Err(status)); // nobody asks any more
        }
    });
    ReceiverStream::new(receive).boxed()
}

struct Pieces(mpsc::Sender<Result<BytesMessage, Status>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let take = bytes.len().min(PIECE);
        let sent = self.0.blocking_send(Ok(BytesMessage { data: bytes[..take].to_vec() }));
        sent.map(|()| take).map_err(|_| std::io::Error::other("nobody asks any more"))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
