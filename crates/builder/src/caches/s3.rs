//! A cache in a bucket, laid out as BuildKit does: blobs at `PREFIX` `blobs/` DIGEST, configs at `PREFIX` `manifests/` NAME.
//! A part of a cache is one more config beside it, and the config at the name says which parts it holds in a field of its
//! own, which BuildKit passes over. Rules of the bucket remove what is old, so what is still used is made young again.

use std::io::Write;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use oci::{Descriptor, Digest};
use registry::s3::{Address, Ambient, Bucket, Keys, Only, TRIES};
use registry::{Client, Content};
use serde_json::{Map, Value, json};
use solver::exchange::{CONFIG, Config};

use super::export::part;
use super::parts::{self, Blobs, Board, One};
use super::shelf::{MOST, Shelf, described, describing};
use super::{Error, Request};
use crate::Work;
use crate::event::now_millis;

/// The field of a config that names the parts it holds.
const FIELD: &str = "larder";

/// The attributes of a request, read.
#[derive(Clone, Debug)]
pub struct Options {
    address: Address,
    keys: Option<Keys>,
    role: Option<String>,
    blobs: String,
    manifests: String,
    names: Vec<String>,
    refresh: Duration,
    uploads: usize,
    tries: u32,
}

impl Options {
    /// Reads BuildKit's attributes; what they leave open the surroundings may say.
    pub fn read(request: &Request, ambient: &Ambient) -> Result<Options, Error> {
        let text = |name: &str| request.attribute(name).map(str::to_owned);
        let bucket = text("bucket").or_else(|| ambient.variable("AWS_BUCKET").map(str::to_owned));
        let bucket = bucket.map_or_else(|| request.required("bucket").map(str::to_owned), Ok)?;
        let endpoint = text("endpoint_url");
        if let Some(url) = endpoint.as_deref().filter(|url| !url.starts_with("http://") && !url.starts_with("https://"))
        {
            return Err(request.bad("endpoint_url", url, "expected http://HOST or https://HOST"));
        }
        // Servers that are not AWS's seldom care.
        let usual = || endpoint.is_some().then(|| "us-east-1".to_owned());
        let region = text("region").or_else(|| ambient.region()).or_else(usual);
        let region = region.map_or_else(|| request.required("region").map(str::to_owned), Ok)?;
        let path_style = request.flag("use_path_style", false)?;
        let keys = match (text("access_key_id"), text("secret_access_key")) {
            (Some(id), Some(secret)) => Some(Keys { id, secret, token: text("session_token"), until: None }),
            _ => None,
        };
        let number = |name: &str, usual: usize| match request.attribute(name) {
            None => Ok(usual),
            Some(value) => match value.parse() {
                Ok(number) if number > 0 => Ok(number),
                _ => Err(request.bad(name, value, "expected a number above 0")),
            },
        };
        let refresh = request.duration("touch_refresh", Duration::from_secs(24 * 3600))?;
        let (prefix, name) = (text("prefix").unwrap_or_default(), text("name"));
        let below = |name: &str, usual: &str| {
            let given = request.attributes.get(name).map_or(usual, String::as_str);
            format!("{prefix}{given}")
        };
        let names: Vec<String> = name.as_deref().unwrap_or("buildkit").split(';').map(str::to_owned).collect();
        if let Some(name) = name.as_deref().filter(|_| names.iter().any(String::is_empty)) {
            return Err(request.bad("name", name, "expected names with `;` between them"));
        }
        Ok(Options {
            keys,
            role: text("role_arn"),
            blobs: below("blobs_prefix", "blobs/"),
            manifests: below("manifests_prefix", "manifests/"),
            names,
            refresh,
            uploads: number("upload_parallelism", 4)?,
            tries: u32::try_from(number("retry_max_attempts", TRIES as usize)?).unwrap_or(TRIES),
            address: Address { bucket, region, endpoint, path_style },
        })
    }
}

/// See the module.
pub struct Cache {
    bucket: Bucket,
    options: Options,
    /// It is written: what is found there is made young again when it is old.
    writes: bool,
}

impl Cache {
    /// Nothing is asked yet.
    pub fn new(client: &Client, request: &Request, writes: bool) -> Result<Cache, Error> {
        let options = Options::read(request, client.ambient())?;
        let bucket = Bucket::new(client, &options.address, options.keys.clone(), options.role.clone())?;
        Ok(Cache { bucket: bucket.with_tries(options.tries), options, writes })
    }

    fn blob(&self, digest: &Digest) -> String {
        format!("{}{digest}", self.options.blobs)
    }

