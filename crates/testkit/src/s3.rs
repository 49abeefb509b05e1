//! Real S3 servers on loopback, started for one test and ended with it: s3s-fs, which keeps objects in a folder and checks
//! every signature, and moto, which also hands out keys of roles.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The key that a server knows.
pub const KEY: &str = "larder-tests";
/// Its secret.
pub const SECRET: &str = "not+a/secret";

/// A running server.
pub struct Server {
    child: Child,
    /// `127.0.0.1:PORT`.
    pub host: String,
    folder: TempDir,
}

/// Starts s3s-fs with an empty bucket; `None`, loudly, where the program is missing.
pub fn start(bucket: &str) -> Option<Server> {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join(bucket)).expect("a bucket");
    let peers = std::env::var("LARDER_PEERS").unwrap_or_else(|_| "/usr/local/lib/larder-peers".to_owned());
    let mut command = Command::new(PathBuf::from(peers).join("s3s-fs/s3s-fs"));
    let host = free();
    let (name, port) = host.split_once(':').expect("a port");
    command.args(["--access-key", KEY, "--secret-key", SECRET, "--host", name, "--port", port]).arg(folder.path());
    run(command, host, folder, "s3s-fs is missing (ci/s3 makes it)")
}

/// Starts moto; `None`, loudly, where it is missing.
pub fn moto() -> Option<Server> {
    let host = free();
    let (name, port) = host.split_once(':').expect("a port");
    let mut command = Command::new("moto_server");
    command.args(["-H", name, "-p", port]);
    run(command, host, tempfile::tempdir().expect("a folder"), "moto_server is missing (ci/s3 installs it)")
}

/// The same with an empty bucket, which anybody may use.
pub fn moto_with(bucket: &str) -> Option<Server> {
    use std::io::{Read, Write};
    let server = moto()?;
    let mut stream = TcpStream::connect(&server.host).expect("a connection");
    let request = format!("PUT /{bucket} HTTP/1.0\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", server.host);
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains(" 200 "), "{answer}");
    Some(server)
}

fn free() -> String {
    TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").to_string()
}

fn run(mut command: Command, host: String, folder: TempDir, missing: &str) -> Option<Server> {
    let Ok(child) = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        eprintln!("SKIPPED: {missing}");
        return None;
    };
    let server = Server { child, host, folder };
    let begun = Instant::now();
    while TcpStream::connect(&server.host).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{command:?} does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(server)
}

impl Server {
    /// Where s3s-fs keeps the object of a key: a file that a test may read, change or remove.
    pub fn file(&self, bucket: &str, key: &str) -> PathBuf {
        self.folder.path().join(bucket).join(key)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
