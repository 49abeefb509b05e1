//! "Push": blobs at once and in chunks, mounts, manifests.

use serde_json::json;

use crate::served::{INDEX, MANIFEST, descriptor, served, sha256, sha512};

#[tokio::test]
async fn post_then_put() {
    let served = served().await;
    let started = served.ask("POST", "/v2/a/b/blobs/uploads/", &[], "").await.is(202);
    let location = started.header("location");
    let id = location.rsplit('/').next().unwrap();
    let groups: Vec<_> = id.split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12], "the location must hold a UUID: {location}");
    let digest = sha256(b"bytes");
    let done = served.ask("PUT", &format!("{location}?digest={digest}"), &[], "bytes").await.is(201);
    assert_eq!(served.get(done.header("location")).await.is(200).body, b"bytes");
    assert_eq!(done.header("docker-content-digest"), digest);
    // The session is over.
    served.get(location).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn a_single_post() {
    let served = served().await;
    let path = format!("/v2/a/blobs/uploads/?digest={}", sha256(b"bytes"));
    let done = served.ask("POST", &path, &[("content-type", "application/octet-stream")], "bytes").await.is(201);
    assert_eq!(served.get(done.header("location")).await.is(200).body, b"bytes");
}

#[tokio::test]
async fn a_digest_that_is_not_the_contents() {
    let served = served().await;
    let other = sha256(b"other");
    served
        .ask("POST", &format!("/v2/a/blobs/uploads/?digest={other}"), &[], "bytes")
        .await
        .refused(400, "DIGEST_INVALID");
    let location = served.start("a").await;
    served.ask("PUT", &format!("{location}?digest={other}"), &[], "bytes").await.refused(400, "DIGEST_INVALID");
    served.get(&format!("/v2/a/blobs/{other}")).await.is(404);
    served.get(&format!("/v2/a/blobs/{}", sha256(b"bytes"))).await.is(404);
    for wrong in ["sha256:12", "md5:900150983cd24fb0d6963f7d28e17f72", "x"] {
        let location = served.start("a").await;
        served.ask("PUT", &format!("{location}?digest={wrong}"), &[], "bytes").await.refused(400, "DIGEST_INVALID");
    }
    let location = served.start("a").await;
    served.ask("PUT", &location, &[], "bytes").await.refused(400, "DIGEST_INVALID");
    served.ask("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5", &[], "").await.refused(400, "DIGEST_INVALID");
}

#[tokio::test]
async fn chunks_in_order() {
    let served = served().await;
    for last_in_put in [false, true] {
        let mut location = served.start("a").await;
        for (range, chunk, end) in [("0-3", "one ", 3), ("4-7", "two ", 7)] {
            let answer = served.ask("PATCH", &location, &[("content-range", range)], chunk).await.is(202);
            assert_eq!(answer.header("range"), format!("0-{end}"));
            location = answer.header("location").to_owned();
        }
        let digest = sha256(b"one two three");
        if last_in_put {
            let path = format!("{location}?digest={digest}");
            let done = served.ask("PUT", &path, &[("content-range", "8-12")], "three").await.is(201);
            assert_eq!(served.get(done.header("location")).await.is(200).body, b"one two three");
        } else {
            // Without Content-Range it is the next bytes, whichever they are.
            let answer = served.ask("PATCH", &location, &[], "three").await.is(202);
            assert_eq!(answer.header("range"), "0-12");
            served.ask("PUT", &format!("{location}?digest={digest}"), &[], "").await.is(201);
        }
    }
}

