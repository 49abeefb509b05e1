//! Names in a registry that came from outside and were checked: a repository, a tag, what a manifest is asked by.
//! Whatever has one of these types can be a part of a path without leaving its folder.

use super::digest::ContentDigest;
use super::refusal::Refusal;

/// The longest repository name: with the host before it, clients allow 255 (distribution-spec, "Pulling manifests").
const LONGEST: usize = 255;

/// A repository's name, such as `team/app`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(String);

impl Repository {
    /// Reads a name; the refusal is `NAME_INVALID`.
    pub fn parse(text: &str) -> Result<Repository, Refusal> {
        if text.len() <= LONGEST && text.split('/').all(oci::is_repository_component) {
            return Ok(Repository(text.to_owned()));
        }
        Err(Refusal::name_invalid(format!(
            "`{text}` is no repository name: lower-case letters and digits, parted by `.`, `_`, `__`, `-` or `/`, up to {LONGEST}"
        )))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);

impl Tag {
    /// Reads a tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
    pub fn parse(text: &str) -> Option<Tag> {
        oci::is_tag(text).then(|| Tag(text.to_owned()))
    }

    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a manifest is asked by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The manifest that a tag points to.
    Tag(Tag),
    /// The manifest itself.
    Digest(ContentDigest),
}

impl Target {
    /// Reads a tag or a digest.
    pub fn parse(text: &str) -> Result<Target, Refusal> {
        if text.contains(':') {
            return parse_digest(text).map(Target::Digest);
        }
        let wrong = || Refusal::manifest_invalid(format!("`{text}` is neither a tag nor a digest"));
        Tag::parse(text).map(Target::Tag).ok_or_else(wrong)
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Tag(tag) => tag.fmt(f),
            Target::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Reads a digest; the refusal is `DIGEST_INVALID`.
pub fn parse_digest(text: &str) -> Result<ContentDigest, Refusal> {
    ContentDigest::parse(text)
        .ok_or_else(|| Refusal::digest_invalid(format!("`{text}` is no digest: sha256 and sha512 are supported")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_the_grammar() {
        for good in ["a", "a/b", "library/debian", "a_b/c__d/e--f.g", "0"] {
            assert!(Repository::parse(good).is_ok(), "{good}");
        }
        let long = "a".repeat(256);
        for bad in ["", "A", "a//b", "/a", "a/", "../a", "a/_tags", "-a", "a-", "a b", "a:b", &long] {
            assert!(Repository::parse(bad).is_err(), "{bad}");
        }
        assert!(matches!(Target::parse("v1.0"), Ok(Target::Tag(_))));
        assert!(matches!(Target::parse(&format!("sha256:{}", "0".repeat(64))), Ok(Target::Digest(_))));
        for bad in [".x", "-x", "", "a/b", "sha256:12", &"a".repeat(129)] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }
}
