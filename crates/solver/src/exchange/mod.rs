//! BuildKit's exchange format for caches (`application/vnd.buildkit.cacheconfig.v0`): records, the links between them, and
//! the layers of their results. Read, checked, joined and written canonically: the same cache gives the same bytes.
//! Values only: nothing is fetched here, and no key is looked up (`imported` does that).
//!
//! Canonical means: two records are one when they are the same key, that is: the same digest, the same number of inputs,
//! and for every input a key in common (BuildKit merges so when it reads a cache). Only records of the same depth are
//! merged, so that no merge can make a loop; depth never changes by merging, which makes [`Config::join`] commutative,
//! associative and idempotent. Of several results of one record the newest stays, as BuildKit exports it.

mod fold;
mod imported;
mod listing;
mod wire;

use std::collections::BTreeMap;

use oci::Digest;

pub use imported::Imported;
pub use listing::{Form, Listing, UNCOMPRESSED};

/// Media type of a cache config.
pub const CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

/// A cache: what leads to which result. Always canonical.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    records: Vec<Record>,
    annotations: BTreeMap<Digest, Annotations>,
}

/// One key of the cache, and what is stored under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// sha256 of `<operation's cache digest>@<output>` (`key::export_digest`).
    pub digest: Digest,
    /// For each input of the operation the keys that may stand for it; none for a root.
    pub inputs: Vec<Vec<Input>>,
    /// Its result, where one is stored.
    pub output: Option<Output>,
}

/// A key of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Input {
    /// Digest of the selected paths, where only a part of the input counts.
    pub selector: Option<Digest>,
    /// Position of the input's record in [`Config::records`].
    pub record: usize,
}

/// A stored result.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Output {
    /// When it was made.
    pub created: Moment,
    /// Its layers, lowest first; never empty.
    pub blobs: Vec<Digest>,
}

/// A time: seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Seconds.
    pub seconds: i64,
    /// Nanoseconds beyond them.
    pub nanos: u32,
}

impl Moment {
    /// A time of milliseconds since 1970.
    pub fn of_millis(millis: u64) -> Moment {
        let seconds = i64::try_from(millis / 1000).unwrap_or(i64::MAX);
        Moment { seconds, nanos: (millis % 1000) as u32 * 1_000_000 }
    }

    /// The same in milliseconds; 0 for times before 1970.
    pub fn millis(&self) -> u64 {
        u64::try_from(self.seconds).unwrap_or(0) * 1000 + u64::from(self.nanos / 1_000_000)
    }
}

/// What a config says of a layer where no descriptor does (the backend `gha`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Annotations {
    /// Media type of the blob.
    pub media_type: String,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// When it was made.
    pub created: Moment,
}

/// Why a cache config can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("the cache config is no JSON of this kind: {reason}")]
    Json { reason: String },
    #[error("the cache config has a {what} number {index}, and there are {count}")]
    Dangling { what: &'static str, index: i64, count: usize },
    #[error("record {record} of the cache config has no key for its input {input}")]
    NoAlternative { record: usize, input: usize },
    #[error("the {what} of the cache config name each other in a loop")]
    Loop { what: &'static str },
    #[error("the cache config has {count} {what}; more than {most} are not read")]
    TooMany { what: &'static str, count: usize, most: usize },
    #[error("{digest} is no cache: {reason}")]
    NoCache { digest: Digest, reason: String },
}

impl Config {
    /// Reads and checks a config. `chains` and `layers` results are both taken.
    pub fn parse(json: &[u8]) -> Result<Config, Error> {
        wire::parse(json)
    }

    /// Reads the `records` that an image's configuration holds (`moby.buildkit.cache.v0`). `layers` are the image's
    /// blobs, lowest first.
    pub fn parse_inline(records: &[u8], layers: &[Digest]) -> Result<Config, Error> {
        wire::parse_inline(records, layers)
    }

    /// Makes a config of records in any order, with duplicates.
    pub fn of(records: Vec<Record>, annotations: BTreeMap<Digest, Annotations>) -> Result<Config, Error> {
        let records = fold::fold(records)?;
        let mut config = Config { records, annotations };
        let blobs: std::collections::BTreeSet<Digest> = config.blobs().collect();
        config.annotations.retain(|blob, _| blobs.contains(blob));
        Ok(config)
    }

    /// The config as BuildKit writes it.
    pub fn to_json(&self) -> Vec<u8> {
        wire::write(self)
    }

    /// The records for an image's configuration, with the image's blobs as their layers. Results that are not made of
    /// the image's layers are left out. `None` when none is left.
    pub fn to_inline(&self, layers: &[Digest]) -> Option<Vec<u8>> {
        wire::write_inline(self, layers)
    }

    /// Everything that is in any of them. The order does not matter, and joining twice is joining once.
    pub fn join<'a>(configs: impl IntoIterator<Item = &'a Config>) -> Result<Config, Error> {
        let (mut records, mut annotations) = (Vec::new(), BTreeMap::<Digest, Annotations>::new());
        for config in configs {
            let offset = records.len();
            records.extend(config.records.iter().cloned().map(|mut record| {
                record.inputs.iter_mut().flatten().for_each(|input| input.record += offset);
                record
            }));
            for (blob, new) in &config.annotations {
                let known = annotations.entry(*blob).or_insert_with(|| new.clone());
                *known = std::cmp::max(&*known, new).clone();
            }
        }
        Config::of(records, annotations)
    }

    /// The records, in canonical order.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// What the config says of a layer.
    pub fn annotations(&self, blob: &Digest) -> Option<&Annotations> {
        self.annotations.get(blob)
    }

    /// The blobs of all results, with repetitions.
    pub fn blobs(&self) -> impl Iterator<Item = Digest> {
        self.records.iter().flat_map(|record| &record.output).flat_map(|output| output.blobs.iter().copied())
    }

    /// Whether nothing could ever be found in it.
    pub fn is_empty(&self) -> bool {
        self.records.iter().all(|record| record.output.is_none())
    }

    /// Names of the records that stay the same when other records come or go: sha256 of the digest and the inputs' names.
    /// A root's name is its digest, which is its cache key.
    pub fn names(&self) -> Vec<Digest> {
        // A canonical config has no loop.
        fold::names(&self.records).unwrap_or_default()
    }

    /// Leaves out what leads to no result.
    pub fn pruned(&self) -> Config {
        let mut needed = vec![false; self.records.len()];
        let has_output = |(index, record): (usize, &Record)| record.output.is_some().then_some(index);
        let mut open: Vec<usize> = self.records.iter().enumerate().filter_map(has_output).collect();
        while let Some(index) = open.pop() {
            if !std::mem::replace(&mut needed[index], true) {
                open.extend(self.records[index].inputs.iter().flatten().map(|input| input.record));
            }
        }
        let mut position = vec![0; needed.len()];
        let kept = needed.iter().enumerate().filter(|(_, needed)| **needed).map(|(old, _)| old);
        kept.clone().enumerate().for_each(|(new, old)| position[old] = new);
        let renumbered = kept.map(|old| {
            let mut record = self.records[old].clone();
            record.inputs.iter_mut().flatten().for_each(|input| input.record = position[input.record]);
            record
        });
        // The order of what stays is as it was.
        Config { records: renumbered.collect(), annotations: self.annotations.clone() }
    }

    /// Takes the results of some records out.
    pub fn without(&self, lost: impl Fn(&Output) -> bool) -> Config {
        let mut config = self.clone();
        config.records.iter_mut().for_each(|record| record.output = record.output.take().filter(|o| !lost(o)));
        config
    }
}

#[cfg(test)]
mod tests;
