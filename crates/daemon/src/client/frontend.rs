//! A question to a frontend (`requestid`): nothing is built, and the answer is the metadata of its result. BuildKit gives
//! that only to a client that drives the build itself, over the bridge.

use std::collections::HashMap;

use builder::Events;
use builder::frontends::questions::Answer;
use proto::bridge;
use proto::bridge::llb_bridge_client::LlbBridgeClient;
use proto::control::SolveRequest;
use tonic::{Request, Status};

use super::Client;
use super::build::{Offered, Refusal, put, session};
use crate::session::MESSAGE;

impl Client {
    /// Asks the frontend of `request`, whose attributes say what.
    pub async fn answer(
        &self,
        offered: Offered,
        request: SolveRequest,
        events: &Events,
    ) -> Result<HashMap<String, Vec<u8>>, Refusal> {
        self.asked(offered, request, events).await.map_err(|status| self.refusal(&status))
    }

    /// The same, and a failure as this process' own frontend would give it.
    pub async fn answer_or_why(
        &self,
        offered: Offered,
        request: SolveRequest,
        events: &Events,
    ) -> Result<Answer, builder::Error> {
        let answer = self.asked(offered, request, events).await.map_err(|status| self.told(&status))?;
        Ok(answer.into_iter().collect())
    }

    async fn asked(
        &self,
        offered: Offered,
        request: SolveRequest,
        events: &Events,
    ) -> Result<HashMap<String, Vec<u8>>, Status> {
        let id = request.r#ref.clone();
        let session = session(&id);
        let _session = self.open(&session, offered).await?;
        let question = bridge::SolveRequest {
            frontend: request.frontend.clone(),
            frontend_opt: request.frontend_attrs.clone(),
            allow_result_return: true,
            allow_result_array_ref: true,
            ..bridge::SolveRequest::default()
        };
        // A build without a frontend is one that its client drives.
        let request = SolveRequest { session, frontend: String::new(), exporters: Vec::new(), ..request };
        let mut control = self.control();
        let driving = async {
            let answer = self.bridge().solve(self.of(&id, question)).await;
            let ended = match &answer {
                Ok(answer) => bridge::ReturnRequest { result: answer.get_ref().result.clone(), error: None },
                Err(status) => bridge::ReturnRequest { result: None, error: Some(proto::refusal::whole(status)) },
            };
            self.bridge().r#return(self.of(&id, ended)).await?;
            Ok(answer?.into_inner().result.unwrap_or_default().metadata)
        };
        let (solved, shown, answer) = tokio::join!(control.solve(request), self.show(&id, events), driving);
        let () = shown;
        // The frontend's own failure says more than that of the build around it.
        let answer: Result<_, Status> = answer;
        let answer = answer?;
        solved?;
        Ok(answer)
    }

    fn bridge(&self) -> LlbBridgeClient<tonic::transport::Channel> {
        let bridge = LlbBridgeClient::new(self.channel.clone());
        bridge.max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE)
    }

    /// A message that belongs to a build.
    fn of<T>(&self, build: &str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        put(request.metadata_mut(), "buildkit-controlapi-buildid", build);
        request
    }
}
