//! The machine's `git` as a process that trusts nothing: no configuration but ours, no prompts, no hooks, only protocols
//! that the call allows. A call ends with its step: nothing that git started outlives it. It decides nothing.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::Error;
use super::address::redact;
use super::wanted::Wanted;
use crate::event::{Stream, What};
use crate::session::SshSocket;
use crate::{Error as Failure, Work, sources};

/// Protocols for a call that speaks to a remote, and for what a repository says of its submodules: never files.
pub const REMOTE: &str = "http:https:ssh:git";
/// For a call that reads our own copy.
pub const OURS: &str = "file";
/// For a call that reads nothing from elsewhere.
pub const NOTHING: &str = "";

/// How often a call looks whether its step is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// Variables of this process that git may see: where it and its helpers are, and the way out.
const PASSED: [&str; 13] = [
    "PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
];

/// What every call gets, so that neither a repository nor the machine makes git do more than was asked.
const SETTINGS: [(&str, &str); 8] = [
    ("advice.detachedHead", "false"),
    ("core.fsmonitor", "false"),
    ("core.hooksPath", "/dev/null"),
    ("credential.helper", ""),
    ("gc.auto", "0"),
    ("init.defaultBranch", "master"),
    ("maintenance.auto", "false"),
    ("submodule.fetchJobs", "4"),
];

/// Git for one remote, with what the client gave for it.
pub struct Git {
    work: Work,
    url: String,
    shown: String,
    /// Scope and text of the `Authorization` header.
    header: Option<(String, String)>,
    agent: Option<SshSocket>,
    known_hosts: Option<OwnedFd>,
}

impl Git {
    /// Asks the client for secrets and its agent.
    pub async fn new(work: &Work, wanted: &Wanted) -> Result<Git, Failure> {
        let url = wanted.remote.clone();
        let header = match url.starts_with("http") {
            true => header(work, wanted).await?.map(|text| (scope(&url), text)),
            false => None,
        };
        let agent = match wanted.ssh.as_str() {
            "" => None,
            id => Some(work.session.ssh(id).await?),
        };
        let shown = redact(&url);
        let known_hosts = match wanted.known_hosts.as_str() {
            "" => None,
            text => Some(in_memory(text).map_err(|e| failed("keep the host keys of", &shown, &e.to_string()))?),
        };
        Ok(Git { work: work.clone(), url, shown, header, agent, known_hosts })
    }

    /// What git is given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// For people.
    pub fn remote(&self) -> &str {
        &self.shown
    }

    /// Starts a call.
    pub fn call(&self, protocols: &str, args: &[&str]) -> Call<'_> {
        let mut command = Command::new("git");
        command.args(args).env_clear().current_dir("/");
        command.envs(PASSED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.env("LC_ALL", "C").env("HOME", "/dev/null").env("GIT_TERMINAL_PROMPT", "0");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_ATTR_NOSYSTEM", "1");
        command.env("GIT_ALLOW_PROTOCOL", protocols).env("GIT_SSH_COMMAND", self.ssh());
        if let Some(agent) = &self.agent {
            command.env("SSH_AUTH_SOCK", &agent.path);
        }
        let mut settings: Vec<(String, String)> =
            SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        if protocols == REMOTE {
            // Relative addresses of submodules are relative to this; a secret is never an argument nor on disk.
            settings.push(("remote.origin.url".to_owned(), self.url.clone()));
            let header = self.header.iter();
            settings.extend(
                header.map(|(scope, text)| (format!("http.{scope}.extraheader"), format!("Authorization: {text}"))),
            );
        }
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (i, (key, value)) in settings.into_iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{i}"), key).env(format!("GIT_CONFIG_VALUE_{i}"), value);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        Call { git: self, command, loud: false }
    }

    /// No configuration and no key of this machine: the client's agent alone.
    fn ssh(&self) -> String {
        let base = "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none -o UpdateHostKeys=no -o ConnectTimeout=30";
        match &self.known_hosts {
            Some(file) => format!(
                "{base} -o StrictHostKeyChecking=yes -o GlobalKnownHostsFile=/dev/null -o UserKnownHostsFile=/proc/{}/fd/{}",
                std::process::id(),
                file.as_raw_fd()
            ),
            None => format!("{base} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"),
        }
    }

