//! A copy of a client's directory that was made before on the same layer: only what changed since is copied, into a layer that
//! amends the earlier one. What it gives is what a whole copy gives.
//! It decides whether that can be; the copying is `copy`'s.

use std::sync::Arc;

use graph::wire::{self, file_action::Action};
use oci::Digest;
use store::SnapshotId;
use store::tree::{Base, Tree};

use super::file::Input;

/// So many changed files make a whole copy worth its time: later ones then copy few again.
const MANY: usize = 256;

/// A copy that may have been made before.
pub struct Again {
    /// What it does.
    copy: Digest,
    parent: Option<SnapshotId>,
    tree: Arc<Tree>,
}

impl Again {
    /// Of an operation that is one copy of a client's directory; `None` of any other, and of those whose result depends on
    /// more than each file by itself.
    pub fn of(op: &wire::FileOp, inputs: &[Input]) -> Option<Again> {
        let [action] = op.actions.as_slice() else { return None };
        let Some(Action::Copy(copy)) = &action.action else { return None };
        let parent = match usize::try_from(action.input) {
            Ok(parent) => inputs.get(parent)?.snapshot,
            Err(_) => None,
        };
        let tree = inputs.get(usize::try_from(action.secondary_input).ok()?)?.tree.clone()?;
        tree.copies()?;
        // An archive is unpacked, a directory lands elsewhere once its target is there, what is replaced leaves a mark.
        let plain = copy.dir_copy_contents
            && !copy.attempt_unpack_docker_compatibility
            && !copy.always_replace_existing_dest_paths;
        // Names of owners are looked up in the parent; what else there is as an input would be unknown here.
        let known = inputs.iter().all(|input| input.tree.is_some() || input.snapshot == parent);
        (plain && known).then(|| Again { copy: Digest::of(format!("{:?}", op.actions).as_bytes()), parent, tree })
    }

    /// The layer that it gave the last time.
    pub fn base(&self) -> Option<Base> {
        self.tree.copies()?.base(&self.copy, self.parent)
    }

    /// Notes what a whole copy gave.
    pub fn note(&self, made: SnapshotId, notes: &super::copy::Notes) -> Result<(), store::Error> {
        self.tree.copies().map_or(Ok(()), |copies| copies.note_base(&self.copy, self.parent, made, notes))
    }

    /// Notes how many files were copied onto the earlier layer.
    pub fn amended(&self, files: usize) -> Result<(), store::Error> {
        match self.tree.copies() {
            Some(copies) if files > MANY => copies.forget_base(&self.copy),
            _ => Ok(()),
        }
    }
}
