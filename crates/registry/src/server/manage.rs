//! Deleting tags, manifests and blobs (distribution-spec, "Content Management"). What is deleted can't be pulled from the
//! moment of the answer on; its bytes go when the collector finds that nobody has them.

use hyper::StatusCode;

use super::Registry;
use super::answer::{Answer, empty};
use super::digest::ContentDigest;
use super::name::{Repository, Target};
use super::refusal::Refusal;

/// `DELETE` of a tag or a manifest.
pub async fn delete_manifest(registry: &Registry, name: &Repository, target: &Target) -> Result<Answer, Refusal> {
    let removed = match target {
        Target::Tag(tag) => registry.contents.untag(name, tag).await?,
        Target::Digest(digest) => registry.contents.remove_manifest(name, digest).await?,
    };
    if removed {
        return Ok(empty(StatusCode::ACCEPTED));
    }
    if !registry.contents.exists(name).await? {
        return Err(Refusal::name_unknown(format!("there is no repository {name}")));
    }
    Err(Refusal::manifest_unknown(format!("{name} has no manifest {target}")))
}

/// `DELETE` of a blob.
pub async fn delete_blob(registry: &Registry, name: &Repository, digest: &ContentDigest) -> Result<Answer, Refusal> {
    if registry.contents.forget_blob(name, digest).await? {
        return Ok(empty(StatusCode::ACCEPTED));
    }
    Err(Refusal::blob_unknown(format!("{name} has no blob {digest}")))
}
