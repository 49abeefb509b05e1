//! What a disk changed or lost is found and named.

use crate::served::{served, sha256};

#[tokio::test]
async fn damaged_and_missing_bytes_are_named() {
    let served = served().await;
    served.image("a", "v1", b"layer one").await;
    served.image("b", "v1", b"layer two").await;
    let clean = served.registry.scrub().await.unwrap();
    assert!(clean.is_clean() && clean.blobs == 5, "{clean:?}");
    let file = |bytes: &[u8]| {
        let digest = sha256(bytes);
        let hex = digest.strip_prefix("sha256:").unwrap();
        served.root.join("blobs/sha256").join(&hex[..2]).join(hex)
    };
    std::fs::write(file(b"layer one"), b"layer 0ne").unwrap();
    std::fs::remove_file(file(b"layer two")).unwrap();
    let found = served.registry.scrub().await.unwrap();
    let damaged: Vec<_> = found.damaged.iter().map(|(name, is)| (name.to_string(), is.to_string())).collect();
    assert_eq!(damaged, [(sha256(b"layer one"), sha256(b"layer 0ne"))]);
    let missing: Vec<_> = found.missing.iter().map(|(name, digest)| (name.as_str(), digest.to_string())).collect();
    assert_eq!(missing, [("b", sha256(b"layer two"))]);
    // Pushing it again heals it.
    served.blob("a", b"layer one").await;
    served.blob("b", b"layer two").await;
    assert!(served.registry.scrub().await.unwrap().is_clean());
}
