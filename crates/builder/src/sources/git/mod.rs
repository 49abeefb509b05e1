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
use run::Git;
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

/// A commit that is known and not yet checked out.
pub struct Pinned {
    wanted: Wanted,
    found: refs::Found,
}

impl Pinned {
    /// Asks the remote which commit is meant. A whole commit is not asked for.
    pub async fn identify(work: &Work, vertex: &Vertex) -> Result<Pinned, Failure> {
        let wanted = Wanted::read(vertex)?;
        let found = match wanted.given()? {
            Some(found) => found,
            None => refs::ask(&Git::new(work, &wanted).await?, &wanted).await?,
        };
        Ok(Pinned { wanted, found })
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
