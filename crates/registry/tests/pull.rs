//! "Pull": manifests, blobs, and whether they exist.

use crate::served::{MANIFEST, served, sha256, sha512};

#[tokio::test]
async fn a_manifest_is_returned_as_it_was_pushed_with_its_type_and_digest() {
    let served = served().await;
    // Spaces and an unknown field: another encoding of the same document would have another digest.
    let config = served.blob("a/b", b"{}").await;
    let text = format!("{{ \"schemaVersion\": 2,  \"x\": 1, \"config\": {config}, \"layers\": [] }}");
    let kind = [("content-type", MANIFEST)];
    served.ask("PUT", "/v2/a/b/manifests/v1", &kind, text.clone()).await.is(201);
    let digest = sha256(text.as_bytes());
    for target in ["v1", &digest] {
        let answer = served.get(&format!("/v2/a/b/manifests/{target}")).await.is(200);
        assert_eq!(answer.body, text.as_bytes());
        assert_eq!(answer.header("content-type"), MANIFEST);
        assert_eq!(answer.header("docker-content-digest"), digest);
        let head = served.head(&format!("/v2/a/b/manifests/{target}")).await.is(200);
        assert_eq!(head.header("docker-content-digest"), digest);
        assert_eq!(head.header("content-length"), text.len().to_string());
        assert_eq!(head.header("content-type"), MANIFEST);
        assert!(head.body.is_empty());
    }
}

#[tokio::test]
async fn what_is_not_there_is_404() {
    let served = served().await;
    served.image("here", "v1", b"layer").await;
    let none = sha256(b"none");
    for path in
        ["/v2/here/manifests/v2".to_owned(), "/v2/nowhere/manifests/v1".into(), format!("/v2/here/manifests/{none}")]
    {
        served.get(&path).await.refused(404, "MANIFEST_UNKNOWN");
        served.head(&path).await.is(404);
    }
    for path in [format!("/v2/here/blobs/{none}"), format!("/v2/nowhere/blobs/{none}")] {
        served.get(&path).await.refused(404, "BLOB_UNKNOWN");
        served.head(&path).await.is(404);
    }
    // A blob belongs to the repositories that it was pushed to, not to all.
    served.get(&format!("/v2/other/blobs/{}", sha256(b"layer"))).await.refused(404, "BLOB_UNKNOWN");
}

#[tokio::test]
async fn a_blob_is_returned_whole_with_its_digest() {
    let served = served().await;
    // Small, more than one piece, and none at all.
    for size in [0_usize, 1, 1000, 3_000_001] {
        let bytes: Vec<u8> = (0..size).map(|i| (i * 7 % 251) as u8).collect();
        served.blob("a", &bytes).await;
        let path = format!("/v2/a/blobs/{}", sha256(&bytes));
        let answer = served.get(&path).await.is(200);
        assert!(answer.body == bytes, "{size} bytes");
        assert_eq!(answer.header("docker-content-digest"), sha256(&bytes));
        let head = served.head(&path).await.is(200);
        assert_eq!(head.header("content-length"), size.to_string());
        assert_eq!(head.header("docker-content-digest"), sha256(&bytes));
    }
}

#[tokio::test]
async fn a_range_of_a_blob() {
    let served = served().await;
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 253) as u8).collect();
    served.blob("a", &bytes).await;
    let path = format!("/v2/a/blobs/{}", sha256(&bytes));
    for (range, from, to) in [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=999990-", 999_990, 999_999),
        ("bytes=-300000", 700_000, 999_999),
        ("bytes=5-5000000", 5, 999_999),
    ] {
        let answer = served.ask("GET", &path, &[("range", range)], "").await.is(206);
        assert_eq!(answer.header("content-range"), format!("bytes {from}-{to}/1000000"));
        assert!(answer.body == bytes[from..=to], "{range}");
    }
    let outside = served.ask("GET", &path, &[("range", "bytes=1000000-")], "").await.is(416);
    assert_eq!(outside.header("content-range"), "bytes */1000000");
    assert_eq!(served.ask("GET", &path, &[("range", "bytes=x")], "").await.is(200).body.len(), 1_000_000);
}

#[tokio::test]
async fn content_named_by_sha512() {
    let served = served().await;
    let digest = sha512(b"bytes");
    served.ask("POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), &[], "bytes").await.is(201);
    let answer = served.get(&format!("/v2/a/blobs/{digest}")).await.is(200);
    assert_eq!(
        (answer.body.as_slice(), answer.header("docker-content-digest")),
        (b"bytes".as_slice(), digest.as_str())
    );
    // It was not pushed under its other name.
    served.get(&format!("/v2/a/blobs/{}", sha256(b"bytes"))).await.is(404);
    let config = serde_json::json!({ "mediaType": "m", "digest": digest, "size": 5 });
    let document = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [] }).to_string();
    let target = sha512(document.as_bytes());
    let path = format!("/v2/a/manifests/{target}");
    let pushed = served.ask("PUT", &path, &[("content-type", MANIFEST)], document.clone()).await.is(201);
    assert_eq!(pushed.header("docker-content-digest"), target);
    assert_eq!(served.get(&path).await.is(200).body, document.as_bytes());
}

#[tokio::test]
async fn whether_this_is_a_registry() {
    let served = served().await;
    served.get("/v2/").await.is(200);
    served.get("/v2/A/manifests/x").await.refused(400, "NAME_INVALID");
    served.get("/elsewhere").await.is(404);
    served.ask("POST", "/v2/", &[], "").await.refused(405, "UNSUPPORTED");
}
