//! Folding the journal into the base: a new journal takes the writes, the old one's rows go into the base with one
//! commit, then the old one is removed. A kill between any two of these steps is put right at open: rows are absolute, so
//! replaying a journal that the base already has changes nothing. It runs in the background; nobody waits for it.

use std::sync::PoisonError;

use super::journal::{self, sync_file_system};
use super::{Meta, Value};
use crate::error::Result;

impl Meta {
    /// Folds everything written so far into the base; on disk for sure when it returns.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        let _turn = self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        let (old, cut, bytes) = {
            let mut writer = self.lock_writer();
            let old = writer.journal.number();
            let next = writer.journal.next(&self.root)?;
            writer.older += writer.journal.len();
            writer.journal = next;
            (old, writer.written, writer.older)
        };
        let folded = self.fold(old, cut);
        let mut writer = self.lock_writer();
        writer.asked = false;
        if folded.is_ok() {
            writer.older -= bytes;
        }
        folded
    }

    /// Brings the rows up to write `cut`, which are in journals up to `old`, into the base.
    fn fold(&self, old: u64, cut: u64) -> Result<()> {
        // The files that the rows speak of must be on disk before the rows are for good.
        sync_file_system(&self.root)?;
        let rows: Vec<(Vec<u8>, Value)> = {
            let overlay = self.overlay.read().unwrap_or_else(PoisonError::into_inner);
            let settled = overlay.iter().filter(|(_, (number, _))| *number <= cut);
            settled.map(|(key, (_, value))| (key.clone(), value.clone())).collect()
        };
        self.base.write().unwrap_or_else(PoisonError::into_inner).writable()?;
        self.base
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .apply(old, rows.iter().map(|(key, value)| (key, value)))?;
        self.overlay.write().unwrap_or_else(PoisonError::into_inner).retain(|_, (number, _)| *number > cut);
        // Every journal up to `old` is contained; more than one is left when an earlier checkpoint was interrupted.
        journal::remove_up_to(&self.root, old)
    }
}
