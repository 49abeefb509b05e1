//! "Content Discovery": tags, referrers, repositories.

use serde_json::{Value, json};

use crate::served::{INDEX, MANIFEST, Served, descriptor, served, sha256};

/// The address of the next page in a header `Link` (RFC 8288), if there is one.
fn next(answer: &crate::served::Answer) -> Option<String> {
    let link = answer.headers.get("link")?.to_str().unwrap();
    let (address, relation) = link.split_once(';').unwrap();
    assert_eq!(relation.trim(), "rel=\"next\"");
    Some(address.trim().trim_start_matches('<').trim_end_matches('>').to_owned())
}

#[tokio::test]
async fn tags_in_order_and_page_by_page() {
    let served = served().await;
    let document = served.manifest("a/b", b"layer").await;
    for tag in ["v10", "v2", "Latest", "_x", "0", "v1.0-rc", "a"] {
        served.put("a/b", tag, MANIFEST, &document).await.is(201);
    }
    let tags = ["0", "_x", "a", "Latest", "v1.0-rc", "v10", "v2"];
    let all = served.get("/v2/a/b/tags/list").await.is(200);
    assert_eq!(all.json(), json!({ "name": "a/b", "tags": tags }));
    assert!(next(&all).is_none());
    for n in 1..=8 {
        let (mut path, mut found) = (format!("/v2/a/b/tags/list?n={n}"), Vec::new());
        loop {
            let page = served.get(&path).await.is(200);
            let names: Vec<String> = serde_json::from_value(page.json()["tags"].clone()).unwrap();
            let more = next(&page);
            assert!(names.len() == n || more.is_none(), "{names:?}");
            found.extend(names);
            match more {
                Some(more) => path = more,
                None => break,
            }
        }
        assert_eq!(found, tags, "pages of {n}");
    }
    let none = served.get("/v2/a/b/tags/list?n=0").await.is(200);
    assert_eq!((none.json()["tags"].clone(), next(&none)), (json!([]), None));
    let after = served.get("/v2/a/b/tags/list?n=2&last=a").await.is(200);
    assert_eq!(after.json()["tags"], json!(["Latest", "v1.0-rc"]));
    let after = served.get("/v2/a/b/tags/list?last=v10").await.is(200);
    assert_eq!(after.json()["tags"], json!(["v2"]));
    served.get("/v2/a/b/tags/list?n=x").await.is(400);
}

#[tokio::test]
async fn a_repository_without_tags_and_none() {
    let served = served().await;
    served.blob("a", b"bytes").await;
    assert_eq!(served.get("/v2/a/tags/list").await.is(200).json(), json!({ "name": "a", "tags": [] }));
    served.get("/v2/b/tags/list").await.refused(404, "NAME_UNKNOWN");
}

#[tokio::test]
async fn repositories_page_by_page() {
    let served = served().await;
    for name in ["c", "a/b", "a", "a/b/d"] {
        served.blob(name, b"bytes").await;
    }
    let all = served.get("/v2/_catalog").await.is(200);
    assert_eq!(all.json(), json!({ "repositories": ["a", "a/b", "a/b/d", "c"] }));
    let first = served.get("/v2/_catalog?n=3").await.is(200);
    assert_eq!(first.json(), json!({ "repositories": ["a", "a/b", "a/b/d"] }));
    let last = served.get(&next(&first).unwrap()).await.is(200);
    assert_eq!((last.json(), next(&last)), (json!({ "repositories": ["c"] }), None));
}

/// Pushes a document with a subject; returns its digest.
async fn attach(served: &Served, subject: &Value, kind: &str, mut document: Value) -> String {
    document["subject"] = descriptor(subject, MANIFEST);
    let digest = sha256(document.to_string().as_bytes());
    let answer = served.put("a", &digest, kind, &document).await.is(201);
    assert_eq!(answer.header("oci-subject"), document["subject"]["digest"].as_str().unwrap());
    digest
}

