//! One operation with its identity, and the edges that name its outputs.
//! A vertex is immutable: its digest belongs to exactly the bytes it holds.

use oci::Digest;
use serde::{Deserialize, Serialize};

use crate::wire;

/// One output of one vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Edge {
    /// The producing vertex.
    pub vertex: Digest,
    /// Which of its outputs, from 0.
    pub output: u32,
}

impl std::fmt::Display for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.vertex, self.output)
    }
}

/// An operation, its bytes and what is said beside them.
#[derive(Clone, Debug)]
pub struct Vertex {
    /// sha256 of `bytes`.
    pub digest: Digest,
    /// The operation as it was received or first encoded.
    pub bytes: Vec<u8>,
    /// `bytes`, decoded.
    pub op: wire::Op,
    /// Input edges in the order of `op.inputs`.
    pub inputs: Vec<Edge>,
    /// Display name, cache advice, limits: never part of the digest.
    pub metadata: wire::OpMetadata,
}

/// The kind of an operation, borrowed from its vertex.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Kind<'a> {
    Source(&'a wire::SourceOp),
    Exec(&'a wire::ExecOp),
    File(&'a wire::FileOp),
    Merge(&'a wire::MergeOp),
    Diff(&'a wire::DiffOp),
    Build(&'a wire::BuildOp),
    Passthrough(&'a wire::PassthroughOp),
}

impl Vertex {
    /// What the operation is. A vertex of a decoded graph always has a kind (see [`crate::Graph::decode`]).
    pub fn kind(&self) -> Option<Kind<'_>> {
        use wire::op::Op;
        Some(match self.op.op.as_ref()? {
            Op::Source(x) => Kind::Source(x),
            Op::Exec(x) => Kind::Exec(x),
            Op::File(x) => Kind::File(x),
            Op::Merge(x) => Kind::Merge(x),
            Op::Diff(x) => Kind::Diff(x),
            Op::Build(x) => Kind::Build(x),
            Op::Passthrough(x) => Kind::Passthrough(x),
        })
    }

    /// The name that people see: the custom name where the frontend gave one, otherwise one made from the operation.
    pub fn name(&self) -> String {
        if let Some(name) = self.metadata.description.get("llb.customname") {
            return name.clone();
        }
        match self.kind() {
            Some(Kind::Source(s)) => s.identifier.clone(),
            Some(Kind::Exec(e)) => e.meta.as_ref().map(|m| m.args.join(" ")).unwrap_or_default(),
            Some(Kind::File(f)) => f.actions.iter().map(action_name).collect::<Vec<_>>().join(", "),
            Some(Kind::Merge(_)) => "merge".into(),
            Some(Kind::Diff(_)) => "diff".into(),
            Some(Kind::Build(_)) => "build".into(),
            Some(Kind::Passthrough(p)) => p.id.clone(),
            None => String::new(),
        }
    }
}

fn action_name(action: &wire::FileAction) -> String {
    use wire::file_action::Action;
    match action.action.as_ref() {
        Some(Action::Copy(c)) => format!("copy {} {}", c.src, c.dest),
        Some(Action::MkFile(m)) => format!("mkfile {}", m.path),
        Some(Action::MkDir(m)) => format!("mkdir {}", m.path),
        Some(Action::Rm(r)) => format!("rm {}", r.path),
        Some(Action::Symlink(s)) => format!("symlink {} {}", s.oldpath, s.newpath),
        None => "nothing".into(),
    }
}
