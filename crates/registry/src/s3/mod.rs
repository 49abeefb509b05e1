//! A bucket of S3, or of a server that speaks like it: objects by key, read whole or from where a connection broke, written
//! in parts where they are large, and only if nobody else wrote where that matters. What is in memory at once is bounded.
//! It does not know what the objects are, and keeps nothing on disk.

mod credentials;
mod listing;
mod profiles;
mod sign;
mod sts;
mod upload;
mod xml;

use std::io::Write;
use std::time::Duration;

use futures_util::StreamExt;
use hyper::body::Bytes;
use oci::{Descriptor, Hasher};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::Semaphore;

pub use credentials::{Ambient, Wallet};
pub use listing::Object;
pub use sign::Keys;

use crate::attend::{self, Stopped};
use crate::client::{host_of, pause, stream, verify};
use crate::{Client, Error};

/// Tries of one request where nothing else is said.
pub const TRIES: u32 = 4;
/// Bodies in memory at once, each no longer than a part of an object.
const BODIES: usize = 8;
/// More bytes than any document that is read whole has.
const MOST: usize = 64 << 20;

/// Which bucket, and how it is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// Its name.
    pub bucket: String,
    /// `us-east-1`.
    pub region: String,
    /// `https://HOST[:PORT]` of a server that is not AWS's.
    pub endpoint: Option<String>,
    /// The bucket stands in the path, not in the host's name.
    pub path_style: bool,
}

/// See the module.
pub struct Bucket {
    http: reqwest::Client,
    name: String,
    region: String,
    /// `https://BUCKET.HOST`, or `https://HOST`.
    base: String,
    /// `/BUCKET`, or nothing.
    path: String,
    wallet: Wallet,
    tries: u32,
    seed: u64,
    silence: Duration,
    bodies: Semaphore,
}

/// What must be so for a write to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Only {
    /// Nothing.
    Always,
    /// The key has no object.
    IfAbsent,
    /// The key's object has this tag still.
    IfSame(String),
}

/// How a write ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is there; its tag.
    Yes(String),
    /// Somebody else wrote before.
    Overtaken,
}