    fn hide(&self, text: &str) -> String {
        if self.url == self.shown { text.to_owned() } else { text.replace(&self.url, &self.shown) }
    }
}

/// One call of git.
pub struct Call<'a> {
    git: &'a Git,
    command: Command,
    loud: bool,
}

impl Call<'_> {
    /// In this repository.
    pub fn repository(mut self, folder: &Path) -> Self {
        self.command.env("GIT_DIR", folder);
        self
    }

    /// With the files here.
    pub fn files(mut self, folder: &Path) -> Self {
        self.command.env("GIT_WORK_TREE", folder).current_dir(folder);
        self
    }

    /// With the index in this file.
    pub fn index(mut self, file: &Path) -> Self {
        self.command.env("GIT_INDEX_FILE", file);
        self
    }

    /// What git says of its work is the step's log.
    pub fn loud(mut self) -> Self {
        self.loud = true;
        self
    }

    /// Runs it; `doing` says what for. Its standard output as text.
    pub async fn output(self, doing: &'static str) -> Result<String, Failure> {
        Ok(String::from_utf8_lossy(&self.bytes(doing).await?).into_owned())
    }

    /// Runs it; `doing` says what for. Its standard output.
    pub async fn bytes(mut self, doing: &'static str) -> Result<Vec<u8>, Failure> {
        let missing = |source| sources::Error::from(Error::NoGit { source });
        let child = self.command.kill_on_drop(true).spawn().map_err(missing)?;
        let mut group = Group(child.id());
        let work = &self.git.work;
        let output = tokio::select! {
            output = child.wait_with_output() => output.map_err(|e| failed(doing, &self.git.shown, &e.to_string()))?,
            () = unwanted(work) => return Err(Failure::Cancelled),
        };
        group.0 = None;
        let said = self.git.hide(&String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            return Err(failed(doing, &self.git.shown, said.trim()));
        }
        if self.loud && !said.trim().is_empty() {
            work.events.tell(What::Log { step: work.step, stream: Stream::Err, bytes: said.into_bytes() });
        }
        Ok(output.stdout)
    }
}

fn failed(doing: &'static str, remote: &str, reason: &str) -> Failure {
    let reason = if reason.is_empty() { "git failed and gave no reason" } else { reason };
    sources::Error::from(Error::Failed { doing, remote: remote.to_owned(), reason: reason.to_owned() }).into()
}

/// Returns when nobody wants the step any more.
async fn unwanted(work: &Work) {
    while !work.cancel.is_cancelled() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Git and whatever it started; all of them end when this is dropped before they are done.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let leader = self.0.and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(leader) = leader {
            // They may have ended by themselves.
            let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
        }
    }
}

/// BuildKit's order: for the host, then for all; a header before a token.
async fn header(work: &Work, wanted: &Wanted) -> Result<Option<String>, Failure> {
    use base64::Engine;
    for suffix in [format!(".{}", wanted.host), String::new()] {
        for (id, is_token) in [(&wanted.header_secret, false), (&wanted.token_secret, true)] {
            if id.is_empty() {
                continue;
            }
            let Some(secret) = work.session.secret(&format!("{id}{suffix}")).await? else { continue };
            if !is_token {
                return Ok(Some(String::from_utf8_lossy(&secret).trim_end_matches('\n').to_owned()));
            }
            let pair = [b"x-access-token:", secret.strip_suffix(b"\n").unwrap_or(&secret)].concat();
            return Ok(Some(format!("basic {}", base64::engine::general_purpose::STANDARD.encode(pair))));
        }
    }
    Ok(None)
}

/// Which addresses get the header. On GitHub all, as submodules lie beside the repository; elsewhere this one alone.
fn scope(url: &str) -> String {
    let hosts = ["https://github.com/", "https://www.github.com/"];
    hosts.into_iter().find(|host| url.starts_with(host)).unwrap_or(url).to_owned()
}

/// A file that only this process and its user's can open, and that is gone with it.
fn in_memory(text: &str) -> std::io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("known_hosts", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&file, rest)?..];
    }
    Ok(file)
}
