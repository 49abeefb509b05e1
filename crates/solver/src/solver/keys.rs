//! The keys of steps: found through links from the keys of their inputs, or given, one of each output.

use oci::Digest;

use super::node::Node;
use super::{Index, Save, Solver, Stored};
use crate::key::{self, CacheMap};
use crate::record::{KeyId, Link};
use graph::Edge;

impl Solver {
    /// How a step is cached. An input that nothing names but its content (a client's directory) counts with all of it
    /// where the operation itself would go by its name.
    pub(super) fn map(&self, vertex: Digest) -> Option<CacheMap> {
        let node = self.nodes.get(&vertex)?;
        let mut map = node.map.as_ref().ok()?.clone()?;
        for (edge, input) in node.vertex.inputs.iter().zip(&mut map.inputs) {
            let nameless = |n: &Node| n.is_source() && n.is_judged() && n.source_keys.is_empty();
            if input.content.is_none() && self.nodes.get(&edge.vertex).is_some_and(nameless) {
                input.content = Some(Vec::new());
            }
        }
        Some(map)
    }

    /// Looks every output up, and says whether there is a record for all that matter. Keys without a record are kept, as
    /// records of what reads the step may lie under them.
    pub(super) fn find(&mut self, vertex: Digest, map: &CacheMap, index: &dyn Index) -> bool {
        let outputs = self.nodes.get(&vertex).map_or(0, Node::outputs);
        for output in 0..outputs {
            let Some(mut keys) = self.look_up(vertex, map, output, index) else { continue };
            let Some(node) = self.nodes.get_mut(&vertex) else { return false };
            if let Some((key, record)) = index.newest(&node.builds, &keys) {
                keys.retain(|k| *k != key);
                keys.insert(0, key);
                node.stored.insert(output, Stored { output, key, record });
            }
            node.found.insert(output, keys);
        }
        self.nodes.get(&vertex).is_some_and(Node::is_stored)
    }

    /// Keys of an output that all inputs' keys lead to.
    fn look_up(&self, vertex: Digest, map: &CacheMap, output: u32, index: &dyn Index) -> Option<Vec<KeyId>> {
        let node = self.nodes.get(&vertex)?;
        if node.vertex.inputs.is_empty() {
            return Some(vec![key::root_id(&map.digest, i64::from(output))]);
        }
        let mut common: Option<Vec<KeyId>> = None;
        for (i, edge) in node.vertex.inputs.iter().enumerate() {
            let mut reached: Vec<KeyId> = Vec::new();
            for (key, link) in self.ways(node, map, i, edge, output, false) {
                reached.extend(index.children(&node.builds, &key, &link));
            }
            common = Some(match common {
                None => reached,
                Some(before) => before.into_iter().filter(|k| reached.contains(k)).collect(),
            });
            if common.as_ref().is_some_and(Vec::is_empty) {
                return None;
            }
        }
        let mut keys = common?;
        keys.sort_unstable();
        keys.dedup();
        Some(keys)
    }

    /// Whether the keys of an input lead anywhere, without a look at its content.
    pub(super) fn leads(&self, vertex: Digest, map: &CacheMap, i: usize, index: &dyn Index) -> bool {
        let Some(node) = self.nodes.get(&vertex) else { return false };
        let (edge, input, selector) = (&node.vertex.inputs[i], i as u32, map.inputs[i].selector);
        let Some(below) = self.nodes.get(&edge.vertex).filter(|below| !below.fresh) else { return false };
        let keys = self.output_keys(below, edge.output);
        let links = (0..node.outputs()).map(|output| Link { input, output, digest: map.digest, selector });
        let mut ways = links.flat_map(|link| keys.iter().map(move |key| (key, link)));
        ways.any(|(key, link)| !index.children(&node.builds, key, &link).is_empty())
    }

    /// Every key of an input that counts for a reader, with the link from there. `all`: also keys that must not be
    /// looked up because the input was asked to run again; results are stored under them all the same.
    fn ways(&self, node: &Node, map: &CacheMap, i: usize, edge: &Edge, output: u32, all: bool) -> Vec<(KeyId, Link)> {
        let input = i as u32;
        let link = |selector| Link { input, output, digest: map.digest, selector };
        let mut ways = Vec::new();
        if let Some(below) = self.nodes.get(&edge.vertex).filter(|n| all || !n.fresh) {
            let keys = self.output_keys(below, edge.output);
            ways.extend(keys.into_iter().map(|k| (k, link(map.inputs[i].selector))));
        }
        if let Some(content) = node.contents.get(&input) {
            ways.push((key::root_id(content, -1), link(None)));
        }
        ways
    }

    pub(super) fn output_keys(&self, node: &Node, output: u32) -> Vec<KeyId> {
        if let Some(keys) = node.keys.get(&output) {
            return keys.clone();
        }
        if node.is_source() {
            return node.source_keys.iter().map(|k| key::root_id(k, i64::from(output))).collect();
        }
        Vec::new()
    }

    /// The keys that the outputs of a step without found ones get. Those after the first are other names of it where links lead
    /// to them.
    pub(super) fn own_keys(&self, vertex: Digest, map: &CacheMap) -> Vec<KeyId> {
        let Some(node) = self.nodes.get(&vertex) else { return Vec::new() };
        if node.vertex.inputs.is_empty() {
            return (0..node.outputs()).map(|output| key::root_id(&map.digest, i64::from(output))).collect();
        }
        let inputs = node.vertex.inputs.iter().enumerate();
        // Content names an input better than a session does, and the same for every machine.
        let best = |(i, edge)| self.ways(node, map, i, edge, 0, true).last().map(|(key, _)| *key);
        let first = key::child_id(&map.digest, 0, &inputs.map(best).collect::<Vec<_>>());
        let others = (1..node.outputs()).map(|output| key::child_id(&map.digest, output, &[Some(first)]));
        std::iter::once(first).chain(others).collect()
    }

    /// The links that lead to the keys of outputs.
    pub(super) fn links(&self, vertex: Digest, stored: &[Stored]) -> Vec<(KeyId, Link, KeyId)> {
        let Some(map) = self.map(vertex) else { return Vec::new() };
        stored.iter().flat_map(|stored| self.links_to(vertex, &map, stored.key, stored.output)).collect()
    }

    fn links_to(&self, vertex: Digest, map: &CacheMap, key: KeyId, output: u32) -> Vec<(KeyId, Link, KeyId)> {
        let Some(node) = self.nodes.get(&vertex) else { return Vec::new() };
        let inputs = node.vertex.inputs.iter().enumerate();
        inputs
            .flat_map(|(i, edge)| self.ways(node, map, i, edge, output, true))
            .map(|(parent, link)| (parent, link, key))
            .collect()
    }

    pub(super) fn save(&self, vertex: Digest, map: &CacheMap) -> Save {
        let found = self.nodes.get(&vertex).map(|n| n.keys.values().flatten().copied().collect()).unwrap_or_default();
        let keys = self.own_keys(vertex, map);
        let links = (0..).zip(&keys).flat_map(|(output, key)| self.links_to(vertex, map, *key, output)).collect();
        Save { operation: map.digest, keys, links, found }
    }
}
