//! Drives the solver: performs its effects as tasks, feeds it what became of them, and tells every build what happens.
//! One driver a process, shared by all builds: the same step of two builds runs once. It decides nothing itself.

mod because;
mod imported;
mod perform;
pub mod remains;
pub(crate) mod results;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use graph::{Edge, Graph, Vertex};
use oci::{Digest, Platform};
use solver::{Build, Cause, Effect, Event, HitSource, ResultId, Solver, Trail, Verdict, Wanted};
use store::SnapshotId;
use tokio::sync::oneshot;

use crate::attestations::Pins;
use crate::caches::{Early, Imports};
use crate::event::{Events, What};
use crate::sources::{Seen, Source};
use crate::{Engine, Error, Work, session};

pub use remains::Remains;
pub use results::Held;

/// Sources that a build has asked about. Each is asked about once a build, however many graphs of it read the source: a
/// file is fetched once, and a branch that moves meanwhile is one commit for the whole build. Cheap to clone.
#[derive(Clone, Default)]
pub struct Asked(Arc<Mutex<HashMap<Digest, Arc<Source>>>>);

impl Asked {
    fn get(&self, vertex: &Digest) -> Option<Arc<Source>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(vertex).cloned()
    }

    fn note(&self, vertex: Digest, source: Arc<Source>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(vertex, source);
    }
}

/// What a build brings to the driver.
pub struct Order {
    /// What is to be built.
    pub graph: Arc<Graph>,
    /// The wanted edges, all of them with their results.
    pub wanted: Vec<Edge>,
    /// The client.
    pub session: session::Shared,
    /// What the build has seen of sources.
    pub seen: Arc<Seen>,
    /// Where to tell what happens.
    pub events: Events,
    /// The build's id.
    pub id: String,
    /// The context's identity.
    pub project: String,
    /// The wanted stage.
    pub target: String,
    /// Fail when a step of these stages must run (empty: any).
    pub fail_on_miss: Option<Vec<String>>,
    /// Caches from elsewhere that it may use.
    pub imports: Arc<Imports>,
    /// Where the keys of its steps are noted at its end, for caches that are written.
    pub trail: Option<Arc<Mutex<Vec<Trail>>>>,
    /// Who hears of what its steps make, as soon as it is made.
    pub early: Vec<Early>,
    /// What the build knows of sources.
    pub asked: Asked,
}

/// What became of an order.
pub struct Done {
    /// The wanted results, in the order they were wanted.
    pub results: Vec<Held>,
    /// What the sources turned out to be.
    pub pins: Pins,
}

/// A build that is going on.
struct Going {
    order: Order,
    done: Option<oneshot::Sender<Result<Done, Error>>>,
    misses: Vec<(String, Cause)>,
}

#[derive(Default)]
struct State {
    solver: Option<Solver>,
    builds: BTreeMap<Build, Going>,
    next_build: Build,
    next_result: u64,
    results: HashMap<ResultId, Kept>,
    /// What runs for a step now, and which of its tasks' answers still count.
    tasks: HashMap<Digest, (sandbox::Cancel, u64)>,
    next_task: u64,
    sources: HashMap<Digest, Arc<Source>>,
    causes: HashMap<Digest, Cause>,
    /// What failed steps left.
    remains: HashMap<Digest, Arc<Remains>>,
}

/// A result of a step that some build has.
struct Kept {
    held: Held,
    /// The step it came from.
    step: Digest,
    /// The name it was found or stored under, for records of what reads it.
    name: String,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Driver {
    engine: Weak<Engine>,
    state: Arc<Mutex<State>>,
}

impl Driver {
    /// No builds yet.
    pub fn new(engine: Weak<Engine>) -> Driver {
        let state = State { solver: Some(Solver::new(Platform::host())), ..State::default() };
        Driver { engine, state: Arc::new(Mutex::new(state)) }
    }

