//! Packets on their way from a stream to the thread that writes. The stream is read also while the thread is busy: h2 ends
//! a connection on which some thousand small frames wait to be read, and each entry of a directory is one.
//! Content was asked for (`receive`), so little of it waits here; of a file that is larger than that, the rest stays in the
//! stream. It looks into no packet further than for its size.

use std::sync::Arc;
use std::time::Duration;

use proto::files::Packet;
use proto::files::packet::PacketType;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Status, Streaming};

use super::receive::ASKED;

/// So many packets, or bytes of files, or what came in so long a time go to the thread together: waking it costs more than
/// one packet does.
const TOGETHER: usize = 256;
const BYTES: usize = 256 << 10;
const TIME: Duration = Duration::from_millis(1);
/// Bytes of files that wait for the thread: all that was asked for, unless it is one large file.
const WAITING: usize = ASKED + BYTES;

/// The stream's end.
pub struct Pump {
    send: mpsc::UnboundedSender<Vec<Packet>>,
    room: Arc<Semaphore>,
}

/// The thread's end.
pub struct Packets {
    receive: mpsc::UnboundedReceiver<Vec<Packet>>,
    room: Arc<Semaphore>,
}

/// Both ends.
pub fn pump() -> (Pump, Packets) {
    let (send, receive) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(WAITING));
    (Pump { send, room: room.clone() }, Packets { receive, room })
}

impl Pump {
    /// Passes on all that comes, until the stream ends or the thread has stopped: then it knows why.
    pub async fn run(self, incoming: &mut Streaming<Packet>) -> Result<(), Status> {
        while let Some(packets) = together(incoming).await? {
            match self.room.acquire_many(weight(&packets)).await {
                Ok(taken) => taken.forget(),
                Err(_stopped) => break,
            }
            if self.send.send(packets).is_err() {
                break;
            }
        }
        Ok(())
    }
}

impl Packets {
    /// Waits for the next packets; `None` at the end.
    pub fn next(&mut self) -> Option<Vec<Packet>> {
        let packets = self.receive.blocking_recv()?;
        self.room.add_permits(weight(&packets) as usize);
        Some(packets)
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        self.room.close();
    }
}

/// Room that packets take.
fn weight(packets: &[Packet]) -> u32 {
    let bytes: usize = packets.iter().map(|packet| packet.data.len()).sum();
    // One message may be larger than what may wait.
    u32::try_from(bytes.min(WAITING)).unwrap_or(u32::MAX)
}

/// The next packets, up to one that the client waits for an answer to. `None` at the end.
async fn together(incoming: &mut Streaming<Packet>) -> Result<Option<Vec<Packet>>, Status> {
    let Some(first) = incoming.message().await? else { return Ok(None) };
    let until = tokio::time::Instant::now() + TIME;
    let (mut packets, mut bytes) = (Vec::new(), 0);
    let mut next = Some(first);
    while let Some(packet) = next {
        bytes += packet.data.len();
        let waits = match PacketType::try_from(packet.r#type) {
            Ok(PacketType::PacketStat) => packet.stat.is_none(),
            kind => kind != Ok(PacketType::PacketData),
        };
        packets.push(packet);
        if waits || bytes >= BYTES || packets.len() == TOGETHER {
            break;
        }
        let Ok(more) = tokio::time::timeout_at(until, incoming.message()).await else { break };
        next = more?;
    }
    Ok(Some(packets))
}

#[cfg(test)]
mod tests {
    use super::super::receive::{Mirror, Receiver};
    use super::*;
    use crate::session::tunnel::WINDOW;
    use futures_util::stream::{self, BoxStream, StreamExt};
    use hyper_util::rt::TokioIo;
    use proto::files::Stat;
    use proto::filesync::file_sync_client::FileSyncClient;
    use proto::filesync::file_sync_server::{FileSync, FileSyncServer};
    use tonic::transport::{Endpoint, Server};
    use tonic::{Request, Response};

    const ENTRIES: u32 = 30_000;

    fn entry(number: u32, size: i64) -> Packet {
        let stat = Stat { path: format!("{number:06}"), mode: 0o644, size, ..Stat::default() };
        Packet { r#type: PacketType::PacketStat as i32, stat: Some(stat), ..Packet::default() }
    }

    struct Many;

    #[tonic::async_trait]
    impl FileSync for Many {
        type DiffCopyStream = BoxStream<'static, Result<Packet, Status>>;

        async fn diff_copy(&self, _: Request<Streaming<Packet>>) -> Result<Response<Self::DiffCopyStream>, Status> {
            Ok(Response::new(stream::iter(0..ENTRIES).map(|number| Ok(entry(number, 1))).boxed()))
        }

        type TarStreamStream = Self::DiffCopyStream;

        async fn tar_stream(&self, _: Request<Streaming<Packet>>) -> Result<Response<Self::TarStreamStream>, Status> {
            Err(Status::unimplemented("packets only"))
        }
    }

    #[tokio::test]
    async fn entries_do_not_wait_in_the_stream() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let incoming = stream::iter([Ok::<_, std::io::Error>(near)]).chain(stream::pending());
        tokio::spawn(Server::builder().add_service(FileSyncServer::new(Many)).serve_with_incoming(incoming));
        let mut far = Some(TokioIo::new(far));
        let connector = tower::service_fn(move |_| {
            let far = far.take().ok_or_else(|| std::io::Error::other("connected twice"));
            async move { far }
        });
        let endpoint = Endpoint::from_static("http://localhost").initial_stream_window_size(WINDOW);
        let channel = endpoint.initial_connection_window_size(WINDOW).connect_with_connector(connector).await.unwrap();
        let asked = Request::new(stream::pending::<Packet>());
        let mut incoming = FileSyncClient::new(channel).diff_copy(asked).await.unwrap().into_inner();
        let (pump, mut packets) = pump();
        // The thread is busy all the while.
        pump.run(&mut incoming).await.unwrap();
        let came =
            tokio::task::spawn_blocking(move || std::iter::from_fn(|| packets.next()).map(|p| p.len()).sum::<usize>());
        assert_eq!(came.await.unwrap(), ENTRIES as usize);
    }

    #[test]
    fn files_are_asked_for_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let (ask, mut asked) = mpsc::unbounded_channel();
        let new = Mirror { synced: i64::MIN, plain: true };
        let mut receiver = Receiver::new(dir.path(), new, ask).unwrap();
        let mut asked = || std::iter::from_fn(|| asked.try_recv().ok()).map(|packet| packet.id).collect::<Vec<_>>();
        let mut take = |packet| receiver.take(packet).unwrap();
        let data = |id, data: &[u8]| Packet {
            r#type: PacketType::PacketData as i32,
            id,
            data: data.to_vec(),
            ..Packet::default()
        };
        take(entry(0, ASKED as i64 + 1));
        (1..600).for_each(|number| take(entry(number, 1)));
        assert_eq!(asked(), [0], "one large file alone");
        take(data(0, &vec![0; ASKED + 1]));
        take(data(0, &[]));
        assert_eq!(asked(), (1..513).collect::<Vec<_>>());
        take(data(7, b"x"));
        assert_eq!(asked(), [0; 0]);
        take(data(7, b""));
        assert_eq!(asked(), [513]);
    }
}
