//! A full disk: errors name the file, what was acknowledged stays, and pruning still works.

use std::io::Write;
use std::path::Path;

use store::lifecycle::{Inventory, Policy, Rule, plan, sweep};
use store::{Error, Store};

use crate::records::record;
use crate::{count, open};

/// A small file system, unmounted when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Option<Small> {
        let folder = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::empty();
        match rustix::mount::mount("tmpfs", folder.path(), "tmpfs", flags, c"size=6m") {
            Ok(()) => Some(Small(folder)),
            Err(error) => {
                eprintln!("SKIPPED: a full disk needs the right to mount a tmpfs ({error})");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

fn fill(store: &Store) -> Error {
    for number in 0u64.. {
        let mut writer = store.blobs().writer().unwrap();
        let written = writer.write_all(&number.to_le_bytes().repeat(20_000));
        let committed = match written {
            Ok(()) => writer.commit(None).map(drop),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
                drop(writer);
                break;
            }
        };
        if let Err(error) = committed {
            return error;
        }
    }
    // Now what is left, until not even a row fits.
    for number in 0u64.. {
        let id = oci::Digest::of(&number.to_le_bytes());
        let keys = [id];
        let body = [7; 700];
        let put = store.records().put(&store::NewRecord { body: &body, ..record(id, &keys, number) });
        if let Err(error) = put {
            return error;
        }
    }
    unreachable!("the disk never fills")
}

#[test]
fn a_full_disk_is_an_error_and_pruning_helps() {
    let Some(disk) = Small::new() else { return };
    let store = open(disk.path());
    let error = fill(&store);
    assert!(matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull), "{error}");
    assert!(error.to_string().contains("journal."), "{error}");
    let (blobs, records) = (store.blobs().list().unwrap().len(), store.records().list().unwrap().len());
    assert!(blobs > 10 && records > 10);
    drop(store);

    let store = open(disk.path());
    assert_eq!(store.blobs().list().unwrap().len(), blobs);
    assert_eq!(store.records().list().unwrap().len(), records);
    assert_eq!(count(&store, "tmp"), 0);
    store.blobs().list().unwrap().iter().for_each(|blob| store.blobs().verify(&blob.digest).unwrap());

    let everything = Policy::asked("test", Rule { all: true, ..Rule::default() });
    let swept = sweep(&store, plan(&Inventory::take(&store).unwrap(), &everything, u64::MAX)).unwrap();
    assert_eq!(swept.gone.len(), blobs + records);
    store.blobs().put(&[1; 1_000_000]).unwrap();
    drop(store);
    assert_eq!(open(disk.path()).blobs().list().unwrap().len(), 1);
}
