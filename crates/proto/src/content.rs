//! containerd's content service, as far as BuildKit's clients offer or use it: Info, Read, Write and Abort.
//! Messages and paths only (`containerd.services.content.v1`).

use std::collections::BTreeMap;

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
