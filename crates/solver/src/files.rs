//! Listings of files: what a step took from a directory, path by path, so that a miss can name what changed.
//! A listing is data; who walks the directory is `store`.

use oci::Digest;
use serde::{Deserialize, Serialize};

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum FileKind {
    File,
    Directory,
    Link,
    Other,
}

/// One path of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative to what was selected, `/` between parts.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with suid, sgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Digest of its header and content, as the content hash has it.
    pub digest: Digest,
}

/// A listing, sorted by path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files(pub Vec<FileEntry>);

/// How a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Change {
    Added,
    Removed,
    Content,
    Mode,
    Owner,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Change::Added => "added",
            Change::Removed => "removed",
            Change::Content => "content",
            Change::Mode => "mode",
            Change::Owner => "owner",
        })
    }
}

/// Every path that differs between two sorted listings.
pub fn diff(old: &Files, new: &Files) -> Vec<(String, Change)> {
    let (mut a, mut b) = (old.0.iter().peekable(), new.0.iter().peekable());
    let mut changes = Vec::new();
    loop {
        let order = match (a.peek(), b.peek()) {
            (None, None) => return changes,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(x), Some(y)) => x.path.cmp(&y.path),
        };
        match order {
            std::cmp::Ordering::Less => changes.extend(a.next().map(|x| (x.path.clone(), Change::Removed))),
            std::cmp::Ordering::Greater => changes.extend(b.next().map(|y| (y.path.clone(), Change::Added))),
            std::cmp::Ordering::Equal => {
                if let (Some(x), Some(y)) = (a.next(), b.next()) {
                    changes.extend(change(x, y).map(|c| (x.path.clone(), c)));
                }
            }
        }
    }
}

fn change(x: &FileEntry, y: &FileEntry) -> Option<Change> {
    if x.kind == y.kind && x.mode != y.mode {
        Some(Change::Mode)
    } else if (x.uid, x.gid) != (y.uid, y.gid) {
        Some(Change::Owner)
    } else {
        (x.digest != y.digest || x.kind != y.kind).then_some(Change::Content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, mode: u32, content: &str) -> FileEntry {
        let digest = Digest::of(content.as_bytes());
        FileEntry { path: path.into(), kind: FileKind::File, mode, uid: 0, gid: 0, digest }
    }

    #[test]
    fn names_every_difference() {
        let old = Files(vec![entry("a", 0o644, "1"), entry("b", 0o644, "1"), entry("c", 0o644, "1")]);
        let new = Files(vec![entry("a", 0o644, "2"), entry("c", 0o755, "1"), entry("d", 0o644, "1")]);
        let changes: Vec<String> = diff(&old, &new).iter().map(|(p, c)| format!("{p} {c}")).collect();
        assert_eq!(changes, ["a content", "b removed", "c mode", "d added"]);
    }
}
