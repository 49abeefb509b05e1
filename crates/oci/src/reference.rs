//! The name of an image: registry, repository, tag and digest, with Docker's short forms made whole.
//! Grammar: distribution's `reference` (a first component with a dot, a colon or `localhost` is a registry).

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Digest;

const DEFAULT_DOMAIN: &str = "docker.io";

/// An image reference in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Registry host, with its port if it has one.
    pub domain: String,
    /// Repository path, such as `library/debian`.
    pub path: String,
    /// Tag.
    pub tag: Option<String>,
    /// Digest, which decides when there is one.
    pub digest: Option<Digest>,
}

/// Text that is no reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not an image reference: {reason}")]
pub struct ReferenceError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Reference {
    /// Reads a reference as Docker does: `debian` is `docker.io/library/debian`. The tag stays absent if none is given.
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        let error = |reason| ReferenceError { text: text.to_owned(), reason };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(Digest::parse(digest).map_err(|_| error("the digest after `@` must be sha256:<64 hex>"))?))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(error("a tag has up to 128 letters, digits, `_`, `.`, `-`, and begins with none of `.` `-`"));
        }
        let (domain, path) = split_domain(name);
        if path.is_empty() {
            return Err(error("the name is empty"));
        }
        if path.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(error("the repository name must be lower case"));
        }
        if !path.split('/').all(is_repository_component) {
            return Err(error(
                "a repository name has lower-case letters and digits, parted by `.`, `_`, `__`, `-` or `/`",
            ));
        }
        if !is_domain(&domain) {
            return Err(error("the registry host is not a host name with an optional port"));
        }
        Ok(Reference { domain, path, tag: tag.map(str::to_owned), digest })
    }

    /// With `latest` where neither tag nor digest is given.
    pub fn or_latest(mut self) -> Reference {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".into());
        }
        self
    }

    /// The repository with its registry: `docker.io/library/debian`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// As people write it: without Docker Hub's host and `library/`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(short) = full.strip_prefix("docker.io/") else { return full };
        short.strip_prefix("library/").filter(|s| !s.contains('/')).unwrap_or(short).to_owned()
    }
}

fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || has_upper(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    let path = if domain == DEFAULT_DOMAIN && !path.is_empty() && !path.contains('/') {
        format!("library/{path}")
    } else {
        path.to_owned()
    };
    (domain.to_owned(), path)
}

fn has_upper(text: &str) -> bool {
    text.chars().any(|c| c.is_ascii_uppercase())
}

/// Whether text is a tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` (distribution-spec, "Pulling manifests").
pub fn is_tag(tag: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=128).contains(&tag.len()) && tag.starts_with(word) && tag.chars().all(|c| word(c) || c == '.' || c == '-')
}

/// Whether text can stand between two slashes of a repository's name (the same place).
pub fn is_repository_component(component: &str) -> bool {
    let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !component.starts_with(alnum) || !component.ends_with(alnum) {
        return false;
    }
    component.split(alnum).all(|between| matches!(between, "" | "." | "_" | "__") || between.chars().all(|c| c == '-'))
}

fn is_domain(domain: &str) -> bool {
    if let Some(rest) = domain.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let hex = address.chars().all(|c| c.is_ascii_hexdigit() || c == ':');
        return hex && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = domain.split_once(':').map_or((domain, None), |(h, p)| (h, Some(p)));
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.chars().all(|c| c.is_ascii_digit())
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(text)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Reference, D::Error> {
        let text = String::deserialize(deserializer)?;
        Reference::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_forms_are_made_whole() {
        let cases = [
            ("debian", "docker.io/library/debian", "debian"),
            ("debian:bookworm", "docker.io/library/debian:bookworm", "debian:bookworm"),
            ("me/app", "docker.io/me/app", "me/app"),
            ("localhost/app", "localhost/app", "localhost/app"),
            ("127.0.0.1:5000/app:1", "127.0.0.1:5000/app:1", "127.0.0.1:5000/app:1"),
            ("index.docker.io/library/x", "docker.io/library/x", "x"),
            ("[::1]:5000/a/b", "[::1]:5000/a/b", "[::1]:5000/a/b"),
            ("example.org/a_b/c__d/e--f", "example.org/a_b/c__d/e--f", "example.org/a_b/c__d/e--f"),
        ];
        for (text, canonical, familiar) in cases {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.to_string(), canonical);
            assert_eq!(reference.familiar(), familiar);
        }
        assert_eq!(Reference::parse("a").unwrap().or_latest().to_string(), "docker.io/library/a:latest");
    }

    #[test]
    fn refuses_what_is_no_reference() {
        for text in ["", "A", "a:", "a@sha256:12", "a//b", "-a", "a:-x", "me/App", "http://x/y", "a b"] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn canonical_form_is_stable(text in "[a-z0-9./:_-]{1,30}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
            }
        }
    }
}
