//! Errors as BuildKit's clients read them: a gRPC status whose details are JSON under BuildKit's type names.
//! Only the encoding: what is an error, and what it says, is known above.

use std::collections::BTreeMap;

use base64::Engine;
use prost::Message;
use serde_json::{Map, Value, json};
use tonic::{Code, Status};

use crate::{pb, rpc};

/// A detail of an error (BuildKit's `solver/errdefs`).
#[derive(Clone, Debug)]
pub enum Detail {
    /// The failed step, by the digest of its operation.
    Vertex(String),
    /// Where in the client's file the cause stands: clients show the lines.
    Source {
        /// The file.
        info: pb::SourceInfo,
        /// Its lines, from 1.
        ranges: Vec<pb::Range>,
    },
    /// Where in the daemon the error became a status: clients show it to who asks for more (`--debug`).
    Stack {
        /// File of the daemon's source.
        file: &'static str,
        /// Its line.
        line: u32,
    },
    /// A failed step, with the ids under which its client finds the trees that it began with and left.
    Solve {
        /// The bytes of its operation.
        operation: Vec<u8>,
        /// What is said of it.
        description: BTreeMap<String, String>,
        /// Trees that it began with; an empty id where there was none.
        inputs: Vec<String>,
        /// Trees as it left them.
        mounts: Vec<String>,
        /// What of it failed.
        part: Option<Subject>,
    },
    /// The code that a process ended with.
    Exit(i32),
    /// A frontend was asked for something that it can't do (`frontend.caps`).
    FrontendCap(String),
    /// A frontend was asked a question that it does not know (`requestid`).
    Subrequest(String),
    /// What larder's own command is told beyond that; other clients pass over it.
    Own(Value),
}

/// What of a step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An action on files, by its position.
    File(u64),
    /// The content of an input, by its position.
    Content(u64),
}