#[tokio::test]
async fn a_chunk_out_of_order_is_416_and_the_state_says_where_to_go_on() {
    let served = served().await;
    let location = served.start("a").await;
    served.ask("PATCH", &location, &[("content-range", "1-4")], "ytes").await.is(416);
    served.ask("PATCH", &location, &[("content-range", "0-1")], "by").await.is(202);
    for again in ["0-1", "1-2", "3-4"] {
        served.ask("PATCH", &location, &[("content-range", again)], "xx").await.is(416);
    }
    let state = served.get(&location).await.is(204);
    assert_eq!(state.header("range"), "0-1");
    let location = state.header("location").to_owned();
    let path = format!("{location}?digest={}", sha256(b"bytes"));
    served.ask("PUT", &path, &[("content-range", "3-4")], "es").await.is(416);
    served.ask("PUT", &path, &[("content-range", "2-4")], "tes").await.is(201);
    served.get("/v2/a/blobs/uploads/00000000-0000-4000-8000-000000000000").await.refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn a_range_that_is_none_or_of_another_length() {
    let served = served().await;
    let location = served.start("a").await;
    for range in ["x", "5", "4-0", "bytes 0-4/5", "0--4"] {
        served.ask("PATCH", &location, &[("content-range", range)], "bytes").await.refused(400, "BLOB_UPLOAD_INVALID");
    }
    served.ask("PATCH", &location, &[("content-range", "0-9")], "bytes").await.refused(400, "SIZE_INVALID");
    served.ask("PATCH", &location, &[("content-range", "0-4")], "bytes").await.is(202);
    // Another repository's name does not reach it.
    let other = location.replace("/v2/a/", "/v2/b/");
    served.get(&other).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn chunks_of_a_sha512() {
    let served = served().await;
    for algorithm in ["sha512", "sha256"] {
        let path = format!("/v2/a/blobs/uploads/?digest-algorithm={algorithm}");
        let location = served.ask("POST", &path, &[], "").await.is(202).header("location").to_owned();
        served.ask("PATCH", &location, &[], "bytes").await.is(202);
        // Also when it was announced otherwise.
        served.ask("PUT", &format!("{location}?digest={}", sha512(b"bytes")), &[], "").await.is(201);
    }
    assert_eq!(served.get(&format!("/v2/a/blobs/{}", sha512(b"bytes"))).await.is(200).body, b"bytes");
}

#[tokio::test]
async fn an_upload_is_cancelled() {
    let served = served().await;
    let location = served.start("a").await;
    served.ask("PATCH", &location, &[], "bytes").await.is(202);
    served.delete(&location).await.is(204);
    served.get(&location).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    served.delete(&location).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn a_blob_is_mounted_from_another_repository() {
    let served = served().await;
    served.blob("from", b"bytes").await;
    let digest = sha256(b"bytes");
    let path = format!("/v2/to/blobs/uploads/?mount={digest}&from=from");
    let answer = served.ask("POST", &path, &[], "").await.is(201);
    assert_eq!(served.get(answer.header("location")).await.is(200).body, b"bytes");
    // What can't be mounted is uploaded.
    for from in ["nowhere", "to/none"] {
        let path = format!("/v2/x/blobs/uploads/?mount={digest}&from={from}");
        let answer = served.ask("POST", &path, &[], "").await.is(202);
        let path = format!("{}?digest={digest}", answer.header("location"));
        served.ask("PUT", &path, &[], "bytes").await.is(201);
    }
}

/// Where anybody may read everything, a mount need not name the repository.
#[tokio::test]
async fn a_blob_is_mounted_from_wherever_it_is() {
    let served = served().await;
    served.blob("from", b"bytes").await;
    let digest = sha256(b"bytes");
    let answer = served.ask("POST", &format!("/v2/to/blobs/uploads/?mount={digest}"), &[], "").await.is(201);
    assert_eq!(served.get(answer.header("location")).await.is(200).body, b"bytes");
    served.ask("POST", &format!("/v2/to/blobs/uploads/?mount={}", sha256(b"none")), &[], "").await.is(202);
}

/// A body that breaks off is no blob, and nothing that can be pulled.
#[tokio::test]
async fn a_body_that_is_shorter_than_it_says() {
    use std::io::{Read, Write};
    let served = served().await;
    let location = served.start("a").await;
    for (path, digest) in [
        (format!("/v2/a/blobs/uploads/?digest={}", sha256(b"bytes")), sha256(b"bytes")),
        (format!("{location}?digest={}", sha256(b"bytes!")), sha256(b"bytes!")),
    ] {
        let method = if path.contains("/?") { "POST" } else { "PUT" };
        let mut stream = std::net::TcpStream::connect(served.base.strip_prefix("http://").unwrap()).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nbytes").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        tokio::task::spawn_blocking(move || stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        served.get(&format!("/v2/a/blobs/{digest}")).await.is(404);
    }
    // What came stays, so that the client can go on there.
    assert_eq!(served.get(&location).await.is(204).header("range"), "0-4");
    let path = format!("{location}?digest={}", sha256(b"bytes!"));
    served.ask("PUT", &path, &[("content-range", "5-5")], "!").await.is(201);
}

#[tokio::test]
async fn names_and_tags_keep_to_their_grammar() {
    let served = served().await;
    let document = served.manifest("a", b"layer").await;
    let long = "a".repeat(128);
    for tag in ["_a.B-c", "0", &long] {
        served.put("a", tag, MANIFEST, &document).await.is(201);
        served.get(&format!("/v2/a/manifests/{tag}")).await.is(200);
    }
    for tag in [".a", "-a", "a%20b", "a+b", &format!("{long}a")] {
        served.put("a", tag, MANIFEST, &document).await.is(400);
        served.get(&format!("/v2/a/manifests/{tag}")).await.is(400);
    }
    for name in ["A", "a_-b", "a/-b", "a..b", "a/B"] {
        served.ask("POST", &format!("/v2/{name}/blobs/uploads/"), &[], "").await.refused(400, "NAME_INVALID");
    }
    for name in ["a.b-c__d/e--f/0", "a", "a/".repeat(100).trim_end_matches('/')] {
        served.ask("POST", &format!("/v2/{name}/blobs/uploads/"), &[], "").await.is(202);
    }
}

#[tokio::test]
async fn a_manifest_is_pushed_by_tag_and_by_digest() {
    let served = served().await;
    let document = served.manifest("a", b"layer").await;
    let digest = sha256(document.to_string().as_bytes());
    for target in ["v1", &digest] {
        let answer = served.put("a", target, MANIFEST, &document).await.is(201);
        assert_eq!(answer.header("docker-content-digest"), digest);
        assert_eq!(served.get(answer.header("location")).await.is(200).json(), document);
        assert!(!answer.has("oci-subject"));
    }
    // A tag moves.
    let other = served.manifest("a", b"another").await;
    served.put("a", "v1", "application/vnd.oci.image.manifest.v1+json; charset=utf-8", &other).await.is(201);
    let moved = served.get("/v2/a/manifests/v1").await.is(200);
    assert_eq!(moved.json(), other);
    assert_eq!(moved.header("content-type"), MANIFEST);
    served.put("a", &sha256(b"x"), MANIFEST, &document).await.refused(400, "DIGEST_INVALID");
}

#[tokio::test]
async fn tags_beside_a_digest_are_each_confirmed() {
    let served = served().await;
    let document = served.manifest("a", b"layer").await;
    let wanted: Vec<String> = (0..12).map(|i| format!("t{i}")).collect();
    let query = wanted.iter().map(|tag| format!("tag={tag}")).collect::<Vec<_>>().join("&");
    let target = format!("{}?{query}", sha256(document.to_string().as_bytes()));
    let answer = served.put("a", &target, MANIFEST, &document).await.is(201);
    let tags = answer.headers.get_all("oci-tag").iter().flat_map(|v| v.to_str().unwrap().split(',')).map(str::trim);
    assert_eq!(tags.collect::<Vec<_>>(), wanted);
    served.get("/v2/a/manifests/t11").await.is(200);
}

#[tokio::test]
async fn a_manifest_that_names_what_is_not_here() {
    let served = served().await;
    let mut document = served.manifest("a", b"layer").await;
    document["layers"][0]["digest"] = sha256(b"none").into();
    served.put("a", "v1", MANIFEST, &document).await.refused(400, "MANIFEST_BLOB_UNKNOWN");
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(&document, MANIFEST)] });
    served.put("a", "v1", INDEX, &index).await.refused(400, "MANIFEST_BLOB_UNKNOWN");
    // Another repository has the blobs: this one does not.
    let whole = served.manifest("a", b"layer").await;
    served.put("b", "v1", MANIFEST, &whole).await.refused(400, "MANIFEST_BLOB_UNKNOWN");
    let mut longer = whole.clone();
    longer["layers"][0]["size"] = 6.into();
    served.put("a", "v1", MANIFEST, &longer).await.refused(400, "MANIFEST_INVALID");
    served.put("a", "v1", INDEX, &whole).await.refused(400, "MANIFEST_INVALID");
    served.ask("PUT", "/v2/a/manifests/v1", &[("content-type", MANIFEST)], "{").await.refused(400, "MANIFEST_INVALID");
    served
        .ask("PUT", "/v2/a/manifests/v1", &[("content-type", "text/html")], "{}")
        .await
        .refused(400, "MANIFEST_INVALID");
    served.get("/v2/a/manifests/v1").await.is(404);
    // Layers that may not be distributed need not be here.
    let mut foreign = whole;
    foreign["layers"][0] = json!({
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": sha256(b"none"), "size": 1
    });
    served.put("a", "v1", MANIFEST, &foreign).await.is(201);
}

