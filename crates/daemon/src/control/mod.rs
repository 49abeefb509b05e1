//! `moby.buildkit.v1.Control`: what a client asks of the daemon itself. One file each for what is more than an answer.

pub mod health;
pub mod solve;
pub mod status;

use futures_util::stream::{self, BoxStream, StreamExt};
use proto::control::control_server::Control;
use proto::control::{
    BuildHistoryEvent, BuildHistoryRequest, BytesMessage, DiskUsageRequest, DiskUsageResponse, InfoRequest,
    InfoResponse, ListWorkersRequest, ListWorkersResponse, PruneRequest, SolveRequest, SolveResponse, StatusRequest,
    StatusResponse, UpdateBuildHistoryRequest, UpdateBuildHistoryResponse, UsageRecord,
};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::client::USER_AGENT;
use crate::session::value;
use crate::{Daemon, history, usage, workers};

type Items<T> = BoxStream<'static, Result<T, Status>>;

/// Tells the client the daemon's time: it shows ages against it.
fn timed<T>(message: T) -> Response<T> {
    let mut response = Response::new(message);
    if let Ok(now) = MetadataValue::try_from(oci::time::rfc3339_micros(builder::event::now_micros())) {
        response.metadata_mut().insert("buildkit-current-timestamp", now);
    }
    response
}

#[async_trait]
impl Control for Daemon {
    async fn disk_usage(&self, request: Request<DiskUsageRequest>) -> Result<Response<DiskUsageResponse>, Status> {
        let (store, request) = (self.engine.store.clone(), request.into_inner());
        Ok(Response::new(usage::blocking(move || usage::list(&store, &request)).await?))
    }

    type PruneStream = Items<UsageRecord>;

    async fn prune(&self, request: Request<PruneRequest>) -> Result<Response<Self::PruneStream>, Status> {
        let is_ours = value(request.metadata(), "user-agent").starts_with(USER_AGENT);
        let asker = if is_ours { "larder prune" } else { "prune" };
        let jobs = self.jobs.clone();
        let going_since = move || jobs.going_since();
        let (store, request) = (self.engine.store.clone(), request.into_inner());
        let gone = usage::blocking(move || usage::prune(&store, &request, asker, going_since)).await?;
        Ok(Response::new(stream::iter(gone.into_iter().map(Ok)).boxed()))
    }

    async fn solve(&self, request: Request<SolveRequest>) -> Result<Response<SolveResponse>, Status> {
        let traceparent = value(request.metadata(), "traceparent");
        Ok(Response::new(solve::solve(self, request.into_inner(), traceparent).await?))
    }

    type StatusStream = Items<StatusResponse>;

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<Self::StatusStream>, Status> {
        let id = request.into_inner().r#ref;
        if let Some(kept) = history::replay(&self.engine.store, &id)? {
            return Ok(timed(stream::iter(kept.into_iter().map(Ok)).boxed()));
        }
        let log = self.jobs.log(&id).await?;
        let state = (log, status::Translator::default(), 0, false);
        let messages = stream::unfold(state, |(log, mut translator, seen, over)| async move {
            if over {
                return None;
            }
            let events = log.after(seen).await;
            let over = events.is_empty();
            let message =
                if over { translator.finish(builder::event::now_micros()) } else { translator.translate(&events) };
            Some((Ok(message), (log, translator, seen + events.len(), over)))
        });
        Ok(timed(messages.boxed()))
    }

    type SessionStream = Items<BytesMessage>;

    async fn session(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Ok(Response::new(self.sessions.open(request)?.boxed()))
    }

    async fn list_workers(&self, _: Request<ListWorkersRequest>) -> Result<Response<ListWorkersResponse>, Status> {
        Ok(Response::new(ListWorkersResponse { record: vec![workers::worker(self)] }))
    }

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(InfoResponse { buildkit_version: Some(workers::version()) }))
    }

    type ListenBuildHistoryStream = Items<BuildHistoryEvent>;

    async fn listen_build_history(
        &self,
        request: Request<BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        Ok(timed(history::listen(self, request.into_inner()).await?))
    }

    async fn update_build_history(
        &self,
        request: Request<UpdateBuildHistoryRequest>,
    ) -> Result<Response<UpdateBuildHistoryResponse>, Status> {
        history::update(self, &request.into_inner()).await?;
        Ok(Response::new(UpdateBuildHistoryResponse {}))
    }
}
