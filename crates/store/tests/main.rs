//! The store as its users see it: real directories, real processes, real kills. One binary for all of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)] // A test that fails may panic, and skips are told.

mod blobs;
mod copies;
mod crash;
mod full_disk;
mod history;
mod images;
mod layer;
mod leases;
mod lifecycle;
mod owners;
mod records;
mod snapshots;
mod volumes;

use std::path::Path;

use store::{Options, Store};

/// Opens a store that nobody else may have.
fn open(root: &Path) -> Store {
    Store::open(root, Options { command: "test".to_owned(), ..Options::default() }).expect("open the store")
}

/// A store in a folder of its own.
fn new() -> (tempfile::TempDir, Store) {
    let root = tempfile::tempdir().expect("a folder");
    let store = open(root.path());
    (root, store)
}

/// How many entries a folder of the store has.
fn count(store: &Store, folder: &str) -> usize {
    std::fs::read_dir(store.root().join(folder)).expect("list").count()
}
