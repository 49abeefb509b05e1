//! The name of content in a registry: sha256 or sha512, as text and while bytes pass (OCI image-spec, "Digests").
//! The rest of larder knows sha256 alone; a registry also keeps what others push.

use sha2::Digest as _;

/// How content is digested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// 64 hex digits.
    Sha256,
    /// 128 hex digits.
    Sha512,
}

impl Algorithm {
    /// All that are supported.
    pub const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

    /// The word before the colon.
    pub fn word(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// Reads [`Algorithm::word`].
    pub fn parse(word: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.word() == word)
    }

    fn digits(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

/// The digest of some content.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentDigest {
    algorithm: Algorithm,
    hex: String,
}

impl ContentDigest {
    /// Reads `algorithm:hex`; `None` for another algorithm and for what is no digest.
    pub fn parse(text: &str) -> Option<ContentDigest> {
        let (word, hex) = text.split_once(':')?;
        ContentDigest::from_parts(Algorithm::parse(word)?, hex)
    }

    /// From an algorithm and its digits.
    pub fn from_parts(algorithm: Algorithm, hex: &str) -> Option<ContentDigest> {
        let digits = hex.len() == algorithm.digits() && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        digits.then(|| ContentDigest { algorithm, hex: hex.to_owned() })
    }

    /// The digest of bytes that are in memory.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> ContentDigest {
        let mut hashing = Hashing::new(algorithm);
        hashing.update(bytes);
        hashing.finish()
    }

    /// How it was made.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// As the rest of larder names content; `None` for sha512.
    pub fn sha256(&self) -> Option<oci::Digest> {
        if self.algorithm == Algorithm::Sha256 { oci::Digest::from_hex(&self.hex) } else { None }
    }
}

impl From<&oci::Digest> for ContentDigest {
    fn from(digest: &oci::Digest) -> ContentDigest {
        ContentDigest { algorithm: Algorithm::Sha256, hex: digest.hex() }
    }
}

impl std::fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.algorithm.word(), self.hex)
    }
}

/// Digests bytes as they pass.
#[derive(Clone)]
pub enum Hashing {
    /// To a sha256.
    Sha256(oci::Hasher),
    /// To a sha512.
    Sha512(sha2::Sha512),
}

impl Hashing {
    /// Nothing hashed yet.
    pub fn new(algorithm: Algorithm) -> Hashing {
        match algorithm {
            Algorithm::Sha256 => Hashing::Sha256(oci::Hasher::new()),
            Algorithm::Sha512 => Hashing::Sha512(sha2::Sha512::new()),
        }
    }

    /// What it makes.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Hashing::Sha256(_) => Algorithm::Sha256,
            Hashing::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hashing::Sha256(hasher) => hasher.update(bytes),
            Hashing::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> ContentDigest {
        match self {
            Hashing::Sha256(hasher) => ContentDigest::from(&hasher.finish()),
            Hashing::Sha512(hasher) => {
                let hex = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
                ContentDigest { algorithm: Algorithm::Sha512, hex }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_algorithms_are_read_and_made() {
        for algorithm in Algorithm::ALL {
            let digest = ContentDigest::of(algorithm, b"abc");
            assert_eq!(ContentDigest::parse(&digest.to_string()), Some(digest));
        }
        let sha512 = ContentDigest::of(Algorithm::Sha512, b"abc");
        assert!(sha512.hex().starts_with("ddaf35a193617aba"), "{sha512}"); // FIPS 180-4, example
        for wrong in ["", "sha256", "sha256:00", "md5:900150983cd24fb0d6963f7d28e17f72", "sha256:../../etc"] {
            assert_eq!(ContentDigest::parse(wrong), None, "{wrong}");
        }
    }
}
