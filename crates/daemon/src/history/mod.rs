//! Kept builds, as BuildKit's clients list, follow, read and remove them.
//! The records are the builder's; these files only show them, in the forms that clients know.

mod filter;
mod kept;
mod record;
pub mod trace;

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::time::Duration;

use builder::event::Event;
use futures_util::stream::{self, BoxStream, StreamExt};
use proto::control::{
    BuildHistoryEvent, BuildHistoryRecord, BuildHistoryRequest, StatusResponse, UpdateBuildHistoryRequest,
};
use store::Store;
use tokio::sync::broadcast;
use tonic::Status;

use crate::Daemon;
use crate::control::status::{Translator, timestamp};
use crate::jobs::Job;
use filter::Filter;

/// Events that are turned into one message when a kept build is shown again.
const TOGETHER: usize = 256;
const STARTED: i32 = 0;
const COMPLETE: i32 = 1;
const DELETED: i32 = 2;

/// A client's spans of a build come when it ends: the trace is finished so long after the build.
const TRACED_AFTER: Duration = Duration::from_secs(3);

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

fn event(kind: i32, record: BuildHistoryRecord) -> BuildHistoryEvent {
    BuildHistoryEvent { r#type: kind, record: Some(record) }
}

/// Tells whoever follows the history what happens. Cheap to clone.
#[derive(Clone)]
pub struct Feed(broadcast::Sender<BuildHistoryEvent>);

impl Default for Feed {
    fn default() -> Feed {
        Feed(broadcast::channel(256).0)
    }
}

impl Feed {
    fn tell(&self, event: BuildHistoryEvent) {
        let _ = self.0.send(event); // nobody follows
    }

    /// Everything from now on. Who is too slow misses some.
    fn follow(&self) -> impl futures_util::Stream<Item = BuildHistoryEvent> + Send + use<> {
        stream::unfold(self.0.subscribe(), |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(event) => return Some((event, receiver)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
    }
}

/// Builds as the client asks for them: those that go on, then those that are kept, then whatever happens.
pub async fn listen(
    daemon: &Daemon,
    request: BuildHistoryRequest,
) -> Result<BoxStream<'static, Result<BuildHistoryEvent, Status>>, Status> {
    let filter = Filter::parse(&request.filter, builder::event::now_millis())?;
    let limit = usize::try_from(request.limit);
    let limit = limit.map_err(|_| Status::invalid_argument(format!("the limit {} is negative", request.limit)))?;
    let id = request.r#ref.clone();
    let wanted = move |other: &str| id.is_empty() || id == other;
    let follow = daemon.feed.follow();
    let active: Vec<_> = daemon.jobs.active().into_iter().filter(|job| shown(job) && wanted(&job.id)).collect();
    let mut events: Vec<_> = active.iter().map(|job| event(STARTED, going(job))).collect();
    if !request.active_only {
        let known: HashSet<String> = active.iter().map(|job| job.id.clone()).collect();
        let (store, traces, wanted) = (daemon.engine.store.clone(), daemon.traces.clone(), wanted.clone());
        let kept = move || {
            let mut list = store.history().list().map_err(failed)?;
            list.retain(|entry| wanted(&entry.id) && !known.contains(&entry.id));
            let mut records = Vec::new();
            for entry in list {
                let summary = record::summary(&entry)?;
                if filter.matches(&entry, &summary) {
                    records.push(event(COMPLETE, record::of(&kept::complete(&store, &traces, entry, summary)?)));
                }
                if limit > 0 && records.len() == limit {
                    break;
                }
            }
            Ok::<_, Status>(records)
        };
        events.extend(tokio::task::spawn_blocking(kept).await.map_err(failed)??);
    }
    let first = stream::iter(events.into_iter().map(Ok));
    if request.early_exit {
        return Ok(first.boxed());
    }
    let meant = move |event: &BuildHistoryEvent| event.record.as_ref().is_some_and(|record| wanted(&record.r#ref));
    let follow = follow.filter(move |event| std::future::ready(meant(event)));
    Ok(first.chain(follow.map(Ok)).boxed())
}

/// A client's own questions are no builds for people.
fn shown(job: &Job) -> bool {
    !job.build.request().internal
}

fn going(job: &Job) -> BuildHistoryRecord {
    let request = job.build.request();
    BuildHistoryRecord {
        r#ref: job.id.clone(),
        frontend: request.frontend.clone(),
        frontend_attrs: request.attributes.iter().map(|(k, v)| (k.clone(), solver::shown(k, v))).collect(),
        exporters: record::exporters(&request.outputs),
        created_at: Some(timestamp(job.build.started())),
        ..Default::default()
    }
}

/// Tells that a build began.
pub fn began(daemon: &Daemon, job: &Job) {
    if shown(job) {
        daemon.feed.tell(event(STARTED, going(job)));
    }
}

/// Tells that a build is kept, and finishes its trace when the client has had time to send its part.
pub fn ended(daemon: &Daemon, id: &str) {
    let (daemon, id) = (daemon.clone(), id.to_owned());
    tokio::spawn(async move {
        tell_kept(&daemon, &id).await;
        tokio::time::sleep(TRACED_AFTER).await;
        // What can't be finished now is finished when somebody asks for it.
        if finalize(&daemon, &id).await.is_ok_and(|changed| changed) {
            tell_kept(&daemon, &id).await;
        }
    });
}

/// Tells of a record as it is now, to those who follow.
async fn tell_kept(daemon: &Daemon, id: &str) {
    if daemon.feed.0.receiver_count() == 0 {
        return;
    }
    let (store, traces, id) = (daemon.engine.store.clone(), daemon.traces.clone(), id.to_owned());
    let record = move || {
        let entry = store.history().get(&id).ok()??;
        let summary = record::summary(&entry).ok()?;
        Some(record::of(&kept::complete(&store, &traces, entry, summary).ok()?))
    };
    if let Ok(Some(record)) = tokio::task::spawn_blocking(record).await {
        daemon.feed.tell(event(COMPLETE, record));
    }
}

/// Finishes the trace of a kept build; whether there was something to finish.
async fn finalize(daemon: &Daemon, id: &str) -> Result<bool, Status> {
    let (store, traces, id) = (daemon.engine.store.clone(), daemon.traces.clone(), id.to_owned());
    let done = move || {
        let Some(entry) = store.history().get(&id).map_err(failed)? else { return Ok(false) };
        let summary = record::summary(&entry)?;
        if summary.trace.is_some() {
            return Ok(false);
        }
        kept::finish_trace(&store, &entry.id, &summary, &traces)?;
        Ok(true)
    };
    tokio::task::spawn_blocking(done).await.map_err(failed)?
}

/// Finishes, pins, unpins or removes a kept build.
pub async fn update(daemon: &Daemon, request: &UpdateBuildHistoryRequest) -> Result<(), Status> {
    let id = request.r#ref.as_str();
    let store = &daemon.engine.store;
    if store.history().get(id).map_err(failed)?.is_none() {
        return Err(Status::not_found(format!("there is no kept build {id}")));
    }
    if request.finalize {
        finalize(daemon, id).await?;
        tell_kept(daemon, id).await;
    } else if request.delete {
        store.history().remove(id).map_err(failed)?;
        daemon.feed.tell(event(DELETED, BuildHistoryRecord { r#ref: id.to_owned(), ..Default::default() }));
    } else {
        store.history().pin(id, request.pinned).map_err(failed)?;
        tell_kept(daemon, id).await;
    }
    store.flush().map_err(failed)
}

/// Events of a kept build, one after the other.
fn events(store: &Store, id: &str) -> Result<impl Iterator<Item = Result<Event, Status>> + use<>, Status> {
    let lines = BufReader::new(store.history().events(id).map_err(failed)?).lines();
    Ok(lines.map(|line| serde_json::from_str(&line.map_err(failed)?).map_err(failed)))
}

/// What happened in a kept build, again; `None` when there is no such build.
pub fn replay(store: &Store, id: &str) -> Result<Option<Vec<StatusResponse>>, Status> {
    if store.history().get(id).map_err(failed)?.is_none() {
        return Ok(None);
    }
    let events: Vec<Event> = events(store, id)?.collect::<Result<_, _>>()?;
    let mut translator = Translator::default();
    Ok(Some(events.chunks(TOGETHER).map(|some| translator.translate(some)).collect()))
}
