//! A cache with many writers, wherever small documents hang under names that anybody may overwrite. Each writer first leaves
//! what it made as a part of its own, under a name that nobody else writes; then it puts the join of everything it can see
//! under the cache's own name, and looks again until it sees no part that is not in there. So whoever writes last has read
//! what all others left, and a reader between them reads the parts too. What lies under the cache's name says which parts it
//! holds; old ones are removed.
//!
//! BuildKit reads the cache's name alone, and where it writes there itself, the parts bring back what it wrote over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use oci::{Descriptor, Digest};
use solver::exchange::Config;

use super::Error;
use super::export::fit;
use crate::event::now_millis;

/// A part of this age, in seconds, was seen by every writer that began before it.
const OLD: u64 = 3_600;
/// Rounds in which a part that can't be read is waited for.
const PATIENCE: u32 = 6;
/// Rounds after which others will have to go on.
const ROUNDS: u32 = 24;
/// Joins that may fail to be read or written before that is told.
const FAILURES: u32 = 3;
/// Parts read at once.
const AT_ONCE: usize = 8;

/// Descriptors of layers.
pub type Blobs = BTreeMap<Digest, Descriptor>;

/// Where documents hang.
pub trait Board: Sync {
    /// Bytes of the largest config that is written.
    fn most(&self) -> usize;

    /// The document under a name; `None` when there is none, or something that is no cache.
    fn one<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<One>, crate::Error>>;

    /// Names that begin so. A board that can't list has no parts that could be found.
    fn names<'a>(&'a self, beginning: &'a str) -> BoxFuture<'a, Result<Vec<String>, crate::Error>>;

    /// Writes a document. `held`: the parts that are in it.
    fn put<'a>(
        &'a self,
        name: &'a str,
        config: &'a Config,
        blobs: &'a Blobs,
        held: Option<String>,
    ) -> BoxFuture<'a, Result<Descriptor, crate::Error>>;

    /// Removes a document.
    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), crate::Error>>;
}

/// One document.
#[derive(Clone, Debug)]
pub struct One {
    /// What it says.
    pub config: Config,
    /// Its layers.
    pub blobs: Blobs,
    /// The parts that are in it.
    pub held: Option<String>,
    /// The document itself.
    pub document: Descriptor,
}

/// A cache as it lies under its name, with its parts.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The join of all of it.
    pub config: Config,
    /// Descriptors of its layers.
    pub blobs: Blobs,
    /// What lies under the name itself.
    head: Option<(Config, Descriptor)>,
    /// The parts that it holds.
    held: BTreeSet<String>,
    /// The parts that are in here: read just now, or held by what lies under the name.
    seen: BTreeSet<String>,
    /// Parts that are listed and could not be read: perhaps they are being written.
    unread: BTreeSet<String>,
}

/// What the names of a cache's parts begin with.
pub fn prefix(name: &str) -> String {
    // A tag has at most 128 characters.
    let stem =
        if name.len() <= 90 { name.to_owned() } else { format!("larder-{}", Digest::of(name.as_bytes()).short()) };
    format!("{stem}.part-")
}

