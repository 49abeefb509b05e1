//! The keys of sources: text that says what they are now (a manifest, a chain of layers, a commit), digested.

use oci::{Digest, Platform};

use super::json::Object;

/// The cache digest of a source whose key text is `key`.
pub fn source_digest(key: &str) -> Digest {
    Digest::of(format!("buildkit.source.v0:{key}").as_bytes())
}

/// An image by its manifest.
pub fn image_key(manifest: &Digest, platform: &Platform, layer_limit: Option<u32>) -> Digest {
    let mut object = Object::new()
        .always("Digest", &manifest.to_string())
        .always("OS", &platform.os)
        .always("Arch", &platform.architecture)
        .text("Variant", &platform.variant)
        .text("OSVersion", &platform.os_version)
        .texts("OSFeatures", &platform.os_features);
    if let Some(limit) = layer_limit {
        object = object.raw("Limit", &limit.to_string());
    }
    source_digest(&Digest::of(object.end().as_bytes()).to_string())
}

/// An image by its layers: different images with the same layers are one. `None` for an image without layers.
pub fn chain_key(chain: Option<&Digest>) -> Option<Digest> {
    chain.map(|chain| source_digest(&chain.to_string()))
}

/// An image of an OCI layout: keyed as any image.
pub fn layout_key(manifest: &Digest, platform: &Platform, layer_limit: Option<u32>) -> Digest {
    image_key(manifest, platform, layer_limit)
}

/// What decides a git tree.
#[derive(Clone, Copy, Debug, Default)]
pub struct GitTree<'a> {
    /// The commit; with `.git` kept and an annotated tag, the tag's own object.
    pub commit: &'a str,
    /// The reference, where `.git` is kept.
    pub keep_git_of: Option<&'a str>,
    /// The folder of the repository.
    pub folder: &'a str,
    /// Submodules are left out.
    pub skip_submodules: bool,
    /// `git.mtime`.
    pub mtime: &'a str,
}

/// A git tree.
pub fn git_key(tree: &GitTree<'_>) -> Digest {
    let mut key = tree.commit.to_owned();
    if let Some(reference) = tree.keep_git_of {
        key.push_str(".git");
        if !reference.is_empty() {
            key.push('#');
            key.push_str(reference);
        }
    }
    if !tree.folder.is_empty() {
        key.push(':');
        key.push_str(tree.folder);
    }
    if tree.skip_submodules {
        key.push_str("(skip-submodules)");
    }
    if !matches!(tree.mtime, "" | "checkout") {
        key.push_str(&format!("(mtime={})", tree.mtime));
    }
    source_digest(&key)
}

/// How a file from the web is asked for, as far as it is part of its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asking {
    /// The client's secret that is the header `Authorization`.
    pub secret: String,
    /// Headers by their names in HTTP's own spelling, sorted.
    pub headers: Vec<(String, String)>,
}

/// A file from the web: name, mode and owner that it gets, digest of its content, when it was last modified, how it is
/// asked for.
pub fn http_key(
    name: &str,
    perm: u32,
    (uid, gid): (u32, u32),
    checksum: &Digest,
    last_modified: &str,
    asking: &Asking,
) -> Digest {
    let header = |(name, value): &(String, String)| Object::new().always("Name", name).always("Value", value).end();
    let text = Object::new()
        .always("Filename", name)
        .raw("Perm", &perm.to_string())
        .raw("UID", &uid.to_string())
        .raw("GID", &gid.to_string())
        .always("Checksum", &checksum.to_string())
        .text("LastModTime", last_modified)
        .text("AuthHeaderSecret", &asking.secret)
        .list("Header", &asking.headers, header)
        .end();
    source_digest(&Digest::of(text.as_bytes()).to_string())
}
