//! "Content Management": tags, manifests and blobs are deleted.

use crate::served::{MANIFEST, served, sha256};

#[tokio::test]
async fn a_tag_is_deleted_and_its_manifest_stays() {
    let served = served().await;
    let (document, digest) = served.image("a", "v1", b"layer").await;
    served.put("a", "v2", MANIFEST, &document).await.is(201);
    served.delete("/v2/a/manifests/v1").await.is(202);
    served.get("/v2/a/manifests/v1").await.refused(404, "MANIFEST_UNKNOWN");
    served.get("/v2/a/manifests/v2").await.is(200);
    served.get(&format!("/v2/a/manifests/{digest}")).await.is(200);
    served.delete("/v2/a/manifests/v1").await.refused(404, "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn a_manifest_is_deleted_with_every_tag_that_points_to_it() {
    let served = served().await;
    let (document, digest) = served.image("a", "v1", b"layer").await;
    served.put("a", "v2", MANIFEST, &document).await.is(201);
    served.image("a", "other", b"another layer").await;
    served.delete(&format!("/v2/a/manifests/{digest}")).await.is(202);
    for target in ["v1", "v2", &digest] {
        served.get(&format!("/v2/a/manifests/{target}")).await.refused(404, "MANIFEST_UNKNOWN");
    }
    let tags = served.get("/v2/a/tags/list").await.is(200).json();
    assert_eq!(tags["tags"], serde_json::json!(["other"]));
    served.get("/v2/a/manifests/other").await.is(200);
    served.delete(&format!("/v2/a/manifests/{digest}")).await.refused(404, "MANIFEST_UNKNOWN");
    served.delete(&format!("/v2/nowhere/manifests/{digest}")).await.refused(404, "NAME_UNKNOWN");
    // It can be pushed again.
    served.put("a", "v1", MANIFEST, &document).await.is(201);
}

#[tokio::test]
async fn a_blob_is_deleted_from_its_repository() {
    let served = served().await;
    served.blob("a", b"bytes").await;
    served.blob("b", b"bytes").await;
    let digest = sha256(b"bytes");
    served.delete(&format!("/v2/a/blobs/{digest}")).await.is(202);
    served.get(&format!("/v2/a/blobs/{digest}")).await.refused(404, "BLOB_UNKNOWN");
    served.delete(&format!("/v2/a/blobs/{digest}")).await.refused(404, "BLOB_UNKNOWN");
    served.delete(&format!("/v2/nowhere/blobs/{digest}")).await.is(404);
    assert_eq!(served.get(&format!("/v2/b/blobs/{digest}")).await.is(200).body, b"bytes");
    served.blob("a", b"bytes").await;
    served.get(&format!("/v2/a/blobs/{digest}")).await.is(200);
}
