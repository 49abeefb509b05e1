//! A result that a client gives back, made and written to the outputs.
//! The client may have changed its metadata: the image's configuration is what came back.

use std::collections::BTreeMap;
use std::sync::Arc;

use builder::attestations::Making;
use builder::build::Response;
use builder::event::{Warning, What};
use builder::exporters::Built;
use oci::{Digest, ImageConfig, Platform};
use proto::bridge;
use serde::Deserialize;
use tonic::Status;

use super::solve::{BASE_CONFIG, CONFIG, EPOCH};
use super::{attestations, evaluate, verify};
use crate::jobs::Job;
use crate::refusal;

#[derive(Deserialize)]
struct Platforms {
    #[serde(rename = "Platforms")]
    list: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Platform")]
    platform: Platform,
}

/// The results' platforms as the client names them; none where it names none.
fn platforms(result: &bridge::Result) -> Result<Vec<Named>, Status> {
    let Some(json) = result.metadata.get("refs.platforms") else { return Ok(Vec::new()) };
    let read: Option<Platforms> = serde_json::from_slice(json).map_err(|e| invalid("refs.platforms", e))?;
    let list = read.map(|read| read.list).unwrap_or_default();
    if list.is_empty() {
        return Err(Status::invalid_argument("invalid empty platforms index for exporter"));
    }
    for named in &list {
        if named.id.is_empty() {
            return Err(Status::invalid_argument("invalid empty platform key for exporter"));
        }
        if named.platform.os.is_empty() || named.platform.architecture.is_empty() {
            let text = format!("invalid platform value of {}: it has no os or no architecture", named.id);
            return Err(Status::invalid_argument(text));
        }
    }
    Ok(list)
}

/// Ids of all results, by the name of their platform; the empty name is the only one.
fn named(result: &bridge::Result) -> BTreeMap<String, String> {
    use bridge::result::Result::{Ref, RefDeprecated, Refs, RefsDeprecated};
    match &result.result {
        None => BTreeMap::new(),
        Some(RefDeprecated(id)) => BTreeMap::from([(String::new(), id.clone())]),
        Some(Ref(one)) => BTreeMap::from([(String::new(), one.id.clone())]),
        Some(RefsDeprecated(all)) => all.refs.clone().into_iter().collect(),
        Some(Refs(all)) => all.refs.iter().map(|(name, one)| (name.clone(), one.id.clone())).collect(),
    }
}

/// Ids of all results.
pub fn ids(result: &bridge::Result) -> Vec<String> {
    named(result).into_values().collect()
}

/// One result that came back.
struct Wanted {
    /// Its name among several; empty for the only one.
    name: String,
    platform: Platform,
    config: Option<ImageConfig>,
    base: Option<ImageConfig>,
    epoch: Option<i64>,
    id: String,
}

