//! A cache in GitHub's cache service, with the entries that BuildKit makes: `buildkit-blob-1-DIGEST` for each layer and
//! `index-SCOPE-1-BRANCH#N` for the config, where the greatest N counts. Entries are never written over, so reserving the next
//! number is the lock: who gets it has read all that is before it. What a config holds already it says in a field of its own,
//! which BuildKit passes over; BuildKit's own configs hold nothing but their own build, so what is before them is read too.

use std::io::Write;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use oci::{Descriptor, Digest};
use registry::gha::{Entry, Reserved, Service};
use registry::{Client, Content};
use serde_json::{Map, Value, json};
use solver::exchange::Config;

use super::export::{fit, part};
use super::parts::Blobs;
use super::shelf::{MOST, Shelf, describing};
use super::{Error, Request};
use crate::Work;

/// The field of a config that says up to which number it holds those before it.
const FIELD: &str = "larder";
/// So many configs before one that does not say what it holds are read.
const DEPTH: u64 = 8;
/// A number that is reserved for longer is nobody's any more.
const STUCK: Duration = Duration::from_secs(15);
/// Blobs that are sent at once.
const UPLOADS: usize = 4;

/// The attributes of a request, read.
#[derive(Clone)]
pub struct Options {
    url: String,
    token: String,
    scope: String,
    timeout: Duration,
}

impl Options {
    /// Reads BuildKit's attributes.
    pub fn read(request: &Request) -> Result<Options, Error> {
        let version = request.attribute("version");
        if let Some(version) = version.filter(|version| *version != "2") {
            return Err(request.bad("version", version, "GitHub has switched off what was before 2"));
        }
        let second = |url: &&str| version.is_some() || url.contains("results-receiver.actions.githubusercontent.com");
        let url = request.attribute("url_v2").or_else(|| request.attribute("url").filter(second));
        let url = url.map_or_else(|| request.required("url_v2"), Ok)?.to_owned();
        let timeout = request.duration("timeout", Duration::from_secs(600))?;
        let scope = request.attribute("scope").unwrap_or("buildkit").to_owned();
        Ok(Options { url, token: request.required("token")?.to_owned(), scope, timeout })
    }
}

/// See the module.
pub struct Cache {
    service: Service,
    scope: String,
}

/// The configs of one branch.
#[derive(Default)]
struct Found {
    /// All of them joined.
    config: Config,
    /// The newest alone.
    newest: Config,
    /// Its number; 0 when there is none.
    number: u64,
    /// The newest holds all that is before it.
    whole: bool,
    /// Up to this number all is in `config`.
    after: u64,
}

impl Cache {
    /// Nothing is asked yet.
    pub fn new(client: &Client, request: &Request) -> Result<Cache, Error> {
        let Options { url, token, scope, timeout } = Options::read(request)?;
        Ok(Cache { service: Service::new(client, &url, &token, timeout)?, scope })
    }

    fn blob(digest: &Digest) -> String {
        format!("buildkit-blob-1-{digest}")
    }

    fn index(&self, branch: &str) -> String {
        let branch = Digest::of(branch.as_bytes()).to_string();
        format!("index-{}-1-{}#", self.scope, &branch["sha256:".len()..][..8])
    }

    async fn read_index(&self, entry: &Entry) -> Result<(Config, Option<u64>), crate::Error> {
        let json = self.service.read(entry).await.map_err(Error::from)?;
        let config = Config::parse(&json).map_err(Error::from)?;
        let fields: Map<String, Value> = serde_json::from_slice(&json).unwrap_or_default();
        Ok((config, fields.get(FIELD).and_then(|field| field["after"].as_u64())))
    }

    /// The configs of a branch.
    async fn find(&self, branch: &str) -> Result<Found, crate::Error> {
        let index = self.index(branch);
        let Some(entry) = self.service.find(&index, true).await.map_err(Error::from)? else {
            return Ok(Found::default());
        };
        let number = entry.key.strip_prefix(&index).and_then(|number| number.parse().ok());
        let reason = || format!("the entry {} has no number", entry.key);
        let number: u64 = number.ok_or_else(|| Error::NoCache { place: self.shown(), reason: reason() })?;
        let (newest, held) = self.read_index(&entry).await?;
        let mut configs = vec![newest.clone()];
        let mut floor = held.unwrap_or_else(|| number.saturating_sub(1 + DEPTH));
        let (whole, mut missing) = (held.is_some_and(|held| held + 1 >= number), false);
        let mut before = number.saturating_sub(1);
        while before > floor {
            match self.service.find(&format!("{index}{before}"), false).await.map_err(Error::from)? {
                Some(entry) => {
                    let (config, held) = self.read_index(&entry).await?;
                    configs.push(config);
                    floor = floor.max(held.unwrap_or(0));
                }
                None => missing = true,
            }
            before -= 1;
        }
        // One that is still being written may appear; one that did not for long never will.
        let after = if missing && held.is_some() && number - floor <= DEPTH { floor } else { number };
        let config = Config::join(&configs).map_err(Error::from)?;
        Ok(Found { config, newest, number, whole, after })
    }
}

