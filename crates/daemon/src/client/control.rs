//! What BuildKit's own command asks beside builds: the daemon's version, kept builds, their blobs, builds that go on.
//! Every daemon that speaks BuildKit's API is asked the same way.

use std::io::Write;

use builder::Events;
use futures_util::stream::{BoxStream, StreamExt};
use oci::Digest;
use proto::content::{ReadRequest, ReadResponse};
use proto::control::{BuildHistoryEvent, BuildHistoryRequest, InfoRequest, StatusRequest, UpdateBuildHistoryRequest};
use proto::version::{self, Version};
use tonic::Request;
use tonic::codegen::http::uri::PathAndQuery;

use super::{Client, Error, status};
use crate::session::MESSAGE;

impl Client {
    /// The daemon's version.
    pub async fn info(&self) -> Result<Version, Error> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|e| Error::Unreachable { address: self.address.clone(), reason: e.to_string() })?;
        let codec = tonic_prost::ProstCodec::<InfoRequest, version::InfoResponse>::default();
        let answer = grpc.unary(Request::new(InfoRequest {}), PathAndQuery::from_static(version::INFO), codec).await;
        Ok(answer.map_err(|s| self.refused(&s))?.into_inner().buildkit_version.unwrap_or_default())
    }

    /// Kept builds and what happens to builds, as they are asked for.
    pub async fn histories(
        &self,
        request: BuildHistoryRequest,
    ) -> Result<BoxStream<'_, Result<BuildHistoryEvent, Error>>, Error> {
        let events = self.control().listen_build_history(request).await.map_err(|s| self.refused(&s))?.into_inner();
        Ok(events.map(|event| event.map_err(|s| self.refused(&s))).boxed())
    }

    /// Pins, unpins, finishes or removes a kept build.
    pub async fn update(&self, request: UpdateBuildHistoryRequest) -> Result<(), Error> {
        self.control().update_build_history(request).await.map(drop).map_err(|s| self.refused(&s))
    }

    /// Passes on what happens, or happened, in the build `id` until it ends.
    pub async fn follow(&self, id: &str, events: &Events) -> Result<(), Error> {
        let request = StatusRequest { r#ref: id.to_owned() };
        let mut messages = self.control().status(request).await.map_err(|s| self.refused(&s))?.into_inner();
        let mut reader = status::Reader::default();
        while let Some(message) = messages.message().await.map_err(|s| self.refused(&s))? {
            reader.read(&message, events);
        }
        Ok(())
    }

    /// The bytes of a blob of the daemon into `out`.
    pub async fn blob(&self, digest: &Digest, out: &mut dyn Write) -> Result<(), Error> {
        let lost = |reason: &dyn std::fmt::Display| Error::Refused {
            address: self.address.clone(),
            reason: format!("can't read {digest}: {reason}"),
        };
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MESSAGE);
        grpc.ready().await.map_err(|e| lost(&e))?;
        let codec = tonic_prost::ProstCodec::<ReadRequest, ReadResponse>::default();
        let path = PathAndQuery::from_static(proto::content::READ);
        let request = Request::new(ReadRequest { digest: digest.to_string(), offset: 0, size: 0 });
        let mut parts = grpc.server_streaming(request, path, codec).await.map_err(|s| self.refused(&s))?.into_inner();
        while let Some(part) = parts.message().await.map_err(|s| self.refused(&s))? {
            out.write_all(&part.data).map_err(|e| lost(&e))?;
        }
        Ok(())
    }
}
