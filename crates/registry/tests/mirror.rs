//! A mirror: what another registry has is given, kept, and given when the other is gone.

use std::sync::Arc;

use registry::Client;
use registry::server::Mirrors;

use crate::served::{MANIFEST, Nobody, Served, served, served_with, sha256};

async fn mirror_of(host: &str) -> Arc<Served> {
    let hosts = vec![("hub".to_owned(), host.to_owned())];
    let mirrors = Mirrors { hosts, client: Client::new(), login: Box::new(Nobody) };
    Arc::new(served_with(|options| options.mirrors = Some(mirrors)).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_another_registry_has_is_fetched_kept_and_given() {
    let origin = served().await;
    let (document, digest) = origin.image("team/app", "v1", &vec![5; 3_000_000]).await;
    let mirror = mirror_of(origin.base.trim_start_matches("http://")).await;
    let layer = document["layers"][0]["digest"].as_str().unwrap().to_owned();
    // Several at once are given the same.
    let asked = (0..8).map(|_| {
        let (mirror, layer, document) = (mirror.clone(), layer.clone(), document.clone());
        tokio::spawn(async move {
            assert_eq!(mirror.get("/v2/hub/team/app/manifests/v1").await.is(200).json(), document);
            let path = format!("/v2/hub/team/app/blobs/{layer}");
            assert_eq!(sha256(&mirror.get(&path).await.is(200).body), layer);
        })
    });
    for asked in asked.collect::<Vec<_>>() {
        asked.await.unwrap();
    }
    mirror.head(&format!("/v2/hub/team/app/manifests/{digest}")).await.is(200);
    // From here on the other registry is not needed for it.
    origin.delete(&format!("/v2/team/app/manifests/{digest}")).await.is(202);
    origin.delete(&format!("/v2/team/app/blobs/{layer}")).await.is(202);
    mirror.get("/v2/hub/team/app/manifests/v1").await.is(200);
    mirror.get(&format!("/v2/hub/team/app/blobs/{layer}")).await.is(200);
    // Its configuration was never asked for, and is fetched now.
    let config = document["config"]["digest"].as_str().unwrap();
    mirror.head(&format!("/v2/hub/team/app/blobs/{config}")).await.is(200);
    // A mirror is not pushed to; other repositories are as ever.
    mirror.ask("POST", "/v2/hub/team/app/blobs/uploads/", &[], "").await.refused(405, "UNSUPPORTED");
    mirror.put("hub/team/app", "v2", MANIFEST, &document).await.refused(405, "UNSUPPORTED");
    mirror.image("team/app", "v1", b"own").await;
}

#[tokio::test]
async fn an_absence_is_remembered_and_a_registry_that_is_gone_is_no_absence() {
    let origin = served().await;
    let mirror = mirror_of(origin.base.trim_start_matches("http://")).await;
    mirror.get("/v2/hub/app/manifests/v1").await.refused(404, "MANIFEST_UNKNOWN");
    origin.image("app", "v1", b"layer").await;
    mirror.get("/v2/hub/app/manifests/v1").await.refused(404, "MANIFEST_UNKNOWN");
    origin.image("app", "v2", b"layer").await;
    mirror.get("/v2/hub/app/manifests/v2").await.is(200);
    let gone = mirror_of("127.0.0.1:1").await;
    gone.get("/v2/hub/app/manifests/v1").await.is(502);
    gone.get(&format!("/v2/hub/app/blobs/{}", sha256(b"layer"))).await.is(502);
}
