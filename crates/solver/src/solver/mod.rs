//! The scheduler: events in, effects out. It knows which step waits for what and decides hit or miss; it runs nothing.
//!
//! The way of one build: `Event::Build` names wanted edges. Sources are asked for their keys (`Effect::Key`), every other
//! step waits for the keys of its inputs and looks itself up by definition. On a miss, the parts of inputs whose content
//! may decide are made (`Effect::Load`/`Effect::Run`) and hashed (`Effect::Hash`). On a miss still, and when an input is a
//! process that ran again, the driver is asked whether it gave the same tree as before (`Effect::Compare`). What is then a
//! miss runs once its inputs are there and its result is wanted; what is a hit is loaded only if its result is wanted.
//!
//! Same vertices of several builds are one node. Nothing is stored here for longer than builds want it.
//!
//! Each output of a step is found, stored and loaded for itself: a step is a hit when those that are wanted are there,
//! whichever others are not. One that is wanted later is looked for then. Running makes all of them.

mod keys;
mod node;
mod step;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use graph::{Edge, Graph};
use oci::{Digest, Platform};

use crate::cause::{Cause, HitSource};
use crate::key::Malformed;
use crate::record::{KeyId, Link};
use node::Node;

/// A build, by a number of the driver's.
pub type Build = u64;

/// A result that the driver holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResultId(pub u64);

/// The cache as the solver asks it. Answers come at once.
pub trait Index {
    /// Keys that `link` leads to from `parent`. `builds` ask: what only some builds may see is for them alone.
    fn children(&self, builds: &BTreeSet<Build>, parent: &KeyId, link: &Link) -> Vec<KeyId>;
    /// The best record with a usable result under any of `keys`, which are keys of one output, and which of them that is.
    fn newest(&self, builds: &BTreeSet<Build>, keys: &[KeyId]) -> Option<(KeyId, Digest)>;
}

/// Where the result of one output of a step is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Which output.
    pub output: u32,
    /// The key that its result has in the record.
    pub key: KeyId,
    /// The record.
    pub record: Digest,
}

/// An edge that a build wants.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The edge.
    pub edge: Edge,
    /// Whether its result is wanted, or only that it could be had.
    pub result: bool,
}

/// What happened.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Event {
    Build {
        build: Build,
        graph: Arc<Graph>,
        wanted: Vec<Wanted>,
        /// Whether its end tells the keys of its steps.
        trail: bool,
    },
    /// Nobody waits for the build any more.
    Cancel { build: Build },
    /// Answer to [`Effect::Key`]: cache digests, the most exact first; none for a source that only content names.
    Keyed { vertex: Digest, keys: Result<Vec<Digest>, String> },
    /// Answer to [`Effect::Hash`].
    Hashed { vertex: Digest, input: u32, content: Result<Digest, String> },
    /// Answer to [`Effect::Compare`]: all outputs of an earlier record of the step on the same trees; empty for none.
    Compared { vertex: Digest, found: Vec<Stored> },
    /// Answer to [`Effect::Load`]: the results by output.
    Loaded { vertex: Digest, results: Result<BTreeMap<u32, ResultId>, Cause> },
    /// Answer to [`Effect::Run`]: one result an output.
    Ran { vertex: Digest, results: Result<Vec<ResultId>, String> },
    /// Answer to [`Effect::Hash`], [`Effect::Compare`] or [`Effect::Run`]: a result that the step needs can't be had after
    /// all. What gave it runs, and the step is taken up again.
    Lost { vertex: Digest, result: ResultId, cause: Cause },
}

/// The keys of a step, at a build's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trail {
    /// The step.
    pub vertex: Digest,
    /// For each output its keys, the best first.
    pub keys: Vec<Vec<KeyId>>,
}

/// Why a step runs, as far as the scheduler knows it; `explain` finds the cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No record under its keys.
    NoRecord,
    /// The graph says that its cache is not to be used.
    Requested,
    /// There was a record, and its result could not be had.
    Unusable(Cause),
}

/// The keys and links under which a result is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Save {
    /// The operation's cache digest.
    pub operation: Digest,
    /// One key an output.
    pub keys: Vec<KeyId>,
    /// From keys of inputs to `keys`.
    pub links: Vec<(KeyId, Link, KeyId)>,
    /// Other keys of the outputs, under which no record was usable.
    pub found: Vec<KeyId>,
}

