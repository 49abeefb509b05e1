//! The client's blobs (`containerd.services.content.v1`), served to a daemon: OCI layouts and folders of caches, by the
//! session port's names for them. The daemon's calls of it are `session::content`.

use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use builder::session::{Content as Port, Shared};
use futures_util::stream::BoxStream;
use oci::Digest;
use proto::calls::Calls;
use proto::content::{
    ABORT, AbortRequest, INFO, Info, InfoRequest, InfoResponse, READ, ReadRequest, ReadResponse, STORE, WRITE,
    WriteAction, WriteRequest, WriteResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::Grpc;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::offer::status;
use crate::session::{MESSAGE, value};

/// Bytes a message.
const PIECE: usize = 1 << 20;

type Items<T> = BoxStream<'static, Result<T, Status>>;

/// See the module.
#[derive(Clone)]
pub struct Content(pub Shared);

impl Calls for Content {
    const NAME: &'static str = proto::content::NAME;

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        let Content(session) = self;
        match request.uri().path() {
            INFO => {
                let service = tower::service_fn(move |request| info(session.clone(), request));
                Grpc::new(ProstCodec::<InfoResponse, InfoRequest>::default()).unary(service, request).await
            }
            READ => {
                let service = tower::service_fn(move |request| read(session.clone(), request));
                Grpc::new(ProstCodec::<ReadResponse, ReadRequest>::default()).server_streaming(service, request).await
            }
            WRITE => {
                let service = tower::service_fn(move |request| write(session.clone(), request));
                let grpc = Grpc::new(ProstCodec::<WriteResponse, WriteRequest>::default());
                grpc.apply_max_message_size_config(Some(MESSAGE), None).streaming(service, request).await
            }
            ABORT => {
                // A write that was not committed has left nothing.
                let service =
                    tower::service_fn(|_: Request<AbortRequest>| async { Ok::<_, Status>(Response::new(())) });
                Grpc::new(ProstCodec::<(), AbortRequest>::default()).unary(service, request).await
            }
            path => Status::unimplemented(format!("{path} is not offered")).into_http(),
        }
    }
}

async fn store<T>(session: &Shared, request: &Request<T>) -> Result<Arc<dyn Port>, Status> {
    let name = value(request.metadata(), STORE);
    session.content("", &name).await.map_err(|e| status(&e))
}

fn digest(text: &str) -> Result<Digest, Status> {
    Digest::parse(text).map_err(|e| Status::invalid_argument(e.to_string()))
}

fn failed(error: &dyn std::fmt::Display) -> Status {
    Status::unknown(error.to_string())
}

async fn info(session: Shared, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
    let content = store(&session, &request).await?;
    let digest = digest(&request.get_ref().digest)?;
    let size = content.size(&digest).await.map_err(|e| status(&e))?;
    let size = size.ok_or_else(|| Status::not_found(format!("{digest}: not found")))?;
    let size = i64::try_from(size).map_err(|e| failed(&e))?;
    Ok(Response::new(InfoResponse { info: Some(Info { digest: digest.to_string(), size, ..Info::default() }) }))
}

async fn read(session: Shared, request: Request<ReadRequest>) -> Result<Response<Items<ReadResponse>>, Status> {
    let content = store(&session, &request).await?;
    let asked = request.into_inner();
    let digest = digest(&asked.digest)?;
    let mut file = tempfile::tempfile().map_err(|e| failed(&e))?;
    content.read(&digest, &mut file).await.map_err(|e| status(&e))?;
    let offset = u64::try_from(asked.offset).unwrap_or(0);
    let most = u64::try_from(asked.size).ok().filter(|n| *n > 0).unwrap_or(u64::MAX);
    let (send, receive) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let mut send_all = || -> std::io::Result<()> {
            file.seek(SeekFrom::Start(offset))?;
            let (mut rest, mut at) = ((&file).take(most), offset);
            loop {
                let mut data = Vec::with_capacity(PIECE);
                let count = rest.by_ref().take(PIECE as u64).read_to_end(&mut data)?;
                let part = ReadResponse { offset: i64::try_from(at).unwrap_or(i64::MAX), data };
                // Whoever reads no more needs nothing.
                if count == 0 || send.blocking_send(Ok(part)).is_err() {
                    return Ok(());
                }
                at += count as u64;
            }
        };
        if let Err(error) = send_all() {
            let _ = send.blocking_send(Err(failed(&error))); // as above
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
}

async fn write(
    session: Shared,
    request: Request<Streaming<WriteRequest>>,
) -> Result<Response<Items<WriteResponse>>, Status> {
    let content = store(&session, &request).await?;
    let mut incoming = request.into_inner();
    let (send, receive) = mpsc::channel(4);
    tokio::spawn(async move {
        if let Err(status) = take(content.as_ref(), &mut incoming, &send).await {
            let _ = send.send(Err(status)).await; // a daemon that is gone needs nothing
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
}

/// One blob: it becomes the client's when it is committed and its digest is true.
async fn take(
    content: &dyn Port,
    incoming: &mut Streaming<WriteRequest>,
    send: &mpsc::Sender<Result<WriteResponse, Status>>,
) -> Result<(), Status> {
    let mut file = tempfile::tempfile().map_err(|e| failed(&e))?;
    let (mut expected, mut hasher, mut length) = (String::new(), oci::Hasher::new(), 0_i64);
    while let Some(message) = incoming.message().await? {
        if !message.expected.is_empty() {
            expected.clone_from(&message.expected);
            let there = content.size(&digest(&expected)?).await.map_err(|e| status(&e))?;
            if there.is_some() {
                return Err(Status::already_exists(format!("{expected}: already exists")));
            }
        }
        if !message.data.is_empty() {
            if message.offset != length {
                return Err(Status::out_of_range(format!("bytes at {} instead of {length}", message.offset)));
            }
            hasher.update(&message.data);
            file.write_all(&message.data).map_err(|e| failed(&e))?;
            length += message.data.len() as i64;
        }
        let mut answer =
            WriteResponse { action: message.action, offset: length, total: message.total, ..Default::default() };
        if message.action == WriteAction::Commit as i32 {
            let found = std::mem::take(&mut hasher).finish();
            if !expected.is_empty() && digest(&expected)? != found {
                return Err(Status::failed_precondition(format!("the bytes are {found}, not {expected}")));
            }
            file.rewind().map_err(|e| failed(&e))?;
            let blob = std::mem::replace(&mut file, tempfile::tempfile().map_err(|e| failed(&e))?);
            let size = u64::try_from(length).unwrap_or(0);
            content.write(&found, size, Box::new(blob)).await.map_err(|e| status(&e))?;
            answer.digest = found.to_string();
        }
        if send.send(Ok(answer)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
