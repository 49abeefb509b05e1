//! What the solver asks for, done: keys of sources, hashes, comparisons, loading, running. One task each.
//! A task answers with an event; it never touches the solver.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use graph::{Kind, Vertex};
use oci::Digest;
use solver::{Cause, Cost, Event, Locator, Reason, Record, ResultId, Save, Stored, Verdict};
use store::SnapshotId;

use super::because::{self, Question};
use super::imported;
use super::remains::Failure;
use super::results::{self, Held};
use super::{Driver, State};
use crate::event::{Stream, What, now_millis};
use crate::sources::Source;
use crate::{Error, Live, Work, blocking, ops};

/// One thing to do for a step.
pub enum Job {
    /// Say what a source is.
    Key,
    /// Digest what counts of an input.
    Hash { input: u32, result: ResultId },
    /// Find a record made from the same trees.
    Compare { operation: Digest, inputs: Vec<ResultId> },
    /// Make stored results available.
    Load { stored: Vec<Stored> },
    /// Do the step.
    Run { inputs: Vec<ResultId>, reason: Reason, ran: Vec<Digest>, save: Option<Save> },
}

impl Job {
    /// Results whose files it needs.
    fn inputs(&self) -> &[ResultId] {
        match self {
            Job::Key | Job::Load { .. } => &[],
            Job::Hash { result, .. } => std::slice::from_ref(result),
            Job::Compare { inputs, .. } | Job::Run { inputs, .. } => inputs,
        }
    }

    /// Does it.
    pub async fn perform(self, driver: &Driver, work: &Work, vertex: &Arc<Vertex>) -> Event {
        let step = vertex.digest;
        if let Some(lost) = imported::bring(driver, work, step, self.inputs()).await {
            return lost;
        }
        match self {
            Job::Key => {
                let keys = key(driver, work, vertex).await;
                if let Err(error) = &keys {
                    complete(work, Some(error));
                }
                Event::Keyed { vertex: step, keys: keys.map_err(|e| e.to_string()) }
            }
            Job::Hash { input, result } => {
                let content = hash(driver, work, vertex, input, result).await;
                // BuildKit's words: its clients and their users know what they mean.
                let content = content.map_err(|error| {
                    let read = vertex.inputs.get(input as usize).map_or_else(String::new, |edge| edge.vertex.short());
                    format!("failed to compute cache key: failed to calculate checksum of ref {read}: {error}")
                });
                if let Err(error) = &content {
                    driver.lock().note_unreadable(vertex, input, result);
                    work.events.tell(What::Started { step });
                    work.events.tell(What::Completed { step, cached: false, error: Some(error.clone()) });
                }
                Event::Hashed { vertex: step, input, content }
            }
            Job::Compare { operation, inputs } => {
                // Not finding an earlier result only costs the run.
                let found = compare(driver, work, operation, &inputs).await.unwrap_or_else(|error| {
                    driver.lock().warn(&format!("earlier results could not be compared: {error}"));
                    Vec::new()
                });
                Event::Compared { vertex: step, found }
            }
            Job::Load { stored } => Event::Loaded { vertex: step, results: load(driver, work, vertex, &stored).await },
            Job::Run { inputs, reason, ran, save } => {
                let results = run(driver, work, vertex, &inputs, reason, &ran, save).await;
                Event::Ran { vertex: step, results: results.map_err(|e| e.to_string()) }
            }
        }
    }
}

fn complete(work: &Work, error: Option<&Error>) {
    let error = error.map(ToString::to_string);
    work.events.tell(What::Completed { step: work.step, cached: false, error });
}

async fn key(driver: &Driver, work: &Work, vertex: &Vertex) -> Result<Vec<Digest>, Error> {
    let asked = driver.lock().asked(&vertex.digest);
    let known = asked.iter().find_map(|asked| asked.get(&vertex.digest));
    let source = match known {
        Some(source) => source,
        None => Arc::new(Source::identify(work, vertex).await?),
    };
    asked.iter().for_each(|asked| asked.note(vertex.digest, source.clone()));
    let keys = source.keys();
    driver.lock().sources.insert(vertex.digest, source);
    Ok(keys)
}

