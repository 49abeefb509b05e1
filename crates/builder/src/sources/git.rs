//! Git repositories as sources: a reference becomes a commit (its key), and the commit a tree.
//! It runs the machine's `git`, without the machine's git configuration; credentials reach it by environment, are never
//! in a command line, and are kept nowhere.

use std::path::{Path, PathBuf};

use base64::Engine;
use graph::{Kind, Vertex, wire};
use oci::Digest;
use solver::key;
use store::canvas::Canvas;
use store::{Sharing, SnapshotId, Volume, VolumeRequest};
use tokio::process::Command;

use crate::ops::Doing;
use crate::{Error, Work, blocking, ops, session, sources};

/// A commit that is known and not yet checked out.
pub struct Pinned {
    op: wire::SourceOp,
    remote: String,
    reference: String,
    subdir: String,
    /// What is fetched: a commit, or an annotated tag's own object when the `.git` folder is kept.
    commit: String,
}

impl Pinned {
    /// Asks the remote which commit is meant. A whole commit is taken at its word.
    pub async fn identify(work: &Work, vertex: &Vertex) -> Result<Pinned, Error> {
        let Some(Kind::Source(op)) = vertex.kind() else {
            return Err(sources::Error::UnknownScheme { identifier: vertex.name() }.into());
        };
        let place = op.identifier.trim_start_matches("git://");
        let (place, fragment) = place.split_once('#').unwrap_or((place, ""));
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let remote = op.attrs.get("git.fullurl").cloned().unwrap_or_else(|| format!("https://{place}"));
        let mut pinned = Pinned {
            op: op.clone(),
            remote,
            reference: reference.to_owned(),
            subdir: subdir.to_owned(),
            commit: reference.to_owned(),
        };
        if !is_commit(reference) {
            pinned.commit = pinned.ask(work).await?;
        }
        if let Some(wanted) = op.attrs.get("git.checksum").filter(|w| !pinned.commit.starts_with(w.as_str())) {
            let reason = format!("expected the commit {wanted}, and it is {}", pinned.commit);
            return Err(pinned.failed(&reason).into());
        }
        Ok(pinned)
    }

    fn keeps_git_dir(&self) -> bool {
        self.op.attrs.get("git.keepgitdir").is_some_and(|v| v == "true")
    }

    fn failed(&self, reason: &str) -> sources::Error {
        let identifier = redacted(&self.remote);
        sources::Error::Unreadable { identifier, reason: redact(reason, &self.remote) }
    }

    /// Cache digests of the source.
    pub fn keys(&self) -> Vec<Digest> {
        let keep = self.keeps_git_dir().then_some(self.reference.as_str());
        vec![key::git_key(&self.commit, keep, &self.subdir)]
    }

    /// The object that the reference names at the remote now.
    async fn ask(&self, work: &Work) -> Result<String, Error> {
        let name = if self.reference.is_empty() { "HEAD" } else { &self.reference };
        let mut git = Git::new(work, self).await?;
        let out = git.run(None, &["ls-remote", "--", &self.remote, name, &format!("{name}^{{}}")]).await;
        let out = out.map_err(|reason| self.failed(&reason))?;
        let lines: Vec<(&str, &str)> = out.lines().filter_map(|line| line.split_once('\t')).collect();
        let find = |wanted: &str| lines.iter().find(|(_, r)| *r == wanted).map(|(commit, _)| (*commit).to_owned());
        // Git's own order of what a short name means.
        for full in [name.to_owned(), format!("refs/{name}"), format!("refs/tags/{name}"), format!("refs/heads/{name}")]
        {
            let peeled = find(&format!("{full}^{{}}")).filter(|_| !self.keeps_git_dir());
            if let Some(commit) = peeled.or_else(|| find(&full)) {
                return Ok(commit);
            }
        }
        Err(self.failed(&format!("it has no branch, tag or commit `{name}`")).into())
    }

    /// The tree: fetched into a repository that is kept between builds, and checked out.
    pub async fn snapshot(&self, work: &Work) -> Result<SnapshotId, Error> {
        let volume = self.repository(work).await?;
        let bare = volume.path().join("repository");
        let mut git = Git::new(work, self).await?;
        let fail = |reason: String| self.failed(&reason);
        if !bare.join("HEAD").exists() {
            let path = bare.to_string_lossy();
            let format = if self.commit.len() == 64 { "sha256" } else { "sha1" };
            let format = format!("--object-format={format}");
            git.run(None, &["init", "--quiet", "--bare", &format, &path]).await.map_err(fail)?;
        }
        self.fetch(&mut git, &bare).await?;
        let store = work.engine.store.clone();
        let mut draft = store.snapshots().begin(None)?;
        draft.describe(store::Kind::SourceGitCheckout, &format!("git snapshot for {}", redacted(&self.remote)));
        let root = Canvas::new(&draft)?.place(Path::new("/"));
        self.check_out(&mut git, &bare, &root).await?;
        let (subdir, keep) = (self.subdir.clone(), self.keeps_git_dir());
        let missing = self.failed(&format!("it has no folder {subdir}"));
        let made = blocking("took a checkout in", move || {
            if !keep {
                remove_git(&root)?;
            }
            if !subdir.is_empty() && !take_subdir(&root, &subdir)? {
                return Ok(None);
            }
            Ok::<_, ops::Error>(Some(draft.commit()?))
        });
        Ok(made.await?.ok_or(missing)?)
    }

