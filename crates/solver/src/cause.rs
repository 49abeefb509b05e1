//! Verdicts, and the closed list of causes of a miss with their evidence (DESIGN.md, "Verdicts and causes").
//! A cause is a true statement about this build and earlier ones; there is no "unknown".

use oci::Digest;
use serde::{Deserialize, Serialize};

use crate::files::Change;

/// What was decided for a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Verdict {
    Hit { source: HitSource },
    Miss { cause: Cause },
}

/// Where a hit came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HitSource {
    /// Found by what the step is (no byte of any input was read).
    Definition,
    /// Found by the content of its inputs.
    Content,
    /// An input ran again and gave the same tree as before.
    SameInput,
    /// Another build of this process ran it.
    Shared,
    /// A cache from elsewhere has it: the backend, as it is shown.
    Imported(String),
    /// Nothing needed it: what reads it was a hit.
    NotNeeded,
}

/// A step that ran, as evidence for those after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// Display name.
    pub step: String,
    /// Why it ran.
    pub cause: Box<Cause>,
}

/// Why a step had to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Cause {
    /// No earlier record of this step on this node or in any cache asked.
    NeverBuilt,
    InstructionChanged {
        before: String,
        after: String,
    },
    ArgChanged {
        name: String,
        before: Option<String>,
        after: Option<String>,
    },
    EnvChanged {
        name: String,
        before: Option<String>,
        after: Option<String>,
    },
    /// The first few by name; `changed` of `total` paths.
    FilesChanged {
        from: String,
        paths: Vec<(String, Change)>,
        changed: u64,
        total: u64,
    },
    BaseImageMoved {
        reference: String,
        before: Digest,
        after: Digest,
    },
    PlatformDiffers {
        wanted: String,
        have: Vec<String>,
    },
    /// The step at the root of the chain, with its own cause.
    ParentChanged(Ran),
    /// `--no-cache` and the like.
    Requested {
        by: String,
    },
    Expired {
        policy: String,
        age_seconds: u64,
    },
    Evicted {
        rule: String,
        when: u64,
        bytes: u64,
    },
    Pruned {
        by: String,
        when: u64,
    },
    Invalidated {
        by: String,
        when: u64,
    },
    BackendUnavailable {
        backend: String,
        error: String,
        tries: u32,
    },
    BlobMissing {
        digest: String,
        looked: Vec<String>,
    },
    BlobCorrupt {
        digest: String,
        looked: Vec<String>,
    },
    OutOfScope {
        scope: String,
    },
    /// A repository's reference or a file from the web is no longer what it was: commits, or digests of files.
    SourceMoved {
        source: String,
        before: String,
        after: String,
    },
}

/// How much of a text is shown in one line.
const SHOWN: usize = 60;

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "because ")?;
        self.fact(f)
    }
}

impl Cause {
    fn fact(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Cause::NeverBuilt => f.write_str("it was never built here"),
            Cause::InstructionChanged { before, after } => changed(f, "the instruction", Some(before), Some(after)),
            Cause::ArgChanged { name, before, after } => {
                changed(f, &format!("ARG {name}"), before.as_deref(), after.as_deref())
            }
            Cause::EnvChanged { name, before, after } => {
                changed(f, &format!("ENV {name}"), before.as_deref(), after.as_deref())
            }
            Cause::FilesChanged { paths, changed, total, .. } => files(f, paths, *changed, *total),
            Cause::BaseImageMoved { reference, before, after } => {
                write!(f, "{reference} moved sha256:{} → sha256:{}", before.short(), after.short())
            }
            Cause::SourceMoved { source, before, after } => {
                write!(f, "{source} moved {} → {}", version(before), version(after))
            }
            Cause::PlatformDiffers { wanted, have } => {
                write!(f, "it was built for {} and not for {wanted}", have.join(", "))
            }
            Cause::ParentChanged(ran) if *ran.cause == Cause::NeverBuilt => {
                write!(f, "{} was never built here", cut(&ran.step, 0))
            }
            Cause::ParentChanged(ran) => {
                // Its whole name stands where it ran; the evidence keeps it, too.
                write!(f, "{} ran again, ", cut(&ran.step, 0))?;
                write!(f, "{}", ran.cause)
            }
            Cause::Requested { by } => write!(f, "{by} asks for it"),
            Cause::Expired { policy, age_seconds } => write!(f, "its record expired ({policy}, {age_seconds} s old)"),
            Cause::Evicted { rule, bytes, .. } => {
                write!(f, "its record was evicted by {rule}, which freed {bytes} bytes")
            }
            Cause::Pruned { by, .. } => write!(f, "its record was pruned by {by}"),
            Cause::Invalidated { by, .. } => write!(f, "its record was invalidated by {by}"),
            Cause::BackendUnavailable { backend, error, tries } => {
                write!(f, "{backend} could not be reached after {tries} tries: {error}")
            }
            Cause::BlobMissing { digest, looked } => write!(f, "{digest} is missing (looked in {})", looked.join(", ")),
            Cause::BlobCorrupt { digest, looked } => write!(f, "{digest} is damaged (in {})", looked.join(", ")),
            Cause::OutOfScope { scope } => write!(f, "its record is in scope {scope}, which this build may not read"),
        }
    }

    /// The word of the cause's kind, for machines and counters.
    pub fn kind(&self) -> &'static str {
        match self {
            Cause::NeverBuilt => "NeverBuilt",
            Cause::InstructionChanged { .. } => "InstructionChanged",
            Cause::ArgChanged { .. } => "ArgChanged",
            Cause::EnvChanged { .. } => "EnvChanged",
            Cause::FilesChanged { .. } => "FilesChanged",
            Cause::BaseImageMoved { .. } => "BaseImageMoved",
            Cause::PlatformDiffers { .. } => "PlatformDiffers",
            Cause::ParentChanged(_) => "ParentChanged",
            Cause::Requested { .. } => "Requested",
            Cause::Expired { .. } => "Expired",
            Cause::Evicted { .. } => "Evicted",
            Cause::Pruned { .. } => "Pruned",
            Cause::Invalidated { .. } => "Invalidated",
            Cause::BackendUnavailable { .. } => "BackendUnavailable",
            Cause::BlobMissing { .. } => "BlobMissing",
            Cause::BlobCorrupt { .. } => "BlobCorrupt",
            Cause::OutOfScope { .. } => "OutOfScope",
            Cause::SourceMoved { .. } => "SourceMoved",
        }
    }
}

