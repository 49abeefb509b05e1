//! gRPC's health service: clients ask it to learn that somebody is there.

use futures_util::stream::{self, BoxStream, StreamExt};
use proto::health::health_check_response::ServingStatus;
use proto::health::health_server;
use proto::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use tonic::{Request, Response, Status, async_trait};

/// Always well: a daemon that can answer can serve.
pub struct Health;

fn serving() -> HealthCheckResponse {
    HealthCheckResponse { status: ServingStatus::Serving as i32 }
}

#[async_trait]
impl health_server::Health for Health {
    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(serving()))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        Ok(Response::new(HealthListResponse { statuses: [(String::new(), serving())].into() }))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(stream::once(async { Ok(serving()) }).chain(stream::pending()).boxed()))
    }
}
