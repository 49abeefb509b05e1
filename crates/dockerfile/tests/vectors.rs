//! Every Dockerfile of the vectors must become the very operations that a real BuildKit made of it.

use std::collections::{BTreeMap, BTreeSet};

use dockerfile::lower::{Fact, NamedContext, Need, Options, Outcome};
use graph::wire;
use oci::{Digest, ImageConfig, Platform};

/// What BuildKit's sources say of the client's session.
struct Client {
    session: String,
    store: String,
    base: Option<Digest>,
}

fn client(graph: &BTreeMap<String, wire::Op>) -> Client {
    let mut client = Client { session: String::new(), store: String::new(), base: None };
    for op in graph.values() {
        let Some(wire::op::Op::Source(source)) = &op.op else { continue };
        for (key, value) in &source.attrs {
            match key.as_str() {
                "local.session" | "oci.session" => client.session.clone_from(value),
                "oci.store" => client.store.clone_from(value),
                _ => {}
            }
        }
        let digest = source.identifier.split_once('@').map(|(_, digest)| Digest::parse(digest).unwrap());
        client.base = client.base.or(digest);
    }
    client
}

fn base_config(folder: &std::path::Path, digest: Digest) -> ImageConfig {
    let blob = |digest: &Digest| std::fs::read(folder.join("blobs/sha256").join(digest.hex())).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&blob(&digest)).unwrap();
    let config = match manifest["manifests"].as_array() {
        Some(list) => {
            let inner = Digest::parse(list[0]["digest"].as_str().unwrap()).unwrap();
            serde_json::from_slice::<serde_json::Value>(&blob(&inner)).unwrap()["config"]["digest"].clone()
        }
        None => manifest["config"]["digest"].clone(),
    };
    serde_json::from_slice(&blob(&Digest::parse(config.as_str().unwrap()).unwrap())).unwrap()
}

#[test]
fn every_operation_is_buildkits() {
    for case in testkit::vectors::cases() {
        let expected = case.graph();
        let client = client(&expected);
        let (file, errors) = dockerfile::parse(&case.dockerfile());
        assert!(errors.is_empty(), "{}: {errors:?}", case.name);
        let platform = Platform::new("linux", "amd64", "");
        let mut options = Options::new(platform.clone(), platform);
        options.session = client.session;
        options.build_args = case.build_args.clone();
        let ignore = case.folder.join("context/.dockerignore");
        if let Ok(text) = std::fs::read_to_string(ignore) {
            options.ignore = dockerfile::ignore::patterns(&text);
        }
        let layout = NamedContext::Layout { store: client.store.clone(), reference: String::new() };
        options.contexts.insert("base".to_owned(), layout);
        let mut facts = BTreeMap::new();
        let lowered = loop {
            match dockerfile::lower(&file, &options, &facts).unwrap() {
                Outcome::Done(lowered) => break lowered,
                Outcome::Needs { needs, .. } => {
                    for need in needs.into_keys() {
                        assert!(matches!(need, Need::Layout { .. }), "{}: {need:?}", case.name);
                        let digest = client.base.unwrap();
                        let config = Box::new(base_config(&testkit::vectors::folder().unwrap().join("base"), digest));
                        facts.insert(need, Fact::Image { digest, config, moved: None });
                    }
                }
            }
        };
        let wanted: BTreeSet<&String> = expected.iter().filter(|(_, op)| op.op.is_some()).map(|(d, _)| d).collect();
        for vertex in lowered.graph.vertices() {
            let near = expected.values().find(|op| {
                op.op.is_some()
                    && std::mem::discriminant(op.op.as_ref().unwrap())
                        == std::mem::discriminant(vertex.op.op.as_ref().unwrap())
            });
            assert!(
                wanted.contains(&vertex.digest.to_string()),
                "{}: {} is not BuildKit's\nours:   {:?}\nsome of its: {near:?}",
                case.name,
                vertex.name(),
                vertex.op
            );
        }
        assert_eq!(lowered.graph.len(), wanted.len(), "{}", case.name);
        let names = case.llb();
        for vertex in lowered.graph.vertices() {
            let name = &names["metadata"][vertex.digest.to_string()]["description"]["llb.customname"];
            // Progress shows documents' words as they are written, quotes and all; BuildKit takes some quotes away.
            let plain = |text: &str| text.replace('"', "");
            assert_eq!(plain(name.as_str().unwrap_or_default()), plain(&vertex.name()), "{}", case.name);
        }
    }
}
