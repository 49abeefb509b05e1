//! Why a step had to run: its ingredients are held against the nearest earlier record of the same step.
//! Facts and candidates come in; the outcome is always one of the closed list of causes, and true.

use crate::cause::{Cause, Ran};
use crate::files::{Files, diff};
use crate::ingredients::{Ingredients, Part};
use crate::solver::Reason;

/// What became of a record that would have been a hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Its cause: evicted, pruned, invalidated, expired, missing.
    pub cause: Cause,
}

/// Reads a kept file listing by its digest.
pub type ReadListing<'a> = &'a dyn Fn(&oci::Digest) -> Option<Files>;

/// What the cause is looked for in.
#[derive(Default)]
pub struct Facts<'a> {
    /// Earlier records of the step, nearest first.
    pub earlier: Vec<&'a Ingredients>,
    /// A removed record under the step's very key.
    pub lost: Option<Lost>,
    /// Inputs that ran in this build (or will), with their causes.
    pub ran: Vec<Ran>,
    /// Reads a kept file listing.
    pub listing: Option<ReadListing<'a>>,
}

/// The cause of a miss.
pub fn explain(wanted: &Ingredients, reason: &Reason, facts: &Facts<'_>) -> Cause {
    match reason {
        Reason::Requested => return Cause::Requested { by: "--no-cache".into() },
        Reason::Unusable(cause) => return cause.clone(),
        Reason::NoRecord => {}
    }
    if let Some(lost) = &facts.lost {
        return lost.cause.clone();
    }
    // What stands where another instruction stood is no changed form of it.
    let same = facts.earlier.iter().filter(|old| verb(old) == verb(wanted));
    let nearest = same.map(|old| (*old, own_changes(old, wanted, facts))).min_by_key(|(_, changes)| changes.len());
    let Some((nearest, changes)) = nearest else { return Cause::NeverBuilt };
    let (moved, own): (Vec<Cause>, Vec<Cause>) =
        changes.into_iter().partition(|cause| matches!(cause, Cause::SourceMoved { .. }));
    if let Some(cause) = own.into_iter().next() {
        return cause;
    }
    // Its own parts are as they were: what differs is beneath it.
    if let Some(ran) = facts.ran.first() {
        return parent(ran);
    }
    // A source that moved may have left the files as they were that are taken of it: where nothing else differs, it did not.
    if let Some(cause) = moved.into_iter().next() {
        return cause;
    }
    // The same parts on inputs that are hits, but other hits than last time (an older state was restored, say).
    let other = wanted.parents.iter().zip(&nearest.parents).find(|(new, old)| new.key != old.key);
    match other {
        Some((new, old)) => {
            Cause::InstructionChanged { before: format!("on {}", key(old)), after: format!("on {}", key(new)) }
        }
        None => Cause::NeverBuilt,
    }
}

/// What an instruction does, by its first word. COPY and ADD are two words for one thing.
fn verb(step: &Ingredients) -> &str {
    match step.instruction().split_whitespace().next().unwrap_or_default() {
        "ADD" => "COPY",
        word => word,
    }
}

fn key(parent: &crate::ingredients::Parent) -> String {
    let key = parent.key.map(|k| k.short()).unwrap_or_else(|| "files of another directory".into());
    format!("{} ({key})", parent.name)
}

/// The chain's root: a parent that itself only follows another is passed through.
fn parent(ran: &Ran) -> Cause {
    match ran.cause.as_ref() {
        Cause::ParentChanged(root) => Cause::ParentChanged(root.clone()),
        _ => Cause::ParentChanged(ran.clone()),
    }
}

/// What differs in the step itself, the most telling first.
fn own_changes(old: &Ingredients, new: &Ingredients, facts: &Facts<'_>) -> Vec<Cause> {
    let mut causes = Vec::new();
    // The text as it was written says more than what became of it.
    let (before, after) = (old.instruction(), new.instruction());
    if before != after {
        causes.push(Cause::InstructionChanged { before: before.into(), after: after.into() });
    }
    for part in &new.parts {
        causes.extend(changed_part(old, part, facts));
    }
    for part in &old.parts {
        causes.extend(gone_part(new, part));
    }
    causes.sort_by_key(rank);
    causes
}

/// Arguments explain an instruction that changed with them, files explain nothing else.
fn rank(cause: &Cause) -> u8 {
    match cause {
        Cause::PlatformDiffers { .. } => 0,
        Cause::BaseImageMoved { .. } => 1,
        Cause::ArgChanged { .. } => 2,
        Cause::InstructionChanged { .. } => 3,
        Cause::EnvChanged { .. } => 4,
        _ => 5,
    }
}

