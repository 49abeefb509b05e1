//! What an image's own SBOM gains when it is known which layer each file is in (BuildKit's docs/attestations/sbom.md):
//! a comment on each file that has none, and who wrote it. Other documents and files that are in no layer stay as they are.

use std::path::Path;

use oci::Descriptor;
use serde_json::{Value, json};
use store::view::{Kind, View};

use super::statement::{Attestation, Said};

/// Whether an attestation is the SBOM of the result itself.
pub fn applies(attestation: &Attestation) -> bool {
    attestation.core && matches!(attestation.said, Said::Fixed(_))
}

/// Adds the layers. `layers` are an image's, lowest first, each with its own files.
pub fn supplement(attestation: &mut Attestation, layers: &[(View, Descriptor)]) -> Result<(), store::Error> {
    let Said::Fixed(Value::Object(document)) = &mut attestation.said else { return Ok(()) };
    for file in document.get_mut("files").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(name) = file.get("fileName").and_then(Value::as_str) else { continue };
        if file.get("comment").is_some_and(|comment| comment != "") {
            continue;
        }
        let path = Path::new("/").join(graph::pattern::clean(name).trim_start_matches('/'));
        if let Some(layer) = find(&path, layers)? {
            file["comment"] = json!(format!("layerID: {}", layer.digest));
        }
    }
    if let Some(Value::Object(info)) = document.get_mut("creationInfo")
        && let Some(creators) = info.entry("creators").or_insert_with(|| json!([])).as_array_mut()
    {
        creators.push(json!(format!("Tool: larder-{}", env!("CARGO_PKG_VERSION"))));
    }
    Ok(())
}

/// The layer that a file is of: the highest that has it.
fn find<'a>(path: &Path, layers: &'a [(View, Descriptor)]) -> Result<Option<&'a Descriptor>, store::Error> {
    for (view, layer) in layers.iter().rev() {
        if view.lookup(path)?.is_some_and(|node| node.kind != Kind::Dir) {
            return Ok(Some(layer));
        }
    }
    Ok(None)
}
