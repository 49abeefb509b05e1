//! `Control.Info` with a field that the packaged definitions lack: the version of the Dockerfile's language.
//! A layer around the control service that answers this one method itself.

use std::convert::Infallible;
use std::task::{Context, Poll};

use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::control::InfoRequest;

/// Who serves (`moby.buildkit.v1.types.BuildkitVersion`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Version {
    /// Go's import path there; a name here.
    #[prost(string, tag = "1")]
    pub package: String,
    /// The version of BuildKit whose behaviour clients may expect.
    #[prost(string, tag = "2")]
    pub version: String,
    /// What was built.
    #[prost(string, tag = "3")]
    pub revision: String,
    /// Version of the Dockerfile's language that is built in.
    #[prost(string, tag = "4")]
    pub dockerfile_version: String,
}

/// The answer (`moby.buildkit.v1.InfoResponse`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct InfoResponse {
    /// Who serves.
    #[prost(message, optional, tag = "1")]
    pub buildkit_version: Option<Version>,
}

/// The method.
pub const INFO: &str = "/moby.buildkit.v1.Control/Info";

/// A service that says its version.
#[derive(Clone)]
pub struct Versioned<S> {
    /// Answers everything else.
    pub inner: S,
    /// What it says.
    pub version: Version,
}

impl<S: NamedService> NamedService for Versioned<S> {
    const NAME: &'static str = S::NAME;
}

struct Answer(Version);

impl UnaryService<InfoRequest> for Answer {
    type Response = InfoResponse;
    type Future = BoxFuture<Response<InfoResponse>, Status>;
    fn call(&mut self, _: Request<InfoRequest>) -> Self::Future {
        let response = InfoResponse { buildkit_version: Some(self.0.clone()) };
        Box::pin(async { Ok(Response::new(response)) })
    }
}

impl<S, B> Service<http::Request<B>> for Versioned<S>
where
    S: Service<http::Request<B>, Response = http::Response<tonic::body::Body>, Error = Infallible>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = BoxFuture<S::Response, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != INFO {
            return Box::pin(self.inner.call(request));
        }
        let answer = Answer(self.version.clone());
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).unary(answer, request).await) })
    }
}
