//! Outputs that the daemon sends (`FileSend`): bytes or packets, by what the output is on this side.
//! Both forms have one name on the wire, so their call is taken apart here.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use builder::session::{Folder, Output, Shared, Sink};
use futures_util::stream::{self, BoxStream, StreamExt};
use proto::calls::Calls;
use proto::files::Packet;
use proto::filesync::BytesMessage;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::Grpc;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::session::MESSAGE;
use crate::session::mirror::pump;
use crate::session::mirror::receive::Receiver;

type Items<T> = BoxStream<'static, Result<T, Status>>;

/// See the module.
#[derive(Clone)]
pub struct FileSend(pub Shared);

impl Calls for FileSend {
    const NAME: &'static str = "moby.filesync.v1.FileSend";

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        receive(self.0, request).await
    }
}

async fn receive(session: Shared, request: http::Request<Body>) -> http::Response<Body> {
    let text = |v: &http::HeaderValue| v.to_str().ok().map(str::to_owned);
    let index = request.headers().get("buildkit-attachable-exporter-id").and_then(text);
    let index = index.and_then(|i| i.parse().ok()).unwrap_or(0);
    let told: BTreeMap<String, String> = request
        .headers()
        .iter()
        .filter_map(|(key, v)| Some((key.as_str().strip_prefix("exporter-md-")?.to_owned(), text(v)?)))
        .collect();
    match session.output(index, &told).await {
        Err(error) => Status::not_found(error.to_string()).into_http(),
        Ok(Sink::Content(_)) => Status::failed_precondition("this output takes blobs, not files").into_http(),
        Ok(Sink::Stream(out)) => {
            let out = Mutex::new(Some(out));
            let service = tower::service_fn(move |request: Request<Streaming<BytesMessage>>| {
                let out = out.lock().unwrap_or_else(PoisonError::into_inner).take();
                async move {
                    let out = out.ok_or_else(|| Status::internal("an output was taken twice"))?;
                    write(out, request.into_inner()).await?;
                    Ok::<_, Status>(Response::new(stream::empty::<Result<BytesMessage, Status>>()))
                }
            });
            let mut grpc = Grpc::new(ProstCodec::<BytesMessage, BytesMessage>::default());
            grpc = grpc.apply_max_message_size_config(Some(MESSAGE), None);
            grpc.streaming(service, request).await
        }
        Ok(Sink::Directory(folder)) => {
            let folder = Mutex::new(Some(folder));
            let service = tower::service_fn(move |request: Request<Streaming<Packet>>| {
                let folder = folder.lock().unwrap_or_else(PoisonError::into_inner).take();
                async move {
                    let folder = folder.ok_or_else(|| Status::internal("an output was taken twice"))?;
                    Ok::<_, Status>(Response::new(unpack(folder, request.into_inner())))
                }
            });
            let mut grpc = Grpc::new(ProstCodec::<Packet, Packet>::default());
            grpc = grpc.apply_max_message_size_config(Some(MESSAGE), None);
            grpc.streaming(service, request).await
        }
    }
}

/// One stream of bytes into `out`, which appears only when it is whole.
async fn write(mut out: Box<dyn Output>, mut incoming: Streaming<BytesMessage>) -> Result<(), Status> {
    let (pass, mut pieces) = mpsc::channel::<Vec<u8>>(16);
    let writing = tokio::task::spawn_blocking(move || {
        while let Some(piece) = pieces.blocking_recv() {
            out.write_all(&piece)?;
        }
        Ok::<_, std::io::Error>(out)
    });
    // An error here drops what was written before its end.
    while let Some(message) = incoming.message().await? {
        if pass.send(message.data).await.is_err() {
            break;
        }
    }
    drop(pass);
    let ended = |_| Status::internal("a thread that wrote an output ended early");
    let failed = |e: std::io::Error| Status::unknown(format!("can't write the output: {e}"));
    let out = writing.await.map_err(ended)?.map_err(failed)?;
    tokio::task::spawn_blocking(move || out.finish()).await.map_err(ended)?.map_err(failed)
}

/// A directory as packets. The stream is what the daemon is asked for, and at its end how it went.
fn unpack(folder: Box<dyn Folder>, mut incoming: Streaming<Packet>) -> Items<Packet> {
    let (ask, asked) = mpsc::unbounded_channel();
    let (pump, mut packets) = pump::pump();
    let writing = tokio::task::spawn_blocking(move || {
        let failed = |e: crate::session::mirror::receive::Error| e.to_string();
        let mut receiver = Receiver::adding(folder.path(), folder.owners(), ask).map_err(failed)?;
        while let Some(some) = packets.next() {
            some.into_iter().try_for_each(|packet| receiver.take(packet)).map_err(failed)?;
        }
        receiver.finish().map_err(failed)?;
        folder.finish().map_err(|e| e.to_string())
    });
    // A stream that broke off is one that ended in the middle of the transfer.
    tokio::spawn(async move { drop(pump.run(&mut incoming).await) });
    let end = stream::once(async move {
        match writing.await {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => Some(Err(Status::unknown(format!("can't write the output: {reason}")))),
            Err(_) => Some(Err(Status::internal("a thread that wrote an output ended early"))),
        }
    });
    UnboundedReceiverStream::new(asked).map(Ok).chain(end.filter_map(std::future::ready)).boxed()
}
