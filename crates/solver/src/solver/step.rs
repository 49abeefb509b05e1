//! How a step moves on: looked at whenever something that it waits for has changed.

use std::collections::BTreeSet;

use graph::Edge;
use oci::Digest;

use super::node::{Node, Stage};
use super::{Effect, Index, Reason, ResultId, Save, Solver};
use crate::cause::HitSource;
use crate::key::{self, CacheMap};
use crate::record::{KeyId, Link};

/// What a step's inputs look like from above.
#[derive(PartialEq, Eq)]
enum Inputs {
    Waiting,
    Failed,
    Ready,
}

impl Solver {
    /// Moves a step as far as it goes.
    pub(super) fn advance(&mut self, vertex: Digest, index: &dyn Index) {
        loop {
            let Some(node) = self.nodes.get(&vertex) else { return };
            if !node.want_key && !node.want_result {
                return;
            }
            let moved = match &node.stage {
                Stage::Unkeyed => self.find_key(vertex, index),
                Stage::Known => (node.want_result || node.targets) && self.look_further(vertex),
                Stage::Content => self.find_content(vertex, index),
                Stage::Compare { asked } => !asked && self.compare(vertex),
                Stage::Hit { loading, .. } => !loading && self.load(vertex),
                Stage::Miss { running, .. } => !running && self.run(vertex),
                Stage::Done(_) | Stage::Failed { .. } => false,
            };
            self.wake_readers(vertex);
            if !moved {
                return;
            }
        }
    }

    fn wake_readers(&mut self, vertex: Digest) {
        let Some(node) = self.nodes.get_mut(&vertex) else { return };
        let rank = node.rank();
        if rank != node.announced {
            node.announced = rank;
            self.queue.extend(node.readers.iter().copied());
        }
    }

    /// Unkeyed: waits for the inputs' verdicts, then looks itself up by definition.
    fn find_key(&mut self, vertex: Digest, index: &dyn Index) -> bool {
        let Some(node) = self.nodes.get_mut(&vertex) else { return false };
        if node.is_source() {
            if !node.asked {
                node.asked = true;
                self.effects.push(Effect::Key { vertex });
            }
            return false;
        }
        let (inputs, requested) = (node.vertex.inputs.clone(), node.vertex.metadata.ignore_cache);
        match self.ask(&inputs, false) {
            Inputs::Waiting => {
                self.ask_ahead(vertex, &inputs);
                return false;
            }
            Inputs::Failed => return self.fail_with_input(vertex),
            Inputs::Ready => {}
        }
        let Some(map) = self.map(vertex) else { return false };
        let decisive = map.inputs.iter().any(|i| i.content.is_some());
        if requested {
            // It is stored like any other: what names its inputs by content is needed for that.
            return if decisive { self.enter_content(vertex) } else { self.miss(vertex, Reason::Requested) };
        }
        if let Some(found) = self.find(vertex, &map, index) {
            return self.hit(vertex, &map, found, HitSource::Definition);
        }
        if let Some(node) = self.nodes.get_mut(&vertex).filter(|n| !n.found.is_empty()) {
            node.keys.insert(0, node.found.clone());
            node.stage = Stage::Known;
            return true;
        }
        self.look_further(vertex)
    }

    /// By its definition it is no hit: its inputs' content may make it one.
    fn look_further(&mut self, vertex: Digest) -> bool {
        let Some(map) = self.map(vertex) else { return false };
        if map.inputs.iter().any(|i| i.content.is_some()) {
            return self.enter_content(vertex);
        }
        self.set(vertex, Stage::Compare { asked: false });
        true
    }

    /// With one input that is a miss under keys that lead nowhere it is sure already that this step is no hit by keys: that
    /// input is going to run, and content will be looked at. Both are made now, side by side, and beside the inputs that
    /// are still undecided.
    fn ask_ahead(&mut self, vertex: Digest, inputs: &[Edge]) {
        let leads_nowhere = |n: &Node| n.is_miss() && !n.is_source() && n.found.is_empty();
        let is_miss = |e: &Edge| self.nodes.get(&e.vertex).is_some_and(leads_nowhere);
        if !inputs.iter().any(is_miss) {
            return;
        }
        let Some(map) = self.map(vertex) else { return };
        let sure = inputs.iter().zip(&map.inputs).filter(|(edge, input)| input.content.is_some() || is_miss(edge));
        let edges: Vec<Edge> = sure.map(|(edge, _)| *edge).collect();
        // What fails is seen when it is asked for again.
        let _ = self.ask(&edges, true);
    }

