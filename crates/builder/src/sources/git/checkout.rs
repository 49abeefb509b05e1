//! A commit of a copy as a tree: files, submodules, one folder of it if that is wanted, and plain owners, modes and times,
//! so that the same commit is the same layer on every machine. It fetches nothing but submodules.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::Timespec;
use store::canvas::{Attributes, set_owner_and_mode, set_time};
use store::{Resource, SnapshotId};

use super::Error;
use super::mirror::{Mirror, remove};
use super::run::{Git, NOTHING, OURS, REMOTE};
use super::wanted::{Wanted, is_commit};
use crate::ops::Doing;
use crate::{Error as Failure, Work, blocking, ops, sources};

/// Checks `object` out.
pub async fn tree(
    work: &Work,
    git: &Git,
    mirror: &Mirror,
    wanted: &Wanted,
    object: &str,
    reference: &str,
) -> Result<SnapshotId, Failure> {
    let keep = wanted.keep_git_dir && wanted.folder.is_empty();
    let checkout = Checkout { git, mirror, object, reference, keep, files: mirror.path("files") };
    checkout.make(wanted.skip_submodules).await?;
    let commit = mirror.peel(git, object).await?;
    let said = git.call(NOTHING, &["log", "-1", "--format=%ct", "--end-of-options", &commit]);
    let seconds = said.repository(&mirror.repository()).output("read a commit of").await?;
    let time = Timespec { tv_sec: seconds.trim().parse().unwrap_or(0), tv_nsec: 0 };

    let folder = inside(&checkout.files, &wanted.folder).ok_or_else(|| Error::NoFolder {
        remote: git.remote().to_owned(),
        folder: wanted.folder.clone(),
        commit: commit.clone(),
    });
    let folder = folder.map_err(sources::Error::from)?;
    let (store, files) = (work.engine.store.clone(), checkout.files.clone());
    let describe = format!("git snapshot for {}#{reference}", git.remote());
    blocking("kept a commit's files", move || {
        let mut draft = store.snapshots().begin(None)?;
        draft.describe(store::Kind::SourceGitCheckout, &describe);
        let _held = store.leases().hold(Resource::Snapshot(draft.id()))?;
        let upper = draft.upper().to_owned();
        for entry in std::fs::read_dir(&folder).doing("read", &folder)? {
            let entry = entry.doing("read", &folder)?;
            std::fs::rename(entry.path(), upper.join(entry.file_name())).doing("move", &entry.path())?;
        }
        remove(&files)?;
        dress(&upper, time, keep)?;
        Ok::<_, ops::Error>(draft.commit()?)
    })
    .await
}

struct Checkout<'a> {
    git: &'a Git,
    mirror: &'a Mirror,
    object: &'a str,
    reference: &'a str,
    keep: bool,
    /// Where the files are made; always the same place, so that kept submodules find it again.
    files: PathBuf,
}

impl Checkout<'_> {
    async fn make(&self, skip_submodules: bool) -> Result<(), Failure> {
        let repository = self.fill().await?;
        if skip_submodules || !self.files.join(".gitmodules").exists() {
            return Ok(());
        }
        let first = self.submodules(&repository, true).await;
        if matches!(first, Ok(()) | Err(Failure::Cancelled)) {
            return first;
        }
        // Kept submodules may be of another address by now, and not every server gives single commits: all anew.
        remove(&repository.join("modules"))?;
        let repository = self.fill().await?;
        self.submodules(&repository, false).await
    }

    /// Writes the files; returns the repository that they belong to.
    async fn fill(&self) -> Result<PathBuf, Failure> {
        remove(&self.files)?;
        std::fs::create_dir(&self.files).doing("make", &self.files)?;
        if self.keep { self.with_repository().await } else { self.without_repository().await }
    }

    async fn without_repository(&self) -> Result<PathBuf, Failure> {
        let repository = self.mirror.repository();
        let index = self.index();
        remove(&index)?;
        let call = self.git.call(NOTHING, &["read-tree", "--reset", "-u", self.object]);
        call.repository(&repository).files(&self.files).index(&index).output("check out a commit of").await?;
        Ok(repository)
    }

    /// A repository of its own with one commit, which knows where it came from.
    async fn with_repository(&self) -> Result<PathBuf, Failure> {
        let (git, own, ours) = (self.git, self.files.join(".git"), self.mirror.repository());
        let call = |protocols: &str, args: &[&str]| git.call(protocols, args).repository(&own).files(&self.files);
        let format = if self.object.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
        let doing = "check out a repository of";
        call(NOTHING, &["init", "--quiet", "--template=", format]).output(doing).await?;
        let named = "refs/larder/taken";
        git.call(NOTHING, &["update-ref", named, self.object]).repository(&ours).output(doing).await?;
        // Through the protocol, as a clone of a path would share files with it.
        let from = format!("file://{}", ours.display());
        let what = match is_commit(self.reference) {
            true => named.to_owned(),
            false => format!("{named}:{}", self.reference),
        };
        call(OURS, &["fetch", "--quiet", "-u", "--no-tags", "--depth=1", "--", &from, &what]).output(doing).await?;
        call(NOTHING, &["checkout", "--quiet", "FETCH_HEAD"]).output(doing).await?;
        call(NOTHING, &["remote", "add", "origin", git.remote()]).output(doing).await?;
        call(NOTHING, &["reflog", "expire", "--all", "--expire=now"]).output(doing).await?;
        remove(&own.join("FETCH_HEAD"))?;
        Ok(own)
    }

    async fn submodules(&self, repository: &Path, shallow: bool) -> Result<(), Failure> {
        let mut args = vec!["submodule", "--quiet", "update", "--init", "--recursive", "--force"];
        if shallow {
            args.push("--depth=1");
        }
        let mut call = self.git.call(REMOTE, &args).repository(repository).files(&self.files).loud();
        if !self.keep {
            call = call.index(&self.index());
        }
        call.output("fetch submodules of").await.map(drop)
    }

    fn index(&self) -> PathBuf {
        self.mirror.path("index")
    }
}

/// The folder `wanted` of `files`, if it is there and no link leads to it.
fn inside(files: &Path, wanted: &str) -> Option<PathBuf> {
    let mut place = files.to_owned();
    for part in wanted.split('/').filter(|part| !part.is_empty()) {
        place.push(part);
        if !std::fs::symlink_metadata(&place).is_ok_and(|data| data.is_dir()) {
            return None;
        }
    }
    Some(place)
}

/// Gives everything below `path`, and `path` itself, the owner 0:0, a plain mode and `time`. Git's own files go where
/// they are not kept.
fn dress(path: &Path, time: Timespec, keep: bool) -> Result<(), ops::Error> {
    let data = std::fs::symlink_metadata(path).doing("look at", path)?;
    if data.is_dir() {
        for entry in std::fs::read_dir(path).doing("read", path)? {
            let entry = entry.doing("read", path)?;
            // A commit can't have an entry of that name.
            if entry.file_name() == ".git" && !keep {
                remove(&entry.path())?;
            } else {
                dress(&entry.path(), time, keep)?;
            }
        }
    }
    let mode = match data.permissions().mode() {
        mode if data.is_dir() || mode & 0o100 != 0 => 0o755,
        mode if mode & 0o200 == 0 => 0o444,
        _ => 0o644,
    };
    set_owner_and_mode(path, &Attributes::made(mode, None, None)).doing("set owner and mode of", path)?;
    set_time(path, time).doing("set the time of", path)
}
