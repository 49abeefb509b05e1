//! This disk: blobs, snapshots, volumes, records, images, kept builds, leases, and what becomes of them (life cycle).
//! One process owns a store at a time. Everything here blocks; nothing prints, reads the environment or runs a step, and
//! no call on a step's path waits for a disk: see [`Store::sync`].

mod blobs;
pub mod canvas;
mod clock;
mod error;
pub mod format;
mod history;
mod images;
pub mod layer;
mod layer_blobs;
mod leases;
pub mod lifecycle;
mod lock;
mod meta;
mod open;
mod records;
mod snapshots;
mod trash;
pub mod tree;
mod usage;
mod uses;
pub mod view;
mod volumes;

pub use blobs::{Blob, BlobInfo, BlobWriter, Blobs};
pub use error::{Error, Result};
pub use history::{Blobs as HistoryBlobs, Entry as HistoryEntry, History, HistoryWriter, Retention};
pub use images::{Image, Images};
pub use layer_blobs::{Form, Layer, LayerBlobs};
pub use leases::{Lease, Leases, Resource};
pub use lock::Owner;
pub use meta::{Recovered, SyncPoint};
pub use open::{Options, Store, sync};
pub use records::{CacheIndex, MadeOf, NewRecord, Records, Removal, Row as RecordRow, Tombstone};
pub use snapshots::{Draft, Kind, SnapshotId, SnapshotInfo, Snapshots};
pub use usage::{Usage, measure};
pub use volumes::{Sharing, Volume, VolumeInfo, VolumeRequest, Volumes};
