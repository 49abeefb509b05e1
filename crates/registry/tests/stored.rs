//! A registry whose bytes are in a bucket of a real S3 server: the four workflows, looking after it, and one server at a time.

use std::time::Duration;

use registry::server::{Options, Registry};
use serde_json::json;
use testkit::s3::{moto_with, start};

use crate::served::{INDEX, MANIFEST, descriptor, in_bucket, place, sha256, sha512};

#[tokio::test]
async fn the_four_workflows() {
    // s3s-fs can't keep keys as long as those of referrers.
    let Some(served) = in_bucket(moto_with("bkt"), |_| {}).await else { return };
    // Push: at once, in chunks, by another digest, mounted.
    let large: Vec<u8> = (0..(9 << 20) + 7).map(|i: u32| (i / 253) as u8).collect();
    let layer = served.blob("team/app", &large).await;
    let location = served.start("team/app").await;
    let first = served.ask("PATCH", &location, &[("content-range", "0-2")], "one").await.is(202);
    let next = first.header("location").to_owned();
    let digest = sha512(b"onetwo");
    let mark = if next.contains('?') { '&' } else { '?' };
    let end = format!("{next}{mark}digest={digest}");
    served.ask("PUT", &end, &[("content-range", "3-5")], "two").await.is(201);
    assert_eq!(served.get(&format!("/v2/team/app/blobs/{digest}")).await.is(200).body, b"onetwo");
    let mount = format!("/v2/other/blobs/uploads/?mount={}&from=team/app", layer["digest"].as_str().unwrap());
    served.ask("POST", &mount, &[("content-length", "0")], "").await.is(201);
    let wrong = format!("/v2/team/app/blobs/uploads/?digest={}", sha256(b"x"));
    served.ask("POST", &wrong, &[], "y").await.refused(400, "DIGEST_INVALID");
    // Pull, with ranges.
    let path = format!("/v2/other/blobs/{}", layer["digest"].as_str().unwrap());
    assert!(served.get(&path).await.is(200).body == large);
    assert_eq!(served.head(&path).await.is(200).header("content-length"), large.len().to_string());
    let part = served.ask("GET", &path, &[("range", "bytes=5000000-9437189")], "").await.is(206);
    assert!(part.body == large[5_000_000..=9_437_189]);
    let end = served.ask("GET", &path, &[("range", "bytes=9437184-")], "").await.is(206);
    assert!(end.body == large[9_437_184..]);
    served.get("/v2/team/app/blobs/sha256:00").await.is(400);
    served.get(&format!("/v2/team/app/blobs/{}", sha256(b"none"))).await.refused(404, "BLOB_UNKNOWN");
    // Discovery.
    let (image, digest) = served.image("team/app", "one", b"layer").await;
    assert_eq!(served.get("/v2/team/app/manifests/one").await.is(200).body, image.to_string().into_bytes());
    let mut attached = served.manifest("team/app", b"signature").await;
    attached["subject"] = descriptor(&image, MANIFEST);
    served.put("team/app", "sig", MANIFEST, &attached).await.is(201);
    let referrers = served.get(&format!("/v2/team/app/referrers/{digest}")).await.is(200).json();
    assert_eq!(referrers["manifests"].as_array().unwrap().len(), 1, "{referrers}");
    assert_eq!(served.get("/v2/team/app/tags/list").await.is(200).json()["tags"], json!(["one", "sig"]));
    assert_eq!(served.get("/v2/_catalog").await.is(200).json()["repositories"], json!(["other", "team/app"]));
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(&image, MANIFEST)] });
    served.put("team/app", "all", INDEX, &index).await.is(201);
    // Management.
    served.delete("/v2/team/app/manifests/sig").await.is(202);
    served.get("/v2/team/app/manifests/sig").await.refused(404, "MANIFEST_UNKNOWN");
    served.delete(&path).await.is(202);
    served.get(&path).await.is(404);
    served.get(&format!("/v2/team/app/blobs/{}", layer["digest"].as_str().unwrap())).await.is(200);
}

#[tokio::test]
async fn it_is_looked_after() {
    let Some(served) = in_bucket(start("bkt"), |options| options.grace = Duration::ZERO).await else { return };
    let (_, digest) = served.image("app", "one", b"kept").await;
    let loose = served.blob("app", b"loose").await;
    // A bucket's times are whole seconds.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let gone = |collected: &registry::server::Collected| {
        collected.removed.iter().map(|(d, _)| d.to_string()).collect::<Vec<_>>()
    };
    let dry = served.registry.collect(true).await.unwrap();
    assert_eq!(gone(&dry), [loose["digest"].as_str().unwrap()], "{dry:?}");
    assert_eq!(gone(&served.registry.collect(false).await.unwrap()), gone(&dry));
    served.get("/v2/app/manifests/one").await.is(200);
    let server = served.bucket.as_ref().unwrap();
    assert!(Registry::scrub_in(place(&server.host)).await.unwrap().is_clean());
    let hex = sha256(b"kept")[7..].to_owned();
    let key = format!("reg/blobs/sha256/{}/{hex}", &hex[..2]);
    std::fs::write(server.file("bkt", &key), b"harm").unwrap();
    let hex = digest[7..].to_owned();
    std::fs::remove_file(server.file("bkt", &format!("reg/blobs/sha256/{}/{hex}", &hex[..2]))).unwrap();
    let found = Registry::scrub_in(place(&server.host)).await.unwrap();
    assert_eq!((found.damaged.len(), found.missing.len()), (1, 1), "{found:?}");
    assert_eq!(found.damaged[0].0.to_string(), sha256(b"kept"));
}

#[tokio::test]
async fn one_server_at_a_time() {
    let Some(served) = in_bucket(start("bkt"), |_| {}).await else { return };
    served.image("app", "one", b"kept").await;
    let server = served.bucket.as_ref().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut options = Options::new(folder.path());
    options.command = "the second".to_owned();
    let error = Registry::open_in(options, place(&server.host)).await.err().expect("the bucket is in use").to_string();
    assert!(error.contains("in use by process") && error.contains("s3://bkt/reg/"), "{error}");
    // One that another has taken over writes nothing any more.
    std::fs::write(server.file("bkt", "reg/lock"), "somebody else").unwrap();
    let begun = std::time::Instant::now();
    loop {
        let path = format!("/v2/app/blobs/uploads/?digest={}", sha256(b"late"));
        let answer = served.ask("POST", &path, &[], "late").await;
        if answer.status.is_server_error() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it goes on writing");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    served.get("/v2/app/manifests/one").await.is(200);
    // One that ends lets go at once.
    std::fs::remove_file(server.file("bkt", "reg/lock")).unwrap();
    for _ in 0..2 {
        let folder = tempfile::tempdir().unwrap();
        let next = Registry::open_in(Options::new(folder.path()), place(&server.host)).await.unwrap();
        next.close().await;
    }
}
