//! Many write one cache at once: everything is there at the end, and the manifest stays one that BuildKit reads.

use std::sync::Arc;

use oci::{Digest, ManifestOrIndex};
use registry::filter::Filter;
use serde_json::{Value, json};
use solver::exchange::{CONFIG, Config, Listing};

use crate::served::{INDEX, MANIFEST, Served, served, sha256};

/// A cache of one record with one layer, as BuildKit exports it; `form` is an image manifest or an index.
async fn cache(served: &Served, number: usize, form: &str) -> Value {
    let bytes = format!("layer {number}");
    let mut layer = served.blob("a", bytes.as_bytes()).await;
    layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar".into();
    layer["annotations"] = json!({ "containerd.io/uncompressed": sha256(bytes.as_bytes()) });
    let record = json!({
        "digest": sha256(format!("key {number}").as_bytes()),
        "layers": [{ "layer": 0, "createdAt": "2026-01-02T03:04:05Z" }],
    });
    let layers = json!([{ "blob": layer["digest"], "parent": -1 }]);
    let config = json!({ "layers": layers, "records": [record] }).to_string();
    let mut config = served.blob("a", config.as_bytes()).await;
    config["mediaType"] = CONFIG.into();
    match form {
        MANIFEST => json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] }),
        _ => json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [layer, config] }),
    }
}

async fn records(served: &Served, tag: &str) -> Vec<Digest> {
    let manifest = served.get(&format!("/v2/a/manifests/{tag}")).await.is(200);
    let document = ManifestOrIndex::decode(&manifest.body, Some(manifest.header("content-type"))).unwrap();
    let listing = Listing::read(&document).unwrap();
    let config = served.get(&format!("/v2/a/blobs/{}", listing.config.digest)).await.is(200);
    let config = Config::parse(&config.body).unwrap();
    for blob in config.blobs() {
        assert!(listing.blobs.contains_key(&blob));
        served.head(&format!("/v2/a/blobs/{blob}")).await.is(200);
    }
    config.records().iter().map(|record| record.digest).collect()
}

fn key(number: usize) -> Digest {
    Digest::of(format!("key {number}").as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_sixteen_push_at_once_is_all_there() {
    let served = Arc::new(served().await);
    for (round, form) in [MANIFEST, INDEX, MANIFEST].into_iter().enumerate() {
        let tag = format!("cache{round}");
        let pushes = (0..16).map(|number| {
            let (served, tag) = (served.clone(), tag.clone());
            tokio::spawn(async move {
                let document = cache(&served, number, form).await;
                let answer = served.put("a", &format!("{tag}?join=cache"), form, &document).await.is(201);
                assert!(answer.header("larder-extensions").contains("cache-join"));
            })
        });
        for push in pushes.collect::<Vec<_>>() {
            push.await.unwrap();
        }
        let mut expected: Vec<_> = (0..16).map(key).collect();
        let mut found = records(&served, &tag).await;
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected);
        // The order never matters: another order gives the same bytes.
        let other = format!("other{round}");
        for number in (0..16).rev() {
            let document = cache(&served, number, form).await;
            served.put("a", &format!("{other}?join=cache"), form, &document).await.is(201);
        }
        let (one, two) = (
            served.get(&format!("/v2/a/manifests/{tag}")).await,
            served.get(&format!("/v2/a/manifests/{other}")).await,
        );
        assert_eq!(one.header("docker-content-digest"), two.header("docker-content-digest"));
        // Once more adds nothing.
        let again = cache(&served, 3, form).await;
        let answer = served.put("a", &format!("{tag}?join=cache"), form, &again).await.is(201);
        assert_eq!(answer.header("docker-content-digest"), one.header("docker-content-digest"));
    }
}

#[tokio::test]
async fn a_filter_says_what_is_surely_not_there() {
    let served = served().await;
    for number in 0..3 {
        let document = cache(&served, number, MANIFEST).await;
        served.put("a", "cache?join=cache", MANIFEST, &document).await.is(201);
    }
    let answer = served.get("/v2/a/_larder/cache/filter/cache").await.is(200);
    let filter = Filter::from_bytes(&answer.body).unwrap();
    assert!((0..3).all(|number| filter.may_have(&key(number))));
    assert!((3..100).filter(|number| filter.may_have(&key(*number))).count() < 10);
    served.image("a", "v1", b"layer").await;
    served.get("/v2/a/_larder/cache/filter/v1").await.is(404);
}

#[tokio::test]
async fn what_is_lost_leaves_a_joined_cache_and_what_is_none_is_refused() {
    let served = served().await;
    let first = cache(&served, 1, MANIFEST).await;
    served.put("a", "cache?join=cache", MANIFEST, &first).await.is(201);
    served.delete(&format!("/v2/a/blobs/{}", sha256(b"layer 1"))).await.is(202);
    let second = cache(&served, 2, MANIFEST).await;
    served.put("a", "cache?join=cache", MANIFEST, &second).await.is(201);
    let manifest = served.get("/v2/a/manifests/cache").await.is(200).json();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1, "a layer that is gone is not listed: {manifest}");
    let image = served.manifest("a", b"image").await;
    served.put("a", "cache?join=cache", MANIFEST, &image).await.refused(400, "MANIFEST_INVALID");
    assert!(records(&served, "cache").await.contains(&key(2)));
    // A plain push replaces, as everywhere.
    served.put("a", "cache", MANIFEST, &second).await.is(201);
    assert_eq!(records(&served, "cache").await, [key(2)]);
}

#[tokio::test]
async fn superseded_caches_go_with_the_grace() {
    let served = crate::served::served_with(|options| options.grace = std::time::Duration::from_millis(100)).await;
    let mut digests = Vec::new();
    for number in 0..3 {
        let document = cache(&served, number, MANIFEST).await;
        let answer = served.put("a", "cache?join=cache", MANIFEST, &document).await.is(201);
        digests.push(answer.header("docker-content-digest").to_owned());
    }
    for digest in &digests {
        served.get(&format!("/v2/a/manifests/{digest}")).await.is(200);
    }
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    served.registry.collect(false).await.unwrap();
    for digest in &digests[..2] {
        served.get(&format!("/v2/a/manifests/{digest}")).await.is(404);
    }
    assert_eq!(records(&served, "cache").await.len(), 3);
}
