//! Steps with several outputs: each is found, loaded and lost for itself, and no part of a record is taken for the whole.

use super::*;

/// The cache as it is after an export and an import: one record an output, and nothing that tells which belong together.
/// `keep` says which stay.
fn imported(world: &World, mut keep: impl FnMut() -> bool) -> World {
    let mut new = World { links: world.links.clone(), sources: world.sources.clone(), ..World::default() };
    let mut records: Vec<_> = world.records.iter().collect();
    records.sort_by_key(|(id, _)| **id);
    for (id, record) in records {
        for (key, value) in record.keys.iter().zip(&record.values) {
            let part = Record { inputs: Vec::new(), values: vec![*value], keys: vec![*key], ..record.clone() };
            if keep() {
                new.put(Digest::of(format!("{id} {key}").as_bytes()), part);
            }
        }
    }
    new
}

/// Steps that have to run for an edge: what is stored needs nothing below.
fn needed(graph: &Graph, stored: &HashSet<(Digest, u32)>, head: Edge) -> BTreeSet<Digest> {
    let (mut open, mut run) = (vec![head], BTreeSet::new());
    while let Some(edge) = open.pop() {
        let vertex = graph.get(&edge.vertex).unwrap();
        let is_source = matches!(vertex.kind(), Some(graph::Kind::Source(_)));
        if !is_source && !stored.contains(&(edge.vertex, edge.output)) && run.insert(edge.vertex) {
            open.extend(&vertex.inputs);
        }
    }
    run
}

/// The edges of a graph whose results a cache has; values name them, as no two edges of a toy have the same.
fn stored(world: &World, graph: &Graph) -> HashSet<(Digest, u32)> {
    let there: HashSet<Digest> = world.records.values().flat_map(|r| r.values.iter().flatten().copied()).collect();
    let edges = graph.vertices().flat_map(|v| (0..4).map(|output| Edge { vertex: v.digest, output }));
    edges.filter(|e| there.contains(&world.evaluate(graph, *e))).map(|e| (e.vertex, e.output)).collect()
}

/// Whatever a cache has of the outputs, the result is right, and exactly those steps run of which something wanted is not there.
#[test]
fn what_is_not_there_runs_and_nothing_else() {
    let (mut ran, mut spared) = (0, 0);
    for seed in 0..600 {
        let mut random = Seed(seed);
        let (graph, head) = toy(seed, 3 + random.below(12), 0, None);
        let mut first = World::default();
        let expected = run(&mut first, &mut solver(), &[(graph.clone(), head)], seed);
        let kept = random.below(4);
        let mut world = imported(&first, || kept == 0 || random.below(4) < kept);
        let steps = needed(&graph, &stored(&world, &graph), head);
        assert_eq!(run(&mut world, &mut solver(), &[(graph.clone(), head)], seed + 1), expected, "seed {seed}");
        assert_eq!(world.ran.iter().copied().collect::<BTreeSet<_>>(), steps, "seed {seed}");
        assert!(kept > 0 || steps.is_empty(), "seed {seed}: all was there");
        ran += steps.len();
        spared += first.ran.len() - steps.len();
    }
    assert!(ran > 200 && spared > 200, "{ran} ran, {spared} did not");
}

/// Builds that want different outputs of the same steps at the same time, from a cache with holes, sources that change and
/// results that get lost: each gets what no cache would have given.
#[test]
fn builds_that_want_different_outputs_share_a_step() {
    for seed in 0..400 {
        let mut random = Seed(seed);
        let mut world = World { losing: Some(3), ..World::default() };
        let size = 3 + random.below(10);
        for round in 0..4 {
            world.sources.insert("local://context".to_owned(), random.below(2) as u64);
            let (graph, head) = toy(seed, size, random.below(2) as u64, None);
            let edges: Vec<Edge> = graph.vertices().flat_map(|v| v.inputs.iter().copied()).chain([head]).collect();
            let builds: Vec<_> = (0..3).map(|_| (graph.clone(), edges[random.below(edges.len())])).collect();
            let expected: Vec<_> = builds.iter().map(|(g, edge)| Ok(world.evaluate(g, *edge))).collect();
            let got = run(&mut world, &mut solver(), &builds, seed * 13 + round);
            assert_eq!(got, expected, "seed {seed}, round {round}");
            let losing = world.losing;
            world = World { losing, clock: world.clock, ..imported(&world, || random.below(3) > 0) };
        }
    }
}

