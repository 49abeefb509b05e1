//! Why a request is not done: a status, a code of the specification, and words for people.
//! Codes: distribution-spec v1.1, "Error Codes". What the server itself could not do is `UNKNOWN`, as others name it.

use hyper::StatusCode;

/// A request that is answered with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// The specification's code.
    pub code: &'static str,
    /// For people.
    pub message: String,
    /// Headers that belong to it.
    pub headers: Vec<(&'static str, String)>,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $code:literal;)*) => {
        impl Refusal {
            $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Refusal {
                Refusal { status: StatusCode::$status, code: $code, message: message.into(), headers: Vec::new() }
            })*
        }
    };
}

refusals! {
    /// The repository does not have the blob.
    blob_unknown = NOT_FOUND, "BLOB_UNKNOWN";
    /// The upload can't be done as asked.
    upload_invalid = BAD_REQUEST, "BLOB_UPLOAD_INVALID";
    /// There is no such upload.
    upload_unknown = NOT_FOUND, "BLOB_UPLOAD_UNKNOWN";
    /// The chunk does not follow the last one.
    out_of_order = RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID";
    /// The digest is none, or not that of the content.
    digest_invalid = BAD_REQUEST, "DIGEST_INVALID";
    /// The manifest names what is not here.
    manifest_blob_unknown = BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN";
    /// The manifest can't be read.
    manifest_invalid = BAD_REQUEST, "MANIFEST_INVALID";
    /// The manifest is larger than this registry takes.
    manifest_too_large = PAYLOAD_TOO_LARGE, "SIZE_INVALID";
    /// The repository does not have the manifest.
    manifest_unknown = NOT_FOUND, "MANIFEST_UNKNOWN";
    /// The repository's name is none.
    name_invalid = BAD_REQUEST, "NAME_INVALID";
    /// There is no such repository.
    name_unknown = NOT_FOUND, "NAME_UNKNOWN";
    /// A size is not that of the content.
    size_invalid = BAD_REQUEST, "SIZE_INVALID";
    /// The range is not within the blob.
    range_outside = RANGE_NOT_SATISFIABLE, "SIZE_INVALID";
    /// Who asks must say who it is.
    unauthorized = UNAUTHORIZED, "UNAUTHORIZED";
    /// Who asks may not.
    denied = FORBIDDEN, "DENIED";
    /// There is no such operation.
    unsupported = METHOD_NOT_ALLOWED, "UNSUPPORTED";
    /// There is no such address.
    no_such_page = NOT_FOUND, "UNSUPPORTED";
    /// The query can't be read.
    query_invalid = BAD_REQUEST, "UNSUPPORTED";
    /// The registry behind this one can't be reached.
    upstream = BAD_GATEWAY, "UNKNOWN";
    /// The server could not do it.
    failed = INTERNAL_SERVER_ERROR, "UNKNOWN";
    /// The disk is full.
    full = INSUFFICIENT_STORAGE, "UNKNOWN";
}

impl Refusal {
    /// With a header.
    pub fn with(mut self, name: &'static str, value: String) -> Refusal {
        self.headers.push((name, value));
        self
    }

    /// The body, in the specification's form.
    pub fn body(&self) -> Vec<u8> {
        let error = serde_json::json!({ "code": self.code, "message": self.message });
        serde_json::json!({ "errors": [error] }).to_string().into_bytes()
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Refusal {
        match error.kind() {
            std::io::ErrorKind::StorageFull => Refusal::full(error.to_string()),
            _ => Refusal::failed(error.to_string()),
        }
    }
}
