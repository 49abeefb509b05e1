//! containerd's content service, as far as BuildKit's clients offer or use it: Info, Read, Write and Abort.
//! Messages, paths, and the service that reads (`containerd.services.content.v1`); whose content it is, is known above.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, http};
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Request, Status, async_trait};
use tonic_prost::ProstCodec;

use crate::calls::Calls;

/// Asks about one blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InfoRequest {
    /// `sha256:…`
    #[prost(string, tag = "1")]
    pub digest: String,
}

/// What is known of a blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Info {
    /// `sha256:…`
    #[prost(string, tag = "1")]
    pub digest: String,
    /// Bytes.
    #[prost(int64, tag = "2")]
    pub size: i64,
    /// Labels.
    #[prost(btree_map = "string, string", tag = "5")]
    pub labels: BTreeMap<String, String>,
}

/// Answer to [`InfoRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct InfoResponse {
    /// The blob.
    #[prost(message, optional, tag = "1")]
    pub info: Option<Info>,
}

/// Asks for the bytes of a blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadRequest {
    /// `sha256:…`
    #[prost(string, tag = "1")]
    pub digest: String,
    /// First byte.
    #[prost(int64, tag = "2")]
    pub offset: i64,
    /// How many; 0 is all.
    #[prost(int64, tag = "3")]
    pub size: i64,
}

/// A part of a blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadResponse {
    /// Where the part begins.
    #[prost(int64, tag = "1")]
    pub offset: i64,
    /// Its bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
}

/// Asks which blobs there are.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListRequest {
    /// containerd's filters; a blob that one of them matches is meant.
    #[prost(string, repeated, tag = "1")]
    pub filters: Vec<String>,
}

/// Some of the blobs that there are.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListResponse {
    /// The blobs.
    #[prost(message, repeated, tag = "1")]
    pub info: Vec<Info>,
}

/// What a [`WriteRequest`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum WriteAction {
    /// How much of the blob is there.
    Stat = 0,
    /// Take these bytes.
    Write = 1,
    /// The blob is whole.
    Commit = 2,
}

/// One step of writing a blob.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WriteRequest {
    /// What is asked for.
    #[prost(enumeration = "WriteAction", tag = "1")]
    pub action: i32,
    /// Names the write; the first message of a stream must say it.
    #[prost(string, tag = "2")]
    pub r#ref: String,
    /// Length of the whole blob.
    #[prost(int64, tag = "3")]
    pub total: i64,
    /// `sha256:…` of the whole blob.
    #[prost(string, tag = "4")]
    pub expected: String,
    /// Where `data` begins.
    #[prost(int64, tag = "5")]
    pub offset: i64,
    /// Bytes.
    #[prost(bytes = "vec", tag = "6")]
    pub data: Vec<u8>,
    /// Labels of the blob.
    #[prost(btree_map = "string, string", tag = "7")]
    pub labels: BTreeMap<String, String>,
}

/// Answer to each [`WriteRequest`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct WriteResponse {
    /// What was asked for.
    #[prost(enumeration = "WriteAction", tag = "1")]
    pub action: i32,
    /// How much of the blob is there.
    #[prost(int64, tag = "4")]
    pub offset: i64,
    /// Length of the whole blob.
    #[prost(int64, tag = "5")]
    pub total: i64,
    /// Of what is there, if it is known.
    #[prost(string, tag = "6")]
    pub digest: String,
}

/// Gives up a write.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AbortRequest {
    /// Names the write.
    #[prost(string, tag = "1")]
    pub r#ref: String,
}

/// The service's full name.
pub const NAME: &str = "containerd.services.content.v1.Content";
/// Metadata that says which of a client's content stores a call is for.
pub const STORE: &str = "buildkit-attachable-store-id";
/// Path of the method that writes.
pub const WRITE: &str = "/containerd.services.content.v1.Content/Write";
/// Path of the method that gives up a write.
pub const ABORT: &str = "/containerd.services.content.v1.Content/Abort";
/// Path of the method that reads.
pub const READ: &str = "/containerd.services.content.v1.Content/Read";
/// Path of the method that tells of a blob.
pub const INFO: &str = "/containerd.services.content.v1.Content/Info";
/// Path of the method that lists blobs.
pub const LIST: &str = "/containerd.services.content.v1.Content/List";

/// Lists of blobs, as they are sent.
pub type Lists = BoxStream<'static, Result<ListResponse, Status>>;

/// Parts of a blob, as they are sent.
pub type Parts = BoxStream<'static, Result<ReadResponse, Status>>;

/// What a read-only content service answers.
#[async_trait]
pub trait Content: Send + Sync + 'static {
    /// What is known of a blob.
    async fn info(&self, request: InfoRequest) -> Result<InfoResponse, Status>;
    /// All blobs.
    async fn list(&self, request: ListRequest) -> Result<Lists, Status>;
    /// A blob's bytes.
    async fn read(&self, request: ReadRequest) -> Result<Parts, Status>;
}

/// The service. Methods that would write are answered as unimplemented.
pub struct ContentServer<T>(Arc<T>);

impl<T> ContentServer<T> {
    /// Serves `content`.
    pub fn new(content: T) -> ContentServer<T> {
        ContentServer(Arc::new(content))
    }
}

impl<T> Clone for ContentServer<T> {
    fn clone(&self) -> ContentServer<T> {
        ContentServer(self.0.clone())
    }
}

struct Infos<T>(Arc<T>);

impl<T: Content> UnaryService<InfoRequest> for Infos<T> {
    type Response = InfoResponse;
    type Future = BoxFuture<tonic::Response<InfoResponse>, Status>;
    fn call(&mut self, request: Request<InfoRequest>) -> Self::Future {
        let content = self.0.clone();
        Box::pin(async move { content.info(request.into_inner()).await.map(tonic::Response::new) })
    }
}

struct Listings<T>(Arc<T>);

impl<T: Content> ServerStreamingService<ListRequest> for Listings<T> {
    type Response = ListResponse;
    type ResponseStream = Lists;
    type Future = BoxFuture<tonic::Response<Lists>, Status>;
    fn call(&mut self, request: Request<ListRequest>) -> Self::Future {
        let content = self.0.clone();
        Box::pin(async move { content.list(request.into_inner()).await.map(tonic::Response::new) })
    }
}

struct Reads<T>(Arc<T>);

impl<T: Content> ServerStreamingService<ReadRequest> for Reads<T> {
    type Response = ReadResponse;
    type ResponseStream = Parts;
    type Future = BoxFuture<tonic::Response<Parts>, Status>;
    fn call(&mut self, request: Request<ReadRequest>) -> Self::Future {
        let content = self.0.clone();
        Box::pin(async move { content.read(request.into_inner()).await.map(tonic::Response::new) })
    }
}

impl<T: Content> Calls for ContentServer<T> {
    const NAME: &'static str = NAME;

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        match request.uri().path() {
            INFO => Grpc::new(ProstCodec::default()).unary(Infos(self.0), request).await,
            LIST => Grpc::new(ProstCodec::default()).server_streaming(Listings(self.0), request).await,
            READ => Grpc::new(ProstCodec::default()).server_streaming(Reads(self.0), request).await,
            path => Status::unimplemented(format!("{path}: this content is only read")).into_http(),
        }
    }
}
