//! A real registry on loopback: Debian's docker-registry, started for one test and ended with it.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A running registry.
pub struct Registry {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub host: String,
    _folder: TempDir,
}

/// One user of a registry that asks for a password: `me`, `password`.
pub const USERS: &str = "me:$2y$05$abcdefghijklmnopqrstuuWG29KuyeAicPCJODk1zjyGvyQUU2awu\n";

/// Starts a registry that anybody may use; `None`, loudly, where the program is missing.
pub fn start() -> Option<Registry> {
    start_with("")
}

/// Starts a registry with more in its configuration: lines that go on in its section `http`, then further sections.
pub fn start_with(more: &str) -> Option<Registry> {
    // Another test may take the port before the registry does: then it ends, and tries another.
    for _ in 0..5 {
        let mut registry = spawn(more)?;
        let begun = Instant::now();
        while !registry.has_ended() {
            if TcpStream::connect(&registry.host).is_ok() && !registry.has_ended() {
                return Some(registry);
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "docker-registry does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    panic!("docker-registry ends as soon as it begins");
}

fn spawn(more: &str) -> Option<Registry> {
    let folder = tempfile::tempdir().expect("a folder");
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let host = format!("127.0.0.1:{port}");
    let config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n{more}",
        folder.path().join("data").display()
    );
    let file = folder.path().join("config.yml");
    std::fs::write(&file, config).expect("a configuration");
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(child) = command.spawn() else {
        eprintln!("SKIPPED: docker-registry is missing (Debian's package docker-registry)");
        return None;
    };
    Some(Registry { child, host, _folder: folder })
}

impl Registry {
    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
