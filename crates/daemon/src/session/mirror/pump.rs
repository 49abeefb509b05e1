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