    /// Builds what is ordered; dropping the future cancels what nobody else wants.
    pub async fn build(&self, order: Order) -> Result<Done, Error> {
        let (done, answer) = oneshot::channel();
        let (graph, wanted, trail) = (order.graph.clone(), order.wanted.clone(), order.trail.is_some());
        tell_known(&order);
        let build = {
            let mut state = self.lock();
            state.next_build += 1;
            let build = state.next_build;
            state.builds.insert(build, Going { order, done: Some(done), misses: Vec::new() });
            build
        };
        let _cancel = CancelOnDrop { driver: self.clone(), build };
        let wanted = wanted.into_iter().map(|edge| Wanted { edge, result: true }).collect();
        self.feed(Event::Build { build, graph, wanted, trail });
        answer.await.unwrap_or(Err(Error::Cancelled))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an event to the solver and performs what it asks for.
    fn feed(&self, event: Event) {
        let Some(engine) = self.engine.upgrade() else { return };
        let mut state = self.lock();
        let Some(mut solver) = state.solver.take() else { return };
        let caches = imported::Caches { store: engine.store.records().index(), imports: state.imports() };
        let effects = solver.step(event, &caches);
        state.solver = Some(solver);
        if let Err(error) = caches.store.failure() {
            state.warn(&format!("the cache can't be read, and is taken as empty for some steps: {error}"));
        }
        for effect in effects {
            self.perform(&engine, &mut state, effect);
        }
    }

    fn perform(&self, engine: &Arc<Engine>, state: &mut State, effect: Effect) {
        match effect {
            Effect::Key { vertex } => self.start(engine, state, vertex, perform::Job::Key),
            Effect::Hash { vertex, input, result } => {
                self.start(engine, state, vertex, perform::Job::Hash { input, result })
            }
            Effect::Compare { vertex, operation, inputs } => {
                self.start(engine, state, vertex, perform::Job::Compare { operation, inputs })
            }
            Effect::Load { vertex, stored } => self.start(engine, state, vertex, perform::Job::Load { stored }),
            Effect::Run { vertex, inputs, reason, ran, save } => {
                self.start(engine, state, vertex, perform::Job::Run { inputs, reason, ran, save })
            }
            Effect::Hit { vertex, source, stored, builds, renew } => {
                let (elsewhere, here): (Vec<_>, Vec<_>) = stored
                    .iter()
                    .map(|s| (s, state.import(&vertex, &s.record)))
                    .partition(|(_, import)| import.is_some());
                let backend = elsewhere.iter().find_map(|(_, import)| Some(import.as_ref()?.backend.clone()));
                state.tell_hit(vertex, &backend.map_or(source, HitSource::Imported), &builds);
                let links: Vec<_> = elsewhere.iter().flat_map(|(s, _)| state.imported_links(&vertex, s)).collect();
                if !links.is_empty() {
                    state.or_warn(engine.store.records().link(&links));
                }
                let records: BTreeSet<Digest> = here.iter().filter(|_| renew).map(|(s, _)| s.record).collect();
                for record in records {
                    let now = crate::event::now_millis();
                    state.or_warn(engine.store.records().renew(&record, now));
                }
            }
            Effect::Link { links } => state.or_warn(engine.store.records().link(&links)),
            Effect::Abort { vertex } => {
                if let Some((cancel, _)) = state.tasks.remove(&vertex) {
                    cancel.cancel();
                }
            }
            Effect::Done { build, results, trail } => {
                state.note(build, trail);
                let results = results.iter().flatten().filter_map(|id| state.results.get(id)).map(|k| k.held.clone());
                let results = results.collect();
                let pins = state.pins(build);
                state.end(build, Ok(Done { results, pins }));
            }
            Effect::Failed { build, vertex, error, trail } => {
                state.note(build, trail);
                let going = state.builds.get_mut(&build);
                let missed = going.map(|g| std::mem::take(&mut g.misses)).unwrap_or_default();
                let failed = if missed.is_empty() { state.failed(build, vertex, error) } else { Error::Missed(missed) };
                state.end(build, Err(failed));
            }
        }
    }

    /// Runs a job of a step as a task, and feeds its answer unless the step was aborted meanwhile.
    fn start(&self, engine: &Arc<Engine>, state: &mut State, vertex: Digest, job: perform::Job) {
        let Some(step) = state.vertex(&vertex) else { return };
        let Some(first) = state.builds.values().find(|g| g.order.graph.get(&vertex).is_some()) else { return };
        let cancel = match state.tasks.get(&vertex) {
            Some((cancel, _)) => cancel.clone(),
            None => match sandbox::Cancel::new() {
                Ok(cancel) => cancel,
                Err(error) => return state.warn(&error.to_string()),
            },
        };
        state.next_task += 1;
        let task = state.next_task;
        let work = Work {
            engine: engine.clone(),
            session: first.order.session.clone(),
            seen: first.order.seen.clone(),
            events: state.broadcast(vertex),
            step: vertex,
            cancel: cancel.clone(),
        };
        // Several hashes of one step run side by side: the task number is the abort's, not the job's.
        state.tasks.entry(vertex).or_insert((cancel, task));
        let driver = self.clone();
        tokio::spawn(async move {
            let answer = job.perform(&driver, &work, &step).await;
            if !work.cancel.is_cancelled() {
                driver.feed(answer);
            }
        });
    }
}

/// Forgets a build when nobody waits for it any more.
struct CancelOnDrop {
    driver: Driver,
    build: Build,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let known = self.driver.lock().builds.contains_key(&self.build);
        if known {
            self.driver.feed(Event::Cancel { build: self.build });
            self.driver.lock().end(self.build, Err(Error::Cancelled));
        }
    }
}

impl State {
    fn vertex(&self, digest: &Digest) -> Option<Arc<Vertex>> {
        self.builds.values().find_map(|g| g.order.graph.get(digest).cloned())
    }