/// BuildKit's `errdefs.Solve`.
#[derive(Clone, PartialEq, prost::Message)]
struct Solve {
    #[prost(string, repeated, tag = "1")]
    inputs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    mounts: Vec<String>,
    #[prost(bytes = "vec", optional, tag = "3")]
    operation: Option<Vec<u8>>,
    #[prost(message, optional, tag = "4")]
    file: Option<Index>,
    #[prost(message, optional, tag = "5")]
    content: Option<Index>,
    #[prost(btree_map = "string, string", tag = "6")]
    description: BTreeMap<String, String>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Index {
    #[prost(uint64, tag = "1")]
    index: u64,
}

/// The type of [`Solve`], which goes as it is: clients find it by its name.
const SOLVE: &str = "type.googleapis.com/errdefs.Solve";

/// The type of [`Detail::Own`].
const OWN: &str = "larder.v1.Told+json";

impl Detail {
    fn any(&self) -> bollard_buildkit_proto::google::protobuf::Any {
        let (name, value) = match self {
            Detail::Own(value) => {
                return bollard_buildkit_proto::google::protobuf::Any {
                    type_url: OWN.to_owned(),
                    value: value.to_string().into_bytes(),
                };
            }
            Detail::Solve { operation, description, inputs, mounts, part } => {
                let index = |index: u64| Index { index };
                let solve = Solve {
                    inputs: inputs.clone(),
                    mounts: mounts.clone(),
                    operation: Some(operation.clone()),
                    file: part.and_then(|p| if let Subject::File(i) = p { Some(index(i)) } else { None }),
                    content: part.and_then(|p| if let Subject::Content(i) = p { Some(index(i)) } else { None }),
                    description: description.clone(),
                };
                return bollard_buildkit_proto::google::protobuf::Any {
                    type_url: SOLVE.to_owned(),
                    value: solve.encode_to_vec(),
                };
            }
            Detail::Exit(code) => ("gatewayapi.ExitMessage", json!({ "Code": code })),
            Detail::Vertex(digest) => ("errdefs.Vertex", json!({ "digest": digest })),
            Detail::Source { info, ranges } => {
                let ranges: Vec<_> = ranges.iter().map(range).collect();
                ("errdefs.Source", json!({ "info": source_info(info), "ranges": ranges }))
            }
            Detail::Stack { file, line } => {
                let frames = json!([{ "Name": "larder", "File": file, "Line": line }]);
                let version = env!("CARGO_PKG_VERSION");
                ("stack.Stack", json!({ "frames": frames, "pid": std::process::id(), "version": version }))
            }
            Detail::FrontendCap(name) => ("errdefs.FrontendCap", json!({ "name": name })),
            Detail::Subrequest(name) => ("errdefs.Subrequest", json!({ "name": name })),
        };
        bollard_buildkit_proto::google::protobuf::Any {
            type_url: format!("github.com/moby/buildkit/{name}+json"),
            value: value.to_string().into_bytes(),
        }
    }
}

/// Go's JSON of the message: zero values are left out, bytes are base64.
fn source_info(info: &pb::SourceInfo) -> Value {
    let mut object = Map::new();
    let mut put = |key: &str, value: String| {
        if !value.is_empty() {
            object.insert(key.to_owned(), Value::String(value));
        }
    };
    put("filename", info.filename.clone());
    put("data", base64::engine::general_purpose::STANDARD.encode(&info.data));
    put("language", info.language.clone());
    if let Some(definition) = &info.definition {
        let encode = |op: &Vec<u8>| base64::engine::general_purpose::STANDARD.encode(op);
        object.insert("definition".to_owned(), json!({ "def": definition.def.iter().map(encode).collect::<Vec<_>>() }));
    }
    Value::Object(object)
}

fn range(range: &pb::Range) -> Value {
    let position = |p: &Option<pb::Position>| {
        let p = p.unwrap_or_default();
        let mut object = Map::new();
        for (key, value) in [("line", p.line), ("character", p.character)] {
            if value != 0 {
                object.insert(key.to_owned(), value.into());
            }
        }
        Value::Object(object)
    };
    json!({ "start": position(&range.start), "end": position(&range.end) })
}

/// Where in the client's file a status' cause stands: its first [`Detail::Source`].
pub fn place(status: &Status) -> Option<(pb::SourceInfo, Vec<pb::Range>)> {
    let whole = whole(status);
    let detail = whole.details.iter().find(|detail| detail.type_url.ends_with("errdefs.Source+json"))?;
    let value: Value = serde_json::from_slice(&detail.value).ok()?;
    let text = |key: &str| value["info"][key].as_str().unwrap_or_default().to_owned();
    let data = base64::engine::general_purpose::STANDARD.decode(text("data")).ok()?;
    let info = pb::SourceInfo { filename: text("filename"), data, definition: None, language: text("language") };
    let number = |value: &Value| value.as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
    let position =
        |value: &Value| pb::Position { line: number(&value["line"]), character: number(&value["character"]) };
    let range =
        |value: &Value| pb::Range { start: Some(position(&value["start"])), end: Some(position(&value["end"])) };
    Some((info, value["ranges"].as_array()?.iter().map(range).collect()))
}

/// A status with details.
pub fn status(code: Code, message: &str, details: &[Detail]) -> Status {
    let details = details.iter().map(Detail::any).collect();
    let whole = rpc::Status { code: code as i32, message: message.to_owned(), details };
    Status::with_details(code, message, whole.encode_to_vec().into())
}

/// The status with one more detail.
pub fn with(status: &Status, detail: &Detail) -> Status {
    let mut whole = whole(status);
    whole.details.push(detail.any());
    passed_on(&whole)
}

/// The message that a status is, with its details.
pub fn whole(status: &Status) -> rpc::Status {
    let bare = rpc::Status { code: status.code() as i32, message: status.message().to_owned(), details: Vec::new() };
    // The details of a status are the whole message again.
    let carried = rpc::Status::decode(status.details()).ok().filter(|carried| !carried.details.is_empty());
    carried.map_or(bare.clone(), |carried| rpc::Status { details: carried.details, ..bare })
}

/// The value of a status' [`Detail::Own`], if it has one.
pub fn own(status: &Status) -> Option<Value> {
    let whole = whole(status);
    let detail = whole.details.iter().find(|detail| detail.type_url == OWN)?;
    serde_json::from_slice(&detail.value).ok()
}

/// The status that a message carries, such as `Return`'s error, for a client again.
pub fn passed_on(status: &rpc::Status) -> Status {
    Status::with_details(Code::from_i32(status.code), &status.message, status.encode_to_vec().into())
}
