//! A whole graph: vertices by digest, in an order where inputs come first, and the edge that is wanted.
//! Decoding refuses what can't be a graph (cycles cannot be named by digests, but dangling inputs and bad bytes can).
//! It never looks into what an operation would do.

use std::collections::HashMap;
use std::sync::Arc;

use oci::Digest;
use prost::Message;

use crate::places::Place;
use crate::vertex::{Edge, Vertex};
use crate::wire;

/// More operations than any real build has; a larger graph is refused instead of eating memory.
const MAX_OPERATIONS: usize = 100_000;

/// Why bytes are no graph.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("operation {index} of the graph can't be decoded as LLB: {source}")]
    Undecodable { index: usize, source: prost::DecodeError },
    #[error(
        "operation {operation} reads {input}, which is not in the graph before it: send every operation, inputs first"
    )]
    Dangling { operation: Digest, input: String },
    #[error("operation {operation} reads output {index}, which is not a valid output number")]
    BadOutput { operation: Digest, index: i64 },
    #[error("operation {operation} names input `{input}`, which is not a sha256 digest")]
    BadInput { operation: Digest, input: String },
    #[error(
        "operation {operation} has no kind that this version knows (source, exec, file, merge, diff, build, passthrough)"
    )]
    NoKind { operation: Digest },
    #[error("operation {operation} has an invalid security mode {mode}: expected 0 (sandbox) or 1 (insecure)")]
    BadSecurity { operation: Digest, mode: i32 },
    #[error("a graph of one operation is invalid: the last operation must name the result")]
    OneOperation,
    #[error("the last operation of the graph must have exactly one input, the result; it has {inputs}")]
    BadHead { inputs: usize },
    #[error("the graph has {count} operations, more than the {MAX_OPERATIONS} that are accepted")]
    TooLarge { count: usize },
}

/// The graph of one build, or of one output of it.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    order: Vec<Arc<Vertex>>,
    index: HashMap<Digest, usize>,
    /// The wanted edge; `None` is an empty result (scratch).
    pub head: Option<Edge>,
    /// Where each operation came from in the client's files.
    pub source: Option<wire::Source>,
}

impl Graph {
    /// Decodes a definition. An empty one is scratch.
    pub fn decode(definition: &wire::Definition) -> Result<Graph, Error> {
        let mut builder = GraphBuilder::default();
        if definition.def.len() > MAX_OPERATIONS {
            return Err(Error::TooLarge { count: definition.def.len() });
        }
        let Some((last, body)) = definition.def.split_last() else {
            return Ok(Graph::default());
        };
        if body.is_empty() {
            return Err(Error::OneOperation);
        }
        for (index, bytes) in body.iter().enumerate() {
            let op = decode_op(bytes, index)?;
            let digest = Digest::of(bytes);
            let metadata = definition.metadata.get(&digest.to_string()).cloned().unwrap_or_default();
            builder.insert(digest, bytes.clone(), op, metadata)?;
        }
        let head = decode_op(last, body.len())?;
        let [input] = head.inputs.as_slice() else {
            return Err(Error::BadHead { inputs: head.inputs.len() });
        };
        let edge = builder.edge(Digest::of(last), input)?;
        Ok(builder.finish(Some(edge), definition.source.clone()))
    }

    /// The graph as a definition: the operations' own bytes, then the operation that names the result.
    pub fn encode(&self) -> wire::Definition {
        let Some(head) = self.head else {
            return wire::Definition { source: self.source.clone(), ..Default::default() };
        };
        let input = wire::Input { digest: head.vertex.to_string(), index: i64::from(head.output) };
        let last = wire::Op { inputs: vec![input], ..Default::default() }.to_bytes();
        let metadata = self.order.iter().map(|v| (v.digest.to_string(), v.metadata.clone()));
        // As BuildKit's own clients have it. An empty value would be left out of the map's entry, and clients of some
        // ages take that for nothing at all.
        let caps = ["constraints", "platform"].map(|cap| (cap.to_owned(), true)).into();
        let of_last = wire::OpMetadata { caps, ..wire::OpMetadata::default() };
        let metadata = metadata.chain([(Digest::of(&last).to_string(), of_last)]).collect();
        let def = self.order.iter().map(|v| v.bytes.clone()).chain([last]).collect();
        wire::Definition { def, metadata, source: self.source.clone() }
    }

    /// Every vertex, inputs before what reads them.
    pub fn vertices(&self) -> impl DoubleEndedIterator<Item = &Arc<Vertex>> {
        self.order.iter()
    }

    /// The vertex of that digest.
    pub fn get(&self, digest: &Digest) -> Option<&Arc<Vertex>> {
        self.index.get(digest).map(|i| &self.order[*i])
    }

