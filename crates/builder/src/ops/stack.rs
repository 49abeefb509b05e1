//! Merge and diff: layers of one tree put on top of another, by linking files that the store has already (LLB `MergeOp`,
//! `DiffOp`). No byte is copied where the file system can link.

use store::layer::changes;
use store::view::View;
use store::{SnapshotId, Store};

use super::Error;

/// Stacks trees in order: the first is built on as it is, the layers of the others are laid over it.
pub fn merge(store: &Store, trees: &[Option<SnapshotId>], name: &str) -> Result<Option<SnapshotId>, Error> {
    let mut trees = trees.iter().flatten().copied();
    let Some(mut top) = trees.next() else { return Ok(None) };
    for tree in trees {
        for layer in store.snapshots().chain(tree)?.into_iter().rev() {
            top = lay(store, Some(top), layer, name)?;
        }
    }
    Ok(Some(top))
}

/// What `upper` has over `lower`: the layers above it, when `upper` was built on `lower`; otherwise one layer of all that
/// differs.
pub fn diff(
    store: &Store,
    lower: Option<SnapshotId>,
    upper: Option<SnapshotId>,
    name: &str,
) -> Result<Option<SnapshotId>, Error> {
    let Some(lower) = lower else { return Ok(upper) };
    let chain = upper.map_or(Ok(Vec::new()), |upper| store.snapshots().chain(upper))?;
    let Some(at) = chain.iter().position(|id| *id == lower) else {
        let mut draft = store.snapshots().begin(None)?;
        draft.describe(store::Kind::Regular, name);
        let view = |tree| Ok::<_, Error>(View::of_layers(store.snapshots().layers(tree)?));
        let above = upper.map_or(Ok(View::empty()), view)?;
        changes::between(&view(lower)?, &above, &draft)?;
        return Ok(Some(draft.commit()?));
    };
    let mut top = None;
    for layer in chain[..at].iter().rev() {
        top = Some(lay(store, top, *layer, name)?);
    }
    Ok(top)
}

/// What `layer` changed in the tree beneath it, as a new layer on `parent`. Where that is all of it, it is the same layer to
/// an image: its blobs are found again.
fn lay(store: &Store, parent: Option<SnapshotId>, layer: SnapshotId, name: &str) -> Result<SnapshotId, Error> {
    let mut draft = store.snapshots().begin(parent)?;
    draft.describe(store::Kind::Regular, name);
    let whole = changes::of_layer(store, layer, &draft)?;
    let made = draft.commit()?;
    let known = store.layer_blobs().get(layer)?;
    if let (true, Some(diff_id), Some(size)) = (whole, known.diff_id, known.diff_size) {
        store.layer_blobs().set_diff(made, diff_id, size)?;
        for form in known.forms {
            store.layer_blobs().add_form(made, form)?;
        }
    }
    Ok(made)
}
