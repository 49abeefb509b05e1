//! Fixtures against what a real BuildKit made of them: the graph by its head's digest, the steps' names, the image.
//! `tests/buildkit.json` was made by its frontend at 73ed6825, with images as `fixtures::lower_with` makes them up and a
//! context without a session; a fixture that is not in it is one that larder reads in another way.

use std::collections::BTreeMap;

use graph::wire::{self, op};
use graph::{Edge, Graph};
use oci::Digest;
use serde::Deserialize;

use crate::fixtures;

/// What BuildKit made of one file.
#[derive(Deserialize)]
struct Made {
    #[serde(default)]
    args: BTreeMap<String, String>,
    /// Digest of the graph's head; none where nothing is built.
    head: Option<String>,
    /// Names of all operations, sorted. Left out where two steps are one operation: either's name will do.
    names: Option<Vec<String>>,
    /// The image's configuration, without what is empty.
    config: serde_json::Value,
    /// Lines of history: a `+` before those that are layers.
    history: Vec<String>,
}

/// The head's digest when sources of the client's are of no session.
fn without_session(graph: &Graph) -> Option<Digest> {
    let mut made: BTreeMap<Digest, Digest> = BTreeMap::new();
    let mut builder = graph::GraphBuilder::default();
    for vertex in graph.vertices() {
        let mut op = vertex.op.clone();
        for input in &mut op.inputs {
            input.digest = made[&Digest::parse(&input.digest).unwrap()].to_string();
        }
        if let Some(op::Op::Source(source)) = &mut op.op {
            source.attrs.remove("local.session");
        }
        made.insert(vertex.digest, builder.add(op, wire::OpMetadata::default()).unwrap());
    }
    graph.head.map(|Edge { vertex, .. }| made[&vertex])
}

/// Without what is empty, as writers differ in what they leave out.
fn clean(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value::{Array, Object};
    let is_empty = |value: &serde_json::Value| match value {
        Object(map) => map.is_empty(),
        Array(list) => list.is_empty(),
        other => other.is_null() || other == "" || other == false,
    };
    match value {
        Object(map) => Object(map.into_iter().map(|(k, v)| (k, clean(v))).filter(|(_, v)| !is_empty(v)).collect()),
        other => other,
    }
}

#[test]
fn fixtures_become_what_buildkit_makes_of_them() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/buildkit.json");
    let all: BTreeMap<String, Made> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(all.len() >= 50, "{} files", all.len());
    for (name, expected) in all {
        let text = std::fs::read(fixtures::folder().join(format!("{name}.Dockerfile"))).unwrap();
        let (file, _) = dockerfile::parse(&text);
        let lowered = fixtures::lower_with(&file, &expected.args).unwrap();
        let mut names: Vec<String> = lowered.graph.vertices().map(|vertex| vertex.name()).collect();
        names.sort();
        assert!(expected.names.is_none_or(|expected| expected == names), "{name}: {names:#?}");
        let head = without_session(&lowered.graph).map(|digest| digest.to_string());
        assert_eq!(head, expected.head, "{name}: another graph");
        let config = serde_json::to_value(&lowered.config.config).unwrap();
        assert_eq!(clean(config), expected.config, "{name}");
        let line = |line: &oci::History| format!("{} {}", if line.empty_layer { ' ' } else { '+' }, line.created_by);
        let history: Vec<String> = lowered.config.history.iter().flatten().map(line).collect();
        assert_eq!(history, expected.history, "{name}");
    }
}
