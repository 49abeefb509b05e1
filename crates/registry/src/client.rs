//! Requests to registries: which address a host has, who we are to it, when to try again. Manifests and blobs come in
//! here, verified as they stream. Nothing is connected before the first request.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use oci::{Descriptor, Digest, Hasher, Reference};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Response, StatusCode};

use crate::ask::Ask;
use crate::attend::{self, Stopped};
use crate::hosts::Host;
use crate::s3::Ambient;
use crate::trust::{self, Trust};
use crate::{Error, Login};

/// Tries of one request.
pub(crate) const TRIES: u32 = 4;

/// More bytes than any real manifest has.
const MANIFEST: usize = 8 << 20;

/// For so long a host that was silent is not waited for as long as others.
const SULKS: Duration = Duration::from_secs(60);

/// The host behind Docker's own name.
const DOCKER: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// A client for all registries. Cheap to make.
#[derive(Default)]
pub struct Client {
    http: OnceLock<reqwest::Client>,
    /// Authorization headers that worked, by host and scope.
    pub(crate) tokens: Mutex<HashMap<(String, String), String>>,
    /// What larder's registries said they do beyond the specification, by host; empty for others.
    extensions: Mutex<HashMap<String, String>>,
    /// Who logs in to a host: the others wait and use the same token.
    pub(crate) logging_in: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// What is particular about hosts (`name` or `name:port`).
    hosts: BTreeMap<String, Host>,
    /// Hosts that turned out to speak plain HTTP where TLS was tried first.
    plain: Mutex<HashSet<String>>,
    /// Clients for hosts that are not believed as the machine believes others.
    trusting: Mutex<HashMap<String, reqwest::Client>>,
    /// Spreads the pauses between tries; without one the process' id does.
    seed: Option<u64>,
    /// What the surroundings say of AWS.
    ambient: Ambient,
    /// How long a host may say nothing.
    silence: Option<Duration>,
    /// Hosts that said nothing for so long, and when.
    silent: Mutex<HashMap<String, Instant>>,
}

impl Client {
    /// Knows nothing particular about any host.
    pub fn new() -> Client {
        Client::default()
    }

    /// Knows what is particular about these hosts.
    pub fn with_hosts(mut self, hosts: BTreeMap<String, Host>) -> Client {
        self.hosts = hosts;
        self
    }

    /// Spreads the pauses between tries by this.
    pub fn with_seed(mut self, seed: u64) -> Client {
        self.seed = Some(seed);
        self
    }

    /// Waits so long for a host that says nothing: for an answer, and between two pieces of one.
    pub fn with_silence(mut self, silence: Duration) -> Client {
        self.silence = Some(silence);
        self
    }

    pub(crate) fn silence(&self) -> Duration {
        self.silence.unwrap_or(attend::SILENCE)
    }

    /// Finds credentials for buckets in these surroundings.
    pub fn with_ambient(mut self, ambient: Ambient) -> Client {
        self.ambient = ambient;
        self
    }

    /// What the surroundings say of AWS.
    pub fn ambient(&self) -> &Ambient {
        &self.ambient
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or(u64::from(std::process::id()))
    }

