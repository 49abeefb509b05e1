//! What a disk changed or lost is found and named.

use std::time::Duration;

use registry::server::Registry;

use crate::served::{served, served_with, sha256};

#[tokio::test]
async fn damaged_and_missing_bytes_are_named() {
    let served = served().await;
    served.image("a", "v1", b"layer one").await;
    served.image("b", "v1", b"layer two").await;
    let clean = Registry::scrub(&served.root).await.unwrap();
    assert!(clean.is_clean() && clean.blobs == 5, "{clean:?}");
    let file = |bytes: &[u8]| {
        let digest = sha256(bytes);
        let hex = digest.strip_prefix("sha256:").unwrap();
        served.root.join("blobs/sha256").join(&hex[..2]).join(hex)
    };
    std::fs::write(file(b"layer one"), b"layer 0ne").unwrap();
    std::fs::remove_file(file(b"layer two")).unwrap();
    let found = Registry::scrub(&served.root).await.unwrap();
    let damaged: Vec<_> = found.damaged.iter().map(|(name, is)| (name.to_string(), is.to_string())).collect();
    assert_eq!(damaged, [(sha256(b"layer one"), sha256(b"layer 0ne"))]);
    let missing: Vec<_> = found.missing.iter().map(|(name, digest)| (name.as_str(), digest.to_string())).collect();
    assert_eq!(missing, [("b", sha256(b"layer two"))]);
    // Pushing it again heals it.
    served.blob("a", b"layer one").await;
    served.blob("b", b"layer two").await;
    assert!(Registry::scrub(&served.root).await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_and_goes_meanwhile_is_no_damage() {
    let served = std::sync::Arc::new(served_with(|options| options.grace = Duration::ZERO).await);
    let busy = tokio::spawn({
        let served = served.clone();
        async move {
            for round in 0..40 {
                served.image("a", &format!("v{}", round % 3), format!("layer {round}").as_bytes()).await;
                if round % 4 == 3 {
                    served.delete(&format!("/v2/a/manifests/v{}", round % 3)).await;
                    served.registry.collect(false).await.unwrap();
                }
            }
        }
    });
    let mut scrubs = 0;
    while !busy.is_finished() || scrubs == 0 {
        let found = Registry::scrub(&served.root).await.unwrap();
        assert!(found.is_clean(), "{found:?}");
        scrubs += 1;
    }
    busy.await.unwrap();
}
