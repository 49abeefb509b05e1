//! GitHub's cache service on loopback, written from its protocol: entries by key and version that are reserved, uploaded in
//! blocks to signed addresses, finished, and found by key or by the beginning of one, in the scopes of a token. It holds to
//! the rules: what is reserved or written is taken, what is not finished is not found, addresses are signed and expire.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A running service. It ends with the test's process.
#[derive(Clone)]
pub struct Service {
    /// `127.0.0.1:PORT`.
    pub host: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    tokens: HashMap<String, Vec<(String, u32)>>,
    entries: Vec<Entry>,
    /// Signatures of addresses: which entry, and whether it may be written.
    signed: HashMap<String, (usize, bool)>,
    /// Requests that are still to be refused as too many.
    refusals: usize,
    seen: Vec<String>,
    signatures: usize,
}

#[derive(Default)]
struct Entry {
    scope: String,
    key: String,
    version: String,
    blocks: HashMap<String, Vec<u8>>,
    bytes: Option<Vec<u8>>,
    finished: bool,
}

/// One request.
struct Asked {
    method: String,
    path: String,
    query: HashMap<String, String>,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

/// An answer: status, headers, body.
type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

/// Starts a service.
pub fn start() -> Service {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = listener.local_addr().expect("an address").to_string();
    let service = Service { host, state: Arc::default() };
    let running = service.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let service = running.clone();
            // A client that goes away in the middle is its own affair.
            std::thread::spawn(move || drop(service.serve(stream)));
        }
    });
    service
}

impl Service {
    /// Where clients reach it.
    pub fn url(&self) -> String {
        format!("http://{}/", self.host)
    }

    /// A token for scopes: 1 may be read, 3 written too.
    pub fn token(&self, scopes: &[(&str, u32)]) -> String {
        let list: Vec<Value> = scopes.iter().map(|(name, bits)| json!({"Scope": name, "Permission": bits})).collect();
        let ac = serde_json::to_string(&list).expect("JSON");
        let claims = json!({"ac": ac, "exp": 4_102_444_800_u64, "nbf": 1});
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let mut state = self.state();
        let number = state.tokens.len();
        let token = format!("{}.{}.{}", part(json!({"alg": "HS256"})), part(claims), part(json!(number)));
        let scopes = scopes.iter().map(|(name, bits)| ((*name).to_owned(), *bits)).collect();
        state.tokens.insert(token.clone(), scopes);
        token
    }

    /// Keys of finished entries.
    pub fn keys(&self) -> Vec<String> {
        self.state().entries.iter().filter(|entry| entry.finished).map(|entry| entry.key.clone()).collect()
    }

    /// The bytes of the newest entry whose key begins so.
    pub fn newest(&self, beginning: &str) -> Vec<u8> {
        let state = self.state();
        let found = state.entries.iter().rev().find(|entry| entry.finished && entry.key.starts_with(beginning));
        found.and_then(|entry| entry.bytes.clone()).expect("an entry")
    }

    /// Forgets entries, as the service does with old ones.
    pub fn evict(&self, which: impl Fn(&str) -> bool) {
        // The entries stay in their places, to which signatures lead.
        for entry in self.state().entries.iter_mut().filter(|entry| which(&entry.key)) {
            *entry = Entry::default();
        }
    }

    /// Writes an entry as somebody else does who knows of nobody.
    pub fn put(&self, scope: &str, key: &str, bytes: Option<&[u8]>) {
        let mut state = self.state();
        let version = state.entries.first().map(|entry| entry.version.clone()).unwrap_or_default();
        let (scope, key) = (scope.to_owned(), key.to_owned());
        let (bytes, finished) = (bytes.map(<[u8]>::to_vec), bytes.is_some());
        state.entries.push(Entry { scope, key, version, bytes, finished, blocks: HashMap::new() });
    }

    /// No address that was signed so far opens any more.
    pub fn expire(&self) {
        self.state().signed.clear();
    }

    /// Refuses so many requests as too many.
    pub fn refuse(&self, times: usize) {
        self.state().refusals = times;
    }

