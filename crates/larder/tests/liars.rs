//! Clients that lie about their files: each lie is a clear error of its own build, nothing outside of the client's mirror is
//! touched, and the daemon lives on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt};
use hyper_util::rt::TokioIo;
use proto::control::control_client::ControlClient;
use proto::control::{BytesMessage, Exporter, SolveRequest};
use proto::files::packet::PacketType;
use proto::files::{Packet, Stat};
use proto::filesync::file_sync_server::{FileSync, FileSyncServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming, async_trait};

use crate::kitchen::Kitchen;
use crate::served::Served;

type Out = mpsc::Sender<Result<Packet, Status>>;
type Lie = Arc<dyn Fn(Out, Streaming<Packet>) -> BoxFuture<'static, ()> + Send + Sync>;

const DOCKERFILE: &str = "FROM base\nCOPY . /c/\nRUN cat /c/a || true\n";
const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const SOCKET: u32 = 1 << 24;

/// Its Dockerfile is as it says; its context is not. Once the flag is set, nothing of it comes any more.
#[derive(Clone)]
struct Liar(Lie, Option<Arc<AtomicBool>>);

fn packet(kind: PacketType, id: u32, data: &[u8]) -> Packet {
    Packet { r#type: kind as i32, id, data: data.to_vec(), ..Packet::default() }
}

fn stat(path: &str, mode: u32, size: i64, linkname: &str) -> Packet {
    let stat =
        Stat { path: path.to_owned(), mode, size, linkname: linkname.to_owned(), mod_time: 1, ..Stat::default() };
    Packet { r#type: PacketType::PacketStat as i32, stat: Some(stat), ..Packet::default() }
}

fn listed() -> Packet {
    packet(PacketType::PacketStat, 0, b"")
}

/// Answers what is asked for with `content`, until the daemon is done.
async fn serve(out: &Out, incoming: &mut Streaming<Packet>, content: &[u8]) {
    while let Ok(Some(asked)) = incoming.message().await {
        if asked.r#type == PacketType::PacketReq as i32 {
            for data in [content, b""] {
                let _ = out.send(Ok(packet(PacketType::PacketData, asked.id, data))).await;
            }
        } else if asked.r#type == PacketType::PacketFin as i32 {
            let _ = out.send(Ok(packet(PacketType::PacketFin, 0, b""))).await;
        }
    }
}

#[async_trait]
impl FileSync for Liar {
    type DiffCopyStream = BoxStream<'static, Result<Packet, Status>>;

    async fn diff_copy(&self, request: Request<Streaming<Packet>>) -> Result<Response<Self::DiffCopyStream>, Status> {
        let is_context = request.metadata().get("dir-name").is_some_and(|name| name == "context");
        let (out, receive) = mpsc::channel(4);
        let (lie, mut incoming) = (self.0.clone(), request.into_inner());
        tokio::spawn(async move {
            if is_context {
                return lie(out, incoming).await;
            }
            let _ = out.send(Ok(stat("Dockerfile", 0o644, DOCKERFILE.len() as i64, ""))).await;
            let _ = out.send(Ok(listed())).await;
            serve(&out, &mut incoming, DOCKERFILE.as_bytes()).await;
        });
        Ok(Response::new(ReceiverStream::new(receive).boxed()))
    }

    type TarStreamStream = BoxStream<'static, Result<Packet, Status>>;

    async fn tar_stream(&self, _: Request<Streaming<Packet>>) -> Result<Response<Self::TarStreamStream>, Status> {
        Err(Status::unimplemented("packets only"))
    }
}

