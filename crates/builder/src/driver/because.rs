//! The cause of a miss: gathers what the step is made of now and what it was before, and asks the solver.
//! It reads records; it never decides whether something runs.

use graph::{Kind, Vertex};
use solver::{Cause, Facts, Ingredients, Locator, Parent, Part, Ran, Reason, Save};

use super::State;
use crate::{Error, Live, Work, blocking};

/// What a miss is explained from.
pub struct Question {
    /// Where the step is.
    pub locator: Locator,
    /// What it is made of.
    pub wanted: Ingredients,
    /// Steps beneath that ran, with their causes.
    pub ran: Vec<Ran>,
    /// Why the solver runs it.
    pub reason: Reason,
    /// Its keys.
    pub save: Save,
    /// A record of an imported cache that was lost; a cache that could not be asked.
    pub kept_from: (Option<Cause>, Option<Cause>),
}

impl State {
    /// The named parts of a step: its own, its bases, and its parents.
    pub fn ingredients(&self, vertex: &Vertex, save: &Save) -> Ingredients {
        let mut list = Ingredients::of(vertex);
        for (i, edge) in vertex.inputs.iter().enumerate() {
            let name = self.vertex(&edge.vertex).map(|v| v.name()).unwrap_or_default();
            let link = save.links.iter().find(|(_, link, _)| link.input as usize == i);
            list.parents.push(Parent { name, key: link.map(|(key, ..)| *key) });
            list.parts.extend(self.source_part(&edge.vertex));
        }
        list
    }

    /// What a source is now; what was only unpacked from one is named by it.
    fn source_part(&self, step: &oci::Digest) -> Option<Part> {
        let part = |step: &oci::Digest| self.sources.get(step).and_then(|source| source.part());
        part(step).or_else(|| {
            let vertex = self.vertex(step)?;
            let [archive] = vertex.inputs.as_slice() else { return None };
            part(&archive.vertex).filter(|_| matches!(vertex.kind(), Some(Kind::File(_))))
        })
    }

    /// Inputs that ran, by name.
    pub fn ran(&self, ran: &[oci::Digest]) -> Vec<Ran> {
        let name = |d: &oci::Digest| self.vertex(d).map(|v| v.name()).unwrap_or_default();
        let known = ran.iter().filter_map(|d| Some((d, self.causes.get(d)?)));
        known.map(|(d, cause)| Ran { step: name(d), cause: Box::new(cause.clone()) }).collect()
    }
}

/// Lists the files that a step takes from the client's directories, and keeps the lists as evidence.
pub async fn files(work: &Work, vertex: &Vertex, inputs: &[Live], list: &mut Ingredients) -> Result<(), Error> {
    if matches!(vertex.kind(), Some(Kind::Source(_))) {
        return Ok(());
    }
    let map = match solver::key::cache_map(vertex, &oci::Platform::host()) {
        Ok(map) => map,
        // The solver has said so already.
        Err(_) => return Ok(()),
    };
    for (input, key) in inputs.iter().zip(&map.inputs) {
        let (Live::Local(tree), Some(selections)) = (input, &key.content) else { continue };
        let (store, scanned, selections) = (work.engine.store.clone(), tree.scanned.clone(), selections.clone());
        let listed = blocking("listed the files", move || {
            let files = scanned.listing(&selections)?;
            let count = files.0.len() as u64;
            store.records().put_files(&files).map(|listing| (listing, count))
        });
        let (listing, count) = listed.await?;
        list.parts.push(Part::Files { from: tree.name.clone(), listing, count });
    }
    Ok(())
}

/// The cause.
pub async fn cause(work: &Work, question: &Question) -> Result<Cause, Error> {
    let store = work.engine.store.clone();
    let (locator, wanted) = (question.locator.clone(), question.wanted.clone());
    let (ran, reason, keys) = (question.ran.clone(), question.reason.clone(), question.save.keys.clone());
    let operation = question.save.operation;
    let (lost_elsewhere, unavailable) = question.kept_from.clone();
    let find = move || {
        let records = store.records();
        let earlier = records.earlier(&locator, &operation)?;
        let lost = lost_elsewhere.map(|cause| solver::Lost { cause });
        let lost = if lost.is_some() { lost } else { records.lost(&keys)? };
        // A listing that can't be read is no evidence; the cause is then found in what else differs.
        let listing = |digest: &oci::Digest| records.files(digest).ok().flatten();
        let facts =
            Facts { earlier: earlier.iter().map(|r| &r.ingredients).collect(), lost, ran, listing: Some(&listing) };
        let cause = solver::explain(&wanted, &reason, &facts);
        // Whether it was ever built is not known as long as a cache did not answer.
        Ok::<_, store::Error>(match (cause, unavailable) {
            (Cause::NeverBuilt, Some(unavailable)) => unavailable,
            (cause, _) => cause,
        })
    };
    blocking("looked for the cause", find).await
}
