//! A proxy on loopback between a client and a registry that breaks what it is told to break: one answer a connection, rules
//! by method and path, each for so many times. It never makes up an answer that no rule asks for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What happens to an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends without an answer.
    Reset,
    /// This status in place of the answer.
    Status(u16),
    /// The body ends after so many bytes, although more were announced.
    Truncate(usize),
    /// One byte in the middle of the body is another one.
    Corrupt,
    /// The answer comes so much later.
    Late(Duration),
    /// The body comes in pieces of so many bytes, each so much after the one before.
    Slow(usize, Duration),
    /// The registry gets the request without its query.
    Bare,
    /// No answer comes, and the connection stays.
    Hang,
    /// After so many bytes of the body no more come, and the connection stays.
    Stall(usize),
    /// The connections end after the registry got so many bytes of the request's body.
    Cut(u64),
    /// The request's body is taken in pieces of so many bytes, each so much after the one before.
    Sip(usize, Duration),
}

/// Which requests are hit, and how often.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `GET`, `HEAD`, `PUT` …
    pub method: &'static str,
    /// A part of the path.
    pub path: String,
    /// What happens.
    pub fault: Fault,
    /// So many times; then the answer is the registry's.
    pub times: usize,
}

/// A running proxy. It ends with the test's process.
pub struct Proxy {
    /// `127.0.0.1:PORT`.
    pub host: String,
    rules: Arc<Mutex<Vec<Rule>>>,
    seen: Arc<Mutex<Vec<String>>>,
}

/// Starts a proxy before `upstream` (`127.0.0.1:PORT`).
pub fn start(upstream: &str) -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = listener.local_addr().expect("an address").to_string();
    let (rules, seen) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let proxy = Proxy { host, rules: rules.clone(), seen: seen.clone() };
    let upstream = upstream.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (rules, seen, upstream) = (rules.clone(), seen.clone(), upstream.clone());
            // What goes wrong on the way looks like a broken connection to both sides, which is what a proxy is.
            std::thread::spawn(move || drop(serve(stream, &upstream, &rules, &seen)));
        }
    });
    proxy
}

impl Proxy {
    /// From now on these rules and no others.
    pub fn set(&self, rules: Vec<Rule>) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// Requests since the last call: `GET /v2/…`, with the header `Range` where there was one.
    pub fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether every rule has been used up.
    pub fn used(&self) -> bool {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).iter().all(|rule| rule.times == 0)
    }
}

/// One request: its lines up to the empty one.
fn head(from: &mut impl BufRead) -> std::io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 || line == "\r\n" {
            return Ok(lines);
        }
        lines.push(line.trim_end().to_owned());
    }
}

/// Keeps a connection until the client ends it.
fn hold(mut from: impl Read) -> std::io::Result<()> {
    std::io::copy(&mut from, &mut std::io::sink()).map(drop)
}

fn length(lines: &[String]) -> u64 {
    let header = lines.iter().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned));
    header.and_then(|v| v.trim().parse().ok()).unwrap_or(0)
}

fn serve(
    client: TcpStream,
    upstream: &str,
    rules: &Mutex<Vec<Rule>>,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut from = BufReader::new(client.try_clone()?);
    let lines = head(&mut from)?;
    let Some(first) = lines.first() else { return Ok(()) };
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let range = lines.iter().find(|l| l.to_ascii_lowercase().starts_with("range:"));
    let range = range.map(|line| format!(" {line}")).unwrap_or_default();
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{method} {path}{range}"));
    let fault = {
        let mut rules = rules.lock().unwrap_or_else(PoisonError::into_inner);
        let rule = rules.iter_mut().find(|r| r.times > 0 && r.method == method && path.contains(&r.path));
        rule.map(|rule| {
            rule.times -= 1;
            rule.fault.clone()
        })
    };
    match &fault {
        Some(Fault::Reset) => return Ok(()),
        Some(Fault::Late(time)) => std::thread::sleep(*time),
        Some(Fault::Hang) => return hold(from),
        Some(Fault::Status(status)) => {
            std::io::copy(&mut from.take(length(&lines)), &mut std::io::sink())?;
            let mut client = client;
            return write!(client, "HTTP/1.1 {status} Broken\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        _ => {}
    }
    let mut server = TcpStream::connect(upstream)?;
    let bare = path.split('?').next().unwrap_or_default();
    let first = if fault == Some(Fault::Bare) { first.replace(&path, bare) } else { first.clone() };
    let kept = lines[1..].iter().filter(|l| !l.to_ascii_lowercase().starts_with("connection:"));
    let text: String = kept.map(|l| format!("{l}\r\n")).collect();
    write!(server, "{first}\r\n{text}Connection: close\r\n\r\n")?;
    match fault {
        Some(Fault::Cut(most)) => {
            std::io::copy(&mut from.take(most.min(length(&lines))), &mut server)?;
            return Ok(());
        }
        Some(Fault::Sip(piece, pause)) => {
            let (mut left, mut bytes) = (length(&lines), vec![0; piece]);
            while left > 0 {
                let count = from.read(&mut bytes[..piece.min(left as usize)])?;
                if count == 0 {
                    return Ok(());
                }
                server.write_all(&bytes[..count])?;
                left -= count as u64;
                std::thread::sleep(pause);
            }
        }
        _ => drop(std::io::copy(&mut from.by_ref().take(length(&lines)), &mut server)?),
    }
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let body = answer.windows(4).position(|w| w == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    match fault {
        Some(Fault::Truncate(most)) => answer.truncate(body + most),
        Some(Fault::Corrupt) if answer.len() > body => {
            let middle = body + (answer.len() - body) / 2;
            answer[middle] ^= 0x55;
        }
        _ => {}
    }
    let mut client = client;
    if let Some(Fault::Stall(most)) = fault {
        client.write_all(&answer[..answer.len().min(body + most)])?;
        return hold(from);
    }
    if let Some(Fault::Slow(piece, pause)) = fault {
        for bytes in answer.chunks(piece) {
            client.write_all(bytes)?;
            std::thread::sleep(pause);
        }
        return Ok(());
    }
    client.write_all(&answer)
}
