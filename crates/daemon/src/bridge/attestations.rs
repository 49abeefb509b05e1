//! Attestations that come with a result: the bundle of a scanner that ran here, and whatever a client gives back.
//! Messages and their meaning only; what is in the files, the builder reads.

use std::collections::{BTreeMap, HashMap};

use builder::attestations::scan::CORE;
use builder::attestations::statement::{About, SPDX};
use builder::attestations::{Given, Subject};
use proto::bridge::{Attestation, AttestationKind, InTotoSubject, InTotoSubjectKind, Ref};
use tonic::Status;

use super::evaluate;
use crate::jobs::Job;

/// The bundle that a scanner's run leaves in the root of its result.
pub fn scan(result: Ref) -> Attestation {
    let metadata = [("reason", "sbom"), ("sbom-core", CORE)];
    Attestation {
        kind: AttestationKind::Bundle as i32,
        metadata: metadata.map(|(name, value)| (name.to_owned(), value.into())).into(),
        r#ref: Some(result),
        path: String::new(),
        in_toto_predicate_type: SPDX.to_owned(),
        in_toto_subjects: Vec::new(),
    }
}

/// What a client gives back, for the builder.
pub async fn given(job: &Job, attestation: &Attestation) -> Result<Given, Status> {
    let id = attestation.r#ref.as_ref().map(|r| r.id.as_str()).unwrap_or_default();
    if id.is_empty() {
        return Err(Status::invalid_argument("an attestation without a result that holds it"));
    }
    let bundle = attestation.kind == AttestationKind::Bundle as i32;
    if !bundle && attestation.path.is_empty() {
        return Err(Status::invalid_argument("an attestation without the path of its file"));
    }
    let flag = |name: &str| metadata(&attestation.metadata, name) == Some("true");
    Ok(Given {
        bundle,
        result: evaluate(job, id).await?,
        path: attestation.path.clone(),
        predicate: attestation.in_toto_predicate_type.clone(),
        about: attestation.in_toto_subjects.iter().map(about).collect::<Result<_, _>>()?,
        inline_only: flag("inline-only"),
        core: metadata(&attestation.metadata, "sbom-core").map(str::to_owned),
    })
}

fn metadata<'a>(all: &'a HashMap<String, Vec<u8>>, name: &str) -> Option<&'a str> {
    all.get(name).and_then(|value| std::str::from_utf8(value).ok())
}

fn about(subject: &InTotoSubject) -> Result<About, Status> {
    if subject.kind == InTotoSubjectKind::Self_ as i32 {
        return Ok(About::Itself(subject.name.clone()));
    }
    let mut digest = BTreeMap::new();
    for text in &subject.digest {
        let (algorithm, hex) = text
            .split_once(':')
            .ok_or_else(|| Status::invalid_argument(format!("`{text}` is no digest of an attestation's subject")))?;
        digest.insert(algorithm.to_owned(), hex.to_owned());
    }
    let name = if subject.name.is_empty() { "_".to_owned() } else { subject.name.clone() };
    Ok(About::Other(Subject { name, digest }))
}
