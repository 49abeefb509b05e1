//! What nothing refers to goes, while clients push; what anything refers to, or was asked for, stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use registry::server::Collected;

use crate::served::{INDEX, MANIFEST, Served, descriptor, in_bucket, served_with, sha256};

#[tokio::test]
async fn what_no_manifest_names_goes_once_it_is_old() {
    let served = served_with(|options| options.grace = Duration::from_millis(300)).await;
    let (document, digest) = served.image("a", "v1", b"layer").await;
    let index =
        serde_json::json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(&document, MANIFEST)] });
    served.put("a", "all", INDEX, &index).await.is(201);
    served.blob("a", b"loose").await;
    served.blob("b", b"loose").await;
    served.blob("a", b"asked for").await;
    assert_eq!(served.registry.collect(false).await.unwrap(), Default::default());
    tokio::time::sleep(Duration::from_millis(350)).await;
    // A client that hears that a blob is here will not push it.
    served.head(&format!("/v2/a/blobs/{}", sha256(b"asked for"))).await.is(200);
    let dry = served.registry.collect(true).await.unwrap();
    assert_eq!((dry.unlinked.len(), dry.removed.len()), (2, 1));
    served.head(&format!("/v2/b/blobs/{}", sha256(b"loose"))).await.is(200);
    let done = served.registry.collect(false).await.unwrap();
    let names: Vec<_> = done.unlinked.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names, done.removed.len()), (vec!["a"], 0), "b's was asked for a moment ago");
    served.get(&format!("/v2/a/blobs/{}", sha256(b"loose"))).await.is(404);
    for path in
        ["/v2/a/manifests/v1".to_owned(), "/v2/a/manifests/all".into(), format!("/v2/a/blobs/{}", sha256(b"layer"))]
    {
        served.get(&path).await.is(200);
    }
    // Once its manifests are deleted a repository's blobs go as well, and with them the repository.
    served.delete("/v2/a/manifests/all").await.is(202);
    served.delete(&format!("/v2/a/manifests/{}", sha256(index.to_string().as_bytes()))).await.is(202);
    served.delete(&format!("/v2/a/manifests/{digest}")).await.is(202);
    tokio::time::sleep(Duration::from_millis(350)).await;
    let done = served.registry.collect(false).await.unwrap();
    assert!(done.bytes() > 0);
    served.get("/v2/a/tags/list").await.is(404);
    assert_eq!(served.get("/v2/_catalog").await.is(200).json()["repositories"], serde_json::json!([]));
}

/// Images are pushed, checked and deleted by several clients while a collector with next to no grace runs all the time:
/// every image that was acknowledged can be pulled whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pushing_while_collecting() {
    pushing(served_with(|options| options.grace = GRACE).await, 25).await;
}

/// The same where everything is in a bucket.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pushing_while_collecting_in_a_bucket() {
    let Some(served) = in_bucket(testkit::s3::start("bkt"), |options| options.grace = GRACE).await else { return };
    pushing(served, 6).await;
}

const GRACE: Duration = Duration::from_millis(150);

async fn pushing(served: Served, rounds: usize) {
    let served = Arc::new(served);
    let clients = (0..4).map(|client| push_check_delete(served.clone(), client, rounds));
    let mut removed = while_collecting(&served, |collected| collected.removed.len(), clients).await;
    // On a slow machine no pass may have ended meanwhile: this is for the last one.
    served.blob("left", b"left").await;
    tokio::time::sleep(2 * GRACE).await;
    removed += served.registry.collect(false).await.unwrap().removed.len();
    assert!(removed > 0, "the collector never had anything to do");
}

/// Runs `clients` side by side beside a collector that never rests; says how much it took away, as `count` counts.
async fn while_collecting<C: Future<Output = ()> + Send + 'static>(
    served: &Arc<Served>,
    count: fn(&Collected) -> usize,
    clients: impl Iterator<Item = C>,
) -> usize {
    let removed = Arc::new(AtomicUsize::new(0));
    let collector = {
        let (served, removed) = (served.clone(), removed.clone());
        tokio::spawn(async move {
            loop {
                let collected = served.registry.collect(false).await.unwrap();
                removed.fetch_add(count(&collected), Ordering::SeqCst);
            }
        })
    };
    for client in clients.map(tokio::spawn).collect::<Vec<_>>() {
        client.await.unwrap();
    }
    collector.abort();
    removed.load(Ordering::SeqCst)
}

