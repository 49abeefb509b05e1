//! The build itself: by the engine in this process, or through a daemon. A Dockerfile that is for a frontend in an image is
//! built through a daemon as well, a private one for this build alone: no other code runs such a frontend.

use std::sync::Arc;

use builder::build::{Request, Response};
use builder::frontends::questions::Answer;
use builder::{Engine, Error, Events};
use daemon::Daemon;
use daemon::client::Client;

use crate::client::LocalSession;
use crate::commands::place;

/// One build, for whoever does it.
#[derive(Clone)]
pub struct Asked {
    /// What this machine offers.
    pub session: Arc<LocalSession>,
    /// Where to tell what happens.
    pub events: Events,
    /// What is wanted.
    pub request: Request,
    /// The answer to a question is wanted, instead of a build.
    pub wants_answer: bool,
    /// How each result was built is wanted too.
    pub wants_provenance: bool,
}

/// What it came to.
pub enum Done {
    /// A question was answered.
    Answered(Answer),
    /// Something was built.
    Built(Response),
}

/// By the engine in this process. A Dockerfile that is for a frontend in an image is [`Error::Elsewhere`].
pub async fn here(engine: Arc<Engine>, asked: Asked) -> Result<Done, Error> {
    let Asked { session, events, request, wants_answer, .. } = asked;
    match wants_answer {
        true => builder::build::ask(&engine, session, events, request).await.map(Done::Answered),
        false => builder::build::build(&engine, session, events, request).await.map(Done::Built),
    }
}

/// By a daemon in this process that does nothing else. Its tasks end with a runtime of several threads, and only there.
pub async fn by_own_daemon(daemon: Daemon, asked: Asked) -> Result<Done, Error> {
    let client = daemon.private().await.map_err(|e| Error::Failed(e.to_string()))?;
    through(client, asked).await
}

/// Through a daemon.
pub async fn through(client: Client, asked: Asked) -> Result<Done, Error> {
    let (offered, request) = (place::offered(asked.session), daemon::client::request(&asked.request));
    if asked.wants_answer {
        return client.answer_or_why(offered, request, &asked.events).await.map(Done::Answered);
    }
    let mut response = client.build(offered, request, &asked.events).await?;
    if asked.wants_provenance {
        let provenance = client.provenance(&asked.request.id).await;
        response.provenance = provenance.map_err(|e| Error::Failed(e.to_string()))?;
    }
    Ok(Done::Built(response))
}
