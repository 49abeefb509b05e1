//! What a failed step worked on and left: trees that a client may want to look at before it gives up.
//! Kept while a build that has the step goes on; nothing here is ever a result.

use std::sync::Arc;

use graph::{Kind, Vertex};
use solver::ResultId;
use store::SnapshotId;

use super::State;
use super::results::Held;
use crate::{Error, Work, ops};

/// See the module.
pub struct Remains {
    /// The step.
    pub vertex: Arc<Vertex>,
    /// Trees that it began with: one a mount of a process, one an input of everything else.
    pub inputs: Vec<Option<Held>>,
    /// Trees as it left them: one a mount of a process, one an action on files.
    pub left: Vec<Option<Held>>,
    /// What of the step failed; `None` for the whole.
    pub part: Option<Part>,
    /// The code that its process ended with.
    pub exit: Option<i32>,
}

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// An action on files, by its position.
    Action(usize),
    /// The content of an input, by its position: it can't be read as the step wants it.
    Content(u32),
}

impl std::fmt::Debug for Remains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "what is left of {}", self.vertex.digest.short())
    }
}

impl State {
    /// Keeps what a failed operation left.
    pub fn note_remains(&mut self, work: &Work, vertex: &Arc<Vertex>, inputs: &[ResultId], failed: &Failure) {
        let held: Vec<_> = inputs.iter().map(|id| self.results.get(id).map(|kept| kept.held.clone())).collect();
        let inputs = match vertex.kind() {
            Some(Kind::Exec(op)) => {
                let of = |input: i64| usize::try_from(input).ok().and_then(|i| held.get(i).cloned().flatten());
                op.mounts.iter().map(|mount| of(mount.input)).collect()
            }
            _ => held,
        };
        let keep = |tree: &Option<SnapshotId>| {
            let id = (*tree)?;
            let store = &work.engine.store;
            if failed.own.contains(&id) { Held::last(store, id) } else { Held::tree(store, id) }.ok()
        };
        let exit = match &failed.error {
            Error::Operation(ops::Error::Exit { code, .. }) => Some(*code),
            _ => None,
        };
        let left = failed.left.iter().map(keep).collect();
        let remains = Remains { vertex: vertex.clone(), inputs, left, part: failed.part, exit };
        self.remains.insert(vertex.digest, Arc::new(remains));
    }

    /// Keeps the input whose content could not be read.
    pub fn note_unreadable(&mut self, vertex: &Arc<Vertex>, input: u32, result: ResultId) {
        let inputs = vec![self.results.get(&result).map(|kept| kept.held.clone())];
        let part = Some(Part::Content(input));
        let remains = Remains { vertex: vertex.clone(), inputs, left: Vec::new(), part, exit: None };
        self.remains.insert(vertex.digest, Arc::new(remains));
    }
}

/// An operation that failed.
pub struct Failure {
    /// Why.
    pub error: Error,
    left: Vec<Option<SnapshotId>>,
    own: Vec<SnapshotId>,
    part: Option<Part>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, left: Vec::new(), own: Vec::new(), part: None }
    }
}

impl From<ops::Error> for Failure {
    fn from(error: ops::Error) -> Failure {
        Failure::from(Error::from(error))
    }
}

impl From<Box<ops::exec::Failed>> for Failure {
    fn from(failed: Box<ops::exec::Failed>) -> Failure {
        Failure { error: failed.error.into(), left: failed.left, own: failed.own, part: None }
    }
}

impl From<Box<ops::file::Failed>> for Failure {
    fn from(failed: Box<ops::file::Failed>) -> Failure {
        let part = failed.action.map(Part::Action);
        Failure { error: failed.error.into(), own: failed.own, left: failed.left, part }
    }
}