/// One request, sent perhaps several times.
struct Ask<'a> {
    method: Method,
    /// Empty: the bucket itself.
    key: &'a str,
    query: Vec<(&'a str, String)>,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl<'a> Ask<'a> {
    fn new(method: Method, key: &'a str) -> Ask<'a> {
        Ask { method, key, query: Vec::new(), headers: Vec::new(), body: Bytes::new() }
    }
}

impl Bucket {
    /// Nothing is asked yet. With `keys` no others are looked for; `role` is the ARN of a role to take on.
    pub fn new(client: &Client, address: &Address, keys: Option<Keys>, role: Option<String>) -> Result<Bucket, Error> {
        let endpoint = address.endpoint.as_deref().map(|url| url.trim_end_matches('/').to_owned());
        let endpoint =
            endpoint.unwrap_or_else(|| format!("https://s3.{0}.{1}", address.region, suffix(&address.region)));
        let (scheme, host) = endpoint.split_once("://").unwrap_or(("https", &endpoint));
        let bucket = sign::encode(&address.bucket, true);
        // A name cannot stand before an address of numbers, nor one with dots before a host with a certificate.
        let in_path = address.path_style || is_number(host) || (scheme == "https" && address.bucket.contains('.'));
        let (base, path) = if in_path {
            (format!("{scheme}://{host}"), format!("/{bucket}"))
        } else {
            (format!("{scheme}://{bucket}.{host}"), String::new())
        };
        // Keys come from AWS; the server of the bucket may be somebody's own, and be believed another way.
        let http = client.http_for(&host_of(&base))?;
        let wallet = Wallet::new(keys, role, client.ambient(), &address.region, client.http()?.clone());
        let (name, region, seed) = (address.bucket.clone(), address.region.clone(), client.seed());
        let (tries, bodies) = (TRIES, Semaphore::new(BODIES));
        Ok(Bucket { http, name, region, base, path, wallet, tries, seed, silence: client.silence(), bodies })
    }

    /// Tries every request so often.
    pub fn with_tries(mut self, tries: u32) -> Bucket {
        self.tries = tries.max(1);
        self
    }

    /// What is under a key, if anything is.
    pub async fn look(&self, key: &str) -> Result<Option<Object>, Error> {
        match self.send(Ask::new(Method::HEAD, key)).await {
            Ok(answer) => Ok(Some(listing::described(key, &answer))),
            Err(error) if matches!(error.last(), Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A small object, and its tag; `None` when there is none.
    pub async fn read(&self, key: &str) -> Result<Option<(Vec<u8>, String)>, Error> {
        for tries in 1.. {
            let answer = match self.send(Ask::new(Method::GET, key)).await {
                Ok(answer) => answer,
                Err(error) if matches!(error.last(), Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let tag = tag(&answer);
            let (mut bytes, mut body) = (Vec::new(), answer.bytes_stream());
            let broken = loop {
                match body.next().await {
                    None => return Ok(Some((bytes, tag))),
                    Some(Ok(chunk)) => bytes.extend_from_slice(&chunk),
                    Some(Err(error)) => break Stopped::from(error),
                }
                if bytes.len() > MOST {
                    let reason = format!("it is larger than {MOST} bytes");
                    return Err(Error::Unreachable { url: self.shown(key), reason });
                }
            };
            if !broken.may_pass(tries, self.tries) {
                return Err(Error::Unreachable { url: self.shown(key), reason: broken.reason }.after(tries));
            }
            tokio::time::sleep(pause(self.seed, key, tries)).await;
        }
        Ok(None)
    }

    /// Streams the blob `what` from under a key into `out`, verified. A connection that breaks goes on where it broke.
    pub async fn blob(
        &self,
        key: &str,
        what: &Descriptor,
        out: &mut (dyn Write + Send),
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), Error> {
        let (mut hasher, mut got) = (Hasher::new(), 0);
        for tries in 1.. {
            let answer = self.open(key, got, None).await?;
            let Some(broken) = stream(answer, &mut got, &mut hasher, out, progress).await? else { break };
            if !broken.may_pass(tries, self.tries) {
                return Err(Error::Unreachable { url: self.shown(key), reason: broken.reason }.after(tries));
            }
            tokio::time::sleep(pause(self.seed, key, tries)).await;
        }
        verify(hasher, &self.base, what)
    }

    /// An object's bytes from `start` on, as they come: `length` of them, above 0, or all.
    pub async fn open(&self, key: &str, start: u64, length: Option<u64>) -> Result<Response, Error> {
        let mut ask = Ask::new(Method::GET, key);
        match length {
            Some(length) => ask.headers.push(("range", format!("bytes={start}-{}", start + length - 1))),
            None if start > 0 => ask.headers.push(("range", format!("bytes={start}-"))),
            None => {}
        }
        self.send(ask).await
    }

    /// Writes a small object.
    pub async fn write(&self, key: &str, bytes: impl Into<Bytes>, only: &Only) -> Result<Written, Error> {
        let mut ask = Ask::new(Method::PUT, key);
        ask.body = bytes.into();
        match only {
            Only::Always => {}
            Only::IfAbsent => ask.headers.push(("if-none-match", "*".to_owned())),
            Only::IfSame(tag) => ask.headers.push(("if-match", tag.clone())),
        }
        match self.send(ask).await {
            Ok(answer) => Ok(Written::Yes(tag(&answer))),
            Err(error) => match error.last() {
                Error::Status { status: 409 | 412, .. } if *only != Only::Always => Ok(Written::Overtaken),
                // What was to be the same is gone.
                Error::NotFound { .. } if matches!(only, Only::IfSame(_)) => Ok(Written::Overtaken),
                _ => Err(error),
            },
        }
    }

    /// Removes an object. One that is not there is no error.
    pub async fn remove(&self, key: &str) -> Result<(), Error> {
        match self.send(Ask::new(Method::DELETE, key)).await {
            Err(error) if !matches!(error.last(), Error::NotFound { .. }) => Err(error),
            _ => Ok(()),
        }
    }

    /// The keys that requests are signed with now.
    pub async fn keys(&self) -> Result<Keys, Error> {
        self.wallet.keys().await
    }

    /// How a key is told to people.
    pub fn shown(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name)
    }

    async fn send(&self, ask: Ask<'_>) -> Result<Response, Error> {
        let _body = if ask.body.is_empty() { None } else { self.bodies.acquire().await.ok() };
        let path = format!("{}/{}", self.path, sign::encode(ask.key, false));
        let query = sign::query(&ask.query);
        let mark = if query.is_empty() { "" } else { "?" };
        let url = format!("{}{path}{mark}{query}", self.base);
        let payload = sign::sha256(&ask.body);
        let mut tries = 0;
        loop {
            tries += 1;
            let request = self.signed(&ask, &url, &path, &payload).await?;
            let last = tries >= self.tries;
            match attend::send_bytes(request, ask.body.clone(), self.silence).await {
                Err(error) if !error.may_pass(tries, self.tries) => {
                    return Err(Error::Unreachable { url, reason: error.to_string() }.after(tries));
                }
                Err(_) => tokio::time::sleep(pause(self.seed, &url, tries)).await,
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) => {
                    let wait = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
                    let (refused, again) = self.refused(ask.key, answer).await;
                    if last || !again {
                        return Err(refused.after(tries));
                    }
                    let wait = wait.map(|seconds: u64| Duration::from_secs(seconds.min(30)));
                    tokio::time::sleep(wait.unwrap_or_else(|| pause(self.seed, &url, tries))).await;
                }
            }
        }
    }

    async fn signed(
        &self,
        ask: &Ask<'_>,
        url: &str,
        path: &str,
        payload: &str,
    ) -> Result<reqwest::RequestBuilder, Error> {
        let keys = self.wallet.keys().await?;
        let time = sign::time(credentials::now());
        let mut headers = ask.headers.clone();
        headers.push(("x-amz-content-sha256", payload.to_owned()));
        headers.push(("x-amz-date", time.clone()));
        headers.extend(keys.token.clone().map(|token| ("x-amz-security-token", token)));
        let host = self.base.split_once("://").map_or(self.base.as_str(), |(_, host)| host);
        let method = ask.method.as_str();
        let request = sign::Request { method, host, path, query: &ask.query, headers: &headers, payload };
        let scope = sign::Scope { time: &time, region: &self.region, service: "s3" };
        headers.push(("authorization", sign::authorization(&request, &scope, &keys)));
        let request = self.http.request(ask.method.clone(), url);
        Ok(headers.into_iter().fold(request, |request, (name, value)| request.header(name, value)))
    }

    /// What a refusal says, and whether asking again may help.
    async fn refused(&self, key: &str, answer: Response) -> (Error, bool) {
        let status = answer.status();
        let body = answer.text().await.unwrap_or_default();
        let code = xml::text(&body, "Code").unwrap_or_default();
        let said = xml::text(&body, "Message").unwrap_or_else(|| body.chars().take(200).collect());
        let (host, what, number) = (self.base.clone(), self.shown(key), status.as_u16());
        let again = status.is_server_error()
            || status == StatusCode::TOO_MANY_REQUESTS
            || matches!(
                code.as_str(),
                "RequestTimeout" | "SlowDown" | "OperationAborted" | "ConditionalRequestConflict"
            );
        let error = match number {
            404 if code != "NoSuchBucket" => Error::NotFound { host, reference: what, status: number },
            401 | 403 => Error::Forbidden { host, what, status: number, reason: format!("{code} {said}") },
            _ => Error::Status { host, what, status: number, body: format!("{code} {said}") },
        };
        (error, again)
    }
}

/// The tag of an answer's object.
fn tag(answer: &Response) -> String {
    answer.headers().get("etag").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

/// Where AWS's services of a region are.
fn suffix(region: &str) -> &'static str {
    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
}

/// Whether a host is an address of numbers.
fn is_number(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    name.parse::<std::net::IpAddr>().is_ok() || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(bucket: &str, region: &str, endpoint: Option<&str>, path_style: bool) -> String {
        let (bucket, region, endpoint) = (bucket.to_owned(), region.to_owned(), endpoint.map(str::to_owned));
        let bucket =
            Bucket::new(&Client::new(), &Address { bucket, region, endpoint, path_style }, None, None).unwrap();
        format!("{}{}", bucket.base, bucket.path)
    }

    #[test]
    fn where_a_bucket_is() {
        assert_eq!(base("b", "eu-west-1", None, false), "https://b.s3.eu-west-1.amazonaws.com");
        assert_eq!(base("b", "cn-north-1", None, true), "https://s3.cn-north-1.amazonaws.com.cn/b");
        assert_eq!(base("a.b", "us-east-1", None, false), "https://s3.us-east-1.amazonaws.com/a.b");
        assert_eq!(base("b", "r", Some("https://s3.example:9000/"), false), "https://b.s3.example:9000");
        assert_eq!(base("b", "r", Some("http://s3.example"), true), "http://s3.example/b");
        assert_eq!(base("b", "r", Some("http://127.0.0.1:9000"), false), "http://127.0.0.1:9000/b");
    }
}
