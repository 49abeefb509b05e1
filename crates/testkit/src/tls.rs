//! Certificates for `localhost` and 127.0.0.1, made by the machine's openssl for one test.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate and its key, in `folder`; `None`, loudly, where openssl is missing.
pub fn certificate(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    sign(&certificate, &key, &[])?;
    Some((certificate, key))
}

/// Who signs certificates of servers and clients.
pub struct Authority {
    folder: PathBuf,
    /// Its own certificate.
    pub certificate: PathBuf,
    key: PathBuf,
}

impl Authority {
    /// Makes one, in a folder of its own; `None`, loudly, where openssl is missing.
    pub fn new(folder: &Path) -> Option<Authority> {
        std::fs::create_dir_all(folder).expect("a folder");
        let (certificate, key) = (folder.join("ca.pem"), folder.join("ca.key"));
        sign(&certificate, &key, &["-addext", "keyUsage=critical,keyCertSign"])?;
        Some(Authority { folder: folder.to_owned(), certificate, key })
    }

    /// A certificate of a server or a client, and its key.
    pub fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = (self.folder.join(format!("{name}.pem")), self.folder.join(format!("{name}.key")));
        let (ca, ca_key) = (self.certificate.display().to_string(), self.key.display().to_string());
        let usage = "extendedKeyUsage=serverAuth,clientAuth";
        let args = ["-CA", &ca, "-CAkey", &ca_key, "-addext", usage, "-addext", "basicConstraints=critical,CA:false"];
        sign(&certificate, &key, &args).expect("openssl");
        (certificate, key)
    }
}

fn sign(certificate: &Path, key: &Path, more: &[&str]) -> Option<()> {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    let name = certificate.file_stem().unwrap_or_default().to_string_lossy();
    command.args(["-subj", &format!("/CN={name}")]);
    command.args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]);
    command.args(more).arg("-keyout").arg(key).arg("-out").arg(certificate);
    match command.output() {
        Ok(output) if output.status.success() => Some(()),
        Ok(output) => panic!("openssl: {}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => {
            eprintln!("SKIPPED: openssl is missing (Debian's package openssl)");
            None
        }
    }
}