    fn enter_content(&mut self, vertex: Digest) -> bool {
        self.set(vertex, Stage::Content);
        true
    }

    /// Content: waits for the results that are to be hashed, then for their digests, then looks itself up again.
    fn find_content(&mut self, vertex: Digest, index: &dyn Index) -> bool {
        let Some(map) = self.map(vertex) else { return false };
        let Some(inputs) = self.nodes.get(&vertex).map(|n| n.vertex.inputs.clone()) else { return false };
        let decisive: Vec<usize> = (0..inputs.len()).filter(|i| map.inputs[*i].content.is_some()).collect();
        let edges: Vec<Edge> = decisive.iter().map(|i| inputs[*i]).collect();
        match self.ask(&edges, true) {
            Inputs::Failed => return self.fail_with_input(vertex),
            Inputs::Waiting | Inputs::Ready => self.ask_ahead(vertex, &inputs),
        }
        for i in &decisive {
            let input = *i as u32;
            let Some(result) = self.result(&inputs[*i]) else { continue };
            let Some(node) = self.nodes.get_mut(&vertex) else { return false };
            if !node.contents.contains_key(&input) && node.hashing.insert(input) {
                self.effects.push(Effect::Hash { vertex, input, result });
            }
        }
        let known = |n: &Node| decisive.iter().all(|i| n.contents.contains_key(&(*i as u32)));
        if !self.nodes.get(&vertex).is_some_and(known) {
            return false;
        }
        if self.nodes.get(&vertex).is_some_and(|n| n.vertex.metadata.ignore_cache) {
            return self.miss(vertex, Reason::Requested);
        }
        if let Some(found) = self.find(vertex, &map, index) {
            return self.hit(vertex, &map, found, HitSource::Content);
        }
        self.set(vertex, Stage::Compare { asked: false });
        true
    }

    /// Compare: only where a process beneath ran again can the inputs be the same although their keys are not.
    fn compare(&mut self, vertex: Digest) -> bool {
        let Some(map) = self.map(vertex) else { return false };
        let Some(inputs) = self.nodes.get(&vertex).map(|n| n.vertex.inputs.clone()) else { return false };
        let misses: Vec<&Node> =
            inputs.iter().filter_map(|e| self.nodes.get(&e.vertex)).filter(|n| n.is_miss()).collect();
        let misses: Vec<&&Node> = misses.iter().filter(|n| !n.is_source()).collect();
        if misses.is_empty() || !misses.iter().all(|n| n.is_exec()) {
            return self.miss(vertex, Reason::NoRecord);
        }
        match self.ask(&inputs, true) {
            Inputs::Waiting => return false,
            Inputs::Failed => return self.fail_with_input(vertex),
            Inputs::Ready => {}
        }
        let results: Vec<ResultId> = inputs.iter().filter_map(|e| self.result(e)).collect();
        self.effects.push(Effect::Compare { vertex, operation: map.digest, inputs: results });
        self.set(vertex, Stage::Compare { asked: true });
        false
    }

    fn load(&mut self, vertex: Digest) -> bool {
        let Some(node) = self.nodes.get_mut(&vertex) else { return false };
        let Stage::Hit { record, loading } = &mut node.stage else { return false };
        let (record, told) = (*record, node.told);
        if node.want_result {
            *loading = true;
        }
        node.told = true;
        let (builds, load) = (node.builds.iter().copied().collect(), node.want_result);
        if !told {
            // Reached from `compared`: the hit was not told yet.
            let source = HitSource::SameInput;
            self.effects.push(Effect::Hit { vertex, source, record: Some(record), builds, renew: true });
            self.link_found(vertex);
        }
        if load {
            self.effects.push(Effect::Load { vertex, record });
        }
        false
    }