#[tokio::test]
async fn a_manifest_with_a_subject_that_is_not_here_yet() {
    let served = served().await;
    let subject = served.manifest("a", b"layer").await;
    let mut document = served.manifest("a", b"about it").await;
    document["subject"] = descriptor(&subject, MANIFEST);
    let answer = served.put("a", &sha256(document.to_string().as_bytes()), MANIFEST, &document).await.is(201);
    assert_eq!(answer.header("oci-subject"), subject_digest(&subject));
    served.put("a", "v1", MANIFEST, &subject).await.is(201);
    let list = served.get(&format!("/v2/a/referrers/{}", subject_digest(&subject))).await.is(200).json();
    assert_eq!(list["manifests"].as_array().unwrap().len(), 1);
}

fn subject_digest(document: &serde_json::Value) -> String {
    sha256(document.to_string().as_bytes())
}

#[tokio::test]
async fn an_index_with_manifests_and_one_with_blobs() {
    let served = served().await;
    let (document, _) = served.image("a", "v1", b"layer").await;
    let mut entry = descriptor(&document, MANIFEST);
    entry["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
    served.put("a", "all", INDEX, &index).await.is(201);
    // A cache of BuildKit is an index whose entries are blobs.
    let blob = served.blob("a", b"cache layer").await;
    let cache = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [blob] });
    served.put("a", "cache", INDEX, &cache).await.is(201);
    assert_eq!(served.get("/v2/a/manifests/cache").await.is(200).json(), cache);
}

#[tokio::test]
async fn large_manifests() {
    let served = served().await;
    let mut document = served.manifest("a", b"layer").await;
    document["annotations"] = json!({ "large": "x".repeat(5 << 20) });
    served.put("a", "v1", MANIFEST, &document).await.is(201);
    document["annotations"] = json!({ "large": "x".repeat(17 << 20) });
    served.put("a", "v2", MANIFEST, &document).await.is(413);
}