async fn push_check_delete(served: Arc<Served>, client: usize, rounds: usize) {
    let (name, tag) = (format!("team/{}", client % 2), format!("c{client}"));
    for round in 0..rounds {
        // A layer that others push and delete as well, so that it often is old and about to go.
        let layer = format!("layer {}", (round + client) % 3);
        let document = loop {
            let mut document = served.manifest(&name, layer.as_bytes()).await;
            document["annotations"] = serde_json::json!({ "of": client.to_string() });
            match served.put(&name, &tag, MANIFEST, &document).await {
                pushed if pushed.status == 201 => break document,
                // On a busy machine more than the grace may lie between a blob and its manifest.
                pushed => drop(pushed.refused(400, "MANIFEST_BLOB_UNKNOWN")),
            }
        };
        assert_eq!(served.get(&format!("/v2/{name}/manifests/{tag}")).await.is(200).json(), document);
        let layer = document["layers"][0]["digest"].as_str().unwrap();
        served.get(&format!("/v2/{name}/blobs/{layer}")).await.is(200);
        if round % 2 == 0 {
            let digest = sha256(document.to_string().as_bytes());
            served.delete(&format!("/v2/{name}/manifests/{digest}")).await.is(202);
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }
}

/// Whoever is told that a blob is here need not push it, and what was mounted stays, however old it was a moment before and
/// whatever a collector does meanwhile. The grace is an hour, so that no pause of the machine's can be longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_said_to_be_here_stays() {
    let served = Arc::new(served_with(|options| options.grace = Duration::from_secs(3600)).await);
    let clients = (0..3).map(|client| age_ask_refer(served.clone(), client));
    let count = |collected: &Collected| collected.unlinked.len() + collected.removed.len();
    let mut removed = while_collecting(&served, count, clients).await;
    // What nobody asked about goes, if it has not gone already.
    served.blob("left", b"left").await;
    age(&served, "left", &sha256(b"left"));
    removed += served.registry.collect(false).await.unwrap().removed.len();
    assert!(removed > 0, "the collector never had anything to do");
}

async fn age_ask_refer(served: Arc<Served>, client: usize) {
    let (name, other) = (format!("own-{client}"), format!("other-{client}"));
    for round in 0..120 {
        let layer = format!("{client} {round}").into_bytes();
        let digest = sha256(&layer);
        let mut document = served.manifest(&name, &layer).await;
        age(&served, &name, &digest);
        let to = if round % 2 == 0 {
            let path = format!("/v2/{name}/blobs/{digest}");
            if served.head(&path).await.status != 200 {
                served.blob(&name, &layer).await;
            }
            &name
        } else {
            let path = format!("/v2/{other}/blobs/uploads/?mount={digest}&from={name}");
            if served.ask("POST", &path, &[], "").await.status != 201 {
                served.blob(&other, &layer).await;
            }
            served.blob(&other, b"{}").await;
            &other
        };
        document["annotations"] = serde_json::json!({ "round": round.to_string() });
        served.put(to, "v", MANIFEST, &document).await.is(201);
        assert_eq!(served.get(&format!("/v2/{to}/blobs/{digest}")).await.is(200).body, layer);
        served.delete(&format!("/v2/{to}/manifests/{}", sha256(document.to_string().as_bytes()))).await.is(202);
    }
}

/// Nobody has wanted a blob for long: it may go at any moment.
fn age(served: &Served, name: &str, digest: &str) {
    let (two, hex) = (&digest[7..9], &digest[7..]);
    let old = std::time::SystemTime::now() - Duration::from_secs(7200);
    for path in [format!("repositories/{name}/_blobs/sha256/{hex}"), format!("blobs/sha256/{two}/{hex}")] {
        if let Ok(file) = std::fs::File::open(served.root.join(path)) {
            file.set_modified(old).unwrap();
        }
    }
}
