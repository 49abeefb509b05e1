//! Containers in which a client looks around: what they are made of, and the files that they show.
//! What runs in them is `processes`.

use std::collections::HashMap;

use builder::containers::{Container, Request};
use graph::wire;
use prost::Message;
use proto::bridge::NewContainerRequest;
use proto::pb;
use tonic::Status;

use super::evaluate;
use crate::jobs::{Containers, Job};
use crate::refusal;

/// Makes a container ready, under the id that the client chose.
pub async fn new(job: &Job, containers: &Containers, request: NewContainerRequest) -> Result<(), Status> {
    let mut wanted = Request {
        network: request.network,
        hostname: request.hostname,
        windows: request.platform.is_some_and(|platform| platform.os == "windows"),
        ..Request::default()
    };
    wanted.hosts = request.extra_hosts.iter().map(translate).collect::<Result<_, _>>()?;
    let mut known = HashMap::new();
    for mount in &request.mounts {
        let id = mount.result_id.as_str();
        let input = match known.get(id) {
            _ if id.is_empty() => -1,
            Some(input) => *input,
            None => {
                let input = i64::try_from(wanted.trees.len()).unwrap_or(i64::MAX);
                wanted.trees.push(evaluate(job, id).await?);
                known.insert(id.to_owned(), input);
                input
            }
        };
        // What is changed in a container is nobody's result.
        wanted.mounts.push(wire::Mount { input, output: -1, ..translate(mount)? });
    }
    let container = Container::new(&job.build, &request.container_id, wanted).await;
    containers.add(&request.container_id, container.map_err(|error| refusal::of(&error))?)
}

/// One message as the other crate's of the same form.
pub fn translate<A: Message, B: Message + Default>(message: &A) -> Result<B, Status> {
    B::decode(message.encode_to_vec().as_slice()).map_err(|e| Status::invalid_argument(e.to_string()))
}

/// The process of a message.
pub fn process(meta: &pb::Meta) -> Result<wire::Meta, Status> {
    translate(meta)
}
