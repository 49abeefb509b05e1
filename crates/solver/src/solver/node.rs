//! One step as the scheduler knows it: where it stands, its keys, what it waits for. Answers of the driver land here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use graph::{Kind, Vertex};
use oci::{Digest, Platform};

use super::{Build, Effect, Reason, ResultId, Stored, Wanted};
use crate::cause::HitSource;
use crate::key::{self, CacheMap};
use crate::record::KeyId;

/// Where a step stands. It only moves downwards, but for a hit that can't be loaded, and when an output is wanted that was not
/// before.
#[derive(Debug)]
pub enum Stage {
    /// Its inputs' keys (or, for a source, its own) are not known yet.
    Unkeyed,
    /// Its definition has keys and no record under them, or not for every output: what reads it may be a hit all the same. It
    /// goes on only when its result is wanted.
    Known,
    /// Definition keys gave no hit: content of inputs is being made and hashed.
    Content,
    /// Content gave no hit either: the driver compares the inputs' trees with those of earlier records.
    Compare { asked: bool },
    /// Records were found for the outputs that matter.
    Hit { loading: bool },
    /// It has to run when its result is wanted.
    Miss { reason: Reason, running: bool },
    /// The results that were wanted are there; all of them when it ran.
    Done,
    /// It, or something that it needs, failed. `own` is false when another step's error is the cause.
    Failed { error: String, own: bool },
}

pub struct Node {
    pub vertex: Arc<Vertex>,
    pub map: Result<Option<CacheMap>, String>,
    pub stage: Stage,
    pub builds: BTreeSet<Build>,
    /// Steps that read it.
    pub readers: BTreeSet<Digest>,
    /// Outputs that somebody reads.
    pub read: BTreeSet<u32>,
    /// Outputs whose results are wanted.
    pub wanted: BTreeSet<u32>,
    /// Some build names it as its target: a miss runs even if only its key is wanted.
    pub targets: bool,
    /// A source that was asked for its key.
    pub asked: bool,
    /// Cache digests of a source.
    pub source_keys: Vec<Digest>,
    /// Keys that were found, by output, with or without a record: its readers are looked for under them.
    pub found: BTreeMap<u32, Vec<KeyId>>,
    /// Found or given keys, by output.
    pub keys: BTreeMap<u32, Vec<KeyId>>,
    /// Outputs that records were found for.
    pub stored: BTreeMap<u32, Stored>,
    /// Results that are there, by output.
    pub results: BTreeMap<u32, ResultId>,
    /// Content digests of inputs.
    pub contents: BTreeMap<u32, Digest>,
    /// Inputs whose content was asked for.
    pub hashing: BTreeSet<u32>,
    /// Its keys say nothing about its result: it, or what it is made from, was asked to run again.
    pub fresh: bool,
    /// It was a miss and its result was made by running.
    pub has_run: bool,
    /// Builds that were told of a hit.
    pub told: BTreeSet<Build>,
    /// The stage that its readers were last woken for.
    pub announced: u8,
}

impl Node {
    pub fn new(vertex: Arc<Vertex>, host: &Platform) -> Node {
        let map = match vertex.kind() {
            Some(Kind::Source(_)) => Ok(None),
            _ => key::cache_map(&vertex, host).map(Some).map_err(|e| super::malformed(&e)),
        };
        let stage = match &map {
            Err(error) => Stage::Failed { error: error.clone(), own: true },
            Ok(_) => Stage::Unkeyed,
        };
        Node {
            vertex,
            map,
            stage,
            builds: BTreeSet::new(),
            readers: BTreeSet::new(),
            read: BTreeSet::new(),
            wanted: BTreeSet::new(),
            targets: false,
            asked: false,
            source_keys: Vec::new(),
            found: BTreeMap::new(),
            keys: BTreeMap::new(),
            stored: BTreeMap::new(),
            results: BTreeMap::new(),
            contents: BTreeMap::new(),
            hashing: BTreeSet::new(),
            fresh: false,
            has_run: false,
            told: BTreeSet::new(),
            announced: 0,
        }
    }

    pub fn is_source(&self) -> bool {
        matches!(self.map, Ok(None))
    }

    pub fn is_exec(&self) -> bool {
        matches!(self.vertex.kind(), Some(Kind::Exec(_)))
    }

    /// How many outputs the operation has.
    pub fn outputs(&self) -> u32 {
        let last = match self.vertex.kind() {
            Some(Kind::Exec(op)) => op.mounts.iter().map(|m| m.output).max(),
            Some(Kind::File(op)) => op.actions.iter().map(|a| a.output).max(),
            _ => Some(0),
        };
        u32::try_from(last.unwrap_or(0).max(0)).unwrap_or(0) + 1
    }

    /// Asks for the keys of an output, and for its result; says whether that is new.
    pub fn ask(&mut self, output: u32, result: bool) -> bool {
        let is_read = self.read.insert(output);
        (result && self.wanted.insert(output)) || is_read
    }

    /// Wanted outputs whose results are not there.
    pub fn missing(&self) -> impl Iterator<Item = u32> {
        self.wanted.iter().copied().filter(|output| !self.results.contains_key(output))
    }