async fn connect(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

/// A build in a session of the liar's; ends with the liar when `leaves` is ready.
async fn build(channel: &Channel, name: &str, liar: Liar, leaves: impl Future<Output = ()>) -> Result<(), Status> {
    let mut control = ControlClient::new(channel.clone());
    let (near, far) = tokio::io::duplex(1 << 20);
    let (mut read, mut write) = tokio::io::split(far);
    let (send, receive) = mpsc::channel(16);
    let stalled = liar.1.clone();
    let stalls = stalled.is_some();
    let sending = tokio::spawn(async move {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            if stalled.as_ref().is_some_and(|stalled| stalled.load(Ordering::Relaxed)) {
                std::future::pending::<()>().await;
            }
            if send.send(BytesMessage { data: buffer[..count].to_vec() }).await.is_err() {
                return;
            }
        }
    });
    let session = format!("liar-{}", name.replace(' ', "-"));
    let mut opened = Request::new(ReceiverStream::new(receive));
    opened.metadata_mut().insert("x-docker-expose-session-uuid", session.parse().unwrap());
    opened.metadata_mut().insert("x-docker-expose-session-sharedkey", session.parse().unwrap());
    let method = "/moby.filesync.v1.FileSync/DiffCopy";
    opened.metadata_mut().insert("x-docker-expose-session-grpc-method", method.parse().unwrap());
    if stalls {
        opened.metadata_mut().insert("x-buildkit-session-health-custom-timeout", "1000".parse().unwrap());
    }
    let mut incoming = control.session(opened).await?.into_inner();
    let pump = async move {
        while let Ok(Some(message)) = incoming.message().await {
            if write.write_all(&message.data).await.is_err() {
                return;
            }
        }
    };
    let incoming = futures_util::stream::iter([Ok::<_, std::io::Error>(near)]).chain(futures_util::stream::pending());
    let serving = Server::builder().add_service(FileSyncServer::new(liar)).serve_with_incoming(incoming);
    let here = tokio::spawn(async move {
        tokio::select! {
            () = pump => {}
            _ = serving => {}
        }
    });
    let exporters = vec![Exporter { r#type: "image".to_owned(), ..Exporter::default() }];
    let (r#ref, frontend) = (name.replace(' ', "-"), "dockerfile.v0".to_owned());
    let request = SolveRequest { r#ref, session, frontend, exporters, ..SolveRequest::default() };
    let mut solving = std::pin::pin!(control.solve(request));
    let answering = async {
        tokio::select! {
            answer = &mut solving => answer.map(drop),
            () = leaves => {
                here.abort();
                sending.abort();
                solving.await.map(drop)
            }
        }
    };
    let answer = tokio::time::timeout(std::time::Duration::from_secs(30), answering).await;
    here.abort();
    answer.unwrap_or_else(|_| panic!("{name}: the daemon does not answer"))
}

/// A lie told by a list of packets, whose answers to requests have this content.
fn packets(list: Vec<Packet>, content: &'static [u8]) -> Lie {
    Arc::new(move |out, mut incoming| {
        let list = list.clone();
        Box::pin(async move {
            for packet in list {
                let _ = out.send(Ok(packet)).await;
            }
            serve(&out, &mut incoming, content).await;
        })
    })
}

/// A file whose content has no end.
fn endless() -> Lie {
    Arc::new(|out, mut incoming| {
        Box::pin(async move {
            let _ = out.send(Ok(stat("a", 0o644, 4, ""))).await;
            let _ = out.send(Ok(listed())).await;
            let Ok(Some(asked)) = incoming.message().await else { return };
            while out.send(Ok(packet(PacketType::PacketData, asked.id, &[7; 1 << 20]))).await.is_ok() {}
        })
    })
}

#[test]
fn every_lie_is_an_error_of_its_own_build() {
    let Some(kitchen) = Kitchen::new() else { return };
    let served = Served::start(&kitchen, None, &[]);
    let outside = kitchen.path("outside");
    std::fs::write(&outside, "not the client's").unwrap();
    let (up, whole) = (format!("{}/", kitchen.path("").display()), outside.display().to_string());
    let through = format!("l{}", whole);
    let file = |path: &str| stat(path, 0o644, 4, "");
    let cases: Vec<(&str, Lie, &str)> = vec![
        ("escapes", packets(vec![file("../x"), listed()], b"evil"), "a path must be clean"),
        ("absolute", packets(vec![file("/etc/x"), listed()], b"evil"), "a path must be relative"),
        ("unclean", packets(vec![file("a/./b"), listed()], b"evil"), "a path must be clean"),
        ("nul", packets(vec![file("a\0b"), listed()], b"evil"), "a path must be relative"),
        ("empty", packets(vec![file(""), listed()], b"evil"), "a path must be relative"),
        ("unordered", packets(vec![file("b"), file("a"), listed()], b"evil"), "out of order"),
        ("twice", packets(vec![file("a"), file("a"), listed()], b"evil"), "out of order"),
        ("orphan", packets(vec![file("no/parent"), listed()], b"evil"), "its folder was not named before"),
        (
            "through a link",
            packets(vec![stat("l", SYMLINK | 0o777, 0, &up), file("l/new"), listed()], b"evil"),
            "its folder was not named before",
        ),
        (
            "link through a link",
            packets(vec![stat("l", SYMLINK | 0o777, 0, "/"), stat("z", 0o644, 0, &through), listed()], b""),
            "a link to a file that was not named",
        ),
        (
            "link out",
            packets(vec![stat("z", 0o644, 0, "../../../outside"), listed()], b""),
            "a link to a file that was not",
        ),
        (
            "link to nothing",
            packets(vec![stat("z", 0o644, 0, "a"), listed()], b""),
            "a link to a file that was not named",
        ),
        (
            "another id",
            packets(vec![file("a"), listed(), packet(PacketType::PacketData, 77, b"evil")], b"evil"),
            "content that was not asked for",
        ),
        ("socket", packets(vec![stat("s", SOCKET | 0o644, 0, ""), listed()], b""), "it is of an unknown kind"),
        ("endless", endless(), "far more content than its size"),
        ("error", packets(vec![packet(PacketType::PacketErr, 0, b"no more")], b""), "no more"),
        (
            "early end",
            packets(vec![file("a"), packet(PacketType::PacketFin, 0, b"")], b""),
            "sync the client's directory",
        ),
    ];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let channel = runtime.block_on(connect(kitchen.root().join("larder.sock")));
    for (name, lie, why) in cases {
        let answer = runtime.block_on(build(&channel, name, Liar(lie, None), std::future::pending()));
        let status = answer.expect_err(name);
        assert!(status.message().contains(why), "{name}: {status}");
        assert!(!matches!(status.code(), Code::Internal | Code::Unavailable), "{name}: {status}");
    }
    assert!(!kitchen.path("new").exists());
    assert_eq!(std::fs::metadata(&outside).map(|d| std::os::unix::fs::MetadataExt::nlink(&d)).unwrap(), 1);
    // A client that is gone in the middle.
    let (gone, left) = tokio::sync::oneshot::channel::<()>();
    let gone = Arc::new(std::sync::Mutex::new(Some(gone)));
    let lie: Lie = Arc::new(move |out, mut incoming| {
        let gone = gone.clone();
        Box::pin(async move {
            let _ = out.send(Ok(stat("a", 0o644, 4, ""))).await;
            let _ = out.send(Ok(listed())).await;
            let _ = incoming.message().await;
            drop(gone.lock().unwrap().take());
            std::future::pending::<()>().await;
        })
    });
    let leaves = async { drop(left.await) };
    let status = runtime.block_on(build(&channel, "vanishes", Liar(lie, None), leaves)).unwrap_err();
    assert!(!status.message().is_empty() && status.code() != Code::Internal, "{status}");
    // One that stays, and answers nothing any more.
    let stalled = Arc::new(AtomicBool::new(false));
    let flag = stalled.clone();
    let lie: Lie = Arc::new(move |_out, mut incoming| {
        flag.store(true, Ordering::Relaxed);
        Box::pin(async move { while let Ok(Some(_)) = incoming.message().await {} })
    });
    let status =
        runtime.block_on(build(&channel, "stalls", Liar(lie, Some(stalled)), std::future::pending())).unwrap_err();
    assert!(!status.message().is_empty() && status.code() != Code::Internal, "{status}");
    // Files change while they are read: what came counts, as with BuildKit.
    for (name, content) in [("grown", b"longer than it was" as &[u8]), ("shrunk", b"ab")] {
        let lie = packets(vec![file("a"), stat("d", DIR | 0o755, 0, ""), listed()], content);
        runtime.block_on(build(&channel, name, Liar(lie, None), std::future::pending())).expect(name);
    }
    kitchen.write("Dockerfile", "FROM base\nRUN true\n");
    served.build(&[]).ok();
}
