//! Acting on the rules for tags: those that go are removed, and then the manifests of their repositories that no tag, no
//! index and no subject leads to. Their blobs are the collector's.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::contents::Contents;
use super::digest::ContentDigest;
use super::name::{Repository, Tag};
use super::retention::{Reason, Tagged, decide};
use super::users::matches;
use super::{Registry, collect, format, now};

/// A pull of a tag is written down at most so often.
const PULLS: Duration = Duration::from_secs(600);

/// What the rules came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Every tag of a repository that a rule is for, with its reason.
    pub tags: Vec<(String, String, Reason)>,
    /// Manifests that went, or would.
    pub manifests: Vec<(String, ContentDigest)>,
}

/// Notes that a tag was pulled; for the background.
pub async fn note_pull(registry: &Registry, name: &Repository, tag: &Tag) -> io::Result<()> {
    if registry.retention.is_empty() {
        return Ok(());
    }
    let key = format::pull(name, tag);
    {
        let mut noted = registry.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        noted.retain(|_, at| at.elapsed() < PULLS);
        if noted.insert(key.clone(), Instant::now()).is_some() {
            return Ok(());
        }
    }
    registry.contents.storage.write(key, Vec::new()).await
}

/// Applies the rules; `dry` removes nothing.
pub async fn expire(registry: &Registry, dry: bool) -> io::Result<Expired> {
    let (contents, rules) = (&registry.contents, &registry.retention);
    let mut done = Expired::default();
    for name in contents.repositories().await? {
        if !rules.iter().any(|rule| matches(&rule.repositories, name.as_str())) {
            continue;
        }
        let tags = tagged(contents, &name).await?;
        let reasons = decide(name.as_str(), &tags, rules, now());
        let mut gone = HashSet::new();
        for (tagged, reason) in tags.into_iter().zip(reasons) {
            if !reason.keeps() {
                gone.insert(tagged.tag.clone());
                if let Some(tag) = Tag::parse(&tagged.tag).filter(|_| !dry) {
                    remove_tag(contents, &name, &tag, tagged.pushed).await?;
                }
            }
            done.tags.push((name.to_string(), tagged.tag, reason));
        }
        let before = now().saturating_sub(contents.grace.as_millis() as u64);
        for digest in loose(contents, &name, &gone, before).await? {
            if dry || contents.remove_untagged(&name, &digest, before).await? {
                done.manifests.push((name.to_string(), digest));
            }
        }
    }
    Ok(done)
}

/// The tags of a repository with their times.
async fn tagged(contents: &Contents, name: &Repository) -> io::Result<Vec<Tagged>> {
    let pulls = contents.storage.list(format::pulls(name)).await?;
    let pulls: BTreeMap<_, _> = pulls.into_iter().map(|entry| (entry.name, entry.modified)).collect();
    let tags = contents.storage.list(format::tags(name)).await?;
    let tagged = |entry: super::disk::Entry| {
        let pulled = pulls.get(&entry.name).copied();
        Tagged { tag: entry.name, pushed: entry.modified, pulled }
    };
    Ok(tags.into_iter().map(tagged).collect())
}

/// Removes a tag, unless it was pushed since it was judged.
async fn remove_tag(contents: &Contents, name: &Repository, tag: &Tag, pushed: u64) -> io::Result<()> {
    let _held = contents.hold(name, std::slice::from_ref(tag)).await;
    let entry = contents.storage.look(format::tag(name, tag)).await?;
    if entry.is_some_and(|entry| entry.modified == pushed) {
        contents.untag(name, tag).await?;
        contents.storage.remove(format::pull(name, tag)).await?;
    }
    Ok(())
}

/// Manifests, older than the grace, that no tag but those `gone` leads to, nor any manifest that stays.
async fn loose(
    contents: &Contents,
    name: &Repository,
    gone: &HashSet<String>,
    before: u64,
) -> io::Result<Vec<ContentDigest>> {
    let manifests = contents.manifests(name).await?;
    let mut kept: HashSet<ContentDigest> = HashSet::new();
    for tag in contents.tags(name).await?.iter().filter(|tag| !gone.contains(tag.as_str())) {
        kept.extend(contents.tagged(name, tag).await?);
    }
    let mut documents = Vec::new();
    for (digest, pushed) in &manifests {
        if *pushed >= before {
            kept.insert(digest.clone());
        }
        match collect::read(contents, name, digest).await? {
            Some(document) => documents.push((digest, document)),
            // What it names is not known: nothing of this repository goes.
            None => return Ok(Vec::new()),
        }
    }
    // What stays keeps what it names, and what is attached to it, and so on.
    loop {
        let known = kept.len();
        for (digest, document) in &documents {
            if document.subject.as_ref().is_some_and(|subject| kept.contains(subject)) {
                kept.insert((*digest).clone());
            }
            if kept.contains(*digest) {
                kept.extend(document.parts.iter().map(|part| part.digest.clone()));
            }
        }
        if kept.len() == known {
            break;
        }
    }
    Ok(manifests.into_iter().map(|(digest, _)| digest).filter(|digest| !kept.contains(digest)).collect())
}
