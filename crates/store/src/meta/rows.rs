//! Reading and staging rows: the overlay laid over the base.
//! A view holds the overlay's lock for reading, so it is short-lived: nobody writes rows, asks for another view or waits for
//! another lock of the store while holding one. Builds for tests look after that.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::RwLockReadGuard;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::base::{Base, Reader};
use super::{Key, Meta, Overlay, Table, Value};
use crate::error::Result;

/// All rows at one moment.
pub(crate) struct Rows<'a> {
    overlay: RwLockReadGuard<'a, Overlay>,
    base: Reader,
    /// Keeps a checkpoint from opening the file anew under the reader.
    _file: RwLockReadGuard<'a, Base>,
    _viewing: Viewing,
}

/// Whether this thread has a view. A second one behind a writer that waits for the first, or a lock whose holder writes,
/// would be waited for for ever.
struct Viewing;

#[cfg(debug_assertions)]
thread_local! {
    static VIEWING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// To be called before anything that may wait for somebody who writes rows.
pub(crate) fn no_view_is_held() {
    #[cfg(debug_assertions)]
    assert!(!VIEWING.get(), "a view of the rows is held by this thread: let it go first");
}

impl Viewing {
    fn begin() -> Viewing {
        #[cfg(debug_assertions)]
        VIEWING.set(true);
        Viewing
    }
}

impl Drop for Viewing {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        VIEWING.set(false);
    }
}

impl<'a> Rows<'a> {
    pub(super) fn new(overlay: RwLockReadGuard<'a, Overlay>, file: RwLockReadGuard<'a, Base>) -> Result<Rows<'a>> {
        Ok(Rows { overlay, base: file.reader()?, _file: file, _viewing: Viewing::begin() })
    }

    /// Reads one row.
    pub(crate) fn get<K: Key, V: DeserializeOwned>(&self, table: &Table<K, V>, key: &K) -> Result<Option<V>> {
        let key = table.key(key);
        match self.overlay.get(&key) {
            Some((_, Some(value))) => table.read_value(value).map(Some),
            Some((_, None)) => Ok(None),
            None => self.base.get(&key, |bytes| table.read_value(bytes))?.transpose(),
        }
    }

    /// Visits the rows of `table` whose keys begin with `prefix` in the order of their keys, until `visit` breaks.
    pub(crate) fn scan<K: Key, V: DeserializeOwned>(
        &self,
        table: &Table<K, V>,
        prefix: &[u8],
        mut visit: impl FnMut(K, V) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut start = vec![table.id];
        start.extend_from_slice(prefix);
        let mut over = self
            .overlay
            .range::<[u8], _>((Bound::Included(start.as_slice()), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(&start))
            .peekable();
        let mut show = |key: &[u8], value: &[u8]| visit(table.read_key(key)?, table.read_value(value)?);
        let flow = self.base.scan(&start, |key, value| {
            while let Some((newer, (_, change))) = over.next_if(|(newer, _)| newer.as_slice() <= key) {
                if let Some(value) = change
                    && show(newer, value)?.is_break()
                {
                    return Ok(ControlFlow::Break(()));
                }
                if newer.as_slice() == key {
                    return Ok(ControlFlow::Continue(()));
                }
            }
            show(key, value)
        })?;
        if flow.is_break() {
            return Ok(());
        }
        for (key, (_, change)) in over {
            if let Some(value) = change
                && show(key, value)?.is_break()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The rows of `table` under `prefix`, all at once. For tables and prefixes that are known to be short.
    pub(crate) fn list<K: Key, V: DeserializeOwned>(&self, table: &Table<K, V>, prefix: &[u8]) -> Result<Vec<(K, V)>> {
        let mut list = Vec::new();
        self.scan(table, prefix, |key, value| {
            list.push((key, value));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(list)
    }
}

/// Writes that become visible together. Reads through it see what it staged.
pub(crate) struct Batch<'a> {
    meta: &'a Meta,
    staged: BTreeMap<Vec<u8>, Value>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(meta: &'a Meta) -> Batch<'a> {
        Batch { meta, staged: BTreeMap::new() }
    }

    pub(super) fn staged(self) -> Vec<(Vec<u8>, Value)> {
        self.staged.into_iter().collect()
    }

    /// Stages a row.
    pub(crate) fn put<K: Key, V: Serialize>(&mut self, table: &Table<K, V>, key: &K, value: &V) -> Result<()> {
        self.staged.insert(table.key(key), Some(table.value(value)?.into()));
        Ok(())
    }

    /// Stages a removal.
    pub(crate) fn delete<K: Key, V>(&mut self, table: &Table<K, V>, key: &K) {
        self.staged.insert(table.key(key), None);
    }

    /// Reads one row, staged or written.
    pub(crate) fn get<K: Key, V: DeserializeOwned>(&self, table: &Table<K, V>, key: &K) -> Result<Option<V>> {
        match self.staged.get(&table.key(key)) {
            Some(Some(value)) => table.read_value(value).map(Some),
            Some(None) => Ok(None),
            None => self.meta.get(table, key),
        }
    }

    /// The written rows of `table` under `prefix`; what this batch staged does not show.
    pub(crate) fn list<K: Key, V: DeserializeOwned>(&self, table: &Table<K, V>, prefix: &[u8]) -> Result<Vec<(K, V)>> {
        self.meta.rows()?.list(table, prefix)
    }
}
