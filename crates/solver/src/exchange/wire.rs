//! The config's JSON (BuildKit's `cache/remotecache/v1/types`): indexes that a Go encoder leaves out when they are 0, layers
//! as a tree of parents. Between that and records with whole chains of blobs.

use std::collections::{BTreeMap, BTreeSet};

use oci::Digest;
use serde::{Deserialize, Serialize};

use super::{Annotations, Config, Error, Input, Moment, Output, Record};

/// More layers or records than any real cache has.
const MOST: usize = 200_000;

/// More layers in all results together: as a tree of parents they take little room in a hostile config.
const MOST_IN_RESULTS: usize = 4_000_000;

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Document {
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    layers: Vec<Layer>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    records: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Layer {
    blob: Digest,
    /// -1 is no parent; Go leaves 0 out.
    #[serde(default, skip_serializing_if = "is_zero")]
    parent: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<LayerAnnotations>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LayerAnnotations {
    #[serde(skip_serializing_if = "String::is_empty")]
    media_type: String,
    #[serde(rename = "diffID", skip_serializing_if = "String::is_empty")]
    diff_id: String,
    #[serde(skip_serializing_if = "is_zero")]
    size: i64,
    created_at: String,
}

impl Default for LayerAnnotations {
    fn default() -> LayerAnnotations {
        let created_at = NEVER.to_owned();
        LayerAnnotations { media_type: String::new(), diff_id: String::new(), size: 0, created_at }
    }
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    layers: Vec<Top>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    chains: Vec<Chain>,
    digest: Digest,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list")]
    inputs: Vec<Vec<Link>>,
}

/// A result: a layer with all its parents.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Top {
    layer: i64,
    created_at: String,
}

/// A result: these layers.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Chain {
    layers: Vec<i64>,
    created_at: String,
}

#[derive(Serialize, Deserialize)]
struct Link {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    selector: String,
    #[serde(default)]
    link: i64,
}

/// Go's zero time, which is what a result without a time has.
const NEVER: &str = "0001-01-01T00:00:00Z";

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Go writes `null` for a list that was never made.
fn list<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn bad(error: impl std::fmt::Display) -> Error {
    Error::Json { reason: error.to_string() }
}

fn moment(text: &str) -> Result<Moment, Error> {
    let (seconds, nanos) = oci::time::parse_rfc3339(text).ok_or_else(|| bad(format!("`{text}` is no time")))?;
    Ok(Moment { seconds, nanos })
}

fn time(moment: &Moment) -> String {
    oci::time::rfc3339_nanos(moment.seconds, moment.nanos)
}

fn index(what: &'static str, index: i64, count: usize) -> Result<usize, Error> {
    usize::try_from(index).ok().filter(|i| *i < count).ok_or(Error::Dangling { what, index, count })
}

pub fn parse(json: &[u8]) -> Result<Config, Error> {
    let document: Document = serde_json::from_slice(json).map_err(bad)?;
    for (what, count) in [("layers", document.layers.len()), ("records", document.records.len())] {
        if count > MOST {
            return Err(Error::TooMany { what, count, most: MOST });
        }
    }
    let mut annotations = BTreeMap::new();
    for layer in &document.layers {
        if let Some(found) = &layer.annotations {
            annotations.insert(layer.blob, read_annotations(found)?);
        }
    }
    read(&document, annotations)
}

pub fn parse_inline(records: &[u8], layers: &[Digest]) -> Result<Config, Error> {
    let records = serde_json::from_slice::<Option<Vec<Entry>>>(records).map_err(bad)?.unwrap_or_default();
    let layer = |(i, blob): (usize, &Digest)| Layer { blob: *blob, parent: i as i64 - 1, annotations: None };
    let layers = layers.iter().enumerate().map(layer).collect();
    read(&Document { layers, records }, BTreeMap::new())
}

fn read_annotations(found: &LayerAnnotations) -> Result<Annotations, Error> {
    Ok(Annotations {
        media_type: found.media_type.clone(),
        diff_id: Digest::parse(&found.diff_id).map_err(bad)?,
        size: u64::try_from(found.size).map_err(bad)?,
        created: moment(&found.created_at)?,
    })
}

fn read(document: &Document, annotations: BTreeMap<Digest, Annotations>) -> Result<Config, Error> {
    let mut records = Vec::with_capacity(document.records.len());
    let mut count = 0;
    for entry in &document.records {
        let mut inputs = Vec::with_capacity(entry.inputs.len());
        for links in &entry.inputs {
            let input = |link: &Link| {
                let selector = (!link.selector.is_empty()).then(|| Digest::parse(&link.selector).map_err(bad));
                let record = index("link to record", link.link, document.records.len())?;
                Ok(Input { selector: selector.transpose()?, record })
            };
            inputs.push(links.iter().map(input).collect::<Result<Vec<_>, Error>>()?);
        }
        let output = newest(&document.layers, entry)?;
        count += output.as_ref().map_or(0, |o| o.blobs.len());
        if count > MOST_IN_RESULTS {
            return Err(Error::TooMany { what: "layers in results", count, most: MOST_IN_RESULTS });
        }
        records.push(Record { digest: entry.digest, inputs, output });
    }
    Config::of(records, annotations)
}

