//! Toy builds on seeded schedules: whatever the order of answers and whatever changed between builds, a build's result is
//! the one that running everything would have given, and nothing runs twice.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use graph::wire::{self, op};
use graph::{Edge, Graph, GraphBuilder};
use oci::{Digest, Platform};

use super::{Build, Effect, Event, Index, Reason, ResultId, Solver, Stored, Wanted};
use crate::cause::{Cause, HitSource};
use crate::record::{KeyId, Link};

mod outputs;

/// A small generator of numbers that look random (Knuth's MMIX constants).
struct Seed(u64);

impl Seed {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// What is stored of a step: under each key one result, which may have been lost.
#[derive(Clone)]
struct Record {
    operation: Digest,
    inputs: Vec<Digest>,
    values: Vec<Option<Digest>>,
    created: u64,
    keys: Vec<KeyId>,
}

impl Record {
    fn value(&self, key: &KeyId) -> Option<Digest> {
        self.values[self.keys.iter().position(|k| k == key)?]
    }

    /// All outputs, if they are all there.
    fn whole(&self, id: Digest) -> Option<Vec<Stored>> {
        let keys = self.values.iter().all(Option::is_some).then(|| (0..).zip(&self.keys));
        keys.map(|keys| keys.map(|(output, key)| Stored { output, key: *key, record: id }).collect())
    }
}

/// The cache and the world outside: what each source is now.
#[derive(Default)]
struct World {
    links: HashMap<(KeyId, Vec<u8>), Vec<KeyId>>,
    records: HashMap<Digest, Record>,
    by_key: HashMap<KeyId, Vec<Digest>>,
    sources: BTreeMap<String, u64>,
    clock: u64,
    ran: Vec<Digest>,
    /// One in so many loaded results turns out not to be there when it is used.
    losing: Option<usize>,
    hits: Vec<(Digest, HitSource)>,
    reasons: Vec<Reason>,
}

impl Index for World {
    fn children(&self, _: &BTreeSet<Build>, parent: &KeyId, link: &Link) -> Vec<KeyId> {
        self.links.get(&(*parent, link.encode())).cloned().unwrap_or_default()
    }

    fn newest(&self, _: &BTreeSet<Build>, keys: &[KeyId]) -> Option<(KeyId, Digest)> {
        let of_key = |key: &KeyId| self.by_key.get(key).into_iter().flatten().map(|id| (*key, *id)).collect::<Vec<_>>();
        let there = keys.iter().flat_map(of_key).filter(|(key, id)| self.records[id].value(key).is_some());
        let found = there.map(|(key, id)| (self.records[&id].created, key, id));
        found.max().map(|(_, key, id)| (key, id))
    }
}

impl World {
    fn link(&mut self, links: Vec<(KeyId, Link, KeyId)>) {
        for (parent, link, child) in links {
            let list = self.links.entry((parent, link.encode())).or_default();
            if !list.contains(&child) {
                list.push(child);
            }
        }
    }

    fn put(&mut self, id: Digest, record: Record) {
        record.keys.iter().for_each(|key| self.by_key.entry(*key).or_default().push(id));
        self.records.insert(id, record);
    }

    fn source(&self, vertex: &graph::Vertex) -> Digest {
        let name = vertex.name();
        Digest::of(format!("{name} {}", self.sources.get(&name).copied().unwrap_or(0)).as_bytes())
    }

    /// What an operation makes of its inputs, by output. One whose name begins with `same` makes the same of everything.
    fn made(&self, vertex: &graph::Vertex, inputs: &[Digest], output: u32) -> Digest {
        let name = vertex.name();
        if name.starts_with("same") {
            return Digest::of(format!("{name} {output}").as_bytes());
        }
        Digest::of(format!("{name} {inputs:?} {output}").as_bytes())
    }

