//! `LLBBridge`: what a client that drives its build itself asks for, call by call.
//! Each call names its build in its metadata; results live in that build's job.

mod attestations;
mod files;
pub mod frontend;
mod meta;
pub mod result;
pub mod solve;

use futures_util::stream::BoxStream;
use proto::bridge::llb_bridge_server::LlbBridge;
use proto::bridge::{
    EvaluateRequest, EvaluateResponse, ExecMessage, InputsRequest, InputsResponse, NewContainerRequest,
    NewContainerResponse, PingRequest, PongResponse, ReadDirRequest, ReadDirResponse, ReadFileRequest,
    ReadFileResponse, ReleaseContainerRequest, ReleaseContainerResponse, ResolveImageConfigRequest,
    ResolveImageConfigResponse, ResolveSourceMetaRequest, ResolveSourceMetaResponse, ReturnRequest, ReturnResponse,
    SolveRequest, SolveResponse, StatFileRequest, StatFileResponse, WarnRequest, WarnResponse,
};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::jobs::Job;
use crate::session::value;
use crate::{Daemon, refusal, workers};
use frontend::Hosted;
use std::collections::HashMap;
use std::sync::Arc;

/// The bridge, by who calls over it.
#[derive(Clone)]
pub enum Bridge {
    /// Clients: each call names its build.
    Clients(Daemon),
    /// A frontend that runs for a build.
    Frontend(Arc<Hosted>),
}

impl Bridge {
    fn daemon(&self) -> &Daemon {
        match self {
            Bridge::Clients(daemon) => daemon,
            Bridge::Frontend(hosted) => &hosted.daemon,
        }
    }

    /// The build that a call belongs to.
    async fn job(&self, metadata: &MetadataMap) -> Result<Arc<Job>, Status> {
        let daemon = match self {
            Bridge::Clients(daemon) => daemon,
            Bridge::Frontend(hosted) => return Ok(hosted.job.clone()),
        };
        let id = value(metadata, "buildkit-controlapi-buildid");
        if id.is_empty() {
            return Err(Status::invalid_argument("a call without the metadata buildkit-controlapi-buildid"));
        }
        daemon.jobs.find(&id).await
    }
}

/// Source policies are not built; a policy that were ignored would be worse than none.
pub fn no_policies(policies: &[proto::policy::Policy]) -> Result<(), Status> {
    match policies.iter().all(|policy| policy.rules.is_empty()) {
        true => Ok(()),
        false => Err(Status::unimplemented("source policies are not built yet: larder will not ignore one")),
    }
}

/// Containers for clients are not built; what can't be done says so.
fn no_containers<T>() -> Result<T, Status> {
    Err(Status::unimplemented("containers that a client starts are not built yet"))
}

#[async_trait]
impl LlbBridge for Bridge {
    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PongResponse>, Status> {
        self.job(request.metadata()).await?;
        let daemon = self.daemon();
        Ok(Response::new(PongResponse {
            frontend_api_caps: workers::frontend_caps(),
            llb_caps: workers::llb_caps(),
            workers: vec![workers::worker(daemon)],
        }))
    }

