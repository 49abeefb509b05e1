//! Tags go by rules, then the manifests that nothing leads to any more.

use std::time::Duration;

use registry::server::Retention;
use serde_json::json;

use crate::served::{INDEX, MANIFEST, descriptor, served_with, sha256};

#[tokio::test]
async fn tags_go_by_rules_and_take_their_manifests_along() {
    let served = served_with(|options| {
        options.grace = Duration::from_millis(100);
        let rule = |tags: &str, newest, pulled| Retention {
            repositories: "team/*".into(),
            tags: tags.into(),
            newest,
            pulled,
            ..Retention::default()
        };
        options.retention = vec![rule("pr-*", Some(1), Some(Duration::from_secs(60)))];
    })
    .await;
    let mut digests = Vec::new();
    for (number, name) in ["team/a", "team/a", "team/a", "other/a"].iter().enumerate() {
        let tag = format!("pr-{number}");
        digests.push(served.image(name, &tag, tag.as_bytes()).await.1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What an index that stays names, and what is attached to something that stays, stays too.
    let (part, part_digest) = served.image("team/a", "pr-part", b"part").await;
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(&part, MANIFEST)] });
    served.put("team/a", "release", INDEX, &index).await.is(201);
    let mut about = served.manifest("team/a", b"about").await;
    about["subject"] = descriptor(&index, INDEX);
    let about_digest = sha256(about.to_string().as_bytes());
    served.put("team/a", &about_digest, MANIFEST, &about).await.is(201);
    served.get("/v2/team/a/manifests/pr-1").await.is(200);
    served.image("team/a", "pr-9", b"newest").await;
    tokio::time::sleep(Duration::from_millis(200)).await;

    let dry = served.registry.expire(true).await.unwrap();
    let said: Vec<_> = dry.tags.iter().map(|(_, tag, reason)| (tag.as_str(), reason.keeps())).collect();
    let expected =
        [("pr-0", false), ("pr-1", true), ("pr-2", false), ("pr-9", true), ("pr-part", false), ("release", true)];
    assert_eq!(said, expected);
    served.get("/v2/team/a/manifests/pr-0").await.is(200); // a dry run removes nothing; and this is a pull
    // A pull is noted in the background.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let done = served.registry.expire(false).await.unwrap();
    let gone: Vec<_> = done.manifests.iter().map(|(name, digest)| (name.as_str(), digest.to_string())).collect();
    assert_eq!(gone, [("team/a", digests[2].clone())]);
    let tags = served.get("/v2/team/a/tags/list").await.is(200).json()["tags"].clone();
    assert_eq!(tags, json!(["pr-0", "pr-1", "pr-9", "release"]));
    for digest in [&part_digest, &about_digest, &digests[0]] {
        served.get(&format!("/v2/team/a/manifests/{digest}")).await.is(200);
    }
    served.get(&format!("/v2/team/a/manifests/{}", digests[2])).await.is(404);
    served.get("/v2/other/a/manifests/pr-3").await.is(200);
}