/// What the driver is to do. Every effect with an answer is answered once, unless it was aborted.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Effect {
    /// Say what a source is now.
    Key { vertex: Digest },
    /// Digest the selected content of an input (`CacheMap::inputs[input].content`).
    Hash { vertex: Digest, input: u32, result: ResultId },
    /// Find an earlier record of `operation` that was made from the same trees.
    Compare { vertex: Digest, operation: Digest, inputs: Vec<ResultId> },
    /// Make these results available.
    Load { vertex: Digest, stored: Vec<Stored> },
    /// Do the step. `ran`: inputs that are misses themselves. `save`: where its result belongs (sources have none).
    Run { vertex: Digest, inputs: Vec<ResultId>, reason: Reason, ran: Vec<Digest>, save: Option<Save> },
    /// The step is a hit for these builds (none, when all of them were told before of other outputs). `renew`: the records
    /// are from now on the newest of their definition.
    Hit { vertex: Digest, source: HitSource, stored: Vec<Stored>, builds: Vec<Build>, renew: bool },
    /// More links to a key that was found.
    Link { links: Vec<(KeyId, Link, KeyId)> },
    /// Nobody wants the step any more: stop it. No answer is expected.
    Abort { vertex: Digest },
    /// The build has what it wanted: a result for each wanted edge that asked for one.
    Done { build: Build, results: Vec<Option<ResultId>>, trail: Vec<Trail> },
    /// The build can't have what it wanted. The trail is of what was decided before.
    Failed { build: Build, vertex: Digest, error: String, trail: Vec<Trail> },
}

struct Order {
    wanted: Vec<Wanted>,
    graph: Arc<Graph>,
    trail: bool,
}

/// See the module.
pub struct Solver {
    host: Platform,
    nodes: HashMap<Digest, Node>,
    builds: BTreeMap<Build, Order>,
    queue: VecDeque<Digest>,
    effects: Vec<Effect>,
    /// Some step has failed since it was last looked for which builds that ends.
    failed: bool,
}

impl Solver {
    /// No builds yet. `host`: platform of operations that name none.
    pub fn new(host: Platform) -> Solver {
        Solver {
            host,
            nodes: HashMap::new(),
            builds: BTreeMap::new(),
            queue: VecDeque::new(),
            effects: Vec::new(),
            failed: false,
        }
    }

    /// Takes an event and says what is to be done. An event for a step that is gone (aborted meanwhile) does nothing.
    pub fn step(&mut self, event: Event, index: &dyn Index) -> Vec<Effect> {
        match event {
            Event::Build { build, graph, wanted, trail } => self.begin(build, Order { wanted, graph, trail }),
            Event::Cancel { build } => self.forget(build),
            Event::Keyed { vertex, keys } => self.answered(vertex, |node| node.keyed(keys)),
            Event::Hashed { vertex, input, content } => self.answered(vertex, |node| node.hashed(input, content)),
            Event::Compared { vertex, found } => self.compared(vertex, &found),
            Event::Loaded { vertex, results: Ok(results) } => self.answered(vertex, |node| node.loaded(results)),
            Event::Loaded { vertex, results: Err(cause) } => {
                self.miss(vertex, Reason::Unusable(cause));
                self.queue.push_back(vertex);
            }
            Event::Ran { vertex, results } => self.answered(vertex, |node| node.ran(results)),
            Event::Lost { vertex, result, cause } => self.lost(vertex, result, &cause),
        }
        while let Some(vertex) = self.queue.pop_front() {
            self.advance(vertex, index);
        }
        self.settle();
        std::mem::take(&mut self.effects)
    }

