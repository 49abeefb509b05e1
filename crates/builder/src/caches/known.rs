//! What registries were found to have and not to have, remembered for all builds of the process: many builds that read one
//! cache do not ask the same again. An absence is remembered for seconds, and not equally long for everything, so that what
//! was asked for together is not asked for together again. A whole cache is taken to be absent only as long as builds that
//! begin together need; one that this process writes is asked about every time.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use oci::{Digest, Reference};

/// How long a blob is taken to be there. One that went meanwhile is found out when it is fetched.
const THERE: Duration = Duration::from_secs(300);
/// How long a blob is taken not to be there, at most; at least half of it.
const ABSENT: Duration = Duration::from_secs(10);
/// The same of a whole cache. Another machine may write it at any moment, and a build that passes it over runs every step.
const NO_CACHE: Duration = Duration::from_secs(2);
/// How long a cache that was written here is not taken to be absent, whatever a question of before is answered.
const WRITTEN: Duration = Duration::from_secs(60);
/// Entries after which old ones are cleared away.
const MANY: usize = 10_000;

/// See the module.
#[derive(Default)]
pub struct Known {
    told: Mutex<HashMap<String, (bool, Instant)>>,
    spread: RandomState,
}

impl Known {
    /// Whether a repository has a blob, as far as that was found out lately.
    pub fn blob(&self, repository: &Reference, digest: &Digest) -> Option<bool> {
        self.told(&blob(repository, digest))
    }

    /// Notes whether a repository has a blob.
    pub fn note_blob(&self, repository: &Reference, digest: &Digest, is_there: bool) {
        let what = blob(repository, digest);
        let lifetime = if is_there { THERE } else { self.absence(&what, ABSENT) };
        self.note(what, is_there, lifetime);
    }

    /// Whether there was nothing at a reference a moment ago.
    pub fn is_absent(&self, reference: &Reference) -> bool {
        self.told(&reference.to_string()) == Some(false)
    }

    /// Notes that there was nothing at a reference when that was asked, which may be before it was written.
    pub fn note_absent(&self, reference: &Reference) {
        let what = reference.to_string();
        if self.told(&what) != Some(true) {
            let lifetime = self.absence(&what, NO_CACHE);
            self.note(what, false, lifetime);
        }
    }

    /// Something was written there.
    pub fn note_written(&self, reference: &Reference) {
        self.note(reference.to_string(), true, WRITTEN);
    }

    fn told(&self, what: &str) -> Option<bool> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.get(what).filter(|(_, until)| *until > Instant::now()).map(|(is_there, _)| *is_there)
    }

    fn note(&self, what: String, is_there: bool, lifetime: Duration) {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MANY {
            told.retain(|_, (_, until)| *until > now);
        }
        told.insert(what, (is_there, now + lifetime));
    }

    /// Between half of the longest time and all of it.
    fn absence(&self, what: &str, longest: Duration) -> Duration {
        let part = self.spread.hash_one(what) % 1000;
        longest / 2 + longest / 2 * u32::try_from(part).unwrap_or(0) / 1000
    }
}

fn blob(repository: &Reference, digest: &Digest) -> String {
    format!("{}/{} {digest}", repository.domain, repository.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absences_are_short_and_differ() {
        let known = Known::default();
        let lifetimes: Vec<Duration> = (0..100).map(|i| known.absence(&i.to_string(), ABSENT)).collect();
        assert!(lifetimes.iter().all(|l| (ABSENT / 2..=ABSENT).contains(l)), "{lifetimes:?}");
        let (shortest, longest) = (lifetimes.iter().min().unwrap(), lifetimes.iter().max().unwrap());
        assert!(*longest - *shortest > ABSENT / 4, "{lifetimes:?}");
    }

    #[test]
    fn what_was_found_is_remembered_by_repository_and_what_is_written_is_not_absent() {
        let known = Known::default();
        let reference = |text: &str| Reference::parse(text).unwrap();
        let (one, two) = (reference("127.0.0.1:1/one:a"), reference("127.0.0.1:1/two:a"));
        let digest = Digest::of(b"x");
        assert_eq!(known.blob(&one, &digest), None);
        known.note_blob(&one, &digest, true);
        assert_eq!(known.blob(&reference("127.0.0.1:1/one:b"), &digest), Some(true));
        assert_eq!(known.blob(&two, &digest), None);
        known.note_blob(&one, &digest, false);
        assert_eq!(known.blob(&one, &digest), Some(false));
        known.note_absent(&one);
        assert!(known.is_absent(&one) && !known.is_absent(&two));
        known.note_written(&one);
        assert!(!known.is_absent(&one));
        // A question that was on its way when it was written is answered only now.
        known.note_absent(&one);
        assert!(!known.is_absent(&one));
    }
}