    fn manifest(&self, name: &str) -> String {
        format!("{}{name}", self.options.manifests)
    }

    /// Whether there is an object; one that is old is written over itself.
    async fn keeps(&self, key: &str) -> Result<bool, registry::Error> {
        let Some(object) = self.bucket.look(key).await? else { return Ok(false) };
        let age = Duration::from_millis(now_millis().saturating_sub(object.modified));
        if self.writes && age > self.options.refresh {
            self.bucket.touch(key, object.size).await?;
        }
        Ok(true)
    }

    async fn get(&self, name: &str) -> Result<Option<One>, crate::Error> {
        let Some((json, _)) = self.bucket.read(&self.manifest(name)).await.map_err(Error::from)? else {
            return Ok(None);
        };
        let config = Config::parse(&json).map_err(Error::from)?;
        let fields: Map<String, Value> = serde_json::from_slice(&json).unwrap_or_default();
        let held = fields.get(FIELD).and_then(|field| field["parts"].as_str()).map(str::to_owned);
        let document = Descriptor::new(CONFIG, Digest::of(&json), json.len() as u64);
        Ok(Some(One { blobs: described(&config), config, held, document }))
    }
}

impl Shelf for Cache {
    fn shown(&self) -> String {
        let name = self.options.names.first().map(String::as_str).unwrap_or_default();
        self.bucket.shown(&self.manifest(name))
    }

    fn uploads(&self) -> usize {
        self.options.uploads
    }

    fn has<'a>(&'a self, blob: &'a Digest) -> BoxFuture<'a, Result<bool, registry::Error>> {
        async move { self.keeps(&self.blob(blob)).await }.boxed()
    }

    fn read<'a>(
        &'a self,
        blob: &'a Descriptor,
        out: &'a mut (dyn Write + Send),
        progress: &'a mut (dyn FnMut(u64) + Send),
    ) -> BoxFuture<'a, Result<(), registry::Error>> {
        async move { self.bucket.blob(&self.blob(&blob.digest), blob, out, progress).await }.boxed()
    }

    fn write<'a>(&'a self, blob: &'a Descriptor, content: Content) -> BoxFuture<'a, Result<(), registry::Error>> {
        async move { self.bucket.upload(&self.blob(&blob.digest), content).await }.boxed()
    }

    fn config<'a>(&'a self) -> BoxFuture<'a, Result<Option<Config>, crate::Error>> {
        async move {
            // As BuildKit: of several names the first is read.
            let Some(name) = self.options.names.first() else { return Ok(None) };
            Ok(parts::read(self, name).await?.map(|kept| kept.config))
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
            for name in &self.options.names {
                part(work, &format!("writing cache {}", self.bucket.shown(&self.manifest(name))));
                parts::add(self, name, &config, &described(&config)).await?;
                self.keeps(&self.manifest(name)).await.map_err(Error::from)?;
            }
            Ok(())
        }
        .boxed()
    }
}

impl Board for Cache {
    fn most(&self) -> usize {
        MOST
    }

    fn one<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<One>, crate::Error>> {
        self.get(name).boxed()
    }

    fn names<'a>(&'a self, beginning: &'a str) -> BoxFuture<'a, Result<Vec<String>, crate::Error>> {
        async move {
            let found = self.bucket.list(&self.manifest(beginning)).await.map_err(Error::from)?;
            let name = |key: &str| key.strip_prefix(&self.options.manifests).map(str::to_owned);
            Ok(found.iter().filter_map(|object| name(&object.key)).collect())
        }
        .boxed()
    }

    fn put<'a>(
        &'a self,
        name: &'a str,
        config: &'a Config,
        _: &'a Blobs,
        held: Option<String>,
    ) -> BoxFuture<'a, Result<Descriptor, crate::Error>> {
        async move {
            let mut json = config.to_json();
            if let Some(parts) = held
                && let Ok(mut fields) = serde_json::from_slice::<Map<String, Value>>(&json)
            {
                fields.insert(FIELD.to_owned(), json!({ "parts": parts }));
                // Texts and numbers can't fail to encode.
                json = serde_json::to_vec(&fields).unwrap_or(json);
            }
            let document = Descriptor::new(CONFIG, Digest::of(&json), json.len() as u64);
            self.bucket.write(&self.manifest(name), json, &Only::Always).await.map_err(Error::from)?;
            Ok(document)
        }
        .boxed()
    }

    fn remove<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), crate::Error>> {
        async move { Ok(self.bucket.remove(&self.manifest(name)).await.map_err(Error::from)?) }.boxed()
    }
}