/// Makes one result, with the attestations that came with it.
async fn make(job: &Arc<Job>, result: &bridge::Result, (_, wanted): (usize, Wanted)) -> Result<Built, Status> {
    let Wanted { name, platform, config, base, epoch, id } = wanted;
    let held = evaluate(job, &id).await?;
    let mut making = job.refs.get(&id).map(|found| found.making).unwrap_or_default();
    if making.origin.call.is_none() {
        // The client may have made this graph of anything that it saw in results which it does not give back.
        let mut given = ids(result);
        let attested = result.attestations.values().flat_map(|all| &all.attestation);
        given.extend(attested.filter_map(|a| a.r#ref.as_ref()).map(|r| r.id.clone()));
        making.read.graphs.extend(job.refs.graphs_beside(&given));
    }
    let key = if name.is_empty() { platform.to_string() } else { name.clone() };
    let mut built = Built::new(name, platform, held, making);
    (built.config, built.base, built.epoch) = (config, base, epoch);
    built.wishes = wishes(result);
    for attestation in result.attestations.get(&key).iter().flat_map(|all| &all.attestation) {
        let given = attestations::given(job, attestation).await?;
        let made_of = attestation.r#ref.as_ref().and_then(|r| job.refs.get(&r.id)).map(|found| found.making.graph);
        built.making.read.graphs.extend(made_of);
        job.build.add(&mut built, &given).await.map_err(|error| refusal::of(&error))?;
    }
    Ok(built)
}

/// What the client wants of outputs.
fn wishes(result: &bridge::Result) -> BTreeMap<String, String> {
    let is_wish = |key: &str| key == "image.name" || key.starts_with("annotation");
    let text = |(key, value): (&String, &Vec<u8>)| (key.clone(), String::from_utf8_lossy(value).into_owned());
    result.metadata.iter().filter(|(key, _)| is_wish(key)).map(text).collect()
}

fn invalid(what: &str, error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{what}: {error}"))
}

/// What is said of one result, and the name under which it stands.
fn said<'a>(result: &'a bridge::Result, what: &str, name: &str) -> Option<(String, &'a [u8])> {
    let key = if name.is_empty() { what.to_owned() } else { format!("{what}/{name}") };
    let value = result.metadata.get(&key).filter(|value| !value.is_empty())?;
    Some((key, value))
}

fn config(result: &bridge::Result, what: &str, name: &str) -> Result<Option<ImageConfig>, Status> {
    let Some((key, json)) = said(result, what, name) else { return Ok(None) };
    let read: Option<ImageConfig> = serde_json::from_slice(json).map_err(|e| invalid(&key, e))?;
    match &read {
        None if what == CONFIG => Err(invalid(&key, "invalid null image config for export")),
        _ => Ok(read),
    }
}

/// Its own SOURCE_DATE_EPOCH, or that of all results.
fn epoch(result: &bridge::Result, name: &str) -> Result<Option<i64>, Status> {
    let Some((key, value)) = said(result, EPOCH, name).or_else(|| said(result, EPOCH, "")) else { return Ok(None) };
    let text = String::from_utf8_lossy(value);
    text.parse().map(Some).map_err(|e| invalid(&format!("{key}={text}"), e))
}

/// Makes what came back and writes the outputs.
pub async fn export(job: &Arc<Job>, result: &bridge::Result) -> Result<Response, Status> {
    let list = platforms(result)?;
    let mut named = named(result);
    if named.is_empty() && result.metadata.contains_key("image.name") && !job.build.request().outputs.is_empty() {
        // An image without files.
        named.insert(String::new(), job.refs.add(Making::default()));
    }
    if named.is_empty() {
        // A question was asked and answered; nothing was to be built.
        return Ok(Response::default());
    }
    let mut wanted = Vec::new();
    for (name, id) in named {
        let found = if name.is_empty() { list.first() } else { list.iter().find(|p| p.id == name) };
        let (config, base) = (config(result, CONFIG, &name)?, config(result, BASE_CONFIG, &name)?);
        let platform = match (found, &config) {
            (Some(found), _) => found.platform.clone(),
            (None, Some(config)) if name.is_empty() => match (config.os.as_str(), config.architecture.as_str()) {
                ("", "") => Platform::host(),
                ("", _) | (_, "") => {
                    let error = "invalid image config: os and architecture must be specified together";
                    return Err(invalid(CONFIG, error));
                }
                (os, architecture) => Platform::new(os, architecture, &config.variant),
            },
            _ if name.is_empty() => Platform::host(),
            _ => Platform::parse(&name, &Platform::host()).map_err(|e| Status::invalid_argument(e.to_string()))?,
        };
        let epoch = epoch(result, &name)?;
        let order = list.iter().position(|p| p.id == name).unwrap_or(0);
        wanted.push((order, Wanted { name, platform, config, base, epoch, id }));
    }
    wanted.sort_by_key(|(order, ..)| *order);
    let asked = job.build.request().attributes.get("platform").map(String::as_str);
    let is_multi = wanted.iter().any(|(_, one)| !one.name.is_empty());
    let got: Vec<Platform> = wanted.iter().map(|(_, one)| one.platform.clone()).collect();
    // A result of nothing is an answer to a question.
    let is_empty = list.is_empty() && wanted.iter().all(|(_, one)| one.id.is_empty());
    if let Some(short) = verify::warning(asked, is_multi, &got).filter(|_| !is_empty) {
        let step = Digest::of(format!("platforms of {}", job.build.request().id).as_bytes());
        job.build.events().tell(What::Warning { step, warning: Warning { short, ..Warning::default() } });
    }
    let made = wanted.into_iter().map(|one| make(job, result, one));
    let built = futures_util::future::try_join_all(made).await?;
    let mut response = job.build.export(built).await.map_err(|error| refusal::of(&error))?;
    for (key, value) in &result.metadata {
        if key.starts_with("frontend.") {
            response.exporter.insert(key.clone(), String::from_utf8_lossy(value).into_owned());
        }
    }
    Ok(response)
}