/// Two outputs, and a reader of each.
fn two_outputs() -> (Arc<Graph>, Edge, [Edge; 2]) {
    let mut builder = GraphBuilder::default();
    let base = add(&mut builder, source("docker-image://base"), &[], "docker-image://base", false);
    let op = process("both", 1, 2);
    let vertex = add(&mut builder, op, &[Edge { vertex: base, output: 0 }], "both", false);
    let both = [0, 1].map(|output| Edge { vertex, output });
    let readers = both.map(|edge| {
        let name = format!("reader {}", edge.output);
        Edge { vertex: add(&mut builder, process(&name, 1, 1), &[edge], &name, false), output: 0 }
    });
    let vertex = add(&mut builder, process("head", 2, 1), &readers, "head", false);
    let head = Edge { vertex, output: 0 };
    (Arc::new(builder.finish(Some(head), None)), head, both)
}

/// The names of the steps that ran in a second build, from a cache with only these results of the first.
fn second(keep: &[Edge]) -> Vec<String> {
    let (graph, head, _) = two_outputs();
    let mut first = World::default();
    run(&mut first, &mut solver(), &[(graph.clone(), head)], 1);
    let values: Vec<Digest> = keep.iter().map(|edge| first.evaluate(&graph, *edge)).collect();
    let mut world = imported(&first, || true);
    world.records.retain(|_, record| values.contains(&record.values[0].unwrap()));
    let records = world.records.keys().copied().collect::<HashSet<_>>();
    world.by_key.values_mut().for_each(|list| list.retain(|id| records.contains(id)));
    run(&mut world, &mut solver(), &[(graph.clone(), head)], 2).remove(0).unwrap();
    world.ran.iter().map(|vertex| graph.get(vertex).unwrap().name()).collect()
}

#[test]
fn a_part_is_never_the_whole_and_what_is_not_wanted_may_be_missing() {
    let (graph, head, both) = two_outputs();
    let inputs = &graph.get(&head.vertex).unwrap().inputs;
    let readers = [inputs[0], inputs[1]];
    assert_eq!(second(&[head]), Vec::<String>::new());
    assert_eq!(second(&readers), ["head"]);
    // Only the second reader runs, and what it reads is there.
    assert_eq!(second(&[readers[0], both[1]]), ["reader 1", "head"]);
    assert_eq!(second(&[readers[1], both[0]]), ["reader 0", "head"]);
    // What it reads is not there, although the other output is.
    assert_eq!(second(&[readers[0], both[0]]), ["both", "reader 1", "head"]);
    assert_eq!(second(&[readers[1], both[1]]), ["both", "reader 0", "head"]);
    let mut all = second(&[both[0]]);
    all.sort_unstable();
    assert_eq!(all, ["both", "head", "reader 0", "reader 1"]);
}

/// A key of a step without inputs is the one that its digest and the output make, for every output.
#[test]
fn keys_of_roots_are_buildkits() {
    let mut builder = GraphBuilder::default();
    let vertex = add(&mut builder, folders("folders", 2), &[], "folders", false);
    let head = Edge { vertex, output: 1 };
    let graph = Arc::new(builder.finish(Some(head), None));
    let mut world = World::default();
    run(&mut world, &mut solver(), &[(graph.clone(), head)], 1);
    let map = crate::key::cache_map(graph.get(&vertex).unwrap(), &Platform::new("linux", "amd64", "")).unwrap();
    let record = world.records.values().next().unwrap();
    assert_eq!(record.keys, [0, 1].map(|output| crate::key::export_digest(&map.digest, output)));
}

/// An output that no operation has is an error of the graph, and nothing runs for it.
#[test]
fn no_such_output() {
    let mut builder = GraphBuilder::default();
    let both = add(&mut builder, folders("folders", 2), &[], "folders", false);
    let vertex = add(&mut builder, process("reader", 1, 1), &[Edge { vertex: both, output: 2 }], "reader", false);
    let head = Edge { vertex, output: 0 };
    let graph = Arc::new(builder.finish(Some(head), None));
    let mut world = World::default();
    let error = run(&mut world, &mut solver(), &[(graph, head)], 1).remove(0).unwrap_err();
    assert!(error.contains("it reads output 2 of") && error.contains("which has no such output"), "{error}");
    assert!(world.ran.is_empty());
}