    /// The result without any cache.
    fn evaluate(&self, graph: &Graph, edge: Edge) -> Digest {
        let vertex = graph.get(&edge.vertex).unwrap();
        if matches!(vertex.kind(), Some(graph::Kind::Source(_))) {
            return self.source(vertex);
        }
        let inputs: Vec<Digest> = vertex.inputs.iter().map(|e| self.evaluate(graph, *e)).collect();
        self.made(vertex, &inputs, edge.output)
    }
}

fn add(builder: &mut GraphBuilder, kind: op::Op, inputs: &[Edge], name: &str, ignore_cache: bool) -> Digest {
    let input = |e: &Edge| wire::Input { digest: e.vertex.to_string(), index: i64::from(e.output) };
    let inputs = inputs.iter().map(input).collect();
    let mut metadata = wire::OpMetadata { ignore_cache, ..Default::default() };
    metadata.description.insert("llb.customname".to_owned(), name.to_owned());
    builder.add(wire::Op { inputs, op: Some(kind), ..Default::default() }, metadata).unwrap()
}

fn source(name: &str) -> op::Op {
    op::Op::Source(wire::SourceOp { identifier: name.to_owned(), ..Default::default() })
}

/// A process on input 0, with read-only mounts of the other inputs: their content decides. Outputs after the first are
/// mounts of nothing.
fn process(name: &str, inputs: usize, outputs: u32) -> op::Op {
    let mount = |i: usize| wire::Mount {
        input: i as i64,
        dest: if i == 0 { "/".to_owned() } else { format!("/m{i}") },
        output: if i == 0 { 0 } else { -1 },
        readonly: i > 0,
        ..Default::default()
    };
    let empty = |output: u32| wire::Mount {
        input: -1,
        dest: format!("/o{output}"),
        output: i64::from(output),
        ..Default::default()
    };
    let mounts = (0..inputs).map(mount).chain((1..outputs).map(empty)).collect();
    let meta = wire::Meta { args: vec![name.to_owned()], cwd: "/".to_owned(), ..Default::default() };
    op::Op::Exec(wire::ExecOp { meta: Some(meta), mounts, ..Default::default() })
}

/// A copy of input 1 onto input 0, once an output.
fn copy(name: &str, outputs: u32) -> op::Op {
    let action = |output: u32| {
        let dest = format!("{name} {output}");
        let action = wire::FileActionCopy { src: "/".to_owned(), dest, mode: -1, ..Default::default() };
        let action = Some(wire::file_action::Action::Copy(action));
        wire::FileAction { input: 0, secondary_input: 1, output: i64::from(output), action }
    };
    op::Op::File(wire::FileOp { actions: (0..outputs).map(action).collect() })
}

/// Folders in nothing, one an output.
fn folders(name: &str, outputs: u32) -> op::Op {
    let action = |output: u32| {
        let action = wire::FileActionMkDir { path: format!("/{name} {output}"), ..Default::default() };
        let action = Some(wire::file_action::Action::MkDir(action));
        wire::FileAction { input: -1, secondary_input: -1, output: i64::from(output), action }
    };
    op::Op::File(wire::FileOp { actions: (0..outputs).map(action).collect() })
}

/// A graph of `size` operations from a seed. Names stay the same from one change of `variant` to the next, but for one.
fn toy(seed: u64, size: usize, variant: u64, ignore: Option<usize>) -> (Arc<Graph>, Edge) {
    let mut random = Seed(seed);
    let mut builder = GraphBuilder::default();
    let mut all: Vec<(Digest, u32)> = Vec::new();
    for name in ["docker-image://base", "docker-image://other", "local://context", "local://docs"] {
        all.push((add(&mut builder, source(name), &[], name, false), 1));
    }
    all.push((add(&mut builder, folders("folders", 3), &[], "folders", false), 3));
    let edited = random.below(size);
    for i in 0..size {
        let mut edge = || {
            let (vertex, outputs) = all[random.below(all.len())];
            Edge { vertex, output: random.below(outputs as usize) as u32 }
        };
        let mut inputs = vec![edge(), edge()];
        inputs.truncate(1 + random.below(2));
        let (kind, outputs) = (random.below(4), 1 + random.below(6).saturating_sub(3) as u32);
        let text = if i == edited { format!("{i} edit {}", variant % 3) } else { format!("{i}") };
        let name = if kind == 0 { format!("same {i}") } else { format!("step {text}") };
        // The name alone tells steps apart, so that a renamed `same` step is another operation with the same result.
        let (op, inputs) = match kind {
            1 => (copy(&name, outputs), vec![inputs[0], inputs[inputs.len() - 1]]),
            _ => {
                let argument = format!("{name} {}", if i == edited { variant % 3 } else { 0 });
                inputs.dedup();
                (process(&argument, inputs.len(), outputs), inputs)
            }
        };
        all.push((add(&mut builder, op, &inputs, &name, ignore == Some(i)), outputs));
    }
    let (vertex, outputs) = all[all.len() - 1];
    let head = Edge { vertex, output: seed as u32 % outputs };
    let graph = builder.finish(Some(head), None);
    (Arc::new(graph.below(head)), head)
}

fn hold(values: &mut HashMap<ResultId, Digest>, value: Digest) -> ResultId {
    let id = ResultId(values.len() as u64 + 1);
    values.insert(id, value);
    id
}

/// Runs builds side by side until all are done; returns what each gave.
fn run(
    world: &mut World,
    solver: &mut Solver,
    builds: &[(Arc<Graph>, Edge)],
    seed: u64,
) -> Vec<Result<Digest, String>> {
    let mut random = Seed(seed);
    let mut values: HashMap<ResultId, Digest> = HashMap::new();
    let mut open: Vec<Effect> = Vec::new();
    let mut outcomes = vec![None; builds.len()];
    let mut running: HashSet<Digest> = HashSet::new();
    let mut lazy: HashSet<ResultId> = HashSet::new();
    let mut hits: HashSet<(Build, Digest)> = HashSet::new();
    let read = builds.iter().flat_map(|(graph, _)| graph.vertices()).flat_map(|vertex| &vertex.inputs);
    let read = read.chain(builds.iter().map(|(_, head)| head)).map(|edge| (edge.vertex, edge.output));
    let read: HashSet<(Digest, u32)> = read.collect();
    for (i, (graph, head)) in builds.iter().enumerate() {
        let wanted = vec![Wanted { edge: *head, result: true }];
        open.extend(solver.step(Event::Build { build: i as u64, graph: graph.clone(), wanted, trail: true }, world));
    }
    let vertex = |digest: &Digest| builds.iter().find_map(|(g, _)| g.get(digest).cloned()).unwrap();
    let mut steps = 0;
    while !open.is_empty() {
        steps += 1;
        assert!(steps < 100_000, "it does not end");
        let effect = open.swap_remove(random.below(open.len()));
        if let Some(event) = lose(world, &mut lazy, &effect, &mut random) {
            open.extend(solver.step(event, world));
            continue;
        }
        let event = match effect {
            Effect::Key { vertex: v } => {
                let vertex = vertex(&v);
                let keys = if vertex.name().starts_with("local") { vec![] } else { vec![world.source(&vertex)] };
                Event::Keyed { vertex: v, keys: Ok(keys) }
            }
            Effect::Hash { vertex, input, result } => {
                let content = Digest::of(format!("content {}", values[&result]).as_bytes());
                Event::Hashed { vertex, input, content: Ok(content) }
            }
            Effect::Compare { vertex, operation, inputs } => {
                let inputs: Vec<Digest> = inputs.iter().map(|i| values[i]).collect();
                let same = world.records.iter().filter(|(_, r)| r.operation == operation && r.inputs == inputs);
                let found = same.filter_map(|(id, r)| r.whole(*id)).next();
                Event::Compared { vertex, found: found.unwrap_or_default() }
            }
            Effect::Load { vertex, stored } => {
                let load = |stored: Stored| {
                    let value = world.records[&stored.record].value(&stored.key).expect("what is loaded is there");
                    let held = hold(&mut values, value);
                    lazy.insert(held);
                    assert!(read.contains(&(vertex, stored.output)), "only what is wanted is loaded");
                    (stored.output, held)
                };
                Event::Loaded { vertex, results: Ok(stored.into_iter().map(load).collect()) }
            }
            Effect::Run { vertex: v, inputs, reason, save, .. } => {
                assert!(running.insert(v), "{} runs twice", vertex(&v).name());
                let vertex = vertex(&v);
                let inputs: Vec<Digest> = inputs.iter().map(|i| values[i]).collect();
                let outputs = save.as_ref().map_or(1, |save| save.keys.len() as u32);
                let made = (0..outputs).map(|output| match save {
                    Some(_) => world.made(&vertex, &inputs, output),
                    None => world.source(&vertex),
                });
                let made: Vec<Digest> = made.collect();
                if let Some(save) = save {
                    world.clock += 1;
                    world.ran.push(v);
                    world.reasons.push(reason);
                    world.link(save.links);
                    let id = Digest::of(format!("record {}", world.clock).as_bytes());
                    let (values, created) = (made.iter().copied().map(Some).collect(), world.clock);
                    world.put(id, Record { operation: save.operation, inputs, values, created, keys: save.keys });
                }
                Event::Ran { vertex: v, results: Ok(made.into_iter().map(|m| hold(&mut values, m)).collect()) }
            }
            Effect::Hit { vertex, source, stored, renew, builds } => {
                let told = builds.into_iter().all(|build| hits.insert((build, vertex)));
                assert!(told, "{vertex} is told as a hit twice");
                world.hits.push((vertex, source));
                world.clock += 1;
                for record in stored.iter().filter(|_| renew).map(|stored| stored.record) {
                    world.records.get_mut(&record).unwrap().created = world.clock;
                }
                continue;
            }
            Effect::Link { links } => {
                world.link(links);
                continue;
            }
            Effect::Abort { .. } => continue,
            Effect::Done { build, results, trail } => {
                assert!(trail.iter().all(|t| t.keys.iter().any(|keys| !keys.is_empty())));
                outcomes[build as usize] = Some(Ok(values[&results[0].unwrap()]));
                continue;
            }
            Effect::Failed { build, error, .. } => {
                outcomes[build as usize] = Some(Err(error));
                continue;
            }
        };
        open.extend(solver.step(event, world));
    }
    assert!(solver.is_empty(), "{} steps are left", solver.len());
    outcomes.into_iter().map(|o| o.expect("every build ends")).collect()
}

/// Sometimes a loaded result is not there after all, whoever needs it first.
fn lose(world: &World, lazy: &mut HashSet<ResultId>, effect: &Effect, random: &mut Seed) -> Option<Event> {
    let (vertex, inputs) = match effect {
        Effect::Hash { vertex, result, .. } => (*vertex, vec![*result]),
        Effect::Run { vertex, inputs, .. } | Effect::Compare { vertex, inputs, .. } => (*vertex, inputs.clone()),
        _ => return None,
    };
    let result = *inputs.iter().find(|id| lazy.contains(id))?;
    if random.below(world.losing?) > 0 {
        lazy.remove(&result);
        return None;
    }
    let cause = Cause::BlobMissing { digest: "a blob".to_owned(), looked: vec!["nowhere".to_owned()] };
    Some(Event::Lost { vertex, result, cause })
}

fn solver() -> Solver {
    Solver::new(Platform::new("linux", "amd64", ""))
}

/// Builds on one cache, with sources and one instruction changing back and forth, give what no cache would have given.
#[test]
fn no_schedule_and_no_history_gives_a_wrong_hit() {
    for seed in 0..400 {
        let mut random = Seed(seed);
        let mut world = World::default();
        let size = 3 + random.below(12);
        for round in 0..8 {
            for name in ["docker-image://base", "local://context", "local://docs"] {
                if random.below(3) == 0 {
                    world.sources.insert(name.to_owned(), random.below(3) as u64);
                }
            }
            let ignore = (random.below(5) == 0).then(|| random.below(size));
            let (graph, head) = toy(seed, size, random.below(3) as u64, ignore);
            let expected = world.evaluate(&graph, head);
            let got = run(&mut world, &mut solver(), &[(graph, head)], seed * 31 + round);
            assert_eq!(got, [Ok(expected)], "seed {seed}, round {round}");
        }
    }
}

/// Results that are lost after they were found are made again, and nothing else comes out of it.
#[test]
fn what_is_lost_is_made_again() {
    let mut unusable = 0;
    for seed in 0..500 {
        let mut random = Seed(seed);
        let mut world = World { losing: Some(2), ..World::default() };
        let size = 3 + random.below(12);
        for round in 0..4 {
            let both = [toy(seed, size, random.below(3) as u64, None), toy(seed, size, random.below(3) as u64, None)];
            let expected: Vec<_> = both.iter().map(|(g, h)| Ok(world.evaluate(g, *h))).collect();
            assert_eq!(
                run(&mut world, &mut solver(), &both, seed * 17 + round),
                expected,
                "seed {seed}, round {round}"
            );
        }
        unusable += world.reasons.iter().filter(|r| matches!(r, Reason::Unusable(_))).count();
    }
    assert!(unusable > 50, "{unusable}");
}

/// The same build again is hits only.
#[test]
fn the_second_time_nothing_runs() {
    for seed in 0..200 {
        let mut world = World::default();
        let (graph, head) = toy(seed, 10, 0, None);
        run(&mut world, &mut solver(), &[(graph.clone(), head)], seed);
        world.ran.clear();
        run(&mut world, &mut solver(), &[(graph, head)], seed + 1);
        assert!(world.ran.is_empty(), "seed {seed}: {} ran", world.ran.len());
    }
}

/// Builds that want the same steps at the same time share them.
#[test]
fn two_builds_run_a_shared_step_once() {
    for seed in 0..300 {
        let mut world = World::default();
        let both = [toy(seed, 8, 0, None), toy(seed, 8, 1, None)];
        let expected: Vec<_> = both.iter().map(|(g, h)| Ok(world.evaluate(g, *h))).collect();
        // `run` asserts that no step runs twice.
        assert_eq!(run(&mut world, &mut solver(), &both, seed), expected, "seed {seed}");
    }
}

/// A step that is asked to run again does, and says that it was asked.
#[test]
fn asked_for_runs_although_it_is_cached() {
    let mut world = World::default();
    let (graph, head) = toy(7, 1, 0, None);
    run(&mut world, &mut solver(), &[(graph, head)], 1);
    let (graph, head) = toy(7, 1, 0, Some(0));
    world.ran.clear();
    world.reasons.clear();
    run(&mut world, &mut solver(), &[(graph, head)], 2);
    assert_eq!(world.reasons, [Reason::Requested]);
}

/// A cancelled build leaves nothing behind in the solver, whenever it is cancelled.
#[test]
fn a_cancelled_build_is_forgotten() {
    for seed in 0..200 {
        let mut random = Seed(seed);
        let world = World::default();
        let (graph, head) = toy(seed, 8, 0, None);
        let mut solver = solver();
        let wanted = vec![Wanted { edge: head, result: true }];
        let mut open = solver.step(Event::Build { build: 1, graph: graph.clone(), wanted, trail: false }, &world);
        for _ in 0..random.below(6) {
            let Some(Effect::Key { vertex }) = open.pop() else { break };
            let keys = Ok(vec![world.source(graph.get(&vertex).unwrap())]);
            open.extend(solver.step(Event::Keyed { vertex, keys }, &world));
        }
        solver.step(Event::Cancel { build: 1 }, &world);
        assert!(solver.is_empty(), "seed {seed}");
    }
}

/// Large graphs are no problem: 5,000 steps in a row and side by side.
#[test]
fn five_thousand_steps() {
    let mut world = World::default();
    let (graph, head) = toy(3, 5_000, 0, None);
    let expected = graph.len();
    run(&mut world, &mut solver(), &[(graph, head)], 3);
    assert!(world.ran.len() <= expected);
    let mut builder = GraphBuilder::default();
    let mut last = add(&mut builder, source("docker-image://base"), &[], "docker-image://base", false);
    for i in 0..5_000 {
        last = add(
            &mut builder,
            process(&i.to_string(), 1, 1),
            &[Edge { vertex: last, output: 0 }],
            &i.to_string(),
            false,
        );
    }
    let head = Edge { vertex: last, output: 0 };
    let graph = Arc::new(builder.finish(Some(head), None));
    let mut world = World::default();
    let got = run(&mut world, &mut solver(), &[(graph, head)], 4);
    assert!(got[0].is_ok());
    assert_eq!(world.ran.len(), 5_000);
}