#[tokio::test]
async fn referrers_with_types_and_annotations() {
    let served = served().await;
    let (subject, digest) = served.image("a", "v1", b"layer").await;
    let mut typed = served.manifest("a", b"sbom").await;
    typed["artifactType"] = "application/sbom+json".into();
    typed["annotations"] = json!({ "by": "test" });
    let typed = attach(&served, &subject, MANIFEST, typed).await;
    let plain = served.manifest("a", b"signature").await;
    let plain = attach(&served, &subject, MANIFEST, plain).await;
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": { "i": "x" } });
    let index = attach(&served, &subject, INDEX, index).await;

    let answer = served.get(&format!("/v2/a/referrers/{digest}")).await.is(200);
    assert_eq!(answer.header("content-type"), INDEX);
    assert!(!answer.has("oci-filters-applied"));
    let list = answer.json();
    assert_eq!((list["schemaVersion"].clone(), list["mediaType"].clone()), (json!(2), json!(INDEX)));
    let entry = |digest: &str| {
        let entries = list["manifests"].as_array().unwrap();
        entries.iter().find(|entry| entry["digest"] == digest).unwrap().clone()
    };
    assert_eq!(list["manifests"].as_array().unwrap().len(), 3);
    assert_eq!(entry(&typed)["artifactType"], "application/sbom+json");
    assert_eq!(entry(&typed)["annotations"], json!({ "by": "test" }));
    assert_eq!(entry(&typed)["mediaType"], MANIFEST);
    // Without a type of its own a manifest has that of its configuration, an index has none.
    assert_eq!(entry(&plain)["artifactType"], "application/vnd.oci.image.config.v1+json");
    assert!(entry(&index).get("artifactType").is_none());
    assert_eq!(entry(&index)["annotations"], json!({ "i": "x" }));

    for kind in ["application/sbom+json", "application%2Fsbom%2Bjson"] {
        let filtered = served.get(&format!("/v2/a/referrers/{digest}?artifactType={kind}")).await.is(200);
        assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
        let found = filtered.json();
        assert_eq!(found["manifests"].as_array().unwrap().len(), 1);
        assert_eq!(found["manifests"][0]["digest"], typed);
    }
    // What is deleted is no referrer any more.
    served.delete(&format!("/v2/a/manifests/{typed}")).await.is(202);
    let list = served.get(&format!("/v2/a/referrers/{digest}")).await.is(200).json();
    assert_eq!(list["manifests"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn referrers_of_nothing() {
    let served = served().await;
    let none = sha256(b"none");
    for name in ["nowhere", "a"] {
        let list = served.get(&format!("/v2/{name}/referrers/{none}")).await.is(200).json();
        assert_eq!(list["manifests"], json!([]));
        served.blob("a", b"bytes").await;
    }
    served.get("/v2/a/referrers/sha256:12").await.is(400);
    served.get("/v2/a/referrers/latest").await.is(400);
}

#[tokio::test]
async fn referrers_that_do_not_fit_into_one_manifest() {
    let served = served().await;
    let (subject, digest) = served.image("a", "v1", b"layer").await;
    let mut pushed = Vec::new();
    for i in 0..5 {
        let mut document = served.manifest("a", b"large").await;
        document["annotations"] = json!({ "large": "x".repeat(1 << 20), "number": i.to_string() });
        pushed.push(attach(&served, &subject, MANIFEST, document).await);
    }
    pushed.sort_unstable();
    let (mut path, mut found, mut pages) = (format!("/v2/a/referrers/{digest}"), Vec::new(), 0);
    loop {
        let page = served.get(&path).await.is(200);
        assert!(page.body.len() < 5 << 20);
        let entries = page.json()["manifests"].as_array().unwrap().clone();
        found.extend(entries.iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()));
        pages += 1;
        match next(&page) {
            Some(more) => path = more,
            None => break,
        }
    }
    assert_eq!(found, pushed);
    assert!(pages > 1);
    let first = served.get(&format!("/v2/a/referrers/{digest}?n=2&artifactType=none")).await.is(200);
    assert_eq!((first.json()["manifests"].clone(), next(&first)), (json!([]), None));
}