impl Shelf for Cache {
    fn shown(&self) -> String {
        format!("gha:{}", self.scope)
    }

    fn uploads(&self) -> usize {
        UPLOADS
    }

    fn has<'a>(&'a self, blob: &'a Digest) -> BoxFuture<'a, Result<bool, registry::Error>> {
        async move { Ok(self.service.find(&Cache::blob(blob), false).await?.is_some()) }.boxed()
    }

    fn read<'a>(
        &'a self,
        blob: &'a Descriptor,
        out: &'a mut (dyn Write + Send),
        progress: &'a mut (dyn FnMut(u64) + Send),
    ) -> BoxFuture<'a, Result<(), registry::Error>> {
        async move { self.service.blob(&Cache::blob(&blob.digest), blob, out, progress).await }.boxed()
    }

    fn write<'a>(&'a self, blob: &'a Descriptor, content: Content) -> BoxFuture<'a, Result<(), registry::Error>> {
        async move {
            match self.service.reserve(&Cache::blob(&blob.digest)).await? {
                Reserved::Yes(upload) => self.service.write(upload, content).await,
                // Somebody else is sending it.
                Reserved::Taken => Ok(()),
            }
        }
        .boxed()
    }

    fn config<'a>(&'a self) -> BoxFuture<'a, Result<Option<Config>, crate::Error>> {
        async move {
            let branches = self.service.scopes().iter().map(|scope| self.find(&scope.name).boxed());
            let found = futures_util::future::try_join_all(branches.collect::<Vec<_>>()).await?;
            let configs: Vec<&Config> = found.iter().filter(|f| f.number > 0).map(|f| &f.config).collect();
            if configs.is_empty() {
                return Ok(None);
            }
            Ok(Some(Config::join(configs).map_err(Error::from)?))
        }
        .boxed()
    }

    fn add<'a>(
        &'a self,
        work: &'a Work,
        config: &'a Config,
        blobs: &'a Blobs,
    ) -> BoxFuture<'a, Result<(), crate::Error>> {
        async move {
            let config = describing(config, blobs).map_err(Error::from)?;
            let branch = self.service.scopes().iter().rfind(|scope| scope.is_written());
            let reason = || "the job's token may not write a cache".to_owned();
            let branch = branch.ok_or_else(|| Error::NoCache { place: self.shown(), reason: reason() })?;
            self.join(work, &branch.name, &config).await
        }
        .boxed()
    }
}

impl Cache {
    /// Writes the join of what is there with `config` under the next number.
    async fn join(&self, work: &Work, branch: &str, config: &Config) -> Result<(), crate::Error> {
        let (mut last, mut skipped, mut since) = (None, 0, Instant::now());
        let mut pause = Duration::from_millis(200 + u64::from(std::process::id() % 97));
        loop {
            let found = self.find(branch).await?;
            let joined = fit(&Config::join([config, &found.config]).map_err(Error::from)?, MOST);
            if found.whole && found.newest == joined {
                return Ok(());
            }
            if last != Some(found.number) {
                (last, skipped, since) = (Some(found.number), 0, Instant::now());
            }
            let key = format!("{}{}", self.index(branch), found.number + 1 + skipped);
            match self.service.reserve(&key).await.map_err(Error::from)? {
                Reserved::Yes(upload) => {
                    let mut fields: Map<String, Value> = serde_json::from_slice(&joined.to_json()).unwrap_or_default();
                    fields.insert(FIELD.to_owned(), json!({ "after": found.after }));
                    part(work, &format!("writing cache {key}"));
                    let json = serde_json::to_vec(&fields).unwrap_or_default();
                    return Ok(self.service.write(upload, Content::Bytes(json)).await.map_err(Error::from)?);
                }
                // Perhaps its writer died.
                Reserved::Taken if since.elapsed() > STUCK => skipped += 1,
                Reserved::Taken => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 3 / 2).min(Duration::from_secs(2));
                }
            }
        }
    }
}
