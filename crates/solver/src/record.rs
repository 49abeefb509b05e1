//! One entry of the cache, and the links that lead to it.
//! A link is BuildKit's: from a key of an input, through (input, output, digest, selector), to a key of the operation.
//! What larder adds (ingredients, cost, place) lies beside the keys, never in them.

use oci::Digest;
use serde::{Deserialize, Serialize};

use crate::ingredients::Ingredients;

/// The name of a cache key. A root key's id is sha256 of `<digest>@<output>`, as BuildKit's is.
pub type KeyId = Digest;

/// How one input's key leads to a key of the operation that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Link {
    /// Which input of the operation.
    pub input: u32,
    /// Which output of the operation.
    pub output: u32,
    /// The operation's cache digest.
    pub digest: Digest,
    /// Digest of the selected paths, where only a part of the input counts.
    pub selector: Option<Digest>,
}

impl Link {
    /// The link as bytes, the same for the same link.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(73);
        bytes.extend_from_slice(&self.input.to_be_bytes());
        bytes.extend_from_slice(&self.output.to_be_bytes());
        bytes.extend_from_slice(self.digest.bytes());
        if let Some(selector) = &self.selector {
            bytes.push(1);
            bytes.extend_from_slice(selector.bytes());
        }
        bytes
    }

    /// Reads what [`Link::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Option<Link> {
        let number = |from: usize| Some(u32::from_be_bytes(bytes.get(from..from + 4)?.try_into().ok()?));
        let digest = |from: usize| Some(Digest::from_bytes(bytes.get(from..from + 32)?.try_into().ok()?));
        let selector = match bytes.len() {
            40 => None,
            73 => Some(digest(41)?),
            _ => return None,
        };
        Some(Link { input: number(0)?, output: number(4)?, digest: digest(8)?, selector })
    }
}

/// Finds "the same step" in earlier builds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Locator {
    /// The project: the context's identity.
    pub project: String,
    /// Target stage of the build; empty is the last.
    pub target: String,
    /// The step's stage, platform and position as its name has them: `build 3/7`, `linux/arm64 build 3/7`.
    pub place: String,
}

impl Locator {
    /// The locator of a step by its display name (`[build 3/7] RUN make`).
    pub fn of(project: &str, target: &str, name: &str) -> Locator {
        let place = name.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(name, |(place, _)| place);
        // `build 3/7` and `build 3/8` are one place.
        let place = match place.rsplit_once('/') {
            Some((before, total)) if total.bytes().all(|b| b.is_ascii_digit()) => before,
            _ => place,
        };
        Locator { project: project.to_owned(), target: target.to_owned(), place: place.to_owned() }
    }

    /// One digest for the whole.
    pub fn digest(&self) -> Digest {
        Digest::of(format!("{}\0{}\0{}", self.project, self.target, self.place).as_bytes())
    }
}

/// What making a result took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Wall time in milliseconds.
    pub millis: u64,
    /// Bytes of the result's own layer.
    pub bytes: u64,
}

/// One entry of the cache. One that was made here has all outputs of its operation, in their order; one that was imported has
/// one of them. A result is found by its key, never by the number of its output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The keys of outputs.
    pub keys: Vec<KeyId>,
    /// The operation's cache digest.
    pub operation: Digest,
    /// One stored result a key, in the builder's words.
    pub results: Vec<String>,
    /// The stored results that it was made from, in the order of the inputs.
    pub inputs: Vec<String>,
    /// The named parts of its key.
    pub ingredients: Ingredients,
    /// What it took.
    pub cost: Cost,
    /// Milliseconds since 1970.
    pub created: u64,
    /// The build that made it.
    pub build: String,
    /// Where in which project it was.
    pub locator: Locator,
}

impl Record {
    /// The stored result under a key, in the builder's words.
    pub fn result(&self, key: &KeyId) -> Option<&str> {
        let place = self.keys.iter().position(|k| k == key)?;
        self.results.get(place).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_added_steps() {
        let place = |name| Locator::of("p", "", name).place;
        assert_eq!(place("[build 3/7] RUN make"), "build 3");
        assert_eq!(place("[build 3/8] RUN make all"), "build 3");
        assert_eq!(place("[2/3] COPY . ."), "2");
        assert_eq!(place("[linux/arm64 build 3/8] RUN x"), "linux/arm64 build 3");
        assert_eq!(place("custom"), "custom");
    }
}