    async fn repository(&self, work: &Work) -> Result<Volume, Error> {
        let (store, cancel) = (work.engine.store.clone(), work.cancel.clone());
        let name = format!("git:{}", Digest::of(redacted(&self.remote).as_bytes()).hex());
        let about = format!("git repository {}", redacted(&self.remote));
        blocking("waited for a repository", move || {
            let request = VolumeRequest { name: &name, seed: None, sharing: Sharing::Locked, description: &about };
            let mut waiting = || {
                if cancel.is_cancelled() {
                    std::ops::ControlFlow::Break(())
                } else {
                    std::ops::ControlFlow::Continue(())
                }
            };
            let mut volume = store.volumes().take(&request, &mut waiting)?;
            volume.filled()?;
            Ok::<_, store::Error>(volume)
        })
        .await
    }

    async fn fetch(&self, git: &mut Git, bare: &Path) -> Result<(), Error> {
        let have = git.run(Some(bare), &["cat-file", "-e", &format!("{}^{{commit}}", self.commit)]).await.is_ok();
        if have && !self.keeps_git_dir() {
            return Ok(());
        }
        let named = if self.reference.is_empty() { self.commit.as_str() } else { self.reference.as_str() };
        let mut reason = String::new();
        // Not every server gives a commit that no reference names.
        let all = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];
        let tries: [&[&str]; 3] = [
            &["fetch", "--quiet", "--depth=1", "--no-tags", "--", &self.remote, &self.commit],
            &["fetch", "--quiet", "--no-tags", "--", &self.remote, named],
            &["fetch", "--quiet", "--", &self.remote, all[0], all[1]],
        ];
        for arguments in tries {
            match git.run(Some(bare), arguments).await {
                Ok(_) => {
                    let wanted = format!("{}^{{commit}}", self.commit);
                    if git.run(Some(bare), &["cat-file", "-e", &wanted]).await.is_ok() {
                        return Ok(());
                    }
                    reason = format!("it gave no commit {}", self.commit);
                }
                Err(error) => reason = error,
            }
        }
        Err(self.failed(&reason).into())
    }

    async fn check_out(&self, git: &mut Git, bare: &Path, root: &Path) -> Result<(), Error> {
        let fail = |reason: String| self.failed(&reason);
        let (path, from) = (root.to_string_lossy(), bare.to_string_lossy());
        let format = if self.commit.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
        git.run(None, &["init", "--quiet", format, &path]).await.map_err(fail)?;
        git.run(Some(root), &["fetch", "--quiet", "--depth=1", "--", &from, &self.commit]).await.map_err(fail)?;
        git.run(Some(root), &["checkout", "--quiet", "--detach", "FETCH_HEAD"]).await.map_err(fail)?;
        let address = redacted(&self.remote);
        git.run(Some(root), &["remote", "add", "origin", &address]).await.map_err(fail)?;
        let skip = self.op.attrs.get("git.skipsubmodules").is_some_and(|v| v == "true");
        if !skip && root.join(".gitmodules").exists() {
            let arguments = ["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"];
            git.run(Some(root), &arguments).await.map_err(fail)?;
        }
        Ok(())
    }
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// An address without user and password.
fn redacted(remote: &str) -> String {
    match remote.split_once("://") {
        Some((scheme, rest)) => {
            let host_end = rest.find('/').unwrap_or(rest.len());
            let start = rest[..host_end].rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[start..])
        }
        None => remote.to_owned(),
    }
}

fn redact(text: &str, remote: &str) -> String {
    text.replace(remote, &redacted(remote))
}

fn remove_git(root: &Path) -> Result<(), ops::Error> {
    for entry in std::fs::read_dir(root).doing("list", root)? {
        let path = entry.doing("list", root)?.path();
        let kind = std::fs::symlink_metadata(&path).doing("look at", &path)?;
        if path.file_name().is_some_and(|name| name == ".git") {
            let gone = if kind.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            gone.doing("remove", &path)?;
        } else if kind.is_dir() {
            remove_git(&path)?;
        }
    }
    Ok(())
}

