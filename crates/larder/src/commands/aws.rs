//! What this process' surroundings say of AWS, and keys for caches in buckets that a daemon elsewhere reads and writes: it
//! may have none of its own, so the client finds them, as docker buildx does. Keys are never printed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use builder::build::Request;
use builder::caches;
use registry::s3::{Ambient, Wallet};

/// The variables `AWS_…` and the home folder.
pub fn ambient() -> Ambient {
    let variable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        name.starts_with("AWS_").then_some((name, value))
    };
    let variables: BTreeMap<String, String> = std::env::vars_os().filter_map(variable).collect();
    Ambient { variables, home: std::env::var_os("HOME").map(PathBuf::from) }
}

/// Says in the request what the surroundings say of its caches in buckets.
pub async fn lend(request: &mut Request) {
    let ambient = ambient();
    let mut keys = None;
    for cache in request.cache_from.iter_mut().chain(&mut request.cache_to).filter(|cache| cache.kind == "s3") {
        fill(cache, "bucket", ambient.variable("AWS_BUCKET").map(str::to_owned));
        fill(cache, "region", ambient.region());
        if cache.attributes.contains_key("access_key_id") && cache.attributes.contains_key("secret_access_key") {
            continue;
        }
        if keys.is_none() {
            keys = Some(find(&ambient).await);
        }
        // Without keys of the client's the daemon looks for its own.
        if let Some(Some(keys)) = keys.clone() {
            let mut set = |name: &str, value: String| drop(cache.attributes.insert(name.to_owned(), value));
            set("access_key_id", keys.id);
            set("secret_access_key", keys.secret);
            keys.token.into_iter().for_each(|token| set("session_token", token));
        }
    }
}

async fn find(ambient: &Ambient) -> Option<registry::s3::Keys> {
    let region = ambient.region().unwrap_or_else(|| "us-east-1".to_owned());
    Wallet::of(&registry::Client::new().with_ambient(ambient.clone()), &region).ok()?.keys().await.ok()
}

fn fill(cache: &mut caches::Request, name: &str, value: Option<String>) {
    if let Some(value) = value {
        cache.attributes.entry(name.to_owned()).or_insert(value);
    }
}