/// `what: before → after`, cut to the part that differs when it is long.
fn changed(f: &mut std::fmt::Formatter<'_>, what: &str, before: Option<&str>, after: Option<&str>) -> std::fmt::Result {
    match (before, after) {
        (None, Some(after)) => write!(f, "{what} is new: {}", cut(after, 0)),
        (Some(before), None) => write!(f, "{what} is gone; it was {}", cut(before, 0)),
        (Some(before), Some(after)) => {
            let same = before.chars().zip(after.chars()).take_while(|(a, b)| a == b).count();
            let from =
                if before.chars().count().max(after.chars().count()) > SHOWN { same.saturating_sub(20) } else { 0 };
            write!(f, "{what}: {} → {}", cut(before, from), cut(after, from))
        }
        (None, None) => write!(f, "{what} changed"),
    }
}

/// A commit or a digest, as long as the short form of a digest.
fn version(text: &str) -> String {
    match text.split_once(':') {
        Some((algorithm, hex)) => format!("{algorithm}:{}", hex.chars().take(12).collect::<String>()),
        None => text.chars().take(12).collect(),
    }
}

fn cut(text: &str, from: usize) -> String {
    let line: String = text.chars().map(|c| if c == '\n' { '␤' } else { c }).collect();
    let shown: String = line.chars().skip(from).take(SHOWN).collect();
    let before = if from > 0 { "…" } else { "" };
    let after = if line.chars().count() > from + SHOWN { "…" } else { "" };
    format!("{before}{shown}{after}")
}

fn files(f: &mut std::fmt::Formatter<'_>, paths: &[(String, Change)], changed: u64, total: u64) -> std::fmt::Result {
    let named: Vec<String> = paths.iter().take(3).map(|(path, change)| format!("{path} changed ({change})")).collect();
    let named =
        named.join(", ").replace(" changed (added)", " was added").replace(" changed (removed)", " was removed");
    write!(f, "{named}, {changed} of {total} files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_each() {
        let files = Cause::FilesChanged {
            from: "context".into(),
            paths: vec![("src/main.rs".into(), Change::Content)],
            changed: 1,
            total: 214,
        };
        assert_eq!(files.to_string(), "because src/main.rs changed (content), 1 of 214 files");
        let arg = Cause::ArgChanged { name: "VERSION".into(), before: Some("1.2".into()), after: Some("1.3".into()) };
        assert_eq!(arg.to_string(), "because ARG VERSION: 1.2 → 1.3");
        let parent = Cause::ParentChanged(Ran { step: "[deps 2/3] RUN fetch".into(), cause: Box::new(arg) });
        assert_eq!(parent.to_string(), "because [deps 2/3] RUN fetch ran again, because ARG VERSION: 1.2 → 1.3");
        let long = Ran { step: format!("[deps 2/3] RUN {}", "fetch ".repeat(20)), cause: Box::new(Cause::NeverBuilt) };
        let said = Cause::ParentChanged(long).to_string();
        assert_eq!(said, "because [deps 2/3] RUN fetch fetch fetch fetch fetch fetch fetch fet… was never built here");
    }
}
