//! A result that a client gives back, made and written to the outputs.
//! The client may have changed its metadata: the image's configuration is what came back.

use std::collections::BTreeMap;
use std::sync::Arc;

use builder::build::Response;
use builder::exporters::Built;
use oci::{ImageConfig, Platform};
use proto::bridge;
use serde::Deserialize;
use tonic::Status;

use super::{attestations, evaluate};
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
    id: String,
}

/// Makes one result, with the attestations that came with it.
async fn make(job: &Arc<Job>, result: &bridge::Result, (_, wanted): (usize, Wanted)) -> Result<Built, Status> {
    let Wanted { name, platform, config, id } = wanted;
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
    built.config = config;
    for attestation in result.attestations.get(&key).iter().flat_map(|all| &all.attestation) {
        let given = attestations::given(job, attestation).await?;
        let made_of = attestation.r#ref.as_ref().and_then(|r| job.refs.get(&r.id)).map(|found| found.making.graph);
        built.making.read.graphs.extend(made_of);
        job.build.add(&mut built, &given).await.map_err(|error| refusal::of(&error))?;
    }
    Ok(built)
}

/// Makes what came back and writes the outputs.
pub async fn export(job: &Arc<Job>, result: &bridge::Result) -> Result<Response, Status> {
    let invalid = |what: &str, error: serde_json::Error| Status::invalid_argument(format!("{what}: {error}"));
    let list = result.metadata.get("refs.platforms");
    let list: Option<Platforms> =
        list.map(|json| serde_json::from_slice(json)).transpose().map_err(|e| invalid("refs.platforms", e))?;
    let list = list.map(|l| l.list).unwrap_or_default();
    let named = named(result);
    if named.is_empty() {
        // A question was asked and answered; nothing was to be built.
        return Ok(Response::default());
    }
    let mut wanted = Vec::new();
    for (name, id) in named {
        let found = if name.is_empty() { list.first() } else { list.iter().find(|p| p.id == name) };
        let platform = match found {
            Some(found) => found.platform.clone(),
            None if name.is_empty() => Platform::host(),
            None => Platform::parse(&name, &Platform::host()).map_err(|e| Status::invalid_argument(e.to_string()))?,
        };
        let key =
            if name.is_empty() { "containerimage.config".to_owned() } else { format!("containerimage.config/{name}") };
        let config = result.metadata.get(&key).filter(|c| !c.is_empty());
        let config: Option<ImageConfig> =
            config.map(|json| serde_json::from_slice(json)).transpose().map_err(|e| invalid(&key, e))?;
        let order = list.iter().position(|p| p.id == name).unwrap_or(0);
        wanted.push((order, Wanted { name, platform, config, id }));
    }
    wanted.sort_by_key(|(order, ..)| *order);
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
