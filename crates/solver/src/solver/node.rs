//! One step as the scheduler knows it: where it stands, its keys, what it waits for. Answers of the driver land here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use graph::{Kind, Vertex};
use oci::{Digest, Platform};

use super::{Build, Effect, Reason, ResultId, Wanted};
use crate::cause::{Cause, HitSource};
use crate::key::{self, CacheMap};
use crate::record::KeyId;

/// Where a step stands. It only moves downwards, but for a hit that can't be loaded.
#[derive(Debug)]
pub enum Stage {
    /// Its inputs' keys (or, for a source, its own) are not known yet.
    Unkeyed,
    /// Its definition has keys and no record under them: what reads it may be a hit all the same. It goes on only when its
    /// result is wanted.
    Known,
    /// Definition keys gave no hit: content of inputs is being made and hashed.
    Content,
    /// Content gave no hit either: the driver compares the inputs' trees with those of earlier records.
    Compare { asked: bool },
    /// A record was found.
    Hit { record: Digest, loading: bool },
    /// It has to run when its result is wanted.
    Miss { reason: Reason, running: bool },
    /// Its results are there.
    Done(Vec<ResultId>),
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
    pub want_key: bool,
    pub want_result: bool,
    /// Some build names it as its target: a miss runs even if only its key is wanted.
    pub targets: bool,
    /// A source that was asked for its key.
    pub asked: bool,
    /// Cache digests of a source.
    pub source_keys: Vec<Digest>,
    /// Keys under which no record was found: its readers are looked for under them all the same.
    pub found: Vec<KeyId>,
    /// Found or given keys, by output.
    pub keys: BTreeMap<u32, Vec<KeyId>>,
    /// Content digests of inputs.
    pub contents: BTreeMap<u32, Digest>,
    /// Inputs whose content was asked for.
    pub hashing: BTreeSet<u32>,
    /// Its keys say nothing about its result: it, or what it is made from, was asked to run again.
    pub fresh: bool,
    /// It was a miss and its result was made by running.
    pub has_run: bool,
    /// A hit was told.
    pub told: bool,
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
            want_key: false,
            want_result: false,
            targets: false,
            asked: false,
            source_keys: Vec::new(),
            found: Vec::new(),
            keys: BTreeMap::new(),
            contents: BTreeMap::new(),
            hashing: BTreeSet::new(),
            fresh: false,
            has_run: false,
            told: false,
            announced: 0,
        }
    }

    pub fn is_source(&self) -> bool {
        matches!(self.map, Ok(None))
    }

    pub fn is_exec(&self) -> bool {
        matches!(self.vertex.kind(), Some(Kind::Exec(_)))
    }

    /// Whether hit or miss is decided, so that readers can look themselves up.
    pub fn is_judged(&self) -> bool {
        matches!(self.stage, Stage::Known | Stage::Hit { .. } | Stage::Miss { .. } | Stage::Done(_))
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
            Stage::Done(_) => 3,
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
            Stage::Known | Stage::Done(_) | Stage::Failed { .. } => false,
        }
    }

    /// Whether the build ends without this step having run or been told as a hit.
    pub fn is_unneeded(&self) -> bool {
        !self.told && !matches!(self.stage, Stage::Done(_) | Stage::Failed { .. } | Stage::Miss { running: true, .. })
    }

    pub fn result(&self, output: u32) -> Option<ResultId> {
        match &self.stage {
            Stage::Done(results) => results.get(output as usize).copied(),
            _ => None,
        }
    }

    pub fn error(&self) -> Option<String> {
        match &self.stage {
            Stage::Failed { error, own: true } => Some(error.clone()),
            _ => None,
        }
    }

    /// What a build gets for a wanted edge; `None` while it is not there yet.
    pub fn outcome(&self, wanted: &Wanted) -> Option<Option<ResultId>> {
        match &self.stage {
            Stage::Done(_) => Some(self.result(wanted.edge.output)),
            Stage::Hit { .. } if !wanted.result => Some(None),
            _ => None,
        }
    }

    /// A later build wants a step that is known already.
    pub fn joined(&mut self, build: Build) -> Option<Effect> {
        let record = if let Stage::Hit { record, .. } = self.stage { Some(record) } else { None };
        if !self.told && !matches!(self.stage, Stage::Done(_)) {
            return None;
        }
        let vertex = self.vertex.digest;
        Some(Effect::Hit { vertex, source: HitSource::Shared, record, builds: vec![build], renew: false })
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

    pub fn compared(&mut self, (key, record): (KeyId, Digest)) {
        self.keys.insert(0, vec![key]);
        self.stage = Stage::Hit { record, loading: false };
    }

    /// What it was about to do could not be done yet.
    pub fn take_up_again(&mut self) {
        match &mut self.stage {
            Stage::Content => self.hashing.clear(),
            Stage::Compare { asked } => *asked = false,
            Stage::Miss { running, .. } => *running = false,
            Stage::Unkeyed | Stage::Known | Stage::Hit { .. } | Stage::Done(_) | Stage::Failed { .. } => {}
        }
    }

    pub fn loaded(&mut self, results: Result<Vec<ResultId>, Cause>) {
        self.stage = match results {
            Ok(results) => Stage::Done(results),
            Err(cause) => Stage::Miss { reason: Reason::Unusable(cause), running: false },
        };
    }

    pub fn ran(&mut self, results: Result<Vec<ResultId>, String>) {
        self.has_run = true;
        match results {
            Ok(results) => self.stage = Stage::Done(results),
            Err(error) => self.fail(error, true),
        }
    }
}
