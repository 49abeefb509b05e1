//! Git repositories as sources: a reference becomes a commit (its key), and the commit a tree.
//! It runs the machine's `git`; it reads no configuration of the machine, asks nobody for a password, keeps no secret.

mod address;
mod checkout;
mod mirror;
mod refs;
mod run;
mod wanted;

use graph::Vertex;
use oci::Digest;
use solver::key;
use store::SnapshotId;

use crate::{Error as Failure, Work};
use mirror::Mirror;
pub use refs::Found;
use run::Git;
pub use wanted::Asked;
use wanted::Wanted;

/// Names of volumes that are larder's own begin with this: no cache mount gets one of them.
pub const VOLUMES: &str = "larder.git/";

/// Why a repository can't be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("can't start `git`: {source}; install git on the machine that builds")]
    NoGit { source: std::io::Error },
    #[error("can't {doing} {remote}: {reason}")]
    Failed { doing: &'static str, remote: String, reason: String },
    #[error(
        "repository does not contain ref {reference}: check the name of the branch or tag in {remote}, or name a whole commit"
    )]
    NoReference { remote: String, reference: String },
    #[error("{remote} does not say which branch is its default: name one with #BRANCH")]
    NoDefaultBranch { remote: String },
    #[error(
        "expected checksum to match {expected}, got {found}: the reference of {remote} moved, or the checksum is wrong"
    )]
    Checksum { remote: String, expected: String, found: String },
    #[error("{remote} has no commit {commit} to give: check that it was pushed and is part of a branch or tag")]
    NoCommit { remote: String, commit: String },
    #[error("the folder `{folder}` of {remote} is missing at {commit}, or is no folder")]
    NoFolder { remote: String, folder: String, commit: String },
    #[error("`{reference}` can't be the name of a git reference")]
    BadReference { reference: String },
}

/// What git keeps of a commit.
pub struct Objects {
    /// The commit.
    pub commit: Vec<u8>,
    /// The annotated tag that names it, if it was found by one.
    pub tag: Option<Vec<u8>>,
}

impl Objects {
    /// When it was committed, in seconds since 1970.
    pub fn committed(&self) -> Option<i64> {
        let text = String::from_utf8_lossy(&self.commit);
        let header = text.split("\n\n").next().unwrap_or_default();
        let line = header.lines().find_map(|line| line.strip_prefix("committer "))?;
        line.rsplit(' ').nth(1)?.parse().ok()
    }
}

/// A commit that is known and not yet checked out.
pub struct Pinned {
    wanted: Wanted,
    found: Found,
}

impl Pinned {
    /// Asks the remote which commit is meant. A whole commit is not asked for.
    pub async fn identify(work: &Work, vertex: &Vertex) -> Result<Pinned, Failure> {
        let wanted = Wanted::read(vertex)?;
        let found = match wanted.given()? {
            Some(found) => found,
            None => {
                let ask = async || refs::ask(&Git::new(work, &wanted).await?, &wanted).await;
                work.seen.references.ask(wanted.asked(), ask).await?
            }
        };
        Ok(Pinned { wanted, found })
    }

    /// The repository and the reference in it, for people.
    pub fn shown(&self) -> String {
        let remote = address::redact(&self.wanted.remote);
        if self.wanted.reference.is_empty() { remote } else { format!("{remote}#{}", self.wanted.reference) }
    }

    /// Cache digests of the source, BuildKit's.
    pub fn keys(&self) -> Vec<Digest> {
        let (wanted, found) = (&self.wanted, &self.found);
        vec![key::git_key(&key::GitTree {
            commit: found.object(wanted.keep_git_dir),
            keep_git_of: wanted.keep_git_dir.then_some(found.reference.as_str()),
            folder: &wanted.folder,
            skip_submodules: wanted.skip_submodules,
            mtime: &wanted.mtime,
        })]
    }

    /// The object that is checked out, and the reference it was found under: whoever asks for them again gets the same.
    pub fn object(&self) -> (&str, &str) {
        (self.found.object(self.wanted.keep_git_dir), &self.found.reference)
    }

    /// The commit.
    pub fn commit(&self) -> &str {
        self.found.object(false)
    }

    /// The reference that it was found under, its object, and the commit of that where it is a tag's.
    pub fn found(&self) -> (&str, &str, Option<&str>) {
        let commit = self.found.peeled.as_deref().filter(|_| !self.wanted.keep_git_dir);
        (&self.found.reference, &self.found.sha, commit)
    }

    /// The objects as git keeps them; they are fetched for it.
    pub async fn objects(&self, work: &Work) -> Result<Objects, Failure> {
        let git = Git::new(work, &self.wanted).await?;
        let sha = self.found.sha.as_str();
        let mirror = Mirror::open(work, &git, sha.len() == 64).await?;
        mirror.fetch(&git, sha, &self.found.reference).await?;
        let repository = mirror.repository();
        let read = async |kind: &str, object: &str| {
            let call = git.call(run::NOTHING, &["cat-file", kind, object]).repository(&repository);
            call.bytes("read an object of").await
        };
        let commit = mirror.peel(&git, sha).await?;
        let tag = if commit == sha { None } else { Some(read("tag", sha).await?) };
        Ok(Objects { commit: read("commit", &commit).await?, tag })
    }

    /// The tree. The same commit is checked out once for as long as the store keeps it.
    pub async fn snapshot(&self, work: &Work) -> Result<SnapshotId, Failure> {
        let (wanted, key) = (&self.wanted, self.keys()[0]);
        let git = Git::new(work, wanted).await?;
        let object = self.found.object(wanted.keep_git_dir);
        let mirror = Mirror::open(work, &git, object.len() == 64).await?;
        if let Some(made) = mirror.made(work, &key)? {
            return Ok(made);
        }
        mirror.fetch(&git, object, &self.found.reference).await?;
        if !wanted.checksum.is_empty() && !object.starts_with(&wanted.checksum) {
            self.check_peeled(&mirror, &git, object).await?;
        }
        let snapshot = checkout::tree(work, &git, &mirror, wanted, object, &self.found.reference).await?;
        mirror.note(&key, snapshot)?;
        Ok(snapshot)
    }

    /// The checksum may be a tag's object or the commit that it names.
    async fn check_peeled(&self, mirror: &Mirror, git: &Git, object: &str) -> Result<(), Failure> {
        let peeled = mirror.peel(git, object).await?;
        let expected = &self.wanted.checksum;
        if peeled.starts_with(expected) || self.found.sha.starts_with(expected) {
            return Ok(());
        }
        let (remote, expected) = (git.remote().to_owned(), expected.clone());
        Err(crate::sources::Error::from(Error::Checksum { remote, expected, found: peeled }).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_it_was_committed() {
        let of = |commit: &str| Objects { commit: commit.into(), tag: None }.committed();
        let commit =
            "tree 1\nauthor A <a@b> 1 +0000\ncommitter B C <b@c> 1700000101 +0200\n\ncommitter D <d@e> 5 +0000\n";
        assert_eq!(of(commit), Some(1_700_000_101));
        assert_eq!(of("tree 1\n\ncommitter D <d@e> 5 +0000\n"), None);
    }
}
