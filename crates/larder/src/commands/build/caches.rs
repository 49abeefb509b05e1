//! `--cache-from` and `--cache-to` as they are typed: what goes to the builder, and which folders of this machine it may use.
//! A cache that is not there yet is left out with a warning, as the first build of a branch has none.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use builder::Events;
use builder::caches::Request;
use builder::event::What;
use oci::Descriptor;

use super::{csv, scope};
use crate::client::LocalSession;
use crate::client::content::Folder;

/// Caches to read, and what was left out.
pub fn imports(
    flag: &str,
    texts: &[String],
    session: &mut LocalSession,
) -> Result<(Vec<Request>, Vec<String>), String> {
    let (mut requests, mut warnings) = (Vec::new(), Vec::new());
    for text in texts {
        let Some(request) = in_job(parse(flag, text)?, flag) else { continue };
        let scoped = scoped(&request, flag, text)?;
        if let Some(scoped) = scoped {
            requests.extend(scoped);
            continue;
        }
        let mut request = request;
        if request.kind == "local" {
            let src = request.attributes.get("src").filter(|s| !s.is_empty());
            let src = src.ok_or_else(|| format!("{flag} {text}: src=FOLDER is missing"))?.clone();
            let folder = Folder::new(Path::new(&src));
            if !request.attributes.contains_key("digest") {
                let tag = request.attributes.get("tag").map_or("latest", String::as_str);
                match folder.named(Some(tag)) {
                    Ok(digest) => drop(request.attributes.insert("digest".to_owned(), digest.to_string())),
                    Err(error) => {
                        warnings.push(format!("no cache is read from {src}: {error}"));
                        continue;
                    }
                }
            }
            session.content.insert(format!("local:{src}"), folder);
        }
        requests.push(request);
    }
    Ok((requests, warnings))
}

/// Caches to write.
pub fn exports(flag: &str, texts: &[String], session: &mut LocalSession) -> Result<Vec<Request>, String> {
    let mut requests: Vec<Request> = Vec::new();
    for text in texts {
        let Some(mut request) = in_job(parse(flag, text)?, flag) else { continue };
        // A build writes the nearest scope, and no other.
        if let Some(scoped) = scoped(&request, flag, text)?.and_then(|all| all.into_iter().next()) {
            request = scoped;
        }
        if request.kind == "local" {
            let dest = request.attributes.get("dest").filter(|d| !d.is_empty());
            let dest = dest.ok_or_else(|| format!("{flag} {text}: dest=FOLDER is missing"))?;
            session.content.insert(format!("local:{dest}"), Folder::new(Path::new(dest)));
        }
        if requests.contains(&request) {
            return Err(format!("{flag} {text}: given twice"));
        }
        requests.push(request);
    }
    Ok(requests)
}

/// The caches that a build has written so far, by their positions among those that were asked for.
#[derive(Clone, Default)]
pub struct Written(Arc<Mutex<BTreeMap<usize, Descriptor>>>);

impl Written {
    /// Notes what is written, and passes everything on.
    pub fn listening(&self, events: Events) -> Events {
        let written = self.0.clone();
        Events::new(move |event| {
            if let What::Cache { position, manifest, .. } = &event.what {
                written.lock().unwrap_or_else(PoisonError::into_inner).insert(*position, manifest.clone());
            }
            events.pass(event);
        })
    }

    /// Notes what a daemon that has no such events tells of its caches: one manifest.
    pub fn by_response(&self, requests: &[Request], manifest: Option<&String>) {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let manifest: Option<Descriptor> = manifest.and_then(|json| serde_json::from_str(json).ok());
        if let (true, Some(manifest)) = (written.is_empty(), manifest) {
            let positions = (0..requests.len()).filter(|position| requests[*position].kind != "inline");
            written.extend(positions.map(|position| (position, manifest.clone())));
        }
    }

    /// Names the caches in this machine's folders in their indexes.
    pub fn name(&self, requests: &[Request]) -> Result<(), String> {
        let written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (position, request) in requests.iter().enumerate().filter(|(_, request)| request.kind == "local") {
            let (Some(dest), Some(manifest)) = (request.attributes.get("dest"), written.get(&position)) else {
                continue;
            };
            let tag = request.attributes.get("tag").map_or("latest", String::as_str);
            let folder = Folder::new(Path::new(dest));
            folder.name(tag, manifest.clone()).map_err(|e| e.to_string())?;
            if request.attributes.get("reset").is_some_and(|v| v == "true" || v == "1") {
                folder.sweep().map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }
}

/// One request a scope, the nearest first, for `scope=auto`.
fn scoped(request: &Request, flag: &str, text: &str) -> Result<Option<Vec<Request>>, String> {
    match request.attributes.get("scope").map(String::as_str) {
        None => return Ok(None),
        // GitHub's service has scopes of its own.
        Some(_) if request.kind == "gha" => return Ok(None),
        Some("auto") if request.kind == "registry" => {}
        Some(_) => {
            return Err(format!("{flag} {text}: scope=auto beside type=registry is all that is built of scopes"));
        }
    }
    let name = request.attributes.get("ref").cloned().unwrap_or_default();
    let parsed = oci::Reference::parse(&name).map_err(|e| format!("{flag} {text}: {e}"))?;
    if parsed.tag.is_some() || parsed.digest.is_some() {
        return Err(format!("{flag} {text}: scope=auto chooses the tag; give ref without one"));
    }
    let folder = std::env::current_dir().map_err(|e| e.to_string())?;
    let scopes = scope::scopes(&|variable| std::env::var(variable).ok(), &|| scope::git(&folder));
    let of = |tag: &String| {
        let mut request = request.clone();
        request.attributes.remove("scope");
        request.attributes.insert("ref".to_owned(), format!("{name}:{tag}"));
        request
    };
    Ok(Some(scopes.0.iter().map(of).collect()))
}

/// Says in a request for GitHub's cache service what a job's surroundings say of it. Outside of a job there is no such cache:
/// the same command may be run by hand.
fn in_job(mut request: Request, flag: &str) -> Option<Request> {
    if request.kind != "gha" {
        return Some(request);
    }
    for (name, variable) in [("token", "ACTIONS_RUNTIME_TOKEN"), ("url_v2", "ACTIONS_RESULTS_URL")] {
        let value = std::env::var(variable).ok().filter(|value| !value.is_empty());
        if let Some(value) = value.filter(|_| !request.attributes.contains_key(name)) {
            request.attributes.insert(name.to_owned(), value);
        }
    }
    let has = |name: &str| request.attributes.contains_key(name);
    if has("token") && (has("url_v2") || has("url")) {
        return Some(request);
    }
    eprintln!(
        "warning: {flag} type=gha is left out: this is no job of GitHub Actions that hands ACTIONS_RUNTIME_TOKEN and ACTIONS_RESULTS_URL to its steps"
    );
    None
}

/// `type=…,key=value,…`, or the reference of a registry.
fn parse(flag: &str, text: &str) -> Result<Request, String> {
    if !text.contains('=') {
        let attributes = [("ref".to_owned(), text.to_owned())].into();
        return Ok(Request { kind: "registry".to_owned(), attributes });
    }
    let mut attributes = csv::pairs(text)?;
    let kind = attributes.remove("type").ok_or_else(|| format!("{flag} {text}: a type is missing"))?;
    Ok(Request { kind, attributes })
}
