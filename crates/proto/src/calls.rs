//! A gRPC service whose calls are told apart by their paths: for methods that the packaged definitions lack, and for those
//! whose messages depend on what is asked. What is answered, and over which messages, is known to whoever answers.

use std::convert::Infallible;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;

/// What answers the calls of one service.
pub trait Calls: Clone + Send + Sync + 'static {
    /// The service's full name.
    const NAME: &'static str;

    /// Answers one call, also one of a method that it does not know.
    fn answer(self, request: http::Request<Body>) -> impl Future<Output = http::Response<Body>> + Send;
}

/// The service over HTTP/2.
#[derive(Clone)]
pub struct Served<C>(pub C);

impl<C: Calls> NamedService for Served<C> {
    const NAME: &'static str = C::NAME;
}

impl<C: Calls> Service<http::Request<Body>> for Served<C> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let calls = self.0.clone();
        Box::pin(async move { Ok(calls.answer(request).await) })
    }
}
