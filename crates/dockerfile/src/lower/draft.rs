//! Operations before they have digests: an operation may be changed until the whole Dockerfile is read, because what is
//! taken from the context is known only then. It knows nothing of instructions.

use std::collections::BTreeMap;
use std::sync::Arc;

use graph::{Edge, Graph, GraphBuilder, wire};
use oci::Platform;

use super::{Lines, Options};

/// An operation of a [`Drafts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(usize);

/// One operation; its inputs' first outputs are read.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// Without inputs.
    pub op: wire::Op,
    pub inputs: Vec<Id>,
    pub metadata: wire::OpMetadata,
    /// Lines in the Dockerfile, first and last.
    pub lines: Option<Lines>,
    /// A graph from elsewhere that stands here instead of an operation.
    pub graft: Option<Arc<Graph>>,
}

impl Draft {
    /// An operation of a kind.
    pub fn new(kind: wire::op::Op, inputs: Vec<Id>, name: &str) -> Draft {
        let constraints = Some(wire::WorkerConstraints::default());
        let op = wire::Op { op: Some(kind), constraints, ..wire::Op::default() };
        let mut draft = Draft { op, inputs, ..Draft::default() };
        draft.describe("llb.customname", name);
        draft
    }

    /// A graph from elsewhere.
    pub fn graft(graph: Arc<Graph>) -> Draft {
        Draft { graft: Some(graph), ..Draft::default() }
    }

    /// Says something about it that is no part of it.
    pub fn describe(&mut self, key: &str, value: &str) {
        self.metadata.description.insert(key.to_owned(), value.to_owned());
    }

    /// Names what a builder must be able to do for it.
    pub fn needs(&mut self, caps: &[&str]) {
        self.metadata.caps.extend(caps.iter().map(|c| ((*c).to_owned(), true)));
    }

    /// Sets its platform.
    pub fn on(mut self, platform: &Platform) -> Draft {
        self.op.platform = Some(wire::Platform {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            os_version: platform.os_version.clone(),
            os_features: platform.os_features.clone(),
        });
        self
    }
}

/// All operations of a lowering; inputs come first.
#[derive(Clone, Debug, Default)]
pub struct Drafts(Vec<Draft>);

impl Drafts {
    /// Adds one.
    pub fn add(&mut self, draft: Draft) -> Id {
        self.0.push(draft);
        Id(self.0.len() - 1)
    }

    /// One, to change it.
    pub fn get(&mut self, id: Id) -> Option<&mut Draft> {
        self.0.get_mut(id.0)
    }

    /// The graph below `head`, with source locations in the file `text`.
    pub fn finish(self, head: Option<Id>, options: &Options, text: &str) -> Result<Graph, graph::Error> {
        let mut wanted = vec![false; self.0.len()];
        let mut open: Vec<Id> = head.into_iter().collect();
        while let Some(Id(i)) = open.pop() {
            if !std::mem::replace(&mut wanted[i], true) {
                open.extend(&self.0[i].inputs);
            }
        }
        let mut builder = GraphBuilder::default();
        let mut made: BTreeMap<Id, Edge> = BTreeMap::new();
        let info = wire::SourceInfo {
            filename: options.filename.clone(),
            data: text.as_bytes().to_vec(),
            definition: options.definition.clone(),
            language: "Dockerfile".to_owned(),
        };
        let mut source = wire::Source { infos: vec![info], ..wire::Source::default() };
        for (i, draft) in self.0.into_iter().enumerate().filter(|(i, _)| wanted[*i]) {
            if let Some(graph) = draft.graft {
                made.extend(builder.graft(&graph)?.map(|head| (Id(i), head)));
                source.join(graph.source.as_ref());
                continue;
            }
            let mut op = draft.op;
            let named = |edge: &Edge| wire::Input { digest: edge.vertex.to_string(), index: i64::from(edge.output) };
            let input = |id: &Id| made.get(id).map(named);
            op.inputs = draft.inputs.iter().filter_map(input).collect();
            let digest = builder.add(op, draft.metadata)?;
            if let Some(lines) = draft.lines {
                // Of an operation that several instructions share, the first is told.
                let place = source.locations.entry(digest.to_string()).or_default();
                if place.locations.is_empty() {
                    place.locations.push(wire::Location { source_index: 0, ranges: graph::ranges(lines) });
                }
            }
            made.insert(Id(i), Edge { vertex: digest, output: 0 });
        }
        let head = head.and_then(|id| made.get(&id).copied());
        Ok(builder.finish(head, Some(source)))
    }
}
