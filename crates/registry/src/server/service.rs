//! From a request to its answer: reads the address, asks whether the caller may, and calls what does it.
//! The workflows themselves are in `pull`, `push`, `discover` and `manage`, by the specification's words.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};

use super::answer::{Answer, With, json, refused};
use super::arriving::Arriving;
use super::refusal::Refusal;
use super::route::{Query, Route};
use super::{Event, Registry, discover, guard, join, manage, pull, push};

/// A request whose address was read.
pub struct Ask {
    /// Method, headers and the address as it came.
    pub parts: Parts,
    /// The query.
    pub query: Query,
    /// What follows.
    pub body: Arriving,
}

impl Ask {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.parts.headers.get(name)?.to_str().ok()
    }

    /// The header `Content-Length`.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }
}

/// Answers a request; every answer says which protocol this is.
pub async fn answer(registry: Arc<Registry>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let head = request.method() == Method::HEAD;
    let what = format!("{} {}", request.method(), request.uri().path());
    let answer = match dispatch(&registry, request).await {
        Ok(answer) => answer,
        Err(refusal) => {
            if refusal.status.is_server_error() {
                registry.tell(Event::Failed { what, why: refusal.message.clone() });
            }
            refused(&refusal)
        }
    };
    let answer =
        answer.with("docker-distribution-api-version", "registry/2.0").with("larder-extensions", join::EXTENSIONS);
    Ok(if head { answer.head() } else { answer })
}

async fn dispatch(registry: &Arc<Registry>, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let (parts, body) = request.into_parts();
    let route = Route::parse(parts.uri.path())?;
    let query = Query::parse(parts.uri.query().unwrap_or_default(), route == Route::Token);
    let ask = Ask { parts, query, body: Arriving::new(body) };
    let caller = guard::enter(registry, &ask, &route).await?;
    let method = ask.parts.method.clone();
    match (&method, route) {
        (&Method::GET | &Method::HEAD, Route::Support) => Ok(json(StatusCode::OK, "application/json", b"{}".to_vec())),
        (&Method::GET | &Method::POST, Route::Token) => guard::token(registry, ask).await,
        (&Method::GET, Route::Catalog) => discover::catalog(registry, &ask).await,
        (&Method::GET, Route::Tags(name)) => discover::tags(registry, &ask, &name).await,
        (&Method::GET, Route::Referrers(name, subject)) => discover::referrers(registry, &ask, &name, &subject).await,
        (&Method::GET, Route::CacheFilter(name, target)) => join::filter(registry, &name, &target).await,
        (&Method::GET | &Method::HEAD, Route::Blob(name, digest)) => pull::blob(registry, &ask, &name, &digest).await,
        (&Method::GET | &Method::HEAD, Route::Manifest(name, target)) => {
            pull::manifest(registry, &ask, &name, &target).await
        }
        (&Method::POST, Route::Uploads(name)) => push::start(registry, ask, &name, &caller).await,
        (&Method::PATCH, Route::Upload(name, id)) => push::chunk(registry, ask, &name, &id).await,
        (&Method::PUT, Route::Upload(name, id)) => push::close(registry, ask, &name, &id).await,
        (&Method::GET, Route::Upload(name, id)) => push::status(registry, &name, &id).await,
        (&Method::DELETE, Route::Upload(name, id)) => push::cancel(registry, &name, &id).await,
        (&Method::PUT, Route::Manifest(name, target)) => push::manifest(registry, ask, &name, &target).await,
        (&Method::DELETE, Route::Manifest(name, target)) => manage::delete_manifest(registry, &name, &target).await,
        (&Method::DELETE, Route::Blob(name, digest)) => manage::delete_blob(registry, &name, &digest).await,
        (method, _) => Err(Refusal::unsupported(format!("{method} is not possible at {}", ask.parts.uri.path()))),
    }
}