    /// Whether there is a record for every output that matters: those that are wanted, or as long as none is, those that are
    /// read.
    pub fn is_stored(&self) -> bool {
        let is_stored = |output: u32| self.stored.contains_key(&output);
        if self.wanted.is_empty() { self.read.iter().copied().all(is_stored) } else { self.missing().all(is_stored) }
    }

    /// Whether there is no more to be had of it than is there.
    pub fn is_whole(&self) -> bool {
        self.has_run && matches!(self.stage, Stage::Done)
    }

    /// Whether an output that is not there never will be.
    pub fn lacks(&self, output: u32) -> bool {
        self.is_whole() || output >= self.outputs()
    }

    /// Whether hit or miss is decided, so that readers can look themselves up.
    pub fn is_judged(&self) -> bool {
        matches!(self.stage, Stage::Known | Stage::Hit { .. } | Stage::Miss { .. } | Stage::Done)
    }

    pub fn is_miss(&self) -> bool {
        self.has_run || matches!(self.stage, Stage::Miss { .. })
    }

    /// Changes whenever readers have something new to see.
    pub fn rank(&self) -> u8 {
        match self.stage {
            Stage::Unkeyed | Stage::Content | Stage::Compare { .. } => 0,
            Stage::Known | Stage::Hit { .. } => 1,
            Stage::Miss { .. } => 2,
            Stage::Done => 3,
            Stage::Failed { .. } => 4,
        }
    }

    /// Whether the driver does something for it now.
    pub fn is_busy(&self) -> bool {
        match &self.stage {
            Stage::Unkeyed => self.asked,
            Stage::Content => !self.hashing.is_empty(),
            Stage::Compare { asked } => *asked,
            Stage::Hit { loading, .. } => *loading,
            Stage::Miss { running, .. } => *running,
            Stage::Known | Stage::Done | Stage::Failed { .. } => false,
        }
    }

    /// Whether a build ends without having been told that this step ran or was a hit.
    pub fn is_untold(&self, build: Build) -> bool {
        let is_over = self.has_run || matches!(self.stage, Stage::Failed { .. } | Stage::Miss { running: true, .. });
        !is_over && !self.told.contains(&build)
    }

    pub fn result(&self, output: u32) -> Option<ResultId> {
        self.results.get(&output).copied()
    }

    pub fn error(&self) -> Option<String> {
        match &self.stage {
            Stage::Failed { error, own: true } => Some(error.clone()),
            _ => None,
        }
    }

    /// What a build gets for a wanted edge; `None` while it is not there yet.
    pub fn outcome(&self, wanted: &Wanted) -> Option<Option<ResultId>> {
        let result = self.result(wanted.edge.output);
        let is_known = match self.stage {
            Stage::Done => self.has_run || !wanted.result,
            Stage::Hit { .. } => !wanted.result,
            _ => false,
        };
        (result.is_some() || is_known).then_some(result)
    }

    /// A later build wants a step that is known already. It is told so when all `outputs` that it may want are there.
    pub fn joined(&mut self, build: Build, mut outputs: impl Iterator<Item = u32>) -> Option<Effect> {
        let is_told = !self.told.is_empty() || matches!(self.stage, Stage::Done);
        let is_there = |output| self.results.contains_key(&output) || self.stored.contains_key(&output);
        if !is_told || !(self.is_whole() || outputs.all(is_there)) {
            return None;
        }
        self.told.insert(build);
        let (vertex, stored) = (self.vertex.digest, self.stored.values().copied().collect());
        Some(Effect::Hit { vertex, source: HitSource::Shared, stored, builds: vec![build], renew: false })
    }

    pub fn fail(&mut self, error: String, own: bool) {
        self.stage = Stage::Failed { error, own };
    }

    pub fn keyed(&mut self, keys: Result<Vec<Digest>, String>) {
        match keys {
            Ok(keys) => {
                self.keys.insert(0, keys.iter().map(|k| key::root_id(k, 0)).collect());
                self.source_keys = keys;
                self.stage = Stage::Miss { reason: Reason::NoRecord, running: false };
            }
            Err(error) => self.fail(error, true),
        }
    }

    pub fn hashed(&mut self, input: u32, content: Result<Digest, String>) {
        self.hashing.remove(&input);
        match content {
            Ok(content) => drop(self.contents.insert(input, content)),
            Err(error) => self.fail(error, true),
        }
    }

    /// What it was about to do could not be done yet.
    pub fn take_up_again(&mut self) {
        match &mut self.stage {
            Stage::Content => self.hashing.clear(),
            Stage::Compare { asked } => *asked = false,
            Stage::Miss { running, .. } => *running = false,
            Stage::Unkeyed | Stage::Known | Stage::Hit { .. } | Stage::Done | Stage::Failed { .. } => {}
        }
    }

    pub fn loaded(&mut self, results: BTreeMap<u32, ResultId>) {
        self.results.extend(results);
        self.stage = Stage::Done;
    }

    pub fn ran(&mut self, results: Result<Vec<ResultId>, String>) {
        self.has_run = true;
        self.stored.clear();
        match results {
            Ok(results) => {
                self.results = (0..).zip(results).collect();
                self.stage = Stage::Done;
            }
            Err(error) => self.fail(error, true),
        }
    }
}
