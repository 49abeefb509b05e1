//! Files of a result, read for a client: content, listings, single entries.
//! A result is made when its files are asked for; symbolic links never lead out of it.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use proto::bridge::{
    ReadDirRequest, ReadDirResponse, ReadFileRequest, ReadFileResponse, StatFileRequest, StatFileResponse,
};
use store::view::{Kind, Node, View};
use tonic::Status;

use super::evaluate;
use crate::jobs::Job;
use crate::{refusal, stat};

/// Largest piece of a file in one answer: a message holds 16 MiB.
const LARGEST: u64 = 15 << 20;

/// The files of a result.
pub async fn view(job: &Job, id: &str) -> Result<View, Status> {
    let held = evaluate(job, id).await?;
    job.build.view(&held).await.map_err(|error| refusal::of(&error))
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(graph::pattern::clean(path))
}

fn find(view: &View, path: &str) -> Result<Node, Status> {
    let resolved = view.resolve(&absolute(path)).map_err(failed)?;
    let found = view.lookup(&resolved).map_err(failed)?;
    found.ok_or_else(|| Status::not_found(format!("{path}: no such file or directory")))
}

/// A file's bytes.
pub fn read(view: &View, request: &ReadFileRequest) -> Result<ReadFileResponse, Status> {
    let node = find(view, &request.file_path)?;
    if node.kind != Kind::File {
        return Err(Status::invalid_argument(format!("{}: not a file", request.file_path)));
    }
    let mut file = std::fs::File::open(&node.source).map_err(failed)?;
    let range = request.range.unwrap_or_default();
    let offset = u64::try_from(range.offset).unwrap_or(0);
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let length = u64::try_from(range.length).ok().filter(|n| *n > 0).unwrap_or(node.size.saturating_sub(offset));
    if length > LARGEST {
        return Err(Status::out_of_range(format!("{}: read it in parts of at most 15 MiB", request.file_path)));
    }
    let mut data = Vec::new();
    file.take(length).read_to_end(&mut data).map_err(failed)?;
    Ok(ReadFileResponse { data })
}

/// A directory's entries.
pub fn list(view: &View, request: &ReadDirRequest) -> Result<ReadDirResponse, Status> {
    let pattern = &request.include_pattern;
    let mut entries = Vec::new();
    for node in view.list(&absolute(&request.dir_path)).map_err(failed)? {
        let name = node.name.to_string_lossy().into_owned();
        if pattern.is_empty() || graph::pattern::glob(pattern, &name) {
            entries.push(stat::message(&node, name));
        }
    }
    Ok(ReadDirResponse { entries })
}

/// One entry.
pub fn stat_file(view: &View, request: &StatFileRequest) -> Result<StatFileResponse, Status> {
    let node = find(view, &request.path)?;
    let name = node.name.to_string_lossy().into_owned();
    Ok(StatFileResponse { stat: Some(stat::message(&node, name)) })
}