/// Reads what lies under a name. `None` when there is neither a cache nor a part of one.
pub async fn read(board: &dyn Board, name: &str) -> Result<Option<Kept>, crate::Error> {
    let beginning = prefix(name);
    let (head, names) = futures_util::future::join(board.one(name), board.names(&beginning)).await;
    let head = head?;
    let there: BTreeSet<String> = names?.into_iter().filter(|n| n.starts_with(&beginning)).collect();
    let list = head.iter().filter_map(|head| head.held.as_deref()).flat_map(|list| list.split(','));
    let held: BTreeSet<String> = list.filter(|n| !n.is_empty()).map(|n| format!("{beginning}{n}")).collect();
    let new: Vec<String> = there.difference(&held).cloned().collect();
    let reading = new.iter().map(|part| async move { (part, board.one(part).await) }.boxed());
    let mut parts = stream::iter(reading.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
    let seen = there.intersection(&held).cloned().collect();
    let mut kept = Kept { held, seen, ..Kept::default() };
    let mut configs = Vec::new();
    while let Some((name, part)) = parts.next().await {
        let Some(part) = part? else {
            kept.unread.insert(name.clone());
            continue;
        };
        kept.seen.insert(name.clone());
        kept.take_blobs(&part.blobs);
        configs.push(part.config);
    }
    if let Some(head) = head {
        kept.take_blobs(&head.blobs);
        configs.push(head.config.clone());
        kept.head = Some((head.config, head.document));
    }
    if configs.is_empty() {
        return Ok(None);
    }
    kept.config = Config::join(&configs).map_err(Error::from)?;
    Ok(Some(kept))
}

impl Kept {
    fn take_blobs(&mut self, blobs: &Blobs) {
        for (digest, blob) in blobs {
            self.blobs.entry(*digest).or_insert_with(|| blob.clone());
        }
    }

    /// What lies under the name, if all of `config` and of every part is in it.
    pub fn holding(&self, config: &Config) -> Result<Option<&Descriptor>, Error> {
        let joined = Config::join([config, &self.config])?;
        let whole = self.seen.is_subset(&self.held) && self.unread.is_empty();
        Ok(self.head(&joined).filter(|_| whole))
    }

    /// What lies under the name, if it says this.
    pub fn head(&self, config: &Config) -> Option<&Descriptor> {
        self.head.as_ref().filter(|(head, _)| head == config).map(|(_, document)| document)
    }
}

/// Adds `config`, whose layers are there already. Gives what lies under the name then.
pub async fn add(board: &dyn Board, name: &str, config: &Config, blobs: &Blobs) -> Result<Descriptor, crate::Error> {
    let before = read(board, name).await?.unwrap_or_default();
    add_to(board, name, config, blobs, &before).await
}

/// The same, where it was looked already at what was there `before`.
pub async fn add_to(
    board: &dyn Board,
    name: &str,
    config: &Config,
    blobs: &Blobs,
    before: &Kept,
) -> Result<Descriptor, crate::Error> {
    if let Some(head) = before.holding(config)? {
        // There is nothing to add: it stays what it is.
        return Ok(head.clone());
    }
    let part = leave(board, name, config, blobs).await?;
    let mut pause = Duration::from_millis(20);
    let (mut round, mut failures) = (0, 0);
    loop {
        round += 1;
        let mut kept = match read(board, name).await {
            Ok(kept) => kept.unwrap_or_default(),
            // While others write, docker-registry can't read what they write for a moment.
            Err(_) if failures + 1 < FAILURES => {
                failures += 1;
                tokio::time::sleep(pause).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        kept.take_blobs(blobs);
        let all = Config::join([config, &kept.config]).map_err(Error::from)?;
        let mut held = kept.seen.clone();
        held.insert(part.clone());
        let fitted = fit(&all, board.most());
        // A part that stays unread is nobody's any more.
        let all_seen = kept.unread.is_empty() || round > PATIENCE;
        let there = kept.head(&fitted).filter(|_| held.is_subset(&kept.held));
        match there {
            Some(head) if all_seen => {
                let head = head.clone();
                tidy(board, &kept).await;
                return Ok(head);
            }
            Some(_) => {}
            None => {
                let beginning = prefix(name);
                let names: Vec<&str> = held.iter().filter_map(|name| name.strip_prefix(&beginning)).collect();
                let written = board.put(name, &fitted, &kept.blobs, Some(names.join(","))).await;
                failures += u32::from(written.is_err());
                // The part is there: a join that can't be written just now is written in another round, or by others.
                if round >= ROUNDS || failures >= FAILURES {
                    return written;
                }
            }
        }
        // Others may have written meanwhile, before or after: it is looked at again.
        tokio::time::sleep(pause).await;
        pause =
            (pause * 3 / 2).min(Duration::from_millis(500)) + Duration::from_millis(u64::from(std::process::id() % 17));
    }
}

/// Leaves a part; gives its name.
async fn leave(board: &dyn Board, name: &str, config: &Config, blobs: &Blobs) -> Result<String, crate::Error> {
    let seconds = now_millis() / 1000;
    // The same part from two writers is one.
    let name = format!("{}{seconds:08x}{}", prefix(name), Digest::of(&config.to_json()).short());
    board.put(&name, config, blobs, None).await?;
    Ok(name)
}

/// Removes old parts that are held, where that is allowed. It is tried, and no more.
async fn tidy(board: &dyn Board, kept: &Kept) {
    let oldest = (now_millis() / 1000).saturating_sub(OLD);
    let is_old = |name: &&String| written(name).is_some_and(|written| written < oldest);
    for name in kept.seen.intersection(&kept.held).filter(is_old) {
        if board.remove(name).await.is_err() {
            // Who removes nothing removes no other part either.
            return;
        }
    }
}

/// When a part was written, in seconds since 1970.
fn written(name: &str) -> Option<u64> {
    let (_, name) = name.rsplit_once(".part-")?;
    u64::from_str_radix(name.get(..8)?, 16).ok()
}
