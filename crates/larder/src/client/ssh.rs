//! `--ssh`: an agent's socket as it is, or an agent of our own (OpenSSH's) that holds the given keys for the build.
//! Keys never enter this process.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};

use builder::session::{Error, SshSocket};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// What serves an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Agent {
    /// A running agent's socket.
    Socket(PathBuf),
    /// Private key files.
    Keys(Vec<PathBuf>),
}

impl Agent {
    /// Reads `default`, `ID`, `ID=SOCKET` or `ID=KEY,KEY`. `agent` is the value of SSH_AUTH_SOCK.
    pub fn parse(text: &str, agent: Option<PathBuf>) -> Result<(String, Agent), String> {
        use std::os::unix::fs::FileTypeExt;
        let Some((id, paths)) = text.split_once('=') else {
            let socket = agent.ok_or_else(|| format!("--ssh {text}: no agent runs here (SSH_AUTH_SOCK is not set)"))?;
            return Ok((text.to_owned(), Agent::Socket(socket)));
        };
        let paths: Vec<PathBuf> = paths.split(',').map(PathBuf::from).collect();
        let is_socket = |p: &PathBuf| {
            let meta = std::fs::metadata(p).map_err(|e| format!("--ssh {text}: {}: {e}", p.display()))?;
            Ok::<bool, String>(meta.file_type().is_socket())
        };
        let sockets = paths.iter().map(is_socket).collect::<Result<Vec<_>, _>>()?;
        match (sockets.as_slice(), paths.as_slice()) {
            ([true], [socket]) => Ok((id.to_owned(), Agent::Socket(socket.clone()))),
            (kinds, _) if kinds.contains(&true) => Err(format!("--ssh {text}: give one socket, or keys only")),
            _ => Ok((id.to_owned(), Agent::Keys(paths))),
        }
    }

    /// A socket that reaches the agent.
    pub async fn socket(&self, id: &str) -> Result<SshSocket, Error> {
        match self {
            Agent::Socket(path) => Ok(SshSocket { path: path.clone(), guard: Box::new(()) }),
            Agent::Keys(keys) => start_agent(id, keys).await,
        }
    }
}

/// Run beside the agent, which is its child: ends it when it is told to, or when this process is gone, however that came
/// about, and removes their folder.
const WATCH: &str = "echo; read -r _; kill -9 \"$SSH_AGENT_PID\"; rm -rf \"$0\"";

/// Ends the agent when dropped.
struct Running {
    watch: std::process::Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        // A line, as a step that is just being started may hold the pipe for a moment. Both can only fail when the agent
        // is gone already, which is what is wanted.
        let _ = self.watch.stdin.take().map(|mut pipe| pipe.write_all(b"\n"));
        let _ = self.watch.wait();
    }
}

async fn start_agent(id: &str, keys: &[PathBuf]) -> Result<SshSocket, Error> {
    let other = |text: String| Error::Other(format!("--ssh {id}: {text}"));
    // Steps side by side, or one after the other, have each their own: the end of one never touches another.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let directory = std::env::temp_dir().join(format!("larder-ssh-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&directory).map_err(|e| other(format!("can't make {}: {e}", directory.display())))?;
    let path = directory.join("agent.sock");
    let mut command = std::process::Command::new("ssh-agent");
    command.arg("-a").arg(&path).args(["sh", "-c", WATCH]).arg(&directory);
    // A group of its own: Ctrl-C in a terminal is for this process to answer.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let watch = command.spawn().map_err(|e| other(format!("can't start ssh-agent ({e}): install OpenSSH's client")))?;
    let mut running = Running { watch };
    let said = running.watch.stdout.take().map(|pipe| Receiver::from_owned_fd(pipe.into())).transpose();
    let mut said = said.map_err(|e| other(format!("can't listen to ssh-agent: {e}")))?;
    // It says something once the agent has its socket.
    let mut line = [0];
    let count = match &mut said {
        Some(said) => said.read(&mut line).await.map_err(|e| other(format!("can't listen to ssh-agent: {e}")))?,
        None => 0,
    };
    if count == 0 {
        return Err(other("ssh-agent ended at once".to_owned()));
    }
    let mut add = tokio::process::Command::new("ssh-add");
    add.arg("-q").args(keys).env("SSH_AUTH_SOCK", &path).stdin(Stdio::null());
    let added = add.output().await.map_err(|e| other(format!("can't start ssh-add: {e}")))?;
    if !added.status.success() {
        return Err(other(format!("ssh-add: {}", String::from_utf8_lossy(&added.stderr).trim())));
    }
    Ok(SshSocket { path, guard: Box::new(running) })
}