    fn run(&mut self, vertex: Digest) -> bool {
        let Some(node) = self.nodes.get(&vertex) else { return false };
        let wanted = node.want_result || (node.targets && !node.is_source());
        if !wanted {
            return false;
        }
        let inputs = node.vertex.inputs.clone();
        match self.ask(&inputs, true) {
            Inputs::Waiting => return false,
            Inputs::Failed => return self.fail_with_input(vertex),
            Inputs::Ready => {}
        }
        let results: Vec<ResultId> = inputs.iter().filter_map(|e| self.result(e)).collect();
        let below: BTreeSet<Digest> = inputs.iter().map(|e| e.vertex).collect();
        let is_miss = |d: &Digest| self.nodes.get(d).is_some_and(|n| n.is_miss() && !n.is_source());
        let ran = below.into_iter().filter(is_miss).collect();
        let save = self.map(vertex).map(|map| self.save(vertex, &map));
        let Some(node) = self.nodes.get_mut(&vertex) else { return false };
        let Stage::Miss { reason, running } = &mut node.stage else { return false };
        *running = true;
        let reason = reason.clone();
        self.effects.push(Effect::Run { vertex, inputs: results, reason, ran, save });
        false
    }

    /// Asks inputs for their verdicts, or for their results, and says how they stand.
    fn ask(&mut self, inputs: &[Edge], results: bool) -> Inputs {
        let mut state = Inputs::Ready;
        for edge in inputs {
            let Some(node) = self.nodes.get_mut(&edge.vertex) else { continue };
            let asked = node.want_key && (node.want_result || !results);
            node.want_key = true;
            node.want_result |= results;
            let there = if results { node.result(edge.output).is_some() } else { node.is_judged() };
            match &node.stage {
                Stage::Failed { .. } => return Inputs::Failed,
                Stage::Done(_) if !there => return Inputs::Failed,
                _ if !there => state = Inputs::Waiting,
                _ => {}
            }
            if !asked {
                self.queue.push_back(edge.vertex);
            }
        }
        state
    }

    fn result(&self, edge: &Edge) -> Option<ResultId> {
        self.nodes.get(&edge.vertex)?.result(edge.output)
    }

