//! What is made of clients' bytes before anything is done with them, by itself: for tests and fuzzers, which send anything.

use std::path::Path;

use proto::control::SolveRequest;
use proto::files::Packet;
use proto::pb;
use tonic::Status;

use crate::session::mirror::receive::{Mirror, Receiver};
use crate::{bridge, control};

/// A graph.
pub fn graph(definition: &pb::Definition) -> Result<(), Status> {
    bridge::solve::decode(Some(definition)).map(drop)
}

/// A request to build.
pub fn request(request: &SolveRequest) -> Result<(), Status> {
    control::solve::wanted(request).map(drop)
}

/// What a client sends of a directory, written into `root`.
pub fn receive(root: &Path, packets: Vec<Packet>) -> Result<(), String> {
    let (ask, _asked) = tokio::sync::mpsc::unbounded_channel();
    let mut receiver = Receiver::new(root, Mirror { synced: i64::MIN, plain: true }, ask).map_err(|e| e.to_string())?;
    packets.into_iter().try_for_each(|packet| receiver.take(packet)).map_err(|e| e.to_string())?;
    receiver.finish().map(drop).map_err(|e| e.to_string())
}