    /// The manifest or index that `reference` names, with its media type. What is named by digest is verified.
    pub async fn manifest(&self, reference: &Reference, login: &dyn Login) -> Result<(Vec<u8>, String), Error> {
        let reference = reference.clone().or_latest();
        let name = reference.digest.map(|d| d.to_string()).or(reference.tag.clone()).unwrap_or_default();
        let mut failed = None;
        for reference in self.places(&reference) {
            let url = format!("{}/v2/{}/manifests/{name}", self.base(&reference.domain), reference.path);
            let ask = Ask::new(Method::GET, url, &reference, "pull");
            match self.read(&ask, MANIFEST, login).await {
                Ok((bytes, kind)) => return verified(bytes, kind, &reference),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.unwrap_or_else(|| Error::Unreachable { url: reference.to_string(), reason: "no host".to_owned() }))
    }

    /// Streams a blob into `out`. A connection that breaks goes on where it broke.
    pub async fn blob(
        &self,
        reference: &Reference,
        what: &Descriptor,
        login: &dyn Login,
        out: &mut (dyn Write + Send),
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), Error> {
        let mut failed = None;
        for reference in self.places(reference) {
            let url = format!("{}/v2/{}/blobs/{}", self.base(&reference.domain), reference.path, what.digest);
            let (mut hasher, mut got) = (Hasher::new(), 0);
            for tries in 1..=TRIES {
                let range = (got > 0).then_some(got);
                let ask = Ask { range, ..Ask::new(Method::GET, url.clone(), &reference, "pull") };
                let response = match self.send(&ask, login).await {
                    Ok(response) => response,
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                };
                match stream(response, &mut got, &mut hasher, out, progress).await? {
                    None => return verify(hasher, &reference.domain, what),
                    Some(stopped) => {
                        let again = stopped.may_pass(tries, TRIES);
                        failed = Some(Error::Unreachable { url: url.clone(), reason: stopped.reason }.after(tries));
                        if !again {
                            break;
                        }
                        tokio::time::sleep(pause(self.seed(), &url, tries)).await;
                    }
                }
            }
            if got > 0 {
                break;
            }
        }
        Err(failed.unwrap_or_else(|| Error::Unreachable { url: reference.to_string(), reason: "no host".to_owned() }))
    }

    /// The same image at each mirror, then at its own host.
    fn places(&self, reference: &Reference) -> Vec<Reference> {
        let mirrors = self.hosts.get(&reference.domain).map(|host| host.mirrors.as_slice()).unwrap_or_default();
        let mirrored = mirrors.iter().map(|mirror| {
            let (host, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
            let path = format!("{}/{}", prefix.trim_matches('/'), reference.path);
            let path = path.trim_start_matches('/').to_owned();
            Reference { domain: host.to_owned(), path, ..reference.clone() }
        });
        mirrored.chain([reference.clone()]).collect()
    }

    /// The address of a host: plain HTTP on loopback and where it was asked for.
    pub(crate) fn base(&self, host: &str) -> String {
        let is_plain = match self.tls_first(host) {
            true => lock(&self.plain).contains(host),
            false => self.may_be_plain(host),
        };
        let host = if host == DOCKER.0 { DOCKER.1 } else { host };
        format!("{}://{host}", if is_plain { "http" } else { "https" })
    }

    fn may_be_plain(&self, host: &str) -> bool {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
        let here = name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        self.hosts.get(host).and_then(|host| host.http).unwrap_or(here)
    }

    /// Whether TLS is tried before plain HTTP.
    fn tls_first(&self, host: &str) -> bool {
        self.hosts.get(host).is_some_and(|host| host.trust.insecure) && self.may_be_plain(host)
    }

    /// What speaks to hosts that are believed as the machine believes them.
    pub(crate) fn http(&self) -> Result<&reqwest::Client, Error> {
        if let Some(http) = self.http.get() {
            return Ok(http);
        }
        let made = trust::http(&Trust::default())?;
        Ok(self.http.get_or_init(|| made))
    }

    /// What speaks to a host.
    pub(crate) fn http_for(&self, host: &str) -> Result<reqwest::Client, Error> {
        let trust = self.hosts.get(host).map(|host| &host.trust).filter(|trust| **trust != Trust::default());
        let Some(trust) = trust else { return self.http().cloned() };
        let mut trusting = lock(&self.trusting);
        if let Some(http) = trusting.get(host) {
            return Ok(http.clone());
        }
        let http = trust::http(trust)?;
        trusting.insert(host.to_owned(), http.clone());
        Ok(http)
    }

    /// Sends a request: logs in when asked to, and tries again where that may help.
    pub(crate) async fn send(&self, ask: &Ask<'_>, login: &dyn Login) -> Result<Response, Error> {
        let mut asked = false;
        let mut tries = 0;
        let mut url = ask.url.clone();
        loop {
            let pause = pause(self.seed(), &ask.url, tries);
            let known = lock(&self.tokens).get(&(host_of(&ask.url), scope(ask))).cloned();
            let host = &ask.reference.domain;
            let (silence, most) = if self.is_silent(host) { (self.silence() / 3, 1) } else { (self.silence(), TRIES) };
            let most = if ask.once { 1 } else { most };
            let sent = self.attempt(ask, &url, known.as_deref(), silence).await?;
            tries += 1;
            let response = match sent {
                Ok(response) => response,
                Err(error)
                    if error.is_connect() && url.starts_with("https:") && self.tls_first(&ask.reference.domain) =>
                {
                    lock(&self.plain).insert(ask.reference.domain.clone());
                    url = url.replacen("https:", "http:", 1);
                    continue;
                }
                Err(error) if error.may_pass(tries, most) => {
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Err(error) => {
                    if error.is_silence() {
                        lock(&self.silent).insert(host.clone(), Instant::now());
                    }
                    let error = Error::Unreachable { url: ask.url.clone(), reason: error.to_string() };
                    return Err(error.after(tries));
                }
            };
            let status = response.status();
            self.note_extensions(ask.reference, &response);
            if status == StatusCode::UNAUTHORIZED && !asked {
                asked = true;
                self.log_in(ask, &response, login, known).await?;
                continue;
            }
            if (status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()) && tries < TRIES && !ask.once {
                let wait = response.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
                tokio::time::sleep(wait.map_or(pause, |s: u64| Duration::from_secs(s.min(30)))).await;
                continue;
            }
            if status.is_success() {
                return Ok(response);
            }
            let tries = if status == StatusCode::UNAUTHORIZED { 1 } else { tries };
            return Err(refused(ask, response).await.after(tries));
        }
    }

    fn note_extensions(&self, reference: &Reference, response: &Response) {
        let said = response.headers().get("larder-extensions").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let mut extensions = self.extensions.lock().unwrap_or_else(PoisonError::into_inner);
        extensions.insert(reference.domain.clone(), said.to_owned());
    }

    /// Whether the registry of a reference has an extension of larder's; `None` before its first answer.
    pub(crate) fn extends(&self, reference: &Reference, extension: &str) -> Option<bool> {
        let extensions = self.extensions.lock().unwrap_or_else(PoisonError::into_inner);
        extensions.get(&reference.domain).map(|said| said.split(',').any(|name| name.trim() == extension))
    }

    /// The whole of a short answer and its type; asked for again when it breaks off.
    pub(crate) async fn read(&self, ask: &Ask<'_>, most: usize, login: &dyn Login) -> Result<(Vec<u8>, String), Error> {
        let failed = |reason: String| Error::Unreachable { url: ask.url.clone(), reason };
        let mut tries = 0;
        loop {
            tries += 1;
            let response = self.send(ask, login).await?;
            let kind =
                response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
            let (mut bytes, mut body) = (Vec::new(), response.bytes_stream());
            let broken = loop {
                match body.next().await {
                    None => return Ok((bytes, kind)),
                    Some(Ok(chunk)) => bytes.extend_from_slice(&chunk),
                    Some(Err(error)) => break Stopped::from(error),
                }
                if bytes.len() > most {
                    return Err(failed(format!("the answer is larger than {most} bytes")));
                }
            };
            if !broken.may_pass(tries, TRIES) {
                return Err(failed(broken.reason).after(tries));
            }
            tokio::time::sleep(pause(self.seed(), &ask.url, tries)).await;
        }
    }

    /// Whether a host was silent a moment ago: then it is not waited for as long.
    fn is_silent(&self, host: &str) -> bool {
        lock(&self.silent).get(host).is_some_and(|since| since.elapsed() < SULKS)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long to wait after so many tries: twice as long each time, and not the same for everybody who waits.
pub(crate) fn pause(seed: u64, url: &str, tries: u32) -> Duration {
    let spread = Digest::of(format!("{seed} {url} {tries}").as_bytes()).bytes()[0];
    Duration::from_millis(200 << tries.min(6)) * (128 + u32::from(spread)) / 256
}

pub(crate) fn scope(ask: &Ask<'_>) -> String {
    format!("repository:{}:{}", ask.reference.path, ask.actions)
}

/// Percent-encoding of a query value.
pub(crate) fn escape(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

pub(crate) fn host_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest).to_owned()
}

/// The innermost reason of an error: the outer ones only say that a request failed.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

async fn refused(ask: &Ask<'_>, response: Response) -> Error {
    let (host, status) = (host_of(&ask.url), response.status().as_u16());
    let reference = ask.reference.to_string();
    match status {
        404 => Error::NotFound { host, reference, status },
        401 | 403 => Error::Denied { host, reference, status },
        _ => {
            let body = response.text().await.unwrap_or_default();
            let body = body.chars().take(300).collect();
            Error::Status { host, what: reference, status, body }
        }
    }
}

/// A manifest, if it is what the reference names.
fn verified(bytes: Vec<u8>, kind: String, reference: &Reference) -> Result<(Vec<u8>, String), Error> {
    let found = Digest::of(&bytes);
    match reference.digest.filter(|expected| *expected != found) {
        None => Ok((bytes, kind)),
        Some(expected) => Err(Error::WrongDigest {
            host: reference.domain.clone(),
            what: reference.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
        }),
    }
}

/// Passes a body on; `Some` says how it broke.
pub(crate) async fn stream(
    response: Response,
    got: &mut u64,
    hasher: &mut Hasher,
    out: &mut (dyn Write + Send),
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Option<Stopped>, Error> {
    if *got > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(Some(Stopped::because("it can't go on where the connection broke")));
    }
    let mut body = response.bytes_stream();
    while let Some(chunk) = body.next().await {
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => return Ok(Some(error.into())),
        };
        hasher.update(&chunk);
        out.write_all(&chunk).map_err(|source| Error::Write { what: "a blob".to_owned(), source })?;
        *got += chunk.len() as u64;
        progress(*got);
    }
    Ok(None)
}

pub(crate) fn verify(hasher: Hasher, host: &str, what: &Descriptor) -> Result<(), Error> {
    let found = hasher.finish();
    if found == what.digest {
        return Ok(());
    }
    let (expected, found) = (what.digest.to_string(), found.to_string());
    Err(Error::WrongDigest { host: host.to_owned(), what: "a blob".to_owned(), expected, found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_plain() {
        assert_eq!(Client::new().base("127.0.0.1:5000"), "http://127.0.0.1:5000");
        assert_eq!(Client::new().base("localhost"), "http://localhost");
        assert_eq!(Client::new().base("[::1]:5000"), "http://[::1]:5000");
        assert_eq!(Client::new().base("registry.example:5000"), "https://registry.example:5000");
        let section = |http, insecure| Host { http, trust: Trust { insecure, ..Trust::default() }, ..Host::default() };
        let base = |name: &str, host: Host| Client::new().with_hosts([(name.to_owned(), host)].into()).base(name);
        assert_eq!(base("registry.example", section(Some(true), false)), "http://registry.example");
        assert_eq!(base("localhost:1", section(Some(false), false)), "https://localhost:1");
        assert_eq!(base("docker.io", section(Some(true), false)), "http://registry-1.docker.io");
        // TLS is tried first where its certificate does not matter.
        assert_eq!(base("localhost:1", section(None, true)), "https://localhost:1");
    }

    #[test]
    fn mirrors_come_first() {
        let mirrors = ["a.example".to_owned(), "b.example:5000/proxy".to_owned()].to_vec();
        let hosts = BTreeMap::from([("docker.io".to_owned(), Host { mirrors, ..Host::default() })]);
        let places = Client::new().with_hosts(hosts).places(&Reference::parse("debian:12").unwrap());
        let names: Vec<String> = places.iter().map(ToString::to_string).collect();
        let expected = ["a.example/library/debian:12", "b.example:5000/proxy/library/debian:12"];
        assert_eq!(names, [expected[0], expected[1], "docker.io/library/debian:12"]);
    }

    #[test]
    fn queries() {
        assert_eq!(escape("repository:a/b:pull,push"), "repository%3Aa%2Fb%3Apull%2Cpush");
    }
}