    /// Requests since the last call: method and path.
    pub fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.state().seen)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut from = BufReader::new(stream.try_clone()?);
        let Some(asked) = Asked::read(&mut from)? else { return Ok(()) };
        let (status, headers, body) = self.answer(&asked);
        let mut to = stream;
        let mut head = format!("HTTP/1.1 {status} X\r\nConnection: close\r\nx-ms-request-id: 1\r\n");
        head += &format!("Content-Length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        to.write_all(head.as_bytes())?;
        to.write_all(b"\r\n")?;
        to.write_all(&body)
    }

    fn answer(&self, asked: &Asked) -> Answer {
        let mut state = self.state();
        state.seen.push(format!("{} {}", asked.method, asked.path));
        if asked.path.starts_with("/blob") {
            return blob(&mut state, asked);
        }
        let Some(method) = asked.path.strip_prefix("/twirp/github.actions.results.api.v1.CacheService/") else {
            return refused(404, "bad_route", "no such method");
        };
        if state.refusals > 0 {
            state.refusals -= 1;
            let (status, mut headers, body) = refused(429, "resource_exhausted", "too many requests");
            headers.push(("Retry-After", "1".to_owned()));
            return (status, headers, body);
        }
        let token = asked.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let Some(scopes) = token.and_then(|token| state.tokens.get(token)).cloned() else {
            return refused(401, "unauthenticated", "unknown token");
        };
        let Ok(body) = serde_json::from_slice::<Value>(&asked.body) else {
            return refused(400, "malformed", "no JSON");
        };
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let (key, version) = (text("key"), text("version"));
        if key.is_empty() || key.len() > 512 || key.contains(',') || version.is_empty() {
            return refused(400, "invalid_argument", "a key has 1 to 512 characters and no comma");
        }
        match method {
            "CreateCacheEntry" => self.create(&mut state, &scopes, key, version),
            "FinalizeCacheEntryUpload" => finish(&mut state, &scopes, &key, &version, size(&body["size_bytes"])),
            "GetCacheEntryDownloadURL" => {
                let restore = body["restore_keys"].as_array().cloned().unwrap_or_default();
                let restore = restore.iter().filter_map(|key| key.as_str()).map(str::to_owned).collect::<Vec<_>>();
                self.find(&mut state, &scopes, &key, &restore, &version)
            }
            _ => refused(404, "bad_route", "no such method"),
        }
    }

    fn create(&self, state: &mut State, scopes: &[(String, u32)], key: String, version: String) -> Answer {
        let Some((scope, _)) = scopes.iter().rfind(|(_, bits)| bits & 2 != 0).cloned() else {
            return refused(403, "permission_denied", "the token writes no scope");
        };
        if state.entries.iter().any(|e| e.scope == scope && e.key == key && e.version == version) {
            return refused(409, "already_exists", "cache entry with the same key, version, and scope already exists");
        }
        state.entries.push(Entry { scope, key, version, ..Entry::default() });
        let entry = state.entries.len() - 1;
        let url = self.sign(state, entry, true);
        reply(&json!({"ok": true, "signed_upload_url": url}))
    }

    fn find(
        &self,
        state: &mut State,
        scopes: &[(String, u32)],
        key: &str,
        restore: &[String],
        version: &str,
    ) -> Answer {
        for (scope, _) in scopes {
            let newest = |fits: &dyn Fn(&str) -> bool| {
                let fits = |e: &Entry| e.finished && e.scope == *scope && e.version == version && fits(&e.key);
                state.entries.iter().rposition(fits)
            };
            let beginning = || restore.iter().find_map(|beginning| newest(&|key| key.starts_with(beginning)));
            if let Some(entry) = newest(&|found| found == key).or_else(beginning) {
                let url = self.sign(state, entry, false);
                let key = &state.entries[entry].key;
                return reply(&json!({"ok": true, "signed_download_url": url, "matched_key": key}));
            }
        }
        reply(&json!({"ok": false, "signed_download_url": "", "matched_key": ""}))
    }

    fn sign(&self, state: &mut State, entry: usize, writes: bool) -> String {
        state.signatures += 1;
        let signature = format!("{}+/=", state.signatures);
        state.signed.insert(signature.clone(), (entry, writes));
        let escaped = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        format!("http://{}/blob/{entry}?sv=2025-01-05&sig={escaped}", self.host)
    }
}

