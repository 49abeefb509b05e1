//! The bare copy of a remote, in a volume of the store: a commit is fetched once, with as little history as the remote
//! allows. One step at a time uses a copy. No address, secret or setting of a build stays in it.

use std::path::{Path, PathBuf};

use oci::Digest;
use store::{Resource, Sharing, SnapshotId, Volume, VolumeRequest};

use super::run::{Git, NOTHING, REMOTE};
use super::{Error, VOLUMES};
use crate::ops::Doing;
use crate::{Error as Failure, Work, blocking, ops, sources};

/// See the module.
pub struct Mirror {
    volume: Volume,
}

impl Mirror {
    /// Waits for the remote's copy, and makes it where there is none.
    pub async fn open(work: &Work, git: &Git, sha256: bool) -> Result<Mirror, Failure> {
        let format = if sha256 { "sha256" } else { "sha1" };
        let name = format!("{VOLUMES}{}", Digest::of(format!("{format} {}", git.url()).as_bytes()).hex());
        let description = format!("git repository {}", git.remote());
        let (store, cancel) = (work.engine.store.clone(), work.cancel.clone());
        let volume = blocking("waited for a git repository", move || {
            let request =
                VolumeRequest { name: &name, seed: None, sharing: Sharing::Locked, description: &description };
            let mut waiting = || {
                if cancel.is_cancelled() {
                    std::ops::ControlFlow::Break(())
                } else {
                    std::ops::ControlFlow::Continue(())
                }
            };
            match store.volumes().take(&request, &mut waiting) {
                Err(_) if cancel.is_cancelled() => Err(ops::Error::Cancelled),
                taken => Ok(taken?),
            }
        });
        let mut mirror = Mirror { volume: volume.await? };
        if mirror.volume.fresh() {
            mirror.volume.filled()?;
        }
        let repository = mirror.repository();
        let made = mirror.path("snapshots");
        std::fs::create_dir_all(&made).doing("make", &made)?;
        // A setting that was left there would be obeyed. Making a repository again changes nothing else.
        remove(&repository.join("config"))?;
        let (format, path) = (format!("--object-format={format}"), repository.to_string_lossy().into_owned());
        git.call(NOTHING, &["init", "--bare", "--quiet", "--template=", &format, &path])
            .output("prepare a copy of")
            .await?;
        Ok(mirror)
    }

    /// The bare repository.
    pub fn repository(&self) -> PathBuf {
        self.path("repository")
    }

    /// A place beside it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.volume.path().join(name)
    }

    /// The tree that was made for `key` before, if the store still has it.
    pub fn made(&self, work: &Work, key: &Digest) -> Result<Option<SnapshotId>, Failure> {
        let Ok(text) = std::fs::read_to_string(self.path("snapshots").join(key.hex())) else { return Ok(None) };
        let Ok(id) = text.parse::<SnapshotId>() else { return Ok(None) };
        let store = &work.engine.store;
        let _held = store.leases().hold(Resource::Snapshot(id))?;
        if !store.snapshots().has(id)? {
            return Ok(None);
        }
        store.touch(Resource::Snapshot(id))?;
        Ok(Some(id))
    }

    /// Notes the tree of `key`.
    pub fn note(&self, key: &Digest, made: SnapshotId) -> Result<(), Failure> {
        let path = self.path("snapshots").join(key.hex());
        Ok(std::fs::write(&path, made.to_string()).doing("write", &path)?)
    }

    /// The commit of a tag's object; a commit's own name.
    pub async fn peel(&self, git: &Git, object: &str) -> Result<String, Failure> {
        let commit = format!("{object}^{{commit}}");
        let call = git.call(NOTHING, &["rev-parse", "--verify", "--end-of-options", &commit]);
        Ok(call.repository(&self.repository()).output("read a commit of").await?.trim().to_owned())
    }

    async fn has(&self, git: &Git, object: &str) -> bool {
        self.peel(git, object).await.is_ok()
    }

    /// Brings `object`: first what `reference` names now, then the object by its name, then all history.
    pub async fn fetch(&self, git: &Git, object: &str, reference: &str) -> Result<(), Failure> {
        let mut tried = Ok(());
        for attempt in 0..3 {
            if self.has(git, object).await {
                let kept = format!("refs/larder/kept/{object}");
                let call = git.call(NOTHING, &["update-ref", &kept, object]).repository(&self.repository());
                return call.output("keep a commit of").await.map(drop);
            }
            tried = match attempt {
                0 if !reference.starts_with("refs/") => continue,
                0 => self.fetch_some(git, &format!("+{reference}:refs/larder/fetched")).await,
                1 => self.fetch_some(git, object).await,
                _ => self.fetch_all(git).await,
            };
            if matches!(tried, Err(Failure::Cancelled)) {
                return tried;
            }
        }
        tried?;
        let missing = || Error::NoCommit { remote: git.remote().to_owned(), commit: object.to_owned() };
        if self.has(git, object).await { Ok(()) } else { Err(sources::Error::from(missing()).into()) }
    }

    async fn fetch_some(&self, git: &Git, what: &str) -> Result<(), Failure> {
        self.fetch_with(git, &["--depth=1", "--no-tags", "--", git.url(), what]).await
    }

    async fn fetch_all(&self, git: &Git) -> Result<(), Failure> {
        let mut args = vec!["--tags", "--prune"];
        if self.repository().join("shallow").exists() {
            args.push("--unshallow");
        }
        args.extend(["--", git.url(), "+refs/heads/*:refs/larder/heads/*"]);
        self.fetch_with(git, &args).await
    }

    async fn fetch_with(&self, git: &Git, args: &[&str]) -> Result<(), Failure> {
        // A fetch that was killed leaves it.
        remove(&self.repository().join("shallow.lock"))?;
        let args = [&["fetch", "--force", "--no-recurse-submodules", "--no-write-fetch-head"], args].concat();
        let call = git.call(REMOTE, &args).repository(&self.repository()).loud();
        call.output("fetch from").await.map(drop)
    }
}

/// Removes a file, or a folder with everything in it, if it is there.
pub fn remove(path: &Path) -> Result<(), ops::Error> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(data) if data.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.doing("remove", path)
}
