//! `LLBBridge`: what a client that drives its build itself asks for, call by call.
//! Each call names its build in its metadata; results live in that build's job.

mod attestations;
mod containers;
mod files;
pub mod frontend;
mod meta;
mod processes;
pub mod result;
pub mod solve;
mod verify;

use builder::caches;
use futures_util::stream::BoxStream;
use proto::bridge::llb_bridge_server::LlbBridge;
use proto::bridge::{
    CacheOptionsEntry, EvaluateRequest, EvaluateResponse, ExecMessage, InputsRequest, InputsResponse,
    NewContainerRequest, NewContainerResponse, PingRequest, PongResponse, ReadDirRequest, ReadDirResponse,
    ReadFileRequest, ReadFileResponse, ReleaseContainerRequest, ReleaseContainerResponse, ResolveImageConfigRequest,
    ResolveImageConfigResponse, ResolveSourceMetaRequest, ResolveSourceMetaResponse, ReturnRequest, ReturnResponse,
    SolveRequest, SolveResponse, StatFileRequest, StatFileResponse, WarnRequest, WarnResponse,
};
use store::view::View;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::control::solve::cache_from;
use crate::jobs::{Containers, Job};
use crate::session::value;
use crate::{Daemon, refusal, workers};
use frontend::Hosted;
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
            return Err(Status::invalid_argument(
                "no buildid found in context: the metadata buildkit-controlapi-buildid is missing",
            ));
        }
        daemon.jobs.find(&id).await
    }

    /// The same, with the containers that it may speak of.
    async fn caller(&self, metadata: &MetadataMap) -> Result<Caller, Status> {
        let job = self.job(metadata).await?;
        let frontend = match self {
            Bridge::Clients(_) => None,
            Bridge::Frontend(hosted) => Some(hosted.clone()),
        };
        Ok(Caller { job, frontend })
    }
}

/// Whose containers a call speaks of: a build's, or a frontend's.
pub struct Caller {
    job: Arc<Job>,
    frontend: Option<Arc<Hosted>>,
}

impl Caller {
    fn containers(&self) -> &Containers {
        self.frontend.as_ref().map_or(&self.job.containers, |hosted| &hosted.containers)
    }
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
        let told = request.cache_imports.iter().map(cache).collect();
        job.build.import_also(cache_from(told, &request.frontend_opt));
        let attributes = request.frontend_opt.clone().into_iter().collect();
        let wanted = solve::Wanted {
            frontend: &request.frontend,
            definition: request.definition.as_ref(),
            attributes: &attributes,
            inputs: &request.frontend_inputs,
            policies: &crate::policies::read(&request.source_policies)?,
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
        let job = self.job(request.metadata()).await?;
        let definitions = match self {
            Bridge::Clients(_) => {
                let given = job.build.request().inputs.iter();
                given
                    .map(|(name, graph)| Ok((name.clone(), solve::definition(graph)?)))
                    .collect::<Result<_, Status>>()?
            }
            Bridge::Frontend(hosted) => hosted.inputs.clone(),
        };
        Ok(Response::new(InputsResponse { definitions }))
    }

    async fn resolve_image_config(
        &self,
        request: Request<ResolveImageConfigRequest>,
    ) -> Result<Response<ResolveImageConfigResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        Ok(Response::new(meta::image_config(&job, request.get_ref()).await?))
    }

    async fn resolve_source_meta(
        &self,
        request: Request<ResolveSourceMetaRequest>,
    ) -> Result<Response<ResolveSourceMetaResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        Ok(Response::new(meta::source(&job, request.into_inner()).await?))
    }

    async fn read_file(&self, request: Request<ReadFileRequest>) -> Result<Response<ReadFileResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let view = files::view(&job, &request.get_ref().r#ref).await?;
        Ok(Response::new(files::read(&view, request.get_ref())?))
    }

    async fn read_dir(&self, request: Request<ReadDirRequest>) -> Result<Response<ReadDirResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let view = files::view(&job, &request.get_ref().r#ref).await?;
        Ok(Response::new(files::list(&view, request.get_ref())?))
    }

    async fn stat_file(&self, request: Request<StatFileRequest>) -> Result<Response<StatFileResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let view = files::view(&job, &request.get_ref().r#ref).await?;
        Ok(Response::new(files::stat_file(&view, request.get_ref())?))
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
            level: u32::try_from(request.level).unwrap_or(0),
            file: info.filename,
            lines: request.ranges.first().map(|r| (line(&r.start), line(&r.end))),
            text: text(&info.data),
        };
        job.build.events().tell(builder::event::What::Warning { step, warning });
        Ok(Response::new(WarnResponse {}))
    }

    async fn new_container(
        &self,
        request: Request<NewContainerRequest>,
    ) -> Result<Response<NewContainerResponse>, Status> {
        let caller = self.caller(request.metadata()).await?;
        containers::new(&caller.job, caller.containers(), request.into_inner()).await?;
        Ok(Response::new(NewContainerResponse {}))
    }

    async fn release_container(
        &self,
        request: Request<ReleaseContainerRequest>,
    ) -> Result<Response<ReleaseContainerResponse>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let container = caller.containers().take(&request.into_inner().container_id)?;
        container.release().await.map_err(|error| refusal::of(&error))?;
        Ok(Response::new(ReleaseContainerResponse {}))
    }

    type ExecProcessStream = BoxStream<'static, Result<ExecMessage, Status>>;

    async fn exec_process(
        &self,
        request: Request<Streaming<ExecMessage>>,
    ) -> Result<Response<Self::ExecProcessStream>, Status> {
        let caller = self.caller(request.metadata()).await?;
        Ok(Response::new(processes::serve(caller, request.into_inner())))
    }

    async fn read_file_container(
        &self,
        request: Request<ReadFileRequest>,
    ) -> Result<Response<ReadFileResponse>, Status> {
        let view = self.shown(request.metadata(), &request.get_ref().r#ref, request.get_ref().mount_index).await?;
        Ok(Response::new(files::read(&view, request.get_ref())?))
    }

    async fn read_dir_container(&self, request: Request<ReadDirRequest>) -> Result<Response<ReadDirResponse>, Status> {
        let view = self.shown(request.metadata(), &request.get_ref().r#ref, request.get_ref().mount_index).await?;
        Ok(Response::new(files::list(&view, request.get_ref())?))
    }

    async fn stat_file_container(
        &self,
        request: Request<StatFileRequest>,
    ) -> Result<Response<StatFileResponse>, Status> {
        let view = self.shown(request.metadata(), &request.get_ref().r#ref, request.get_ref().mount_index).await?;
        Ok(Response::new(files::stat_file(&view, request.get_ref())?))
    }
}

impl Bridge {
    /// The files of a container's mount.
    async fn shown(&self, metadata: &MetadataMap, container: &str, mount: i32) -> Result<View, Status> {
        let caller = self.caller(metadata).await?;
        let container = caller.containers().get(container)?;
        let mount = usize::try_from(mount).map_err(|_| Status::invalid_argument("a mount index below 0"))?;
        container.view(mount).map_err(|error| refusal::of(&error))
    }
}

/// Makes a result; an unknown id is the client's error.
fn cache(entry: &CacheOptionsEntry) -> caches::Request {
    caches::Request { kind: entry.r#type.clone(), attributes: entry.attrs.clone().into_iter().collect() }
}

async fn evaluate(job: &Job, id: &str) -> Result<builder::driver::Held, Status> {
    let found = job.refs.get(id).ok_or_else(|| Status::not_found(format!("there is no result {id} in this build")))?;
    found.evaluate(job).await.map_err(|error| refusal::in_build(&job.refs, &error))
}