impl State {
    pub fn live(&self, id: ResultId) -> Result<Live, Error> {
        self.results.get(&id).map(|k| k.held.live.clone()).ok_or(Error::Cancelled)
    }

    fn lives(&self, ids: &[ResultId]) -> Result<Vec<Live>, Error> {
        ids.iter().map(|id| self.live(*id)).collect()
    }
}

async fn hash(driver: &Driver, work: &Work, vertex: &Vertex, input: u32, result: ResultId) -> Result<Digest, Error> {
    let live = driver.lock().live(result)?;
    let map = solver::key::cache_map(vertex, &oci::Platform::host()).map_err(|e| Error::Request(e.to_string()))?;
    let selections = map.inputs.get(input as usize).and_then(|i| i.content.clone()).unwrap_or_default();
    let (tree, snapshot) = match &live {
        Live::Local(tree) => (Some(tree.scanned.clone()), None),
        live => (None, live.snapshot(work).await?),
    };
    let store = work.engine.store.clone();
    blocking("hashed an input", move || match tree {
        Some(tree) => tree.digest(&selections),
        None => store::tree::Tree::of_snapshot(&store, snapshot)?.digest(&selections),
    })
    .await
}

/// How many earlier records of an operation are looked at.
const COMPARED: usize = 8;

async fn compare(driver: &Driver, work: &Work, operation: Digest, inputs: &[ResultId]) -> Result<Vec<Stored>, Error> {
    let lives = driver.lock().lives(inputs)?;
    let mut trees = Vec::new();
    for live in &lives {
        match live {
            Live::Local(_) => return Ok(Vec::new()),
            live => trees.push(live.snapshot(work).await?),
        }
    }
    let store = work.engine.store.clone();
    blocking("compared trees", move || {
        for id in store.records().of_operation(&operation)?.into_iter().take(COMPARED) {
            let Some(record) = store.records().load(&id)? else { continue };
            // One that was imported says nothing of inputs, and has not all outputs.
            let mut same = record.inputs.len() == trees.len();
            for (text, tree) in record.inputs.iter().zip(&trees) {
                same = same && results::tree(text).is_some_and(|old| same_tree(&store, old, *tree).unwrap_or(false));
            }
            let usable = record.results.iter().all(|r| {
                results::tree(r).is_some_and(|t| t.is_none_or(|id| store.snapshots().has(id).unwrap_or(false)))
            });
            if same && usable {
                let stored = |(output, key)| Stored { output, key, record: id };
                return Ok((0..).zip(record.keys).map(stored).collect());
            }
        }
        Ok::<_, store::Error>(Vec::new())
    })
    .await
}

