//! The attributes of an output, read: names, compression, media types, annotations.
//! Texts only; nothing is looked up.

use std::collections::BTreeMap;

use oci::{ImageConfig, Platform, Reference};
use store::layer::{Compression, Recipe};

use super::{Error, Export};

/// How an image is made.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Where it goes, in normal form.
    pub names: Vec<Reference>,
    pub recipe: Recipe,
    /// Layers of bases are made anew too.
    pub force: bool,
    pub oci: bool,
    pub push: bool,
    pub by_digest: bool,
    /// Time of everything in the image, in seconds; known for one result at a time.
    pub epoch: Option<i64>,
    /// Files that are younger than that become as old.
    rewrite: bool,
    /// Attestations that are only for images that take them along are taken along.
    pub inline: bool,
    /// Attestations are artifacts that refer to their image.
    pub artifact: bool,
    annotations: Vec<Annotation>,
    /// The configuration for a result that has none of its own (a graph without a frontend).
    pub config: Option<ImageConfig>,
}

/// What an annotation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Manifest,
    ManifestDescriptor,
    Index,
    IndexDescriptor,
}

#[derive(Clone, Debug)]
struct Annotation {
    place: Place,
    platform: Option<String>,
    key: String,
    value: String,
}

impl Options {
    /// Reads the attributes of an export.
    pub fn read(export: &Export<'_>) -> Result<Options, Error> {
        let attributes = &export.request.attributes;
        let kind = export.request.kind.as_str();
        let bad = |name: &str, value: &str, reason: String| Error::BadAttribute {
            kind: kind.to_owned(),
            name: name.to_owned(),
            value: value.to_owned(),
            reason,
        };
        let flag = |name: &str, default: bool| match attributes.get(name).map(String::as_str) {
            None => Ok(default),
            Some("" | "true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(bad(name, other, "expected true or false".to_owned())),
        };
        let wishes = |attribute: &str| export.results.iter().find_map(|built| built.wishes.get(attribute));
        let mut names = Vec::new();
        // `*`: the frontend names the image.
        let given = attributes.get("name").map(|name| wishes("image.name").filter(|_| name == "*").unwrap_or(name));
        for name in given.iter().flat_map(|n| n.split(',')).filter(|n| !n.is_empty()) {
            let parsed = Reference::parse(name).map_err(|e| bad("name", name, e.to_string()))?;
            names.push(parsed.or_latest());
        }
        let oci = flag("oci-mediatypes", true)?;
        let compression = compression(attributes, &bad)?;
        const CONFIG: &str = "containerimage.config";
        let config = match attributes.get(CONFIG) {
            Some(json) => Some(serde_json::from_str(json).map_err(|e| bad(CONFIG, json, e.to_string()))?),
            None => None,
        };
        let recipe = Recipe { compression, clamp: None, docker_media: !oci };
        Ok(Options {
            names,
            config,
            recipe,
            force: flag("force-compression", false)?,
            oci,
            push: flag("push", kind == "registry")?,
            by_digest: flag("push-by-digest", false)?,
            epoch: None,
            rewrite: flag("rewrite-timestamp", false)?,
            inline: flag("attestation-inline", matches!(kind, "image" | "registry"))?,
            artifact: flag("oci-artifact", true)?,
            annotations: annotations(export.results.first().map(|b| &b.wishes).into_iter().chain([attributes])),
        })
    }

    /// The same for a result of that time.
    pub fn at(&self, epoch: Option<i64>) -> Options {
        let mut options = self.clone();
        options.epoch = epoch;
        options.recipe.clamp = epoch.filter(|_| self.rewrite);
        options
    }

    /// Annotations of one place, those of all platforms first.
    pub fn annotations(&self, place: Place, platform: &Platform) -> BTreeMap<String, String> {
        let wanted = platform.to_string();
        let of = |with: bool| {
            let found = self.annotations.iter().filter(move |a| a.place == place && a.platform.is_some() == with);
            found.filter(|a| a.platform.as_ref().is_none_or(|p| *p == wanted)).map(|a| (a.key.clone(), a.value.clone()))
        };
        of(false).chain(of(true)).collect()
    }
}

/// `compression` and `compression-level`; `bad` makes the error of an attribute that is wrong.
pub(crate) fn compression<E>(
    attributes: &BTreeMap<String, String>,
    bad: &dyn Fn(&str, &str, String) -> E,
) -> Result<Compression, E> {
    let level = match attributes.get("compression-level") {
        Some(text) => {
            let level =
                text.parse::<i32>().map_err(|_| bad("compression-level", text, "expected a number".to_owned()))?;
            Some(level)
        }
        None => None,
    };
    Ok(match attributes.get("compression").map(String::as_str) {
        None | Some("" | "gzip") => level.map_or(Compression::GZIP, |l| Compression::Gzip(l.clamp(0, 12) as u32)),
        Some("zstd") => Compression::Zstd(level.map_or(3, |l| l.clamp(1, 22))),
        Some("uncompressed") => Compression::None,
        Some(other) => {
            return Err(bad("compression", other, "expected gzip, zstd or uncompressed".to_owned()));
        }
    })
}

/// `annotation[-manifest|-index|…][platform].key=value`; of the same, the last counts.
fn annotations<'a>(attributes: impl Iterator<Item = &'a BTreeMap<String, String>>) -> Vec<Annotation> {
    let mut found = Vec::new();
    for (name, value) in attributes.flatten() {
        let Some(rest) = name.strip_prefix("annotation") else { continue };
        let places = [
            ("-manifest-descriptor", Place::ManifestDescriptor),
            ("-index-descriptor", Place::IndexDescriptor),
            ("-manifest", Place::Manifest),
            ("-index", Place::Index),
        ];
        let (place, rest) = places
            .into_iter()
            .find_map(|(text, place)| rest.strip_prefix(text).map(|rest| (place, rest)))
            .unwrap_or((Place::Manifest, rest));
        let (platform, rest) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((platform, rest)) => (Some(platform.to_owned()), rest),
            None => (None, rest),
        };
        if let Some(key) = rest.strip_prefix('.') {
            found.push(Annotation { place, platform, key: key.to_owned(), value: value.clone() });
        }
    }
    found
}