    /// Where an operation stands, as the client said: it may have said several places, or none.
    pub fn places(&self, operation: &Digest) -> Vec<Place> {
        let Some(source) = &self.source else { return Vec::new() };
        let locations = source.locations.get(&operation.to_string()).map(|known| known.locations.as_slice());
        let place = |location: &wire::Location| {
            let file = source.infos.get(usize::try_from(location.source_index).ok()?)?.clone();
            Some(Place { file, ranges: location.ranges.clone() })
        };
        locations.unwrap_or_default().iter().filter_map(place).collect()
    }

    /// How many operations there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The part of the graph that `head` needs, as a graph of its own.
    pub fn below(&self, head: Edge) -> Graph {
        let mut wanted: Vec<Digest> = vec![head.vertex];
        let mut seen: std::collections::HashSet<Digest> = wanted.iter().copied().collect();
        while let Some(digest) = wanted.pop() {
            for input in self.get(&digest).iter().flat_map(|v| &v.inputs) {
                if seen.insert(input.vertex) {
                    wanted.push(input.vertex);
                }
            }
        }
        let order: Vec<_> = self.order.iter().filter(|v| seen.contains(&v.digest)).cloned().collect();
        let index = order.iter().enumerate().map(|(i, v)| (v.digest, i)).collect();
        Graph { order, index, head: Some(head), source: self.source.clone() }
    }
}

fn decode_op(bytes: &[u8], index: usize) -> Result<wire::Op, Error> {
    wire::Op::decode(bytes).map_err(|source| Error::Undecodable { index, source })
}

/// Grows a graph from its inputs up; an operation that is already there is the same one.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    order: Vec<Arc<Vertex>>,
    index: HashMap<Digest, usize>,
}

impl GraphBuilder {
    /// Encodes `op`, whose inputs must have been added before, and gives its digest. When the same operation is there
    /// already, the first one's metadata stays and new description entries are added to it.
    pub fn add(&mut self, op: wire::Op, metadata: wire::OpMetadata) -> Result<Digest, Error> {
        let bytes = op.to_bytes();
        let digest = Digest::of(&bytes);
        self.insert(digest, bytes, op, metadata)?;
        Ok(digest)
    }

    /// Adds all of another graph, byte for byte, and gives its head.
    pub fn graft(&mut self, graph: &Graph) -> Result<Option<Edge>, Error> {
        for vertex in graph.vertices() {
            self.insert(vertex.digest, vertex.bytes.clone(), vertex.op.clone(), vertex.metadata.clone())?;
        }
        Ok(graph.head)
    }

    /// The vertex of that digest, if it was added.
    pub fn get(&self, digest: &Digest) -> Option<&Arc<Vertex>> {
        self.index.get(digest).map(|i| &self.order[*i])
    }

    /// The finished graph with the wanted edge.
    pub fn finish(self, head: Option<Edge>, source: Option<wire::Source>) -> Graph {
        Graph { order: self.order, index: self.index, head, source }
    }

    fn insert(
        &mut self,
        digest: Digest,
        bytes: Vec<u8>,
        op: wire::Op,
        metadata: wire::OpMetadata,
    ) -> Result<(), Error> {
        if let Some(at) = self.index.get(&digest) {
            let known = Arc::make_mut(&mut self.order[*at]);
            for (key, value) in metadata.description {
                known.metadata.description.entry(key).or_insert(value);
            }
            known.metadata.ignore_cache |= metadata.ignore_cache;
            known.metadata.caps.extend(metadata.caps);
            return Ok(());
        }
        match &op.op {
            None => return Err(Error::NoKind { operation: digest }),
            Some(wire::op::Op::Exec(exec)) if !matches!(exec.security, 0 | 1) => {
                return Err(Error::BadSecurity { operation: digest, mode: exec.security });
            }
            Some(_) => {}
        }
        let inputs = op.inputs.iter().map(|i| self.edge(digest, i)).collect::<Result<Vec<_>, _>>()?;
        self.index.insert(digest, self.order.len());
        self.order.push(Arc::new(Vertex { digest, bytes, op, inputs, metadata }));
        Ok(())
    }

    fn edge(&self, operation: Digest, input: &wire::Input) -> Result<Edge, Error> {
        let bad = |_| Error::BadInput { operation, input: input.digest.clone() };
        let vertex = Digest::parse(&input.digest).map_err(bad)?;
        if !self.index.contains_key(&vertex) {
            return Err(Error::Dangling { operation, input: input.digest.clone() });
        }
        let output = u32::try_from(input.index).map_err(|_| Error::BadOutput { operation, index: input.index })?;
        Ok(Edge { vertex, output })
    }
}