fn changed_part(old: &Ingredients, part: &Part, facts: &Facts<'_>) -> Option<Cause> {
    match part {
        Part::Arg { name, value } => {
            let before = find(old, |p| matches!(p, Part::Arg { name: n, .. } if n == name)).and_then(value_of);
            (before.as_deref() != Some(value)).then(|| Cause::ArgChanged {
                name: name.clone(),
                before,
                after: Some(value.clone()),
            })
        }
        Part::Env { name, value } => {
            let before = find(old, |p| matches!(p, Part::Env { name: n, .. } if n == name)).and_then(value_of);
            (before.as_deref() != Some(value)).then(|| Cause::EnvChanged {
                name: name.clone(),
                before,
                after: Some(value.clone()),
            })
        }
        Part::Base { reference, digest } => old.parts.iter().find_map(|p| match p {
            Part::Base { reference: r, digest: before } if r == reference && before != digest => {
                Some(Cause::BaseImageMoved { reference: reference.clone(), before: *before, after: *digest })
            }
            _ => None,
        }),
        Part::Source { name, version } => old.parts.iter().find_map(|p| match p {
            Part::Source { name: n, version: before } if n == name && before != version => {
                let (source, before, after) = (name.clone(), before.clone(), version.clone());
                Some(Cause::SourceMoved { source, before, after })
            }
            _ => None,
        }),
        Part::Platform(wanted) => {
            let have = find(old, |p| matches!(p, Part::Platform(_))).and_then(value_of)?;
            (have != *wanted).then(|| Cause::PlatformDiffers { wanted: wanted.clone(), have: vec![have] })
        }
        Part::Files { from, listing, .. } => files_changed(old, from, listing, facts),
        Part::Mount { target, what } => {
            let before = find(old, |p| matches!(p, Part::Mount { target: t, .. } if t == target)).and_then(value_of);
            (before.as_deref() != Some(what)).then(|| Cause::InstructionChanged {
                before: format!("mount {target}: {}", before.unwrap_or_else(|| "none".into())),
                after: format!("mount {target}: {what}"),
            })
        }
        Part::Option { name, value } => {
            let before = find(old, |p| matches!(p, Part::Option { name: n, .. } if n == name)).and_then(value_of)?;
            let said = |value: &str| format!("{name} {}", if value.is_empty() { "none" } else { value });
            (before != *value).then(|| Cause::InstructionChanged { before: said(&before), after: said(value) })
        }
        Part::Instruction(_) => None,
    }
}

fn gone_part(new: &Ingredients, part: &Part) -> Option<Cause> {
    let is_there = |test: &dyn Fn(&Part) -> bool| new.parts.iter().any(test);
    match part {
        Part::Arg { name, value } if !is_there(&|p| matches!(p, Part::Arg { name: n, .. } if n == name)) => {
            Some(Cause::ArgChanged { name: name.clone(), before: Some(value.clone()), after: None })
        }
        Part::Env { name, value } if !is_there(&|p| matches!(p, Part::Env { name: n, .. } if n == name)) => {
            Some(Cause::EnvChanged { name: name.clone(), before: Some(value.clone()), after: None })
        }
        Part::Mount { target, what } if !is_there(&|p| matches!(p, Part::Mount { target: t, .. } if t == target)) => {
            let (before, after) = (format!("mount {target}: {what}"), format!("mount {target}: none"));
            Some(Cause::InstructionChanged { before, after })
        }
        _ => None,
    }
}

/// How many changed paths are kept as evidence.
const NAMED: usize = 20;

fn files_changed(old: &Ingredients, from: &str, listing: &oci::Digest, facts: &Facts<'_>) -> Option<Cause> {
    let before = old.parts.iter().find_map(|p| match p {
        Part::Files { from: f, listing, .. } if f == from => Some(*listing),
        _ => None,
    })?;
    if before == *listing {
        return None;
    }
    let read = facts.listing?;
    let (old_files, new_files) = (read(&before)?, read(listing)?);
    let changes = diff(&old_files, &new_files);
    let total = new_files.0.len() as u64;
    let changed = changes.len() as u64;
    // A directory's own entry changes with any of its files; the files say it better.
    let mut paths: Vec<_> = changes.into_iter().collect();
    paths.truncate(NAMED);
    (changed > 0).then(|| Cause::FilesChanged { from: from.to_owned(), paths, changed, total })
}

fn find(list: &Ingredients, test: impl Fn(&Part) -> bool) -> Option<&Part> {
    list.parts.iter().find(|p| test(p))
}

fn value_of(part: &Part) -> Option<String> {
    match part {
        Part::Arg { value, .. } | Part::Env { value, .. } | Part::Option { value, .. } => Some(value.clone()),
        Part::Platform(value) | Part::Instruction(value) | Part::Mount { what: value, .. } => Some(value.clone()),
        Part::Base { .. } | Part::Files { .. } | Part::Source { .. } => None,
    }
}