    async fn solve(&self, request: Request<SolveRequest>) -> Result<Response<SolveResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let request = request.into_inner();
        no_policies(&request.source_policies)?;
        let attributes = request.frontend_opt.clone().into_iter().collect();
        let wanted = solve::Wanted {
            frontend: &request.frontend,
            definition: request.definition.as_ref(),
            attributes: &attributes,
            inputs: &request.frontend_inputs,
        };
        let result = solve::solve(self.daemon(), &job, &wanted).await?;
        if request.evaluate {
            for id in result::ids(&result) {
                evaluate(&job, &id).await?;
            }
        }
        Ok(Response::new(SolveResponse { r#ref: String::new(), result: Some(result) }))
    }

    async fn evaluate(&self, request: Request<EvaluateRequest>) -> Result<Response<EvaluateResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        evaluate(&job, &request.into_inner().r#ref).await?;
        Ok(Response::new(EvaluateResponse {}))
    }

    async fn r#return(&self, request: Request<ReturnRequest>) -> Result<Response<ReturnResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let request = request.into_inner();
        let returned = match request.error {
            Some(error) => Err(proto::refusal::passed_on(&error)),
            None => Ok(request.result.unwrap_or_default()),
        };
        match self {
            Bridge::Clients(_) => job.give_back(returned),
            Bridge::Frontend(hosted) => hosted.give_back(returned),
        }
        Ok(Response::new(ReturnResponse {}))
    }

    async fn inputs(&self, request: Request<InputsRequest>) -> Result<Response<InputsResponse>, Status> {
        self.job(request.metadata()).await?;
        let definitions = match self {
            Bridge::Clients(_) => HashMap::new(),
            Bridge::Frontend(hosted) => hosted.inputs.clone(),
        };
        Ok(Response::new(InputsResponse { definitions }))
    }

    async fn resolve_image_config(
        &self,
        request: Request<ResolveImageConfigRequest>,
    ) -> Result<Response<ResolveImageConfigResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        no_policies(&request.get_ref().source_policies)?;
        Ok(Response::new(meta::image_config(&job, request.get_ref()).await?))
    }

    async fn resolve_source_meta(
        &self,
        request: Request<ResolveSourceMetaRequest>,
    ) -> Result<Response<ResolveSourceMetaResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        no_policies(&request.get_ref().source_policies)?;
        Ok(Response::new(meta::source(&job, request.into_inner()).await?))
    }

    async fn read_file(&self, request: Request<ReadFileRequest>) -> Result<Response<ReadFileResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        Ok(Response::new(files::read(&job, request.get_ref()).await?))
    }

    async fn read_dir(&self, request: Request<ReadDirRequest>) -> Result<Response<ReadDirResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        Ok(Response::new(files::list(&job, request.get_ref()).await?))
    }

    async fn stat_file(&self, request: Request<StatFileRequest>) -> Result<Response<StatFileResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        Ok(Response::new(files::stat_file(&job, request.get_ref()).await?))
    }

    async fn warn(&self, request: Request<WarnRequest>) -> Result<Response<WarnResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let request = request.into_inner();
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let step = oci::Digest::parse(&request.digest).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let info = request.info.unwrap_or_default();
        let line = |p: &Option<proto::pb::Position>| p.and_then(|p| u32::try_from(p.line).ok()).unwrap_or(0);
        let warning = builder::event::Warning {
            short: text(&request.short),
            detail: request.detail.iter().map(text).collect(),
            url: request.url,
            file: info.filename,
            lines: request.ranges.first().map(|r| (line(&r.start), line(&r.end))),
            text: text(&info.data),
        };
        job.build.events().tell(builder::event::What::Warning { step, warning });
        Ok(Response::new(WarnResponse {}))
    }

    async fn new_container(&self, _: Request<NewContainerRequest>) -> Result<Response<NewContainerResponse>, Status> {
        no_containers()
    }

    async fn release_container(
        &self,
        _: Request<ReleaseContainerRequest>,
    ) -> Result<Response<ReleaseContainerResponse>, Status> {
        no_containers()
    }

    type ExecProcessStream = BoxStream<'static, Result<ExecMessage, Status>>;

    async fn exec_process(
        &self,
        _: Request<Streaming<ExecMessage>>,
    ) -> Result<Response<Self::ExecProcessStream>, Status> {
        no_containers()
    }

    async fn read_file_container(&self, _: Request<ReadFileRequest>) -> Result<Response<ReadFileResponse>, Status> {
        no_containers()
    }

    async fn read_dir_container(&self, _: Request<ReadDirRequest>) -> Result<Response<ReadDirResponse>, Status> {
        no_containers()
    }

    async fn stat_file_container(&self, _: Request<StatFileRequest>) -> Result<Response<StatFileResponse>, Status> {
        no_containers()
    }
}

/// Makes a result; an unknown id is the client's error.
async fn evaluate(job: &Job, id: &str) -> Result<builder::driver::Held, Status> {
    let found = job.refs.get(id).ok_or_else(|| Status::not_found(format!("there is no result {id} in this build")))?;
    found.evaluate(job).await.map_err(|error| refusal::of(&error))
}