    fn failed(&self, build: Build, step: Digest, error: String) -> Error {
        let name = self.vertex(&step).map(|v| v.name()).unwrap_or_default();
        let graph = self.builds.get(&build).map(|going| &going.order.graph);
        // A source from elsewhere has no lines of its own: those that read it ask for it.
        let readers = graph.into_iter().flat_map(|graph| {
            let reads = move |vertex: &&Arc<Vertex>| vertex.inputs.iter().any(|edge| edge.vertex == step);
            graph.vertices().filter(reads).map(|vertex| graph.places(&vertex.digest))
        });
        let own = graph.map(|graph| graph.places(&step));
        let places = own.into_iter().chain(readers).find(|places| !places.is_empty()).unwrap_or_default();
        let remains = self.remains.get(&step).cloned();
        Error::Step { step, name, error, places, remains }
    }

    /// What the builds that have the step know of sources.
    fn asked(&self, vertex: &Digest) -> Vec<Asked> {
        let having = self.builds.values().filter(|g| g.order.graph.get(vertex).is_some());
        having.map(|g| g.order.asked.clone()).collect()
    }

    /// Events for every build that has the step.
    fn broadcast(&self, vertex: Digest) -> Events {
        let mut all: Vec<Events> = Vec::new();
        for going in self.builds.values().filter(|g| g.order.graph.get(&vertex).is_some()) {
            all.push(going.order.events.clone());
        }
        if all.len() == 1 {
            return all.remove(0);
        }
        Events::new(move |event| all.iter().for_each(|events| events.pass(event.clone())))
    }

    fn tell_hit(&self, vertex: Digest, source: &HitSource, builds: &[Build]) {
        for going in builds.iter().filter_map(|b| self.builds.get(b)) {
            let is_source =
                going.order.graph.get(&vertex).is_some_and(|v| matches!(v.kind(), Some(graph::Kind::Source(_))));
            let events = &going.order.events;
            if !is_source {
                events.tell(What::Verdict { step: vertex, verdict: Verdict::Hit { source: source.clone() } });
            }
            events.tell(What::Started { step: vertex });
            events.tell(What::Completed { step: vertex, cached: true, error: None });
        }
    }

    fn warn(&self, text: &str) {
        for going in self.builds.values() {
            let warning = crate::event::Warning { short: text.to_owned(), ..Default::default() };
            let step = going.order.wanted.first().map(|edge| edge.vertex);
            if let Some(step) = step {
                going.order.events.tell(What::Warning { step, warning });
            }
        }
    }

    fn or_warn<E: std::fmt::Display>(&self, result: Result<(), E>) {
        if let Err(error) = result {
            self.warn(&format!("the cache could not be written: {error}"));
        }
    }

    fn hold(&mut self, held: Held, step: Digest, name: String) -> ResultId {
        self.next_result += 1;
        let id = ResultId(self.next_result);
        self.results.insert(id, Kept { held, step, name });
        id
    }

    /// A step has made these trees.
    fn made(&self, step: &Digest, trees: &[SnapshotId]) {
        for going in self.builds.values().filter(|g| g.order.graph.get(step).is_some()) {
            going.order.early.iter().for_each(|early| trees.iter().for_each(|tree| early.made(*tree)));
        }
    }

    fn note(&self, build: Build, trail: Vec<Trail>) {
        let kept = self.builds.get(&build).and_then(|going| going.order.trail.as_ref());
        if let Some(kept) = kept {
            kept.lock().unwrap_or_else(PoisonError::into_inner).extend(trail);
        }
    }

    /// What the sources of a build turned out to be.
    fn pins(&self, build: Build) -> Pins {
        let Some(going) = self.builds.get(&build) else { return Pins::new() };
        let known = going.order.graph.vertices().filter_map(|v| Some((v.digest, self.sources.get(&v.digest)?.pin()?)));
        known.collect()
    }

    /// Ends a build, and lets go of what no other build has.
    fn end(&mut self, build: Build, outcome: Result<Done, Error>) {
        let Some(mut going) = self.builds.remove(&build) else { return };
        if let Some(done) = going.done.take() {
            // Nobody listens any more when the build was dropped.
            let _ = done.send(outcome);
        }
        let builds = &self.builds;
        let needed = |step: &Digest| builds.values().any(|g| g.order.graph.get(step).is_some());
        self.results.retain(|_, kept| needed(&kept.step));
        self.sources.retain(|step, _| needed(step));
        self.causes.retain(|step, _| needed(step));
        self.remains.retain(|step, _| needed(step));
        self.tasks.retain(|step, _| needed(step));
    }
}

/// Every step of the graph is known before anything happens.
fn tell_known(order: &Order) {
    for vertex in order.graph.vertices() {
        order.events.tell(What::Known {
            step: vertex.digest,
            name: vertex.name(),
            inputs: vertex.inputs.iter().map(|e| e.vertex).collect(),
            group: crate::event::group(&vertex.metadata),
        });
    }
}
