//! Which attestations a client asks for: the attributes `attest:KIND` and the build arguments `BUILDKIT_ATTEST_KIND`,
//! each a CSV record of `key=value`. Texts only; nothing is looked up.

use std::collections::BTreeMap;

use oci::Reference;

use crate::{Error, csv};

/// The scanner that is run when none is named.
const SCANNER: &str = "docker/buildkit-syft-scanner:stable-1";

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// How it was built.
    pub provenance: Option<Provenance>,
    /// What is in it.
    pub sbom: Option<Sbom>,
}

/// Form of a provenance predicate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// `https://slsa.dev/provenance/v1`
    #[default]
    V1,
    /// `https://slsa.dev/provenance/v0.2`
    V02,
}

/// What is wanted of provenance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// Its form.
    pub version: Version,
    /// Without the build's arguments, operations and source (`mode=min`).
    pub min: bool,
    /// Who builds: a URI, or empty.
    pub builder: String,
    /// Only where an image takes it along, no file of its own.
    pub inline_only: bool,
    /// The user's word that the build is reproducible.
    pub reproducible: bool,
    /// Name of its file beside a tree.
    pub filename: String,
    /// Fail when not everything that was used is known by digest.
    pub complete: bool,
}

impl Default for Provenance {
    fn default() -> Provenance {
        Provenance {
            version: Version::V1,
            min: false,
            builder: String::new(),
            inline_only: false,
            reproducible: false,
            filename: "provenance.json".to_owned(),
            complete: false,
        }
    }
}

/// What is wanted of an SBOM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sbom {
    /// The scanner's image.
    pub generator: Reference,
    /// Handed to it as `BUILDKIT_SCAN_KEY`.
    pub parameters: BTreeMap<String, String>,
}

impl Wanted {
    /// Reads a frontend's attributes.
    pub fn read(attributes: &BTreeMap<String, String>) -> Result<Wanted, Error> {
        let mut wanted = Wanted::default();
        for (name, text) in attributes {
            let kind = name.strip_prefix("attest:").or(name.strip_prefix("build-arg:BUILDKIT_ATTEST_"));
            let Some(kind) = kind.map(str::to_ascii_lowercase) else { continue };
            let pairs = pairs(&kind, text)?;
            if pairs.iter().any(|(key, value)| key == "disabled" && matches!(value.as_str(), "true" | "1" | "")) {
                continue;
            }
            match kind.as_str() {
                "provenance" => wanted.provenance = Some(provenance(pairs)?),
                "sbom" => wanted.sbom = Some(sbom(pairs)?),
                other => return Err(bad(other, text, "expected the kinds provenance or sbom")),
            }
        }
        Ok(wanted)
    }
}

fn bad(kind: &str, value: &str, expected: &str) -> Error {
    Error::Request(format!("attest:{kind}={value} can't be done: {expected}"))
}

fn pairs(kind: &str, text: &str) -> Result<Vec<(String, String)>, Error> {
    let fields = csv::fields(text).map_err(|reason| bad(kind, text, &reason))?;
    let pair = |field: &String| {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        (key.to_owned(), value.to_owned())
    };
    Ok(fields.iter().filter(|f| !f.is_empty()).map(pair).collect())
}

fn provenance(pairs: Vec<(String, String)>) -> Result<Provenance, Error> {
    let mut wanted = Provenance::default();
    for (key, value) in pairs {
        let flag = || match value.as_str() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            other => Err(bad("provenance", &format!("{key}={other}"), "expected true or false")),
        };
        match key.as_str() {
            "mode" => match value.as_str() {
                "min" => wanted.min = true,
                "max" | "full" => wanted.min = false,
                other => return Err(bad("provenance", &format!("mode={other}"), "expected min or max")),
            },
            "version" => match value.as_str() {
                "v1" => wanted.version = Version::V1,
                "v0.2" => wanted.version = Version::V02,
                other => return Err(bad("provenance", &format!("version={other}"), "expected v1 or v0.2")),
            },
            "builder-id" => wanted.builder = value,
            "inline-only" => wanted.inline_only = flag()?,
            "reproducible" => wanted.reproducible = flag()?,
            "complete-materials" => wanted.complete = flag()?,
            "filename" if value.is_empty() || value.contains('/') => {
                return Err(bad("provenance", &format!("filename={value}"), "expected the name of a file"));
            }
            "filename" => wanted.filename = value,
            // BuildKit ignores what it does not know here; `capture-usage` is one of them for us.
            _ => {}
        }
    }
    Ok(wanted)
}

fn sbom(pairs: Vec<(String, String)>) -> Result<Sbom, Error> {
    let mut generator = SCANNER.to_owned();
    let mut parameters = BTreeMap::new();
    for (key, value) in pairs {
        if key == "generator" {
            generator = value;
        } else {
            parameters.insert(key, value);
        }
    }
    let parsed = Reference::parse(&generator);
    let generator = parsed.map_err(|error| bad("sbom", &format!("generator={generator}"), &error.to_string()))?;
    Ok(Sbom { generator: generator.or_latest(), parameters })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &[(&str, &str)]) -> Result<Wanted, Error> {
        Wanted::read(&list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn what_clients_write() {
        assert_eq!(read(&[("target", "x")]).unwrap(), Wanted::default());
        let default = read(&[("attest:provenance", "mode=min,inline-only=true")]).unwrap().provenance.unwrap();
        assert!(default.min && default.inline_only && default.version == Version::V1);
        let max = read(&[("build-arg:BUILDKIT_ATTEST_PROVENANCE", "version=v0.2")]).unwrap().provenance.unwrap();
        assert!(!max.min && max.version == Version::V02);
        let sbom = read(&[("attest:sbom", "generator=here/scan,DEPTH=2")]).unwrap().sbom.unwrap();
        assert_eq!(sbom.generator.to_string(), "docker.io/here/scan:latest");
        assert_eq!(sbom.parameters["DEPTH"], "2");
        assert_eq!(read(&[("attest:provenance", "disabled=true")]).unwrap(), Wanted::default());
    }

    #[test]
    fn what_is_no_attestation() {
        for (name, value) in [
            ("attest:other", ""),
            ("attest:provenance", "mode=most"),
            ("attest:provenance", "version=v9"),
            ("attest:provenance", "filename=../x"),
            ("attest:sbom", "generator="),
        ] {
            assert!(read(&[(name, value)]).is_err(), "{name}={value}");
        }
    }
}