/// Whether two trees are made of the same layers: the same ones, or with the same files but for their times.
fn same_tree(store: &store::Store, a: Option<SnapshotId>, b: Option<SnapshotId>) -> store::Result<bool> {
    let chain = |id: Option<SnapshotId>| id.map_or_else(|| Ok(Vec::new()), |id| store.snapshots().chain(id));
    let (a, b) = (chain(a)?, chain(b)?);
    if a.len() != b.len() {
        return Ok(false);
    }
    for (x, y) in a.into_iter().zip(b) {
        if x == y {
            // What lies beneath one layer is the same for both.
            return Ok(true);
        }
        if store::tree::layer_digest(store, x)? != store::tree::layer_digest(store, y)? {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn load(
    driver: &Driver,
    work: &Work,
    vertex: &Vertex,
    stored: &[Stored],
) -> Result<BTreeMap<u32, ResultId>, Cause> {
    let mut results = BTreeMap::new();
    for one in stored {
        let loaded = match imported::load(driver, work, vertex, one) {
            Some(imported) => imported,
            None => load_here(driver, work, one).await,
        };
        results.insert(one.output, loaded?);
    }
    Ok(results)
}

/// A result that a record of this store has.
async fn load_here(driver: &Driver, work: &Work, stored: &Stored) -> Result<ResultId, Cause> {
    let missing = |what: String| Cause::BlobMissing { digest: what, looked: vec!["this store".to_owned()] };
    let (store, id) = (work.engine.store.clone(), stored.record);
    let used = blocking("loaded a record", move || store.records().use_now(&id)).await;
    let record = used.map_err(|e| missing(format!("record {} ({e})", id.short())))?;
    let text = record.result(&stored.key).ok_or_else(|| missing(format!("record {}", id.short())))?;
    let tree = results::tree(text).ok_or_else(|| missing(text.to_owned()))?;
    let live = tree.map_or(Live::Scratch, Live::Snapshot);
    if let Some(snapshot) = tree
        && !work.engine.store.snapshots().has(snapshot).unwrap_or(false)
    {
        return Err(missing(text.to_owned()));
    }
    let held = Held::new(&work.engine.store, live).map_err(|e| missing(e.to_string()))?;
    Ok(driver.lock().hold(held, work.step, text.to_owned()))
}

async fn run(
    driver: &Driver,
    work: &Work,
    vertex: &Arc<Vertex>,
    inputs: &[ResultId],
    reason: Reason,
    ran: &[Digest],
    save: Option<Save>,
) -> Result<Vec<ResultId>, Error> {
    let Some(save) = save else { return bring(driver, work, vertex).await };
    let (question, lives) = ask(driver, work, vertex, inputs, reason, ran, save).await?;
    let _turn = work.engine.turn().await;
    work.events.tell(What::Started { step: work.step });
    let begun = Instant::now();
    let made = operate(work, vertex, &lives).await.map_err(|failure| {
        driver.lock().note_remains(work, vertex, inputs, &failure);
        failure.error
    });
    complete(work, made.as_ref().err());
    keep(driver, work, question, inputs, made?, begun).await
}

/// A source's files.
async fn bring(driver: &Driver, work: &Work, vertex: &Vertex) -> Result<Vec<ResultId>, Error> {
    let source = driver.lock().sources.get(&vertex.digest).cloned().ok_or(Error::Cancelled)?;
    work.events.tell(What::Started { step: work.step });
    let live = source.live(work, vertex).await;
    complete(work, live.as_ref().err());
    let held = Held::new(&work.engine.store, live?)?;
    Ok(vec![driver.lock().hold(held, work.step, String::new())])
}

/// Finds and tells the cause; fails here when the build forbids the run.
async fn ask(
    driver: &Driver,
    work: &Work,
    vertex: &Vertex,
    inputs: &[ResultId],
    reason: Reason,
    ran: &[Digest],
    save: Save,
) -> Result<(Question, Vec<Live>), Error> {
    let (mut wanted, lives, locator, ran, kept_from) = {
        let state = driver.lock();
        let going = state.builds.values().find(|g| g.order.graph.get(&vertex.digest).is_some());
        let order = going.map(|g| &g.order).ok_or(Error::Cancelled)?;
        let locator = Locator::of(&order.project, &order.target, &vertex.name());
        let kept_from = state.kept_from(&vertex.digest, &save.found);
        (state.ingredients(vertex, &save), state.lives(inputs)?, locator, state.ran(ran), kept_from)
    };
    because::files(work, vertex, &lives, &mut wanted).await?;
    let question = Question { locator, wanted, ran, reason, save, kept_from };
    let mut cause = because::cause(work, &question).await?;
    if let (Cause::Requested { by }, Some(flag)) = (&mut cause, vertex.metadata.description.get("larder.no-cache")) {
        *by = flag.clone();
    }
    let mut state = driver.lock();
    state.causes.insert(vertex.digest, cause.clone());
    work.events.tell(What::Verdict { step: vertex.digest, verdict: Verdict::Miss { cause: cause.clone() } });
    let stage = vertex.metadata.description.get("larder.stage").cloned().unwrap_or_default();
    let mut forbidden = false;
    for going in state.builds.values_mut().filter(|g| g.order.graph.get(&vertex.digest).is_some()) {
        if going.order.fail_on_miss.as_ref().is_some_and(|stages| stages.is_empty() || stages.contains(&stage)) {
            going.misses.push((vertex.name(), cause.clone()));
            forbidden = true;
        }
    }
    if forbidden { Err(Error::Missed(vec![(vertex.name(), cause)])) } else { Ok((question, lives)) }
}

/// Does the operation itself.
async fn operate(work: &Work, vertex: &Arc<Vertex>, lives: &[Live]) -> Result<Vec<Option<SnapshotId>>, Failure> {
    match vertex.kind() {
        Some(Kind::Exec(_)) => exec(work, vertex, lives).await,
        Some(Kind::File(_)) => file(work, vertex, lives).await,
        Some(Kind::Merge(_) | Kind::Diff(_)) => Ok(stack(work, vertex, lives).await?),
        Some(Kind::Build(_)) => {
            let text = format!("{}: graphs that are files of a result (BuildOp) are not built", vertex.name());
            Err(Error::Request(text).into())
        }
        _ => Err(Error::Request(format!("{} is of a kind that larder does not run", vertex.name())).into()),
    }
}

async fn trees(work: &Work, lives: &[Live]) -> Result<Vec<Option<SnapshotId>>, Error> {
    let mut trees = Vec::new();
    for live in lives {
        trees.push(live.snapshot(work).await?);
    }
    Ok(trees)
}

async fn exec(work: &Work, vertex: &Arc<Vertex>, lives: &[Live]) -> Result<Vec<Option<SnapshotId>>, Failure> {
    let Some(Kind::Exec(op)) = vertex.kind() else { return Ok(Vec::new()) };
    let inputs = trees(work, lives).await?;
    let given = ops::exec::Given::ask(&work.session, &op.mounts, &op.secretenv).await?;
    let (work, vertex) = (work.clone(), vertex.clone());
    let ran = blocking("ran a process", move || {
        let Some(Kind::Exec(op)) = vertex.kind() else { return Ok(Ok(Vec::new())) };
        let (events, step) = (work.events.clone(), work.step);
        let mut output = |stream, bytes: &[u8]| {
            let stream = if stream == sandbox::Stream::Stdout { Stream::Out } else { Stream::Err };
            events.tell(What::Log { step, stream, bytes: bytes.to_vec() });
        };
        let exec = ops::exec::Exec {
            store: &work.engine.store,
            sandbox: &work.engine.sandbox,
            op,
            resources: vertex.metadata.linux_resources.as_ref(),
            inputs: &inputs,
            given: &given,
            name: &vertex.name(),
            cancel: &work.cancel,
            dns: &work.engine.settings.dns,
        };
        Ok::<_, Error>(exec.run(&mut output).map_err(Failure::from))
    });
    ran.await?
}

async fn file(work: &Work, vertex: &Arc<Vertex>, lives: &[Live]) -> Result<Vec<Option<SnapshotId>>, Failure> {
    let Some(Kind::File(op)) = vertex.kind() else { return Ok(Vec::new()) };
    let mut inputs = Vec::new();
    for (i, live) in lives.iter().enumerate() {
        let built_on = op.actions.iter().any(|a| a.input == i as i64);
        let tree = match live {
            Live::Local(tree) if !built_on => Err((tree.scanned.clone(), tree.linkable)),
            live => Ok(live.snapshot(work).await?),
        };
        inputs.push(tree);
    }
    let (work, vertex) = (work.clone(), vertex.clone());
    let changed = blocking("changed files", move || {
        let Some(Kind::File(op)) = vertex.kind() else { return Ok(Ok(Vec::new())) };
        let store = &work.engine.store;
        let view = |input: Result<_, (Arc<store::tree::Tree>, _)>| -> Result<ops::file::Input, ops::Error> {
            Ok(match input {
                Err((tree, link)) => ops::file::Input { snapshot: None, view: tree.view(), link, tree: Some(tree) },
                Ok(None) => {
                    ops::file::Input { snapshot: None, view: store::view::View::empty(), link: false, tree: None }
                }
                Ok(Some(id)) => {
                    let view = store::view::View::of_layers(store.snapshots().layers(id)?);
                    ops::file::Input { snapshot: Some(id), view, link: true, tree: None }
                }
            })
        };
        let inputs = inputs.into_iter().map(view).collect::<Result<Vec<_>, _>>()?;
        let done = ops::file::run(store, op, &inputs, &vertex.name(), &|| work.cancel.is_cancelled());
        Ok::<_, Error>(done.map_err(Failure::from))
    });
    changed.await?
}

async fn stack(work: &Work, vertex: &Arc<Vertex>, lives: &[Live]) -> Result<Vec<Option<SnapshotId>>, Error> {
    let inputs = trees(work, lives).await?;
    let (store, vertex) = (work.engine.store.clone(), vertex.clone());
    blocking("stacked trees", move || {
        let at = |i: i64| usize::try_from(i).ok().and_then(|i| inputs.get(i).copied()).flatten();
        let made = match vertex.kind() {
            Some(Kind::Merge(op)) => {
                let trees: Vec<_> = op.inputs.iter().map(|i| at(i.input)).collect();
                ops::stack::merge(&store, &trees, &vertex.name())?
            }
            Some(Kind::Diff(op)) => {
                let (lower, upper) = (op.lower.as_ref().map(|l| l.input), op.upper.as_ref().map(|u| u.input));
                ops::stack::diff(&store, lower.and_then(at), upper.and_then(at), &vertex.name())?
            }
            _ => None,
        };
        Ok::<_, ops::Error>(vec![made])
    })
    .await
}

/// Holds what was made, and writes the record.
async fn keep(
    driver: &Driver,
    work: &Work,
    question: Question,
    inputs: &[ResultId],
    made: Vec<Option<SnapshotId>>,
    begun: Instant,
) -> Result<Vec<ResultId>, Error> {
    let store = &work.engine.store;
    let texts: Vec<String> = made.iter().map(|tree| results::text(*tree)).collect();
    let mut ids = Vec::new();
    for (tree, text) in made.iter().zip(&texts) {
        let held = Held::new(store, tree.map_or(Live::Scratch, Live::Snapshot))?;
        ids.push(driver.lock().hold(held, work.step, text.clone()));
    }
    let record = {
        let state = driver.lock();
        let name = |id| state.results.get(id).map(|k| results::input(&k.held.live, &k.name)).unwrap_or_default();
        let names = inputs.iter().map(name).collect();
        let build = state.builds.values().find(|g| g.order.graph.get(&work.step).is_some());
        Record {
            keys: question.save.keys.clone(),
            operation: question.save.operation,
            results: texts,
            inputs: names,
            ingredients: question.wanted,
            cost: Cost { millis: begun.elapsed().as_millis() as u64, bytes: 0 },
            created: now_millis(),
            build: build.map(|g| g.order.id.clone()).unwrap_or_default(),
            locator: question.locator,
        }
    };
    let made_of = store::MadeOf { snapshots: made.into_iter().flatten().collect(), blobs: Vec::new() };
    driver.lock().made(&work.step, &made_of.snapshots);
    let (store, links) = (store.clone(), question.save.links);
    // A cache that can't be written must not fail the build: the result is there.
    let saved = blocking("wrote a record", move || store.records().save(&record, &links, &made_of)).await;
    driver.lock().or_warn(saved.map(drop));
    Ok(ids)
}
