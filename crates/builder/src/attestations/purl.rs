//! Names of images as package URLs (purl-spec, type `docker` or `oci`), with the escapes that BuildKit's own have.

use oci::{Platform, Reference};

/// The package URL of an image; `local` is one of an OCI layout.
pub fn of(reference: &Reference, platform: Option<&Platform>, local: bool) -> String {
    let mut qualifiers = Vec::new();
    if let Some(digest) = reference.digest {
        qualifiers.push(format!("digest={digest}"));
    }
    let tag = reference.clone().or_latest().tag;
    let bare = Reference { tag: None, digest: None, ..reference.clone() };
    let familiar = bare.familiar();
    let name = familiar.split('/').map(component).collect::<Vec<_>>().join("/");
    let version = tag.map(|tag| format!("@{tag}")).unwrap_or_default();
    if let Some(platform) = platform {
        qualifiers.push(format!("platform={}", platform.to_string().replace('/', "%2F")));
    }
    let kind = if local { "oci" } else { "docker" };
    let query = if qualifiers.is_empty() { String::new() } else { format!("?{}", qualifiers.join("&")) };
    format!("pkg:{kind}/{name}{version}{query}")
}

/// A reference has no other character that must be escaped in a query.
fn component(part: &str) -> String {
    part.replace(':', "%3A").replace('[', "%5B").replace(']', "%5D")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_buildkit_writes_them() {
        let platform = Platform::new("linux", "amd64", "");
        let of = |text: &str| of(&Reference::parse(text).unwrap(), Some(&platform), false);
        assert_eq!(of("busybox"), "pkg:docker/busybox@latest?platform=linux%2Famd64");
        assert_eq!(of("localhost:5000/a/b:1"), "pkg:docker/localhost%3A5000/a/b@1?platform=linux%2Famd64");
        let digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        assert_eq!(of(&format!("x@{digest}")), format!("pkg:docker/x?digest={digest}&platform=linux%2Famd64"));
    }
}
