//! BuildKit's key arithmetic: the cache digest of an operation, and what of each input takes part in it.
//! Byte for byte BuildKit's (solver/llbsolver/ops, JSON as of v0.17 and later), so that caches made by either hit in the
//! other. Held against graphs and caches of a real BuildKit in the tests.

mod exec;
mod file;
pub mod json;
mod source;

use graph::{Kind, Vertex};
use oci::{Digest, Platform};

use crate::record::KeyId;

pub use source::{Asking, GitTree, chain_key, git_key, http_key, image_key, layout_key, source_digest};

/// How an operation is cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMap {
    /// The operation's cache digest.
    pub digest: Digest,
    /// One entry an input.
    pub inputs: Vec<InputKey>,
}

/// What of an input takes part in the key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputKey {
    /// Digest of the selected paths.
    pub selector: Option<Digest>,
    /// The parts of the input whose content may stand for its key; `None` when only its definition counts.
    /// An empty list is the whole tree.
    pub content: Option<Vec<Selection>>,
}

/// One selected part of an input, as the content hash takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selection {
    /// Absolute path in the input, or a pattern when `wildcard`.
    pub path: String,
    /// Whether `path` is a pattern.
    pub wildcard: bool,
    /// Whether a symbolic link at `path` is followed.
    pub follow_links: bool,
    /// Only these below `path`.
    pub include: Vec<String>,
    /// Never these below `path`.
    pub exclude: Vec<String>,
    /// Paths that must be there.
    pub required: Vec<String>,
}

/// Why an operation has no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("operation {operation} is malformed: {reason}")]
pub struct Malformed {
    /// Its digest.
    pub operation: Digest,
    /// What is wrong.
    pub reason: String,
}

/// The cache map of an operation that is not a source. `host` is the platform of operations that name none.
pub fn cache_map(vertex: &Vertex, host: &Platform) -> Result<CacheMap, Malformed> {
    let malformed = |reason: &str| Malformed { operation: vertex.digest, reason: reason.to_owned() };
    let inputs = vertex.inputs.len();
    match vertex.kind() {
        Some(Kind::Exec(op)) => {
            exec::cache_map(op, vertex.op.platform.as_ref(), inputs, host).map_err(|r| malformed(&r))
        }
        Some(Kind::File(op)) => file::cache_map(op, inputs).map_err(|r| malformed(&r)),
        Some(Kind::Merge(op)) => {
            let list = json::array(&op.inputs, |i| json::Object::new().number("input", i.input).end());
            let merge = if op.inputs.is_empty() { "{}".into() } else { json::Object::new().raw("inputs", &list).end() };
            let text = json::Object::new().always("Type", "buildkit.merge.v0").raw("Merge", &merge).end();
            Ok(CacheMap { digest: Digest::of(text.as_bytes()), inputs: vec![InputKey::default(); inputs] })
        }
        Some(Kind::Diff(op)) => {
            let side = |input: i64| json::Object::new().number("input", input).end();
            let diff = json::Object::new()
                .message("lower", op.lower.as_ref(), |l| side(l.input))
                .message("upper", op.upper.as_ref(), |u| side(u.input))
                .end();
            let text = json::Object::new().always("Type", "buildkit.diff.v0").raw("Diff", &diff).end();
            Ok(CacheMap { digest: Digest::of(text.as_bytes()), inputs: vec![InputKey::default(); inputs] })
        }
        Some(Kind::Build(_)) => Err(malformed("nested builds inside a graph are not supported")),
        Some(Kind::Passthrough(_)) => Err(malformed("pass-through operations are not supported")),
        Some(Kind::Source(_)) | None => Err(malformed("it has no cache map")),
    }
}

/// The id of a key without inputs: sha256 of `<digest>@<output>`. Content keys have output -1.
pub fn root_id(digest: &Digest, output: i64) -> KeyId {
    Digest::of(format!("{digest}@{output}").as_bytes())
}

/// The digest of what a record's output is exported under (BuildKit's v0 cache config: the same formula for every key).
pub fn export_digest(operation: &Digest, output: u32) -> Digest {
    root_id(operation, i64::from(output))
}

/// The id that larder gives a key with inputs when no link leads to one yet. `inputs`: the first key of each.
pub fn child_id(operation: &Digest, output: u32, inputs: &[Option<KeyId>]) -> KeyId {
    let mut hasher = oci::Hasher::new();
    hasher.update(format!("larder.key.v1\0{operation}@{output}"));
    for input in inputs {
        hasher.update([0]);
        hasher.update(input.map(|k| k.to_string()).unwrap_or_default());
    }
    hasher.finish()
}

/// Removes paths that lie below others, and sorts the rest.
fn dedupe(paths: &[String]) -> Vec<String> {
    if paths.len() <= 1 {
        return paths.to_vec();
    }
    let below = |a: &str, b: &str| {
        a != b
            && if b.ends_with('/') { a.starts_with(b) } else { a.strip_prefix(b).is_some_and(|r| r.starts_with('/')) }
    };
    let mut kept: Vec<String> = paths.iter().filter(|a| !paths.iter().any(|b| below(a, b))).cloned().collect();
    kept.sort();
    kept.dedup();
    kept
}
