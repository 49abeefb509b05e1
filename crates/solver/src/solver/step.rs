//! How a step moves on: looked at whenever something that it waits for has changed.

use std::collections::BTreeSet;

use graph::Edge;
use oci::Digest;

use super::node::{Node, Stage};
use super::{Effect, Index, Reason, ResultId, Solver, Stored};
use crate::cause::HitSource;

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
            if node.read.is_empty() {
                return;
            }
            let moved = match &node.stage {
                Stage::Unkeyed => self.find_key(vertex, index),
                Stage::Known => (!node.wanted.is_empty() || node.targets) && self.look_further(vertex),
                Stage::Content => self.find_content(vertex, index),
                Stage::Compare { asked } => !asked && self.compare(vertex),
                Stage::Hit { loading, .. } => !loading && self.load(vertex),
                Stage::Miss { running, .. } => !running && self.run(vertex),
                Stage::Done => self.want_more(vertex),
                Stage::Failed { .. } => false,
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
                self.ask_ahead(vertex, &inputs, index);
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
        if self.find(vertex, &map, index) {
            return self.hit(vertex, HitSource::Definition);
        }
        self.enter_known(vertex) || self.look_further(vertex)
    }

    /// With keys and nobody who wants the result there is nothing more to look for.
    fn enter_known(&mut self, vertex: Digest) -> bool {
        let idle = |node: &&mut Node| !node.found.is_empty() && node.wanted.is_empty() && !node.targets;
        let Some(node) = self.nodes.get_mut(&vertex).filter(idle) else { return false };
        node.keys.clone_from(&node.found);
        node.stage = Stage::Known;
        true
    }

    /// By its definition it is no hit: its inputs' content may make it one.
    fn look_further(&mut self, vertex: Digest) -> bool {
        if self.nodes.get(&vertex).is_some_and(Node::is_stored) {
            // It was not, as long as it was not known which of its outputs are wanted.
            return self.hit(vertex, HitSource::Definition);
        }
        let Some(map) = self.map(vertex) else { return false };
        if map.inputs.iter().any(|i| i.content.is_some()) {
            return self.enter_content(vertex);
        }
        self.set(vertex, Stage::Compare { asked: false });
        true
    }

    /// With one input that is a miss under keys that lead nowhere it is sure already that this step is no hit by keys: that
    /// input is going to run, and so is the content looked at of what else leads nowhere. All of these are made now, side by
    /// side, and beside the inputs that are still undecided.
    fn ask_ahead(&mut self, vertex: Digest, inputs: &[Edge], index: &dyn Index) {
        let leads_nowhere = |n: &Node, output| n.is_miss() && !n.is_source() && !n.found.contains_key(&output);
        let is_miss = |e: &Edge| self.nodes.get(&e.vertex).is_some_and(|n| leads_nowhere(n, e.output));
        if !inputs.iter().any(is_miss) {
            return;
        }
        let Some(map) = self.map(vertex) else { return };
        let is_judged = |e: &Edge| self.nodes.get(&e.vertex).is_some_and(Node::is_judged);
        let is_content =
            |i: usize| map.inputs[i].content.is_some() && is_judged(&inputs[i]) && !self.leads(vertex, &map, i, index);
        let sure = inputs.iter().enumerate().filter(|(i, edge)| is_miss(edge) || is_content(*i));
        let edges: Vec<Edge> = sure.map(|(_, edge)| *edge).collect();
        // What fails is seen when it is asked for again.
        let _ = self.ask(&edges, true);
    }

    fn enter_content(&mut self, vertex: Digest) -> bool {
        self.set(vertex, Stage::Content);
        true
    }

    /// Content: looks itself up with the content of the inputs whose keys lead nowhere, then with that of all that have any to
    /// look at: what the others are made of need not be here for a hit.
    fn find_content(&mut self, vertex: Digest, index: &dyn Index) -> bool {
        let Some(map) = self.map(vertex) else { return false };
        let Some(node) = self.nodes.get(&vertex) else { return false };
        let (inputs, requested) = (node.vertex.inputs.clone(), node.vertex.metadata.ignore_cache);
        let all: Vec<usize> = (0..inputs.len()).filter(|i| map.inputs[*i].content.is_some()).collect();
        let nameless = all.iter().copied().filter(|i| !self.leads(vertex, &map, *i, index)).collect();
        let rounds = if requested { vec![all] } else { vec![nameless, all] };
        for decisive in rounds.into_iter().filter(|inputs| !inputs.is_empty()) {
            match self.hash(vertex, &inputs, &decisive, index) {
                Inputs::Failed => return self.fail_with_input(vertex),
                Inputs::Waiting => return false,
                Inputs::Ready if requested => return self.miss(vertex, Reason::Requested),
                Inputs::Ready if self.find(vertex, &map, index) => return self.hit(vertex, HitSource::Content),
                // Its readers may be hits under the keys that were found.
                Inputs::Ready if self.enter_known(vertex) => return true,
                Inputs::Ready => {}
            }
        }
        self.set(vertex, Stage::Compare { asked: false });
        true
    }

    /// Waits for the results that are to be hashed, then for their digests.
    fn hash(&mut self, vertex: Digest, inputs: &[Edge], decisive: &[usize], index: &dyn Index) -> Inputs {
        let edges: Vec<Edge> = decisive.iter().map(|i| inputs[*i]).collect();
        if self.ask(&edges, true) == Inputs::Failed {
            return Inputs::Failed;
        }
        self.ask_ahead(vertex, inputs, index);
        for i in decisive {
            let input = *i as u32;
            let Some(result) = self.result(&inputs[*i]) else { continue };
            let Some(node) = self.nodes.get_mut(&vertex) else { continue };
            if !node.contents.contains_key(&input) && node.hashing.insert(input) {
                self.effects.push(Effect::Hash { vertex, input, result });
            }
        }
        let is_known = |n: &Node| decisive.iter().all(|i| n.contents.contains_key(&(*i as u32)));
        if self.nodes.get(&vertex).is_some_and(is_known) { Inputs::Ready } else { Inputs::Waiting }
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

    /// An earlier record of the step was looked for on the same trees.
    pub(super) fn compared(&mut self, vertex: Digest, found: &[Stored]) {
        let Some(node) = self.nodes.get_mut(&vertex) else { return };
        for stored in found {
            node.found.insert(stored.output, vec![stored.key]);
            node.stored.insert(stored.output, *stored);
        }
        if found.is_empty() || !node.is_stored() {
            // Through `miss`, which gives it the keys that its readers look themselves up by.
            self.miss(vertex, Reason::NoRecord);
        } else {
            self.hit(vertex, HitSource::SameInput);
        }
        self.queue.push_back(vertex);
    }

    /// Loads what is wanted and stored.
    fn load(&mut self, vertex: Digest) -> bool {
        let Some(node) = self.nodes.get_mut(&vertex) else { return false };
        if node.wanted.is_empty() {
            return false;
        }
        if !node.is_stored() {
            // An output is wanted now that was not when records were found for the others.
            node.stage = Stage::Unkeyed;
            return true;
        }
        let stored: Vec<Stored> = node.missing().filter_map(|output| node.stored.get(&output).copied()).collect();
        if stored.is_empty() {
            node.stage = Stage::Done;
            return true;
        }
        node.stage = Stage::Hit { loading: true };
        self.effects.push(Effect::Load { vertex, stored });
        false
    }

    /// Done: another output may be wanted later.
    fn want_more(&mut self, vertex: Digest) -> bool {
        let Some(node) = self.nodes.get_mut(&vertex) else { return false };
        if node.is_whole() || node.missing().next().is_none() {
            return false;
        }
        node.stage = if node.is_stored() { Stage::Hit { loading: false } } else { Stage::Unkeyed };
        true
    }

    fn run(&mut self, vertex: Digest) -> bool {
        let Some(node) = self.nodes.get(&vertex) else { return false };
        let wanted = !node.wanted.is_empty() || (node.targets && !node.is_source());
        if !wanted {
            return false;
        }
        let is_unasked = !matches!(node.stage, Stage::Miss { reason: Reason::Requested, .. });
        if is_unasked && !node.stored.is_empty() && node.is_stored() {
            // What was not found is not wanted.
            return self.hit(vertex, HitSource::Content);
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
            let there = if results { node.result(edge.output).is_some() } else { node.is_judged() };
            match &node.stage {
                Stage::Failed { .. } => return Inputs::Failed,
                _ if !there && results && node.lacks(edge.output) => return Inputs::Failed,
                _ if !there => state = Inputs::Waiting,
                _ => {}
            }
            if node.ask(edge.output, results) {
                self.queue.push_back(edge.vertex);
            }
        }
        state
    }

    fn result(&self, edge: &Edge) -> Option<ResultId> {
        self.nodes.get(&edge.vertex)?.result(edge.output)
    }

    fn set(&mut self, vertex: Digest, stage: Stage) {
        if let Some(node) = self.nodes.get_mut(&vertex) {
            node.stage = stage;
        }
    }

    fn fail_with_input(&mut self, vertex: Digest) -> bool {
        let Some(node) = self.nodes.get(&vertex) else { return false };
        let missing = node
            .vertex
            .inputs
            .iter()
            .find(|e| self.nodes.get(&e.vertex).is_some_and(|n| n.result(e.output).is_none() && n.lacks(e.output)));
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
        let own = self.map(vertex).map(|map| self.own_keys(vertex, &map)).unwrap_or_default();
        if let Some(node) = self.nodes.get_mut(&vertex) {
            node.fresh = fresh_below || reason == Reason::Requested;
            for (output, own) in (0..).zip(own) {
                let found = node.found.get(&output).into_iter().flatten().copied().filter(|key| *key != own);
                let keys = std::iter::once(own).chain(found).collect();
                node.keys.insert(output, keys);
            }
            if matches!(reason, Reason::Unusable(_)) {
                node.stored.clear();
            }
            node.stage = Stage::Miss { reason, running: false };
        }
        true
    }

    fn has_fresh_input(&self, vertex: Digest) -> bool {
        let inputs = self.nodes.get(&vertex).map(|n| n.vertex.inputs.as_slice()).unwrap_or_default();
        inputs.iter().any(|e| self.nodes.get(&e.vertex).is_some_and(|n| n.fresh))
    }

    /// Records were found for what is wanted.
    fn hit(&mut self, vertex: Digest, source: HitSource) -> bool {
        let is_by_trees = source == HitSource::SameInput;
        let renew = is_by_trees || self.has_fresh_input(vertex);
        let Some(node) = self.nodes.get_mut(&vertex) else { return false };
        node.keys = node.found.clone();
        node.stage = Stage::Hit { loading: false };
        let builds = node.builds.difference(&node.told).copied().collect();
        node.told.clone_from(&node.builds);
        let stored: Vec<Stored> = node.stored.values().copied().collect();
        // What was found by content or by comparing trees is from now on found by definition too.
        let links = if source == HitSource::Definition { Vec::new() } else { self.links(vertex, &stored) };
        self.effects.push(Effect::Hit { vertex, source, stored, builds, renew });
        if !links.is_empty() {
            self.effects.push(Effect::Link { links });
        }
        true
    }
}
