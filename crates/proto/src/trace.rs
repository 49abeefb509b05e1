//! OpenTelemetry's trace service (`opentelemetry.proto.collector.trace.v1`), as far as clients send spans to a daemon.
//! Messages and the service around one method; what becomes of the spans is known above.

use std::sync::Arc;

use tonic::body::Body;
use tonic::codegen::{BoxFuture, http};
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::calls::Calls;

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* [$($attr:tt)*] $field:ident : $ty:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, prost::Message)]
            #[allow(missing_docs)]
            pub struct $name {
                $($(#[$fdoc])* #[prost($($attr)*)] pub $field: $ty,)*
            }
        )*
    };
}

messages! {
    /// Spans of one or more processes.
    ExportRequest { [message, repeated, tag = "1"] resource_spans: Vec<ResourceSpans> }
    /// The answer: nothing was refused.
    ExportResponse {}
    /// Spans of one process.
    ResourceSpans {
        [message, optional, tag = "1"] resource: Option<Resource>,
        [message, repeated, tag = "2"] scope_spans: Vec<ScopeSpans>,
    }
    /// What a process says of itself.
    Resource { [message, repeated, tag = "1"] attributes: Vec<KeyValue> }
    /// Spans of one library.
    ScopeSpans {
        [message, optional, tag = "1"] scope: Option<Scope>,
        [message, repeated, tag = "2"] spans: Vec<Span>,
    }
    /// A library.
    Scope {
        [string, tag = "1"] name: String,
        [string, tag = "2"] version: String,
    }
    /// One operation. Times are nanoseconds since 1970.
    Span {
        /// 16 bytes.
        [bytes = "vec", tag = "1"] trace_id: Vec<u8>,
        /// 8 bytes.
        [bytes = "vec", tag = "2"] span_id: Vec<u8>,
        [string, tag = "3"] trace_state: String,
        [bytes = "vec", tag = "4"] parent_span_id: Vec<u8>,
        [string, tag = "5"] name: String,
        /// 0 unknown, 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
        [int32, tag = "6"] kind: i32,
        [fixed64, tag = "7"] start_time_unix_nano: u64,
        [fixed64, tag = "8"] end_time_unix_nano: u64,
        [message, repeated, tag = "9"] attributes: Vec<KeyValue>,
        [uint32, tag = "10"] dropped_attributes_count: u32,
        [message, repeated, tag = "11"] events: Vec<Event>,
        [uint32, tag = "12"] dropped_events_count: u32,
        [message, repeated, tag = "13"] links: Vec<Link>,
        [uint32, tag = "14"] dropped_links_count: u32,
        [message, optional, tag = "15"] status: Option<SpanStatus>,
    }
    /// Something that happened in a span.
    Event {
        [fixed64, tag = "1"] time_unix_nano: u64,
        [string, tag = "2"] name: String,
        [message, repeated, tag = "3"] attributes: Vec<KeyValue>,
        [uint32, tag = "4"] dropped_attributes_count: u32,
    }
    /// Another span that has to do with it.
    Link {
        [bytes = "vec", tag = "1"] trace_id: Vec<u8>,
        [bytes = "vec", tag = "2"] span_id: Vec<u8>,
        [string, tag = "3"] trace_state: String,
        [message, repeated, tag = "4"] attributes: Vec<KeyValue>,
        [uint32, tag = "5"] dropped_attributes_count: u32,
    }
    /// How a span ended: code 0 unset, 1 ok, 2 error.
    SpanStatus {
        [string, tag = "2"] message: String,
        [int32, tag = "3"] code: i32,
    }
    /// An attribute.
    KeyValue {
        [string, tag = "1"] key: String,
        [message, optional, tag = "2"] value: Option<AnyValue>,
    }
    /// A value of some type.
    AnyValue { [oneof = "Value", tags = "1, 2, 3, 4, 5, 6, 7"] value: Option<Value> }
    /// Several values.
    ArrayValue { [message, repeated, tag = "1"] values: Vec<AnyValue> }
    /// Several attributes.
    KeyValueList { [message, repeated, tag = "1"] values: Vec<KeyValue> }
}

/// The types of a value.
#[derive(Clone, PartialEq, prost::Oneof)]
#[allow(missing_docs)]
pub enum Value {
    #[prost(string, tag = "1")]
    String(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Int(i64),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(message, tag = "5")]
    Array(ArrayValue),
    #[prost(message, tag = "6")]
    List(KeyValueList),
    #[prost(bytes, tag = "7")]
    Bytes(Vec<u8>),
}

/// Path of the one method.
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Takes spans.
pub trait Collector: Send + Sync + 'static {
    /// Keeps what is worth keeping of them. Quick: a client waits.
    fn take(&self, spans: ExportRequest);
}

/// The service.
pub struct TraceServer<T>(Arc<T>);

impl<T> TraceServer<T> {
    /// Hands spans to `collector`.
    pub fn new(collector: T) -> TraceServer<T> {
        TraceServer(Arc::new(collector))
    }
}

impl<T> Clone for TraceServer<T> {
    fn clone(&self) -> TraceServer<T> {
        TraceServer(self.0.clone())
    }
}

struct Exports<T>(Arc<T>);

impl<T: Collector> UnaryService<ExportRequest> for Exports<T> {
    type Response = ExportResponse;
    type Future = BoxFuture<Response<ExportResponse>, Status>;
    fn call(&mut self, request: Request<ExportRequest>) -> Self::Future {
        self.0.take(request.into_inner());
        Box::pin(async { Ok(Response::new(ExportResponse {})) })
    }
}

impl<T: Collector> Calls for TraceServer<T> {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        match request.uri().path() {
            EXPORT => Grpc::new(ProstCodec::default()).unary(Exports(self.0), request).await,
            path => Status::unimplemented(format!("{path}: no method of the trace service")).into_http(),
        }
    }
}
