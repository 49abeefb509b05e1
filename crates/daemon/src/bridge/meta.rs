//! What a source is now, for clients that make their own graphs: an image's digest and configuration, a commit, a file's
//! digest and time. Of images nothing is pulled but manifests and configurations.

use builder::policy::Policy;
use builder::sources::image::Resolved;
use builder::sources::remote::Remote;
use graph::wire;
use oci::{Platform, Reference};
use proto::Timestamp;
use proto::bridge::{
    ResolveImageConfigRequest, ResolveImageConfigResponse, ResolveSourceGitResponse, ResolveSourceHttpResponse,
    ResolveSourceImageResponse, ResolveSourceMetaRequest, ResolveSourceMetaResponse,
};
use proto::pb::SourceOp;
use tonic::Status;

use super::solve::platform;
use crate::jobs::Job;
use crate::policies;
use crate::refusal;

fn parse(reference: &str) -> Result<Reference, Status> {
    Reference::parse(reference).map_err(|e| Status::invalid_argument(e.to_string()))
}

/// An image's digest and configuration.
pub async fn image_config(
    job: &Job,
    request: &ResolveImageConfigRequest,
) -> Result<ResolveImageConfigResponse, Status> {
    let platform = platform(request.platform.as_ref());
    let found = match request.resolver_type {
        0 => {
            let more = policies::read(&request.source_policies)?;
            let (name, found) = registry(job, &request.r#ref, &platform, &request.resolve_mode, &more).await?;
            return Ok(ResolveImageConfigResponse {
                digest: found.digest.to_string(),
                config: found.config_bytes,
                r#ref: name,
            });
        }
        1 => layout(job, &request.session_id, &request.store_id, &request.r#ref, &platform).await?,
        other => return Err(Status::invalid_argument(format!("there is no way {other} to resolve an image"))),
    };
    Ok(ResolveImageConfigResponse {
        digest: found.digest.to_string(),
        config: found.config_bytes,
        r#ref: request.r#ref.clone(),
    })
}

/// An image of a registry, and the name that policies give it.
async fn registry(
    job: &Job,
    name: &str,
    platform: &Platform,
    mode: &str,
    more: &[Policy],
) -> Result<(String, Resolved), Status> {
    let asked = parse(name)?;
    let (now, found) = job.build.image(&asked, platform, mode, more).await.map_err(|error| refusal::of(&error))?;
    let name = if now == asked { name.to_owned() } else { now.to_string() };
    Ok((name, found))
}

/// An image of a layout on the client's side; without a name of its own the layout is found under the image's.
async fn layout(job: &Job, session: &str, store: &str, name: &str, platform: &Platform) -> Result<Resolved, Status> {
    let at = name.find('@').unwrap_or(name.len());
    let store = if store.is_empty() { name.split(['@', ':']).next().unwrap_or_default() } else { store };
    let found = job.build.layout(session, store, &name[at..], platform).await;
    found.map_err(|error| refusal::of(&error))
}

/// A source as policies let it through.
fn let_through(job: &Job, source: SourceOp, more: &[Policy]) -> Result<SourceOp, Status> {
    let mut op = wire::SourceOp { identifier: source.identifier, attrs: source.attrs.into_iter().collect() };
    job.build.let_source(&mut op, more).map_err(|error| refusal::of(&error.into()))?;
    Ok(SourceOp { identifier: op.identifier, attrs: op.attrs.into_iter().collect() })
}

/// A source pinned to what it is now.
pub async fn source(job: &Job, request: ResolveSourceMetaRequest) -> Result<ResolveSourceMetaResponse, Status> {
    let more = policies::read(&request.source_policies)?;
    let source = let_through(job, request.source.unwrap_or_default(), &more)?;
    let platform = platform(request.platform.as_ref());
    let (scheme, name) = source.identifier.split_once("://").unwrap_or(("", &source.identifier));
    let found = match scheme {
        "git" | "http" | "https" => return remote(job, source, request.git.is_some_and(|git| git.return_object)).await,
        "docker-image" => registry(job, name, &platform, &request.resolve_mode, &more).await?.1,
        "oci-layout" => {
            let attribute = |key: &str| source.attrs.get(key).map(String::as_str).unwrap_or_default();
            layout(job, attribute("oci.session"), attribute("oci.store"), name, &platform).await?
        }
        _ => {
            // Nothing but its files says what it is.
            return Ok(ResolveSourceMetaResponse { source: Some(source), ..Default::default() });
        }
    };
    let plain = name.split('@').next().unwrap_or(name);
    let config = if request.image.is_some_and(|i| i.no_config) { Vec::new() } else { found.config_bytes };
    let image = ResolveSourceImageResponse { digest: found.digest.to_string(), config, attestation_chain: None };
    let identifier = format!("{scheme}://{plain}@{}", found.digest);
    let source = Some(SourceOp { identifier, ..source });
    Ok(ResolveSourceMetaResponse { source, image: Some(image), git: None, http: None })
}

/// A commit or a file from the web; with `objects` what git keeps of the commit.
async fn remote(job: &Job, source: SourceOp, objects: bool) -> Result<ResolveSourceMetaResponse, Status> {
    let (identifier, attributes) = (source.identifier.clone(), source.attrs.clone().into_iter().collect());
    let found = job.build.remote(&identifier, attributes, objects).await.map_err(|error| refusal::of(&error))?;
    let (mut git, mut http) = (None, None);
    match found {
        None => {}
        Some(Remote::Commit { reference, object, commit, kept }) => {
            let (commit_object, tag_object) = kept.map(|kept| (kept.commit, kept.tag)).unwrap_or_default();
            git = Some(ResolveSourceGitResponse {
                checksum: object,
                r#ref: reference,
                commit_checksum: commit.unwrap_or_default(),
                commit_object,
                tag_object: tag_object.unwrap_or_default(),
            });
        }
        Some(Remote::File { digest, name, last_modified }) => {
            http = Some(ResolveSourceHttpResponse {
                checksum: digest.to_string(),
                filename: name,
                last_modified: last_modified.map(|seconds| Timestamp { seconds, nanos: 0 }),
                checksum_response: None,
            });
        }
    }
    Ok(ResolveSourceMetaResponse { source: Some(source), image: None, git, http })
}
