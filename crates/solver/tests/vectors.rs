//! Every operation of the vectors: its bytes, its cache digest and its selectors must be those of the exported cache.

use std::collections::BTreeSet;
use std::sync::Arc;

use graph::{GraphBuilder, Vertex, wire};
use oci::{Digest, Platform};
use solver::key;

/// The graph's vertices, inputs first, rebuilt from the operations.
fn vertices(case: &testkit::vectors::Case) -> Vec<Arc<Vertex>> {
    let mut open = case.graph();
    let mut builder = GraphBuilder::default();
    loop {
        let ready: Vec<String> = open
            .iter()
            .filter(|(_, op)| op.op.is_some() && op.inputs.iter().all(|i| !open.contains_key(&i.digest)))
            .map(|(digest, _)| digest.clone())
            .collect();
        if ready.is_empty() {
            break;
        }
        for digest in ready {
            let op = open.remove(&digest).unwrap();
            let ours = builder.add(op, wire::OpMetadata::default()).unwrap();
            assert_eq!(ours.to_string(), digest, "{}: the operation's bytes differ from BuildKit's", case.name);
        }
    }
    assert_eq!(open.len(), 1, "{}: only the head is left", case.name);
    assert!(
        open.values()
            .all(|op| op.op.is_none() && Digest::of(&op.to_bytes()).to_string() == *open.keys().next().unwrap())
    );
    builder.finish(None, None).vertices().cloned().collect()
}

#[test]
fn operations_and_records_are_buildkits() {
    let cases = testkit::vectors::cases();
    for case in &cases {
        let host = Platform::new("linux", "amd64", "");
        let config = case.cache_config();
        let records = config["records"].as_array().unwrap();
        let exported: BTreeSet<&str> = records.iter().map(|r| r["digest"].as_str().unwrap()).collect();
        let selectors: BTreeSet<&str> = records
            .iter()
            .flat_map(|r| r["inputs"].as_array().into_iter().flatten())
            .flat_map(|input| input.as_array().unwrap())
            .filter_map(|link| link["selector"].as_str())
            .collect();
        let mut seen = BTreeSet::new();
        for vertex in vertices(case) {
            let Ok(map) = key::cache_map(&vertex, &host) else { continue };
            let digest = key::export_digest(&map.digest, 0).to_string();
            assert!(exported.contains(digest.as_str()), "{}: no record for {}", case.name, vertex.name());
            seen.extend(map.inputs.iter().filter_map(|i| i.selector).map(|s| s.to_string()));
        }
        for selector in &selectors {
            assert!(seen.contains(*selector), "{}: selector {selector} is not ours", case.name);
        }
    }
    assert!(cases.is_empty() || cases.len() >= 15);
}

#[test]
fn image_keys_are_buildkits() {
    let Some(folder) = testkit::vectors::folder() else { return };
    let read = |digest: &str| {
        let path = folder.join("base/blobs/sha256").join(digest.trim_start_matches("sha256:"));
        std::fs::read(path).unwrap()
    };
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("base/index.json")).unwrap()).unwrap();
    let manifest = index["manifests"][0]["digest"].as_str().unwrap();
    let document: oci::Manifest = serde_json::from_slice(&read(manifest)).unwrap();
    let config: oci::ImageConfig = serde_json::from_slice(&read(&document.config.digest.to_string())).unwrap();
    let by_manifest = key::image_key(&Digest::parse(manifest).unwrap(), &Platform::new("linux", "amd64", ""), None);
    let by_chain = key::chain_key(config.chain_ids().last()).unwrap();
    for case in testkit::vectors::cases().iter().filter(|c| c.name != "scratch-only") {
        let config = case.cache_config().to_string();
        for digest in [by_manifest, by_chain] {
            assert!(config.contains(&key::root_id(&digest, 0).to_string()), "{}: image key {digest}", case.name);
        }
    }
}