/// Leaves what is in `subdir` alone under `root`. False when there is no such folder, or it leads out.
fn take_subdir(root: &Path, subdir: &str) -> Result<bool, ops::Error> {
    let real = root.join(subdir).canonicalize();
    let (Ok(real), Ok(top)) = (real, root.canonicalize()) else { return Ok(false) };
    if !real.is_dir() || !real.starts_with(&top) {
        return Ok(false);
    }
    let aside = root.with_file_name(".larder-subdir");
    std::fs::rename(&real, &aside).doing("move", &real)?;
    for entry in std::fs::read_dir(root).doing("list", root)? {
        let path = entry.doing("list", root)?.path();
        let is_dir = std::fs::symlink_metadata(&path).doing("look at", &path)?.is_dir();
        let gone = if is_dir { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        gone.doing("remove", &path)?;
    }
    for entry in std::fs::read_dir(&aside).doing("list", &aside)? {
        let path = entry.doing("list", &aside)?.path();
        let to = root.join(path.file_name().unwrap_or_default());
        std::fs::rename(&path, &to).doing("move", &path)?;
    }
    std::fs::remove_dir(&aside).doing("remove", &aside)?;
    Ok(true)
}

/// The machine's git with what it needs to reach one remote.
struct Git {
    environment: Vec<(String, String)>,
    _agent: Option<session::SshSocket>,
    hosts: Option<PathBuf>,
}

impl Git {
    async fn new(work: &Work, pinned: &Pinned) -> Result<Git, Error> {
        let attrs = &pinned.op.attrs;
        let mut settings = vec![("protocol.allow".to_owned(), "never".to_owned())];
        for allowed in ["http", "https", "ssh", "git", "file"] {
            settings.push((format!("protocol.{allowed}.allow"), "always".to_owned()));
        }
        settings.push(("safe.directory".to_owned(), "*".to_owned()));
        settings.push(("advice.detachedHead".to_owned(), "false".to_owned()));
        if let Some(header) = header(work, pinned).await? {
            let host = pinned.remote.split('/').take(3).collect::<Vec<_>>().join("/");
            settings.push((format!("http.{}/.extraheader", redacted(&host)), format!("Authorization: {header}")));
        }
        let mut environment = vec![("GIT_CONFIG_COUNT".to_owned(), settings.len().to_string())];
        for (i, (name, value)) in settings.into_iter().enumerate() {
            environment.push((format!("GIT_CONFIG_KEY_{i}"), name));
            environment.push((format!("GIT_CONFIG_VALUE_{i}"), value));
        }
        let mut ssh = "ssh -F /dev/null -o BatchMode=yes".to_owned();
        let hosts = match attrs.get("git.knownsshhosts").filter(|h| !h.is_empty()) {
            Some(known) => {
                let path = std::env::temp_dir().join(format!("larder-known-hosts-{}", work.step.hex()));
                let write = |source| session::Error::Write { path: path.clone(), source };
                std::fs::write(&path, known).map_err(write)?;
                ssh.push_str(&format!(" -o StrictHostKeyChecking=yes -o UserKnownHostsFile={}", path.display()));
                Some(path)
            }
            None => {
                ssh.push_str(" -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile=/dev/null");
                None
            }
        };
        let over_ssh = !pinned.remote.contains("://") || pinned.remote.starts_with("ssh://");
        let agent = match attrs.get("git.mountsshsock").filter(|_| over_ssh) {
            Some(id) => Some(work.session.ssh(id).await?),
            None => None,
        };
        if let Some(agent) = &agent {
            environment.push(("SSH_AUTH_SOCK".to_owned(), agent.path.to_string_lossy().into_owned()));
        }
        environment.push(("GIT_SSH_COMMAND".to_owned(), ssh));
        Ok(Git { environment, _agent: agent, hosts })
    }

    /// Runs git; the error is its own words.
    async fn run(&mut self, folder: Option<&Path>, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new("git");
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("HOME", "/nonexistent").env("GIT_TERMINAL_PROMPT", "0");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("LC_ALL", "C");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = folder {
            command.arg("-C").arg(folder);
        }
        command.args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true);
        let out = command.output().await;
        let out = out.map_err(|e| format!("git can't be started ({e}): install git on the machine that builds"))?;
        if out.status.success() {
            return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&out.stderr);
        Err(format!("git {} failed: {}", arguments.first().unwrap_or(&""), said.trim()))
    }
}

impl Drop for Git {
    fn drop(&mut self) {
        if let Some(path) = &self.hosts {
            let _ = std::fs::remove_file(path); // a file of public keys: nothing is lost if it stays
        }
    }
}

/// The authorization header of the client's secrets: for the host first, then for all.
async fn header(work: &Work, pinned: &Pinned) -> Result<Option<String>, Error> {
    if !pinned.remote.starts_with("http") {
        return Ok(None);
    }
    let clean = redacted(&pinned.remote);
    let host = clean.split('/').nth(2).unwrap_or_default().to_owned();
    for (attribute, is_token) in [("git.authheadersecret", false), ("git.authtokensecret", true)] {
        let Some(name) = pinned.op.attrs.get(attribute).filter(|n| !n.is_empty()) else { continue };
        for id in [format!("{name}.{host}"), name.clone()] {
            let Some(value) = work.session.secret(&id).await? else { continue };
            let value = String::from_utf8_lossy(&value).trim().to_owned();
            if !is_token {
                return Ok(Some(value));
            }
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{value}"));
            return Ok(Some(format!("basic {pair}")));
        }
    }
    Ok(None)
}
