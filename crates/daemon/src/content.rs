//! The store's blobs for clients, read-only: logs, traces, errors and attestations of kept builds, manifests of results.
//! What a blob is for, the records say that name it.

use std::collections::HashSet;
use std::io::{Read, Seek, SeekFrom};

use builder::Engine;
use futures_util::stream::{self, StreamExt};
use oci::Digest;
use proto::content::{
    self, InfoRequest, InfoResponse, ListRequest, ListResponse, Lists, Parts, ReadRequest, ReadResponse,
};
use std::sync::Arc;
use store::Resource;
use tonic::{Status, async_trait};

/// Bytes of a part.
const PART: usize = 1 << 20;

/// Blobs in one message of a list.
const LISTED: usize = 100;

/// See the module.
pub struct Content(pub Arc<Engine>);

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

fn digest(text: &str) -> Result<Digest, Status> {
    Digest::parse(text).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn missing(digest: &Digest) -> Status {
    Status::not_found(format!("content {digest}: not found"))
}

#[async_trait]
impl content::Content for Content {
    async fn info(&self, request: InfoRequest) -> Result<InfoResponse, Status> {
        let digest = digest(&request.digest)?;
        let size = self.0.store.blobs().size(&digest).map_err(failed)?.ok_or_else(|| missing(&digest))?;
        let size = i64::try_from(size).map_err(failed)?;
        Ok(InfoResponse { info: Some(content::Info { digest: digest.to_string(), size, ..content::Info::default() }) })
    }

    async fn list(&self, request: ListRequest) -> Result<Lists, Status> {
        if !request.filters.is_empty() {
            return Err(Status::unimplemented("content is listed whole: filters of content are not built"));
        }
        let engine = self.0.clone();
        let blobs = tokio::task::spawn_blocking(move || {
            // Named images are listed by their names, and stay whatever is pruned.
            let named: HashSet<_> = engine.store.images().list()?.into_iter().flat_map(|image| image.blobs).collect();
            let mut blobs = engine.store.blobs().list()?;
            blobs.retain(|blob| !named.contains(&blob.digest));
            Ok::<_, store::Error>(blobs)
        });
        let blobs = blobs.await.map_err(failed)?.map_err(failed)?;
        let info = |blob: &store::BlobInfo| -> Result<content::Info, Status> {
            let size = i64::try_from(blob.size).map_err(failed)?;
            Ok(content::Info { digest: blob.digest.to_string(), size, ..content::Info::default() })
        };
        let lists = blobs
            .chunks(LISTED)
            .map(|some| Ok(ListResponse { info: some.iter().map(info).collect::<Result<_, _>>()? }));
        Ok(stream::iter(lists.collect::<Vec<_>>()).boxed())
    }

    async fn read(&self, request: ReadRequest) -> Result<Parts, Status> {
        let digest = digest(&request.digest)?;
        let store = &self.0.store;
        let size = store.blobs().size(&digest).map_err(failed)?.ok_or_else(|| missing(&digest))?;
        let out = || Status::out_of_range(format!("content {digest} has {size} bytes"));
        let offset = u64::try_from(request.offset).ok().filter(|offset| *offset <= size).ok_or_else(out)?;
        let rest = size - offset;
        let wanted = u64::try_from(request.size).map_err(|_| out())?;
        let length = if wanted == 0 { rest } else { wanted.min(rest) };
        let lease = store.leases().hold(Resource::Blob(digest)).map_err(failed)?;
        let mut file = store.blobs().open(&digest).map_err(failed)?;
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
        // The blob stays while it is read.
        let state = (file.take(length), offset, lease);
        let parts = stream::try_unfold(state, |(mut file, offset, lease)| async move {
            let read = tokio::task::spawn_blocking(move || {
                let mut data = Vec::new();
                let read = file.by_ref().take(PART as u64).read_to_end(&mut data);
                read.map(|_| (data, file))
            });
            let (data, file) = read.await.map_err(failed)?.map_err(failed)?;
            if data.is_empty() {
                return Ok(None);
            }
            let next = offset + data.len() as u64;
            let part = ReadResponse { offset: offset.cast_signed(), data };
            Ok(Some((part, (file, next, lease))))
        });
        Ok(parts.boxed())
    }
}
