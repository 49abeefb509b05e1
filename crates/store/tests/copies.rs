//! Where layers hold copies of a client's files: what is noted is found by a later scan, whatever became of the list.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use store::Store;
use store::canvas::Attributes;
use store::tree::{Filter, Tree};

fn plain() -> Attributes {
    Attributes::made(0o644, None, None)
}

fn scan(store: &Store, context: &Path) -> Tree {
    Tree::scan(store, context, "context", &Filter::default(), None).unwrap()
}

/// Copies a file into a layer of its own, and notes that.
fn copy(store: &Store, tree: &Tree, context: &Path, name: &str) {
    let copies = tree.copies().unwrap();
    let wanted = copies.look([].iter()).wanted(&context.join(name), &plain()).unwrap();
    let draft = store.snapshots().begin(None).unwrap();
    std::fs::copy(context.join(name), draft.upper().join(name)).unwrap();
    let id = draft.commit().unwrap();
    copies.note(id, HashMap::from([(PathBuf::from(name), wanted)])).unwrap();
}

/// Which of the files a scan made now finds copies of.
fn known(store: &Store, context: &Path, names: [&str; 3]) -> Vec<bool> {
    let (tree, aside) = (scan(store, context), tempfile::tempdir_in(store.root()).unwrap());
    let look = tree.copies().unwrap().look([].iter());
    let link = |name: &str| {
        let wanted = look.wanted(&context.join(name), &plain()).unwrap();
        let linked = look.link(&wanted, &aside.path().join(name));
        assert!(!linked || std::fs::read_to_string(aside.path().join(name)).unwrap() == name);
        linked
    };
    names.into_iter().map(link).collect()
}

#[test]
fn copies_are_found_again_whatever_became_of_the_list() {
    let (_root, store) = super::new();
    let context = tempfile::tempdir().unwrap();
    let context = context.path();
    let names = ["a", "b", "c"];
    names.iter().for_each(|name| std::fs::write(context.join(name), name).unwrap());
    let list = || {
        let mut files = std::fs::read_dir(store.root().join("scans")).unwrap().map(|entry| entry.unwrap().path());
        files.find(|path| path.extension().is_some_and(|e| e == "copies")).unwrap()
    };
    let tree = scan(&store, context);
    copy(&store, &tree, context, "a");
    let first = std::fs::read(list()).unwrap();
    copy(&store, &tree, context, "b");
    let both = std::fs::read(list()).unwrap();
    // What was written stays, so that many copies cost no more than each by itself.
    assert!(both.starts_with(&first) && both.len() > first.len());
    assert_eq!(known(&store, context, names), [true, true, false]);

    // A list whose end was lost tells what is before; a later copy writes it whole.
    std::fs::write(list(), &both[..both.len() - 1]).unwrap();
    assert_eq!(known(&store, context, names), [true, false, false]);
    copy(&store, &scan(&store, context), context, "c");
    assert_eq!(known(&store, context, names), [true, false, true]);

    // What the directory no longer has is forgotten by the next copy.
    let large = std::fs::metadata(list()).unwrap().len();
    std::fs::write(context.join("a"), "changed").unwrap();
    std::fs::remove_file(context.join("c")).unwrap();
    copy(&store, &scan(&store, context), context, "b");
    assert!(std::fs::metadata(list()).unwrap().len() < large);
}