    /// How a step is cached. An input that nothing names but its content (a client's directory) counts with all of it
    /// where the operation itself would go by its name.
    fn map(&self, vertex: Digest) -> Option<CacheMap> {
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

    fn set(&mut self, vertex: Digest, stage: Stage) {
        if let Some(node) = self.nodes.get_mut(&vertex) {
            node.stage = stage;
        }
    }

    fn fail_with_input(&mut self, vertex: Digest) -> bool {
        let Some(node) = self.nodes.get(&vertex) else { return false };
        let missing = node.vertex.inputs.iter().find(|e| {
            let below = self.nodes.get(&e.vertex);
            below.is_some_and(|n| matches!(n.stage, Stage::Done(_)) && n.result(e.output).is_none())
        });
        let (error, own) = match missing {
            Some(edge) => {
                (format!("it reads output {} of {}, which has no such output", edge.output, edge.vertex), true)
            }
            None => ("something that it needs failed".to_owned(), false),
        };
        if let Some(node) = self.nodes.get_mut(&vertex) {
            node.fail(error, own);
            self.failed |= own;
        }
        true
    }

    pub(super) fn miss(&mut self, vertex: Digest, reason: Reason) -> bool {
        let fresh_below = self.has_fresh_input(vertex);
        let keys = self.map(vertex).map(|map| self.own_key(vertex, &map, 0));
        if let Some(node) = self.nodes.get_mut(&vertex) {
            node.fresh = fresh_below || reason == Reason::Requested;
            let found = node.found.iter().copied().filter(|key| Some(*key) != keys);
            node.keys.insert(0, keys.into_iter().chain(found).collect());
            node.stage = Stage::Miss { reason, running: false };
        }
        true
    }

    fn has_fresh_input(&self, vertex: Digest) -> bool {
        let inputs = self.nodes.get(&vertex).map(|n| n.vertex.inputs.as_slice()).unwrap_or_default();
        inputs.iter().any(|e| self.nodes.get(&e.vertex).is_some_and(|n| n.fresh))
    }

    fn hit(&mut self, vertex: Digest, map: &CacheMap, found: (Vec<KeyId>, Digest), source: HitSource) -> bool {
        let (keys, record) = found;
        let links = if source == HitSource::Content { self.links(vertex, map, keys[0], 0) } else { Vec::new() };
        let renew = self.has_fresh_input(vertex);
        let Some(node) = self.nodes.get_mut(&vertex) else { return false };
        node.keys.insert(0, keys);
        node.stage = Stage::Hit { record, loading: false };
        node.told = true;
        let builds = node.builds.iter().copied().collect();
        self.effects.push(Effect::Hit { vertex, source, record: Some(record), builds, renew });
        if !links.is_empty() {
            self.effects.push(Effect::Link { links });
        }
        true
    }

    /// A key that was found by comparing trees is from now on found by definition too.
    fn link_found(&mut self, vertex: Digest) {
        let Some(map) = self.map(vertex) else { return };
        let Some(key) = self.nodes.get(&vertex).and_then(|n| n.keys.get(&0)?.first().copied()) else { return };
        let links = self.links(vertex, &map, key, 0);
        if !links.is_empty() {
            self.effects.push(Effect::Link { links });
        }
    }

    /// Looks for a record; keys without one are kept, as records of what reads the step may lie under them.
    fn find(&mut self, vertex: Digest, map: &CacheMap, index: &dyn Index) -> Option<(Vec<KeyId>, Digest)> {
        let mut keys = self.look_up(vertex, map, index)?;
        let node = self.nodes.get_mut(&vertex)?;
        match index.newest(&node.builds, &keys, outputs(node)) {
            Some((first, record)) => {
                keys.retain(|k| *k != first);
                keys.insert(0, first);
                Some((keys, record))
            }
            None => {
                node.found = keys;
                None
            }
        }
    }

    /// Keys of output 0 that all inputs' keys lead to.
    fn look_up(&self, vertex: Digest, map: &CacheMap, index: &dyn Index) -> Option<Vec<KeyId>> {
        let node = self.nodes.get(&vertex)?;
        if node.vertex.inputs.is_empty() {
            return Some(vec![key::root_id(&map.digest, 0)]);
        }
        let mut common: Option<Vec<KeyId>> = None;
        for (i, edge) in node.vertex.inputs.iter().enumerate() {
            let mut reached: Vec<KeyId> = Vec::new();
            for (key, link) in self.ways(node, map, i, edge, 0, false) {
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
        // Another output of a step with a key: derived from the first. A step without any has none that could hit.
        let (Ok(Some(map)), Some(first)) = (&node.map, node.keys.get(&0).and_then(|k| k.first())) else {
            return Vec::new();
        };
        vec![key::child_id(&map.digest, output, &[Some(*first)])]
    }

    /// The key that a step without a found one gets.
    fn own_key(&self, vertex: Digest, map: &CacheMap, output: u32) -> KeyId {
        let Some(node) = self.nodes.get(&vertex) else { return key::root_id(&map.digest, 0) };
        if node.vertex.inputs.is_empty() {
            return key::root_id(&map.digest, i64::from(output));
        }
        let firsts: Vec<Option<KeyId>> = node
            .vertex
            .inputs
            .iter()
            .enumerate()
            .map(|(i, edge)| {
                // Content names an input better than a session does, and the same for every machine.
                let ways = self.ways(node, map, i, edge, output, true);
                ways.last().map(|(k, _)| *k)
            })
            .collect();
        key::child_id(&map.digest, output, &firsts)
    }

    fn links(&self, vertex: Digest, map: &CacheMap, key: KeyId, output: u32) -> Vec<(KeyId, Link, KeyId)> {
        let Some(node) = self.nodes.get(&vertex) else { return Vec::new() };
        let inputs = node.vertex.inputs.iter().enumerate();
        inputs
            .flat_map(|(i, edge)| self.ways(node, map, i, edge, output, true))
            .map(|(parent, link)| (parent, link, key))
            .collect()
    }

    fn save(&self, vertex: Digest, map: &CacheMap) -> Save {
        let outputs = self.nodes.get(&vertex).map_or(1, outputs);
        let found = self.nodes.get(&vertex).and_then(|n| n.keys.get(&0)).cloned().unwrap_or_default();
        let mut save = Save { operation: map.digest, keys: Vec::new(), links: Vec::new(), found };
        let first = self.own_key(vertex, map, 0);
        for output in 0..outputs {
            let key = if output == 0 { first } else { key::child_id(&map.digest, output, &[Some(first)]) };
            save.links.extend(self.links(vertex, map, key, output));
            save.keys.push(key);
        }
        save
    }
}

/// How many outputs an operation has.
pub(super) fn outputs(node: &Node) -> u32 {
    let last = match node.vertex.kind() {
        Some(graph::Kind::Exec(op)) => op.mounts.iter().map(|m| m.output).max(),
        Some(graph::Kind::File(op)) => op.actions.iter().map(|a| a.output).max(),
        _ => Some(0),
    };
    u32::try_from(last.unwrap_or(0).max(0)).unwrap_or(0) + 1
}
