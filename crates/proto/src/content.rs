//! containerd's content service, as far as BuildKit's clients offer or use it: Info and Read.
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

/// Path of the method that reads.
pub const READ: &str = "/containerd.services.content.v1.Content/Read";
/// Path of the method that tells of a blob.
pub const INFO: &str = "/containerd.services.content.v1.Content/Info";
