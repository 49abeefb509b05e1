//! Every name and version that larder puts on disk, in one place.
//! Whoever changes the meaning of one of these raises its number here; nothing else in the crate spells a path.
//!
//! ```text
//! <root>/
//!   format                 "larder store 2": another number is another store, and refused
//!   lock                   flock of the one owner; its text says who (pid, command, since)
//!   meta.redb              rows that are on disk for sure (base)
//!   journal.<n>            rows written since, in frames with a checksum; the newest n takes the writes
//!   ballast                room that is given up when the disk is full, so that removing can be written down
//!   synced                 "<n> <offset>": how much of the journal a syncfs has made safe from power loss
//!   blobs/sha256/ab/<hex>  immutable bytes, two leading hex digits as folder
//!   snapshots/<id>/        one overlay layer each: the former upper directory
//!   volumes/<id>/          one directory behind a cache mount each
//!   trees/<hex>            file listings by digest (zstd), evidence for `FilesChanged`
//!   scans/<hex>            digests of a client's files by their stat; losing one costs reading. Beside it what layers hold
//!                          of them: <hex>.copies, <hex>.<hex>.base; losing one costs copying
//!   history/<id>           events of one kept build
//!   drafts/<id>[.work]      snapshots and volumes being made, with overlay's work directory; whatever is here at open is left over
//!   tmp/<id>               blobs being written; whatever is here at open is left over
//!   trash/<id>             trees being removed; emptied in the background
//! ```

use std::path::{Path, PathBuf};

/// Version of the tree above.
pub const STORE: u32 = 2;
/// Version of the journal's frames.
pub const JOURNAL: u32 = 1;

/// The text of the file `format`, before the number.
pub const FORMAT_TEXT: &str = "larder store ";
/// The file that holds [`STORE`].
pub const FORMAT: &str = "format";
/// The lock file.
pub const LOCK: &str = "lock";
/// The base of the metadata.
pub const META: &str = "meta.redb";
/// Prefix of journals.
pub const JOURNAL_PREFIX: &str = "journal.";
/// How much of the journal is safe from power loss.
pub const SYNCED: &str = "synced";
/// Room to give up.
pub const BALLAST: &str = "ballast";
/// Bytes of the ballast.
pub const BALLAST_SIZE: u64 = 1 << 20;
/// Blobs.
pub const BLOBS: &str = "blobs/sha256";
/// Snapshots.
pub const SNAPSHOTS: &str = "snapshots";
/// Volumes.
pub const VOLUMES: &str = "volumes";
/// File listings.
pub const TREES: &str = "trees";
/// Indexes of scans.
pub const SCANS: &str = "scans";
/// Kept builds.
pub const HISTORY: &str = "history";
/// Trees being made.
pub const DRAFTS: &str = "drafts";
/// Blobs being written.
pub const TMP: &str = "tmp";
/// Trees being removed.
pub const TRASH: &str = "trash";

/// Folders that an open store has.
pub(crate) const FOLDERS: [&str; 9] = [BLOBS, SNAPSHOTS, VOLUMES, TREES, SCANS, HISTORY, DRAFTS, TMP, TRASH];

/// First byte of a row's key, and the version that leads its value. A number is never used again for another table.
pub(crate) mod table {
    use crate::meta::Table;
    use crate::{blobs, history, images, layer_blobs, records, snapshots, uses, volumes};
    use oci::Digest;

    pub const BLOBS: Table<Digest, blobs::Row> = Table::new(1, "blobs", 1);
    pub const SNAPSHOTS: Table<crate::SnapshotId, snapshots::Row> = Table::new(2, "snapshots", 1);
    pub const CHILDREN: Table<(crate::SnapshotId, crate::SnapshotId), ()> = Table::new(3, "children", 1);
    pub const LAYERS: Table<crate::SnapshotId, layer_blobs::Layer> = Table::new(4, "layers", 1);
    pub const CHAINS: Table<Digest, crate::SnapshotId> = Table::new(5, "chains", 1);
    pub const VOLUMES: Table<u64, volumes::Row> = Table::new(6, "volumes", 1);
    pub const IMAGES: Table<String, images::Image> = Table::new(7, "images", 1);
    pub const HISTORY: Table<String, history::Entry> = Table::new(8, "history", 1);
    pub const USES: Table<Vec<u8>, uses::Use> = Table::new(9, "uses", 1);
    pub const LINKS: Table<records::LinkKey, Vec<u8>> = Table::new(10, "links", 1);
    pub const RECORDS: Table<Digest, records::Row> = Table::new(11, "records", 1);
    pub const BY_KEY: Table<(Digest, Digest), u64> = Table::new(12, "records by key", 1);
    pub const BY_STEP: Table<(Digest, Digest), u64> = Table::new(13, "records by step", 1);
    pub const TOMBSTONES: Table<Digest, records::Tombstone> = Table::new(14, "tombstones", 1);
    pub const BY_SNAPSHOT: Table<(crate::SnapshotId, Digest), ()> = Table::new(15, "records by snapshot", 1);
    pub const BODIES: Table<Digest, Vec<u8>> = Table::new(16, "record bodies", 1);
    pub const BY_OPERATION: Table<(Digest, Digest), u64> = Table::new(17, "records by operation", 1);
    pub const HISTORY_BLOBS: Table<String, history::Blobs> = Table::new(18, "blobs of kept builds", 1);
    pub const BACK_LINKS: Table<records::LinkKey, ()> = Table::new(21, "links by child", 1);
}

/// Where one blob lies under `root`.
pub(crate) fn blob(root: &Path, digest: &oci::Digest) -> PathBuf {
    let hex = digest.hex();
    let mut path = root.join(BLOBS);
    path.push(&hex[..2]);
    path.push(&hex);
    path
}