    /// How many steps are known; 0 when no build runs.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no build runs.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    fn begin(&mut self, build: Build, order: Order) {
        let Order { wanted, graph, .. } = &order;
        let mut needed: Vec<Digest> = wanted.iter().map(|w| w.edge.vertex).collect();
        let mut reached: HashSet<Digest> = needed.iter().copied().collect();
        let mut edges: BTreeSet<Edge> = wanted.iter().map(|w| w.edge).collect();
        while let Some(digest) = needed.pop() {
            for input in graph.get(&digest).iter().flat_map(|v| &v.inputs) {
                edges.insert(*input);
                if reached.insert(input.vertex) {
                    needed.push(input.vertex);
                }
            }
        }
        for vertex in graph.vertices().filter(|v| reached.contains(&v.digest)) {
            for input in &vertex.inputs {
                if let Some(node) = self.nodes.get_mut(&input.vertex) {
                    node.readers.insert(vertex.digest);
                }
            }
            let known = self.nodes.contains_key(&vertex.digest);
            let node = self.nodes.entry(vertex.digest).or_insert_with(|| Node::new(vertex.clone(), &self.host));
            node.builds.insert(build);
            self.failed |= node.error().is_some();
            if known {
                let edge = |output| Edge { vertex: vertex.digest, output };
                let read = edges.range(edge(0)..=edge(u32::MAX)).map(|edge| edge.output);
                self.effects.extend(node.joined(build, read));
            }
        }
        for w in wanted {
            if let Some(node) = self.nodes.get_mut(&w.edge.vertex) {
                node.ask(w.edge.output, w.result);
                node.targets = true;
                self.queue.push_back(w.edge.vertex);
            }
        }
        self.builds.insert(build, order);
    }

    /// A result that `vertex` was given is no result: whoever gave it has to run, and `vertex` waits again.
    fn lost(&mut self, vertex: Digest, result: ResultId, cause: &Cause) {
        let Some(inputs) = self.nodes.get(&vertex).map(|n| n.vertex.inputs.clone()) else { return };
        for edge in inputs {
            // Another reader may have said so before: then it runs, or has run, already.
            let giver = self.nodes.get_mut(&edge.vertex).filter(|n| n.result(edge.output) == Some(result));
            if let Some(giver) = giver {
                giver.results.remove(&edge.output);
                giver.stored.remove(&edge.output);
                // One that is about another of its outputs comes to this one after that.
                if !giver.is_busy() && giver.error().is_none() {
                    self.miss(edge.vertex, Reason::Unusable(cause.clone()));
                }
                self.queue.push_back(edge.vertex);
            }
        }
        self.answered(vertex, Node::take_up_again);
    }

    /// What every step of a build is known by.
    fn trail(&self, order: &Order) -> Vec<Trail> {
        let known = order.graph.vertices().filter_map(|v| self.nodes.get(&v.digest)).filter(|n| !n.is_source());
        let of = |node: &Node| {
            let keys: Vec<_> = (0..node.outputs()).map(|output| self.output_keys(node, output)).collect();
            keys.iter().any(|list| !list.is_empty()).then_some(Trail { vertex: node.vertex.digest, keys })
        };
        known.filter_map(of).collect()
    }

    fn answered(&mut self, vertex: Digest, take: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(&vertex) {
            take(node);
            self.failed |= node.error().is_some();
            self.queue.push_back(vertex);
        }
    }

    /// Ends builds that have all they want, or can't have it.
    fn settle(&mut self) {
        let mut over = Vec::new();
        for (build, order) in &self.builds {
            // A look at every step, so only when there is something to find.
            let failed = order.graph.vertices().take_while(|_| self.failed).find_map(|v| {
                let node = self.nodes.get(&v.digest).filter(|n| n.builds.contains(build))?;
                node.error().map(|error| (v.digest, error))
            });
            let trail = || if order.trail { self.trail(order) } else { Vec::new() };
            if let Some((vertex, error)) = failed {
                over.push((*build, Effect::Failed { build: *build, vertex, error, trail: trail() }));
                continue;
            }
            let all =
                order.wanted.iter().map(|w| self.nodes.get(&w.edge.vertex)?.outcome(w)).collect::<Option<Vec<_>>>();
            if let Some(results) = all {
                over.push((*build, Effect::Done { build: *build, results, trail: trail() }));
            }
        }
        self.failed = false;
        for (build, effect) in over {
            self.report_unneeded(build, matches!(effect, Effect::Failed { .. }));
            self.forget(build);
            self.effects.push(effect);
        }
    }

    /// Steps that were never decided because what reads them was a hit. In a build that failed, a step may be undecided
    /// for want of time: nothing is said of one that is wanted, or read by a step that is no hit.
    fn report_unneeded(&mut self, build: Build, is_failed: bool) {
        let Some(order) = self.builds.get(&build) else { return };
        let (mut needed, mut unneeded) = (HashSet::new(), Vec::new());
        if is_failed {
            needed.extend(order.wanted.iter().map(|wanted| wanted.edge.vertex));
        }
        for vertex in order.graph.vertices().rev() {
            let node = self.nodes.get(&vertex.digest).filter(|node| node.builds.contains(&build));
            let untold = node.filter(|node| node.is_untold(build) && !needed.contains(&vertex.digest));
            if let Some(node) = untold {
                unneeded.push((vertex.digest, node.results.is_empty()));
            } else if is_failed && !node.is_some_and(|node| node.told.contains(&build)) {
                needed.extend(vertex.inputs.iter().map(|input| input.vertex));
            }
        }
        self.effects.extend(unneeded.into_iter().rev().map(|(vertex, is_unneeded)| {
            let source = if is_unneeded { HitSource::NotNeeded } else { HitSource::Shared };
            Effect::Hit { vertex, source, stored: Vec::new(), builds: vec![build], renew: false }
        }));
    }

    fn forget(&mut self, build: Build) {
        if self.builds.remove(&build).is_none() {
            return;
        }
        let mut gone = Vec::new();
        for (digest, node) in &mut self.nodes {
            node.builds.remove(&build);
            node.told.remove(&build);
            if node.builds.is_empty() {
                gone.push(*digest);
            }
        }
        gone.sort_unstable();
        for digest in gone {
            let Some(node) = self.nodes.remove(&digest) else { continue };
            if node.is_busy() {
                self.effects.push(Effect::Abort { vertex: digest });
            }
            for input in &node.vertex.inputs {
                if let Some(below) = self.nodes.get_mut(&input.vertex) {
                    below.readers.remove(&digest);
                }
            }
        }
    }
}

/// Text of an operation that has no key.
fn malformed(error: &Malformed) -> String {
    error.to_string()
}
