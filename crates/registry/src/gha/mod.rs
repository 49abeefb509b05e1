//! The cache service of GitHub Actions, version 2 (`github.actions.results.api.v1.CacheService` over Twirp with JSON):
//! entries by key that are written once, for the branches that a job's token names. Their bytes go to and come from Azure's
//! blob storage at addresses that the service signs. It does not know what entries are for, and keeps nothing on disk.

mod storage;
mod token;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use token::Scope;

use crate::attend;
use crate::client::{pause, root_cause};
use crate::{Client, Error};

/// What BuildKit's entries are versioned with: sha256 of `|go-actionscache-1.0`.
const VERSION: &str = "693bb7016429d80366022f036f84856888c9f13e00145f5f6f4dce303a38d6f2";
/// The longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(30);

/// A cache service as one job sees it.
pub struct Service {
    http: reqwest::Client,
    /// `https://HOST[/PATH]`.
    url: String,
    token: String,
    scopes: Vec<Scope>,
    /// How long one request may take with all its tries.
    timeout: Duration,
    seed: u64,
    silence: Duration,
    /// Signed addresses of entries, by key.
    found: Mutex<HashMap<String, String>>,
}

/// An entry that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key: the one asked for, or a longer one.
    pub key: String,
    url: String,
}

/// Whether an entry may be written.
pub enum Reserved {
    /// Nobody else may write it now.
    Yes(Upload),
    /// It is there, or somebody is writing it.
    Taken,
}

/// An entry that is ours to write.
pub struct Upload {
    key: String,
    url: String,
}

#[derive(Serialize)]
struct Ask<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    restore_keys: Option<[&'a str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<u64>,
    version: &'a str,
}

#[derive(serde::Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Answer {
    ok: bool,
    signed_upload_url: String,
    signed_download_url: String,
    matched_key: String,
}

/// How the service refuses (Twirp wire protocol, "Errors").
#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct Refusal {
    code: String,
    msg: String,
}

impl Service {
    /// `token` is what a job gets as `ACTIONS_RUNTIME_TOKEN`. Nothing is asked yet.
    pub fn new(client: &Client, url: &str, token: &str, timeout: Duration) -> Result<Service, Error> {
        let url = url.trim_end_matches('/').to_owned();
        let failed = |reason: String| Error::Token { host: url.clone(), scope: "the cache".to_owned(), reason };
        let scopes = token::scopes(token).map_err(failed)?;
        let (http, seed, token) = (client.http()?.clone(), client.seed(), token.to_owned());
        Ok(Service { http, url, token, scopes, timeout, seed, silence: client.silence(), found: Mutex::default() })
    }

    /// The scopes that the token opens, in its order.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// The entry of a key; with `longer` the newest whose key begins so.
    pub async fn find(&self, key: &str, longer: bool) -> Result<Option<Entry>, Error> {
        let ask = Ask { key, restore_keys: Some([key]), size_bytes: None, version: VERSION };
        let answer: Answer = match self.call("GetCacheEntryDownloadURL", key, &ask).await {
            Ok(answer) => answer,
            Err(error) if matches!(error.last(), Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_it = answer.matched_key == key || (longer && answer.matched_key.starts_with(key));
        if !answer.ok || !is_it {
            return Ok(None);
        }
        let (key, url) = (answer.matched_key, answer.signed_download_url);
        self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), url.clone());
        Ok(Some(Entry { key, url }))
    }

    /// Begins to write an entry.
    pub async fn reserve(&self, key: &str) -> Result<Reserved, Error> {
        let ask = Ask { key, restore_keys: None, size_bytes: None, version: VERSION };
        let answer: Answer = match self.call("CreateCacheEntry", key, &ask).await {
            Ok(answer) => answer,
            Err(error) if matches!(error.last(), Error::Status { status: 409, .. }) => return Ok(Reserved::Taken),
            Err(error) => return Err(error),
        };
        if !answer.ok {
            return Ok(Reserved::Taken);
        }
        Ok(Reserved::Yes(Upload { key: key.to_owned(), url: answer.signed_upload_url }))
    }

    async fn finish(&self, key: &str, size: u64) -> Result<(), Error> {
        let ask = Ask { key, restore_keys: None, size_bytes: Some(size), version: VERSION };
        let answer: Answer = self.call("FinalizeCacheEntryUpload", key, &ask).await?;
        let body = "it did not take the entry".to_owned();
        let failed = || Error::Status { host: self.url.clone(), what: key.to_owned(), status: 200, body };
        answer.ok.then_some(()).ok_or_else(failed)
    }

    /// Calls a method, again where that may help, for as long as there is time.
    async fn call<T: DeserializeOwned>(&self, method: &str, key: &str, ask: &Ask<'_>) -> Result<T, Error> {
        let url = format!("{}/twirp/github.actions.results.api.v1.CacheService/{method}", self.url);
        let body = serde_json::to_vec(ask).unwrap_or_default();
        let send = || {
            let request = self.http.post(&url).header(AUTHORIZATION, format!("Bearer {}", self.token));
            request.header(CONTENT_TYPE, "application/json")
        };
        let answer = self.send(send, body.into(), &url, key).await?;
        let failed = |reason: String| Error::Unreachable { url: url.clone(), reason };
        let json = answer.bytes().await.map_err(|e| failed(root_cause(&e)))?;
        serde_json::from_slice(&json).map_err(|e| failed(e.to_string()))
    }

    /// Sends a request: again after a broken connection or a failure of the server's four times, and after a refusal of too
    /// many requests as long as there is time.
    async fn send(
        &self,
        request: impl Fn() -> reqwest::RequestBuilder,
        body: Bytes,
        url: &str,
        what: &str,
    ) -> Result<reqwest::Response, Error> {
        let (begun, mut tries, mut failures) = (Instant::now(), 0, 0);
        loop {
            tries += 1;
            let (error, wait) = match attend::send_bytes(request(), body.clone(), self.silence).await {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) => {
                    let status = answer.status();
                    let wait = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
                    let error = self.refused(what, answer).await;
                    if status.as_u16() != 429 {
                        failures += 1;
                    }
                    if !(status.as_u16() == 429 || status.as_u16() == 408 || status.is_server_error()) {
                        return Err(error.after(tries));
                    }
                    (error, wait.map(Duration::from_secs))
                }
                Err(error) => {
                    failures += 1;
                    let at = url.split('?').next().unwrap_or_default().to_owned();
                    let unreachable = Error::Unreachable { url: at, reason: error.to_string() };
                    if !error.may_pass(failures, crate::s3::TRIES) {
                        return Err(unreachable.after(tries));
                    }
                    (unreachable, None)
                }
            };
            let wait = wait.unwrap_or_else(|| pause(self.seed, url, tries)).min(LONGEST);
            if failures >= crate::s3::TRIES || begun.elapsed() + wait > self.timeout {
                return Err(error.after(tries));
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn refused(&self, what: &str, answer: reqwest::Response) -> Error {
        let (status, host, what) = (answer.status().as_u16(), self.url.clone(), what.to_owned());
        let text = answer.text().await.unwrap_or_default();
        let refusal: Refusal = serde_json::from_str(&text).unwrap_or_default();
        let said: String = text.chars().take(200).collect();
        let reason = if refusal.code.is_empty() { said } else { format!("{}: {}", refusal.code, refusal.msg) };
        match status {
            404 => Error::NotFound { host, reference: what, status },
            401 | 403 => Error::Forbidden { host, what, status, reason },
            _ => Error::Status { host, what, status, body: reason },
        }
    }
}
