//! A certificate for `localhost` and 127.0.0.1, made by the machine's openssl for one test.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate and its key, in `folder`; `None`, loudly, where openssl is missing.
pub fn certificate(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    command.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
    command.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    match command.output() {
        Ok(output) if output.status.success() => Some((certificate, key)),
        Ok(output) => panic!("openssl: {}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => {
            eprintln!("SKIPPED: openssl is missing (Debian's package openssl)");
            None
        }
    }
}