/// The newest of an entry's results.
fn newest(layers: &[Layer], entry: &Entry) -> Result<Option<Output>, Error> {
    let mut best = None;
    for top in &entry.layers {
        let created = moment(&top.created_at)?;
        best = best.max(Some(Output { created, blobs: with_parents(layers, top.layer)? }));
    }
    for chain in &entry.chains {
        let blob = |i: &i64| index("layer", *i, layers.len()).map(|i| layers[i].blob);
        let blobs = chain.layers.iter().map(blob).collect::<Result<Vec<_>, _>>()?;
        if !blobs.is_empty() {
            best = best.max(Some(Output { created: moment(&chain.created_at)?, blobs }));
        }
    }
    Ok(best)
}

fn with_parents(layers: &[Layer], top: i64) -> Result<Vec<Digest>, Error> {
    let mut blobs = Vec::new();
    let mut at = top;
    loop {
        let layer = &layers[index("layer", at, layers.len())?];
        blobs.push(layer.blob);
        if layer.parent == -1 {
            blobs.reverse();
            return Ok(blobs);
        }
        if blobs.len() > layers.len() {
            return Err(Error::Loop { what: "layers" });
        }
        at = layer.parent;
    }
}

pub fn write(config: &Config) -> Vec<u8> {
    // One layer for each beginning of a chain, ordered by its last blob, then by what lies beneath.
    let mut chains: BTreeSet<(Digest, &[Digest])> = BTreeSet::new();
    for output in config.records.iter().filter_map(|r| r.output.as_ref()) {
        for end in (1..=output.blobs.len()).rev() {
            if !chains.insert((output.blobs[end - 1], &output.blobs[..end - 1])) {
                break;
            }
        }
    }
    let position: BTreeMap<(Digest, &[Digest]), i64> = chains.iter().copied().zip(0..).collect();
    let at = |blobs: &[Digest]| match blobs.split_last() {
        Some((last, below)) => position.get(&(*last, below)).copied().unwrap_or(-1),
        None => -1,
    };
    let annotations = |blob: &Digest| {
        config.annotations.get(blob).map(|a| LayerAnnotations {
            media_type: a.media_type.clone(),
            diff_id: a.diff_id.to_string(),
            size: i64::try_from(a.size).unwrap_or(i64::MAX),
            created_at: time(&a.created),
        })
    };
    let layers =
        chains.iter().map(|(blob, below)| Layer { blob: *blob, parent: at(below), annotations: annotations(blob) });
    let records = config.records.iter().map(|record| {
        let top = record.output.iter().map(|o| Top { layer: at(&o.blobs), created_at: time(&o.created) });
        entry(record, top.collect(), Vec::new())
    });
    let document = Document { layers: layers.collect(), records: records.collect() };
    // Texts and numbers can't fail to encode.
    serde_json::to_vec(&document).unwrap_or_default()
}

fn entry(record: &Record, layers: Vec<Top>, chains: Vec<Chain>) -> Entry {
    let link = |input: &Input| Link {
        selector: input.selector.map(|s| s.to_string()).unwrap_or_default(),
        link: input.record as i64,
    };
    let inputs = record.inputs.iter().map(|list| list.iter().map(link).collect()).collect();
    Entry { layers, chains, digest: record.digest, inputs }
}

pub fn write_inline(config: &Config, layers: &[Digest]) -> Option<Vec<u8>> {
    let place = |blob: &Digest| layers.iter().position(|l| l == blob).map(|i| i as i64);
    let mut any = false;
    let mut entries = Vec::new();
    for record in config.records() {
        let (mut tops, mut chains) = (Vec::new(), Vec::new());
        if let Some(output) = &record.output {
            let created_at = time(&output.created);
            if layers.starts_with(&output.blobs) {
                tops.push(Top { layer: output.blobs.len() as i64 - 1, created_at });
            } else if let Some(layers) = output.blobs.iter().map(place).collect::<Option<Vec<_>>>() {
                chains.push(Chain { layers, created_at });
            }
        }
        any |= !tops.is_empty() || !chains.is_empty();
        entries.push(entry(record, tops, chains));
    }
    any.then(|| serde_json::to_vec(&entries).unwrap_or_default())
}
