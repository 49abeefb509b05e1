//! A real registry on loopback: Debian's docker-registry, started for one test and ended with it.

use std::io::{Read, Write};
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

/// Starts a registry; `None`, loudly, where the program is missing.
pub fn start() -> Option<Registry> {
    let folder = tempfile::tempdir().expect("a folder");
    let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let host = format!("127.0.0.1:{port}");
    let config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
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
    let registry = Registry { child, host, _folder: folder };
    let begun = Instant::now();
    while !registry.answers() {
        assert!(begun.elapsed() < Duration::from_secs(20), "docker-registry does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(registry)
}

impl Registry {
    fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(&self.host) else { return false };
        let request = format!("GET /v2/ HTTP/1.0\r\nHost: {}\r\n\r\n", self.host);
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.contains("200")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
