//! Attestations beside an image: one manifest for each image's statements, listed in the index with what it is about
//! (BuildKit's docs/attestations/attestation-storage.md). The same image from the same build gets the same statements:
//! one that an earlier build made is used again, with the times of that build.

use std::collections::BTreeMap;

use oci::{Descriptor, Digest, Manifest, Platform, media};
use store::SnapshotId;
use store::view::View;

use super::assemble::{Image, pretty, put};
use super::options::Options;
use super::{Built, Error, Export};
use crate::attestations::statement::{MEDIA, PREDICATE, Subject};
use crate::attestations::{Attestation, purl, supplement, timeless};

const ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";

/// What an index says of a manifest with attestations.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";

/// A manifest with the statements about one image.
pub(crate) struct Attested {
    /// As the index lists it.
    pub descriptor: Descriptor,
    /// Everything that belongs to it, itself last.
    pub blobs: Vec<Descriptor>,
    /// Its statements, by what they say but for when.
    pub statements: BTreeMap<Digest, Digest>,
}

/// The attestations of a result that an output takes along.
pub(crate) fn wanted<'a>(built: &'a Built, options: &Options) -> Vec<&'a Attestation> {
    built.attestations.iter().filter(|a| options.inline || !a.inline_only).collect()
}

/// Makes the manifest about `image`, which was made of `built`; `None` when there is nothing to say.
pub(crate) fn manifest(
    export: &Export<'_>,
    options: &Options,
    built: &Built,
    image: &Image,
) -> Result<Option<Attested>, crate::Error> {
    let said = wanted(built, options);
    if said.is_empty() {
        return Ok(None);
    }
    if !options.oci {
        let reason = "Docker's own media types have no place for them; use oci-mediatypes=true";
        return Err(Error::Attestations { kind: export.request.kind.clone(), reason }.into());
    }
    let store = &export.work.engine.store;
    let itself: Vec<Subject> = options
        .names
        .iter()
        .map(|name| Subject {
            name: purl::of(name, Some(&built.platform), false),
            digest: BTreeMap::from([("sha256".to_owned(), image.target.digest.hex())]),
        })
        .collect();
    let (mut layers, mut statements) = (Vec::new(), BTreeMap::new());
    for attestation in said {
        let attestation = &supplemented(export, image, attestation)?;
        let name = timeless(&attestation.statement(&itself, &image.layers, false));
        let earlier = export.statements.get(&name).copied();
        let size = earlier.map(|digest| store.blobs().size(&digest)).transpose()?.flatten();
        let mut descriptor = match (earlier, size) {
            (Some(digest), Some(size)) => Descriptor::new(MEDIA, digest, size),
            _ => {
                let timed = options.epoch.is_none();
                put(store, MEDIA, attestation.statement(&itself, &image.layers, timed).to_string().as_bytes())?
            }
        };
        statements.insert(name, descriptor.digest);
        descriptor.annotations.insert(PREDICATE.to_owned(), attestation.predicate.clone());
        layers.push(descriptor);
    }
    let config = if options.artifact { empty(export)? } else { config(export, &layers)? };
    let mut manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.to_owned(),
        artifact_type: None,
        config: config.clone(),
        layers: layers.clone(),
        subject: None,
        annotations: BTreeMap::new(),
    };
    if options.artifact {
        manifest.artifact_type = Some(ARTIFACT.to_owned());
        let Descriptor { media_type, digest, size, .. } = &image.target;
        manifest.subject = Some(Descriptor::new(media_type, *digest, *size));
    }
    let target = put(store, media::OCI_MANIFEST, &pretty(&manifest)?)?;
    let mut descriptor = target.clone();
    descriptor.platform = Some(unknown());
    descriptor.annotations = BTreeMap::from([
        (REFERENCE_TYPE.to_owned(), "attestation-manifest".to_owned()),
        (REFERENCE_DIGEST.to_owned(), image.target.digest.to_string()),
    ]);
    layers.extend([config, target]);
    Ok(Some(Attested { descriptor, blobs: layers, statements }))
}

/// An SBOM with the layer of each file, where the image's layers are unpacked here.
fn supplemented(export: &Export<'_>, image: &Image, attestation: &Attestation) -> Result<Attestation, Error> {
    let mut attestation = attestation.clone();
    if !supplement::applies(&attestation) || image.snapshots.len() != image.layers.len() {
        return Ok(attestation);
    }
    let snapshots = export.work.engine.store.snapshots();
    let view = |id: &SnapshotId| snapshots.parts(*id).map(View::of_layers);
    let views = image.snapshots.iter().map(view).collect::<Result<Vec<_>, _>>()?;
    let layers: Vec<_> = views.into_iter().zip(image.layers.iter().cloned()).collect();
    supplement::supplement(&mut attestation, &layers)?;
    Ok(attestation)
}

/// The platform of what runs nowhere.
fn unknown() -> Platform {
    Platform::new("unknown", "unknown", "")
}

/// The configuration of an artifact that needs none (OCI image-spec, "Guidance for an Empty Descriptor").
fn empty(export: &Export<'_>) -> Result<Descriptor, Error> {
    let mut descriptor = put(&export.work.engine.store, media::OCI_EMPTY, b"{}")?;
    descriptor.data = Some("e30=".to_owned());
    Ok(descriptor)
}

/// The configuration of an image that holds the statements as layers.
fn config(export: &Export<'_>, layers: &[Descriptor]) -> Result<Descriptor, Error> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
    let config = serde_json::json!({
        "architecture": "unknown",
        "os": "unknown",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    put(&export.work.engine.store, media::OCI_CONFIG, config.to_string().as_bytes())
}
