//! What a source is now, for clients that make their own graphs: an image's digest and configuration.
//! Nothing is pulled but manifests and configurations.

use oci::Reference;
use proto::bridge::{
    ResolveImageConfigRequest, ResolveImageConfigResponse, ResolveSourceImageResponse, ResolveSourceMetaRequest,
    ResolveSourceMetaResponse,
};
use proto::pb::SourceOp;
use tonic::Status;

use super::solve::platform;
use crate::jobs::Job;
use crate::refusal;

fn parse(reference: &str) -> Result<Reference, Status> {
    Reference::parse(reference).map_err(|e| Status::invalid_argument(e.to_string()))
}

/// An image's digest and configuration.
pub async fn image_config(
    job: &Job,
    request: &ResolveImageConfigRequest,
) -> Result<ResolveImageConfigResponse, Status> {
    if request.resolver_type != 0 {
        return Err(Status::unimplemented("images of a client's OCI layout are not built yet"));
    }
    let reference = parse(&request.r#ref)?;
    let found = job.build.image(&reference, &platform(request.platform.as_ref()), &request.resolve_mode).await;
    let found = found.map_err(|error| refusal::of(&error))?;
    Ok(ResolveImageConfigResponse {
        digest: found.digest.to_string(),
        config: found.config_bytes,
        r#ref: request.r#ref.clone(),
    })
}

/// A source pinned to what it is now.
pub async fn source(job: &Job, request: ResolveSourceMetaRequest) -> Result<ResolveSourceMetaResponse, Status> {
    let source = request.source.unwrap_or_default();
    let Some(name) = source.identifier.strip_prefix("docker-image://") else {
        let text = format!("{}: only images can be resolved, other sources are not built yet", source.identifier);
        return Err(Status::unimplemented(text));
    };
    let reference = parse(name)?;
    let found = job.build.image(&reference, &platform(request.platform.as_ref()), &request.resolve_mode).await;
    let found = found.map_err(|error| refusal::of(&error))?;
    let plain = name.split('@').next().unwrap_or(name);
    let config = if request.image.is_some_and(|i| i.no_config) { Vec::new() } else { found.config_bytes };
    let image = ResolveSourceImageResponse { digest: found.digest.to_string(), config, attestation_chain: None };
    let identifier = format!("docker-image://{plain}@{}", found.digest);
    let source = Some(SourceOp { identifier, ..source });
    Ok(ResolveSourceMetaResponse { source, image: Some(image), git: None, http: None })
}