/// A 64-bit number of JSON in protobuf's mapping: a number or a text.
fn size(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn finish(state: &mut State, scopes: &[(String, u32)], key: &str, version: &str, size: Option<u64>) -> Answer {
    let is_it = |e: &Entry| {
        e.key == key && e.version == version && scopes.iter().any(|(name, bits)| *name == e.scope && bits & 2 != 0)
    };
    let Some(place) = state.entries.iter().position(is_it) else { return refused(404, "not_found", "no such entry") };
    let entry = &mut state.entries[place];
    if entry.bytes.as_ref().map(|bytes| bytes.len() as u64) != size {
        return refused(400, "failed_precondition", "the upload has another size");
    }
    entry.finished = true;
    reply(&json!({"ok": true, "entry_id": place.to_string()}))
}

/// Azure's side: a block blob at a signed address.
fn blob(state: &mut State, asked: &Asked) -> Answer {
    let signature = asked.query.get("sig").cloned().unwrap_or_default();
    let Some((place, writes)) = state.signed.get(&signature).copied() else {
        return (403, Vec::new(), b"<Error><Code>AuthenticationFailed</Code></Error>".to_vec());
    };
    let entry = &mut state.entries[place];
    match (asked.method.as_str(), asked.query.get("comp").map(String::as_str)) {
        ("PUT", None) if writes && asked.headers.get("x-ms-blob-type").is_some_and(|kind| kind == "BlockBlob") => {
            entry.bytes = Some(asked.body.clone());
        }
        ("PUT", Some("block")) if writes => {
            let id = asked.query.get("blockid").cloned().unwrap_or_default();
            if STANDARD.decode(&id).is_err() || entry.blocks.keys().any(|other| other.len() != id.len()) {
                return (400, Vec::new(), b"<Error><Code>InvalidBlobOrBlock</Code></Error>".to_vec());
            }
            entry.blocks.insert(id, asked.body.clone());
        }
        ("PUT", Some("blocklist")) if writes => {
            let list = String::from_utf8_lossy(&asked.body).into_owned();
            let ids = list.split("<Latest>").skip(1).filter_map(|rest| rest.split("</Latest>").next());
            let blocks: Option<Vec<Vec<u8>>> = ids.map(|id| entry.blocks.get(id).cloned()).collect();
            let Some(blocks) = blocks else {
                return (400, Vec::new(), b"<Error><Code>InvalidBlockList</Code></Error>".to_vec());
            };
            entry.bytes = Some(blocks.concat());
        }
        ("GET", None) if !writes => return download(entry.bytes.as_deref(), asked),
        _ => return (400, Vec::new(), b"<Error><Code>InvalidHeaderValue</Code></Error>".to_vec()),
    }
    (201, vec![("ETag", "\"1\"".to_owned())], Vec::new())
}

fn download(bytes: Option<&[u8]>, asked: &Asked) -> Answer {
    let Some(bytes) = bytes else { return (404, Vec::new(), Vec::new()) };
    let range = asked.headers.get("x-ms-range").or_else(|| asked.headers.get("range"));
    let start = range.and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse::<usize>().ok());
    match start {
        None => (200, Vec::new(), bytes.to_vec()),
        Some(start) if start >= bytes.len() => (416, Vec::new(), Vec::new()),
        Some(start) => {
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            (206, vec![("Content-Range", range)], bytes[start..].to_vec())
        }
    }
}

fn reply(value: &Value) -> Answer {
    (200, vec![("Content-Type", "application/json".to_owned())], value.to_string().into_bytes())
}

/// Twirp's errors.
fn refused(status: u16, code: &str, message: &str) -> Answer {
    (
        status,
        vec![("Content-Type", "application/json".to_owned())],
        json!({"code": code, "msg": message}).to_string().into(),
    )
}

impl Asked {
    fn read(from: &mut impl BufRead) -> std::io::Result<Option<Asked>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 || line == "\r\n" {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        let Some(first) = lines.first() else { return Ok(None) };
        let mut words = first.split(' ');
        let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let query = pairs.map(|(name, value)| (name.to_owned(), unescape(value))).collect();
        let headers: HashMap<String, String> = lines[1..]
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.get("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        Ok(Some(Asked { method, path: path.to_owned(), query, headers, body }))
    }
}

fn unescape(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (hex, rest) = part.split_at(part.len().min(2));
        out.push(u8::from_str_radix(hex, 16).unwrap_or(b'%'));
        out.extend(rest.bytes());
    }
    String::from_utf8_lossy(&out).into_owned()
}
