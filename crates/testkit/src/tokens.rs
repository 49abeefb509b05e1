//! A token service on loopback for docker-registry's `auth: token` (distribution's "Token Authentication" and its OAuth2
//! form): it knows one user and one identity token, and signs with the machine's openssl. It grants whatever it is asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

/// The identity token that is good.
pub const IDENTITY: &str = "who-i-am";
/// Who signs.
const ISSUER: &str = "testkit";

/// A running service. It ends with the test's process.
pub struct Tokens {
    /// Lines of docker-registry's configuration that name this service.
    pub config: String,
    seen: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
struct Signer {
    certificate: Vec<u8>,
    key: PathBuf,
}

/// Starts a service with its key in `folder`; `None`, loudly, where openssl is missing.
pub fn start(folder: &Path) -> Option<Tokens> {
    let (pem, key) = (folder.join("tokens.pem"), folder.join("tokens-key.pem"));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens", "-keyout"]);
    let Ok(made) = command.arg(&key).arg("-out").arg(&pem).output() else {
        eprintln!("SKIPPED: openssl is missing (Debian's package openssl)");
        return None;
    };
    assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    let text = std::fs::read_to_string(&pem).expect("a certificate");
    let lines: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
    let signer = Signer { certificate: STANDARD.decode(lines).expect("base64"), key };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let list = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that hangs up is no failure of the service's.
            let _ = serve(stream, &signer, &list);
        }
    });
    let config = format!(
        "auth:\n  token:\n    realm: http://{address}/token\n    service: larder-test\n    issuer: {ISSUER}\n    \
         rootcertbundle: {}\n",
        pem.display()
    );
    Some(Tokens { config, seen })
}

impl Tokens {
    /// Who asked for what since the last call: `me repository:a/b:pull`, `nobody …`, `identity …`.
    pub fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn serve(stream: TcpStream, signer: &Signer, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    // Who only looked whether somebody listens at this port asked for nothing.
    if lines.is_empty() {
        return Ok(());
    }
    let header = |name: &str| {
        let found = lines.iter().filter_map(|line| line.split_once(": ")).find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned())
    };
    let mut body = vec![0; header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let first = lines.first().cloned().unwrap_or_default();
    let query = first.split([' ', '?']).nth(2).unwrap_or_default().to_owned();
    let fields = if first.starts_with("POST") { String::from_utf8_lossy(&body).into_owned() } else { query };
    let field = |name: &str| {
        let found = fields.split('&').filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name);
        found.map(|(_, value)| unescape(value)).unwrap_or_default()
    };
    let me = format!("Basic {}", STANDARD.encode("me:password"));
    let who = match (header("authorization"), field("grant_type").as_str()) {
        (None, "refresh_token") if field("refresh_token") == IDENTITY => Some("identity"),
        (None, "") => Some("nobody"),
        (Some(login), "") if login == me => Some("me"),
        _ => None,
    };
    let scope = field("scope");
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{} {scope}", who.unwrap_or("refused")));
    let (status, answer) = match who {
        None => ("401 Unauthorized", json!({})),
        Some(who) => ("200 OK", json!({ "token": signer.token(who, &field("service"), &scope) })),
    };
    let answer = answer.to_string();
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}", answer.len())
}

fn unescape(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        out.push(u8::from_str_radix(&part[..2], 16).expect("two digits"));
        out.extend(&part.as_bytes()[2..]);
    }
    String::from_utf8(out).expect("text")
}

impl Signer {
    /// A JSON web token for a scope (`repository:NAME:ACTIONS`). Who gave no name may only read.
    fn token(&self, who: &str, service: &str, scope: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
        let mut parts = scope.split(':');
        let mut part = || parts.next().unwrap_or_default();
        let (kind, name, actions) = (part(), part(), part());
        let actions: Vec<&str> = actions.split(',').filter(|action| who != "nobody" || *action == "pull").collect();
        let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [STANDARD.encode(&self.certificate)] });
        let claims = json!({
            "iss": ISSUER, "sub": who, "aud": service, "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1",
            "access": [{ "type": kind, "name": name, "actions": actions }],
        });
        let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", encode(&header), encode(&claims));
        let mut command = Command::new("openssl");
        command.args(["dgst", "-sha256", "-sign"]).arg(&self.key).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("openssl");
        child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("openssl reads");
        let signature = child.wait_with_output().expect("openssl").stdout;
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
