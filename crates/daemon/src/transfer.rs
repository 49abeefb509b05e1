//! The sending half of fsutil's transfer, for both sides of a session: all entries in order, then the content of the
//! files that the receiver asks for. It reads what it was shown and nothing else.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use proto::files::packet::PacketType;
use proto::files::{Packet, Stat};
use store::view::{Kind, View};
use tokio::sync::mpsc::Sender;
use tonic::{Status, Streaming};

use crate::stat;

/// Bytes of a file a packet (fsutil's).
const DATA: usize = 32 << 10;

/// Something to send.
pub struct Entries {
    stats: Vec<Stat>,
    /// Where each lies on this machine, in the same order.
    sources: Vec<PathBuf>,
}

impl Entries {
    /// Everything in `view`, in the order that fsutil demands: by path, `/` before every other byte.
    pub fn of(view: &View) -> io::Result<Entries> {
        let mut entries = Entries { stats: Vec::new(), sources: Vec::new() };
        entries.below(view, Path::new("/"), &mut BTreeMap::new())?;
        Ok(entries)
    }

    fn below(&mut self, view: &View, folder: &Path, links: &mut BTreeMap<(u64, u64), String>) -> io::Result<()> {
        let mut nodes = view.list(folder).map_err(io::Error::other)?;
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        for node in nodes {
            let path = folder.join(&node.name);
            let relative = path.to_string_lossy().trim_start_matches('/').to_owned();
            let mut stat = stat::message(&node, relative.clone());
            if node.kind == Kind::File {
                let metadata = std::fs::symlink_metadata(&node.source)?;
                let file = (metadata.dev(), metadata.ino());
                match links.get(&file).filter(|_| metadata.nlink() > 1) {
                    Some(first) => stat.linkname.clone_from(first),
                    None => drop(links.insert(file, relative)),
                }
            }
            self.stats.push(stat);
            self.sources.push(node.source);
            if node.kind == Kind::Dir {
                self.below(view, &path, links)?;
            }
        }
        Ok(())
    }

    /// Begins to send. A receiver may answer nothing at all before the first entry has come.
    pub fn begin(self, out: Sender<Packet>) -> Sending {
        let (stats, listing) = (self.stats, out.clone());
        let listing = tokio::spawn(async move {
            for stat in stats.into_iter().map(Some).chain(std::iter::once(None)) {
                let packet = Packet { r#type: PacketType::PacketStat as i32, stat, ..Packet::default() };
                if listing.send(packet).await.is_err() {
                    break;
                }
            }
        });
        Sending { sources: self.sources, listing, out }
    }
}

/// Entries on their way.
pub struct Sending {
    sources: Vec<PathBuf>,
    listing: tokio::task::JoinHandle<()>,
    out: Sender<Packet>,
}

impl Sending {
    /// Sends the files that the receiver asks for: ends when it has everything.
    pub async fn serve(self, incoming: &mut Streaming<Packet>) -> Result<(), Status> {
        let gone = |_| Status::unavailable("the session ended");
        let Sending { sources, listing, out } = self;
        while let Some(packet) = incoming.message().await? {
            match PacketType::try_from(packet.r#type) {
                Ok(PacketType::PacketReq) => {
                    let source = sources.get(packet.id as usize).cloned();
                    let source =
                        source.ok_or_else(|| Status::invalid_argument("a file was asked for that was not offered"))?;
                    let out = out.clone();
                    let sent = tokio::task::spawn_blocking(move || send_file(&source, packet.id, &out)).await;
                    sent.map_err(|_| Status::internal("a sending thread ended early"))??;
                }
                Ok(PacketType::PacketFin) => {
                    let fin = Packet { r#type: PacketType::PacketFin as i32, ..Packet::default() };
                    out.send(fin).await.map_err(gone)?;
                    break;
                }
                Ok(PacketType::PacketErr) => return Err(Status::unknown(String::from_utf8_lossy(&packet.data))),
                _ => {}
            }
        }
        let _ = listing.await; // it has ended: the receiver finishes only after the last entry
        Ok(())
    }
}

fn send_file(path: &Path, id: u32, out: &Sender<Packet>) -> Result<(), Status> {
    let failed = |e: io::Error| Status::internal(format!("can't read {}: {e}", path.display()));
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut buffer = vec![0; DATA];
    loop {
        let count = file.read(&mut buffer).map_err(failed)?;
        let packet = Packet { r#type: PacketType::PacketData as i32, id, data: buffer[..count].to_vec(), stat: None };
        out.blocking_send(packet).map_err(|_| Status::unavailable("the session ended"))?;
        if count == 0 {
            return Ok(());
        }
    }
}
