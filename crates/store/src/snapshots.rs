//! Snapshots: one overlay layer each, with a chain of parents. A draft is the writable upper of one; committing renames it
//! into place and notes it. A committed layer never changes, but another may amend it: both are then one layer of an image.
//! Mounting is not done here: `layers` gives overlay's order.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Doing, Error, Result};
use crate::format::{self, table};
use crate::meta::{Batch, Key};
use crate::records::{Removal, bury};
use crate::{Resource, Store, clock, trash, usage};

/// A snapshot's name: short, unique in its store, and rising with time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId(u64);

impl SnapshotId {
    pub(crate) fn number(self) -> u64 {
        self.0
    }
    pub(crate) fn from_number(number: u64) -> SnapshotId {
        SnapshotId(number)
    }
}

impl std::fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&clock::id_text(self.0))
    }
}

impl std::str::FromStr for SnapshotId {
    type Err = Error;
    fn from_str(text: &str) -> Result<SnapshotId> {
        let none = || Error::NotFound { kind: "snapshot", name: text.to_owned() };
        clock::parse_id(text).map(SnapshotId).ok_or_else(none)
    }
}

// Text where people read it, a number where only larder does.
impl Serialize for SnapshotId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for SnapshotId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SnapshotId, D::Error> {
        if !deserializer.is_human_readable() {
            return u64::deserialize(deserializer).map(SnapshotId);
        }
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a snapshot or volume holds; the types of BuildKit's usage records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// `regular`: the result of a step, or a layer of a base image.
    #[default]
    Regular,
    /// `internal`: larder's own.
    Internal,
    /// `frontend`: a frontend image.
    Frontend,
    /// `source.local`: a client's files.
    SourceLocal,
    /// `source.git.checkout`: a checked-out commit.
    SourceGitCheckout,
    /// `exec.cachemount`: a volume.
    CacheMount,
}

impl Kind {
    /// BuildKit's name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Regular => "regular",
            Kind::Internal => "internal",
            Kind::Frontend => "frontend",
            Kind::SourceLocal => "source.local",
            Kind::SourceGitCheckout => "source.git.checkout",
            Kind::CacheMount => "exec.cachemount",
        }
    }
}

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) parent: Option<SnapshotId>,
    pub(crate) depth: u32,
    pub(crate) created: u64,
    pub(crate) size: Option<u64>,
    pub(crate) kind: Kind,
    pub(crate) description: String,
    /// Its folder and the parent's are one layer of an image: see [`Snapshots::amend`].
    pub(crate) amends: bool,
}

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its name.
    pub id: SnapshotId,
    /// The snapshot beneath, if any.
    pub parent: Option<SnapshotId>,
    /// Layers in its chain, itself included.
    pub depth: u32,
    /// When it was committed, milliseconds since 1970.
    pub created: u64,
    /// Allocated bytes of its own layer; `None` until somebody measured.
    pub size: Option<u64>,
    /// What it holds.
    pub kind: Kind,
    /// For people: the step that made it.
    pub description: String,
}

impl SnapshotInfo {
    pub(crate) fn new(id: SnapshotId, row: Row) -> SnapshotInfo {
        let Row { parent, depth, created, size, kind, description, .. } = row;
        SnapshotInfo { id, parent, depth, created, size, kind, description }
    }
}

/// See [`Store::snapshots`].
pub struct Snapshots<'a>(pub(crate) &'a Store);

impl Snapshots<'_> {
    /// Starts a layer on top of `parent`, or on nothing.
    pub fn begin(&self, parent: Option<SnapshotId>) -> Result<Draft> {
        self.draft(parent, false)
    }

    /// Starts a layer that is `base`'s layer with some of its files replaced: what is written lies over `base`, and to an
    /// image the two are one layer. Nothing of `base` may be removed in it, and no path may become of another kind.
    pub fn amend(&self, base: SnapshotId) -> Result<Draft> {
        self.draft(Some(base), true)
    }

    fn draft(&self, parent: Option<SnapshotId>, amends: bool) -> Result<Draft> {
        let (lower, depth) = match parent {
            Some(parent) => (self.layers(parent)?, self.row(parent)?.depth),
            None => (Vec::new(), 0),
        };
        let drafts = self.0.0.root.join(format::DRAFTS);
        let (id, upper) = loop {
            let id = clock::id();
            let upper = drafts.join(clock::id_text(id));
            match fs::create_dir(&upper) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made.doing("make", &upper)?,
            }
            break (SnapshotId(id), upper);
        };
        Ok(Draft {
            store: self.0.clone(),
            id,
            row: Row {
                parent,
                depth: depth + 1,
                created: 0,
                size: None,
                kind: Kind::Regular,
                description: String::new(),
                amends,
            },
            upper,
            work: None,
            committed: false,
            lower,
        })
    }

    /// The layer directories of `id` and its parents in the order of overlay's `lowerdir`: top first, own layer included.
    ///
    /// # Errors
    /// [`Error::NotFound`] when one of them is not in the store.
    pub fn layers(&self, id: SnapshotId) -> Result<Vec<PathBuf>> {
        Ok(self.down(id)?.into_iter().map(|(id, _)| self.dir(id)).collect())
    }

    /// The chain of `id`: itself first, the lowest last; one snapshot for each layer of an image.
    pub fn chain(&self, id: SnapshotId) -> Result<Vec<SnapshotId>> {
        Ok(self.down(id)?.into_iter().filter(|(_, amended)| !amended).map(|(id, _)| id).collect())
    }

    /// The folders that are together `id`'s own layer, top first: its own, and below it the one that it amends. What lies
    /// in several of them is what the first says, directories are what is in any.
    pub fn parts(&self, id: SnapshotId) -> Result<Vec<PathBuf>> {
        let down = self.down(id)?;
        let own = down.iter().skip(1).take_while(|(_, amended)| *amended).map(|(id, _)| *id);
        Ok(std::iter::once(id).chain(own).map(|id| self.dir(id)).collect())
    }

    /// `id` and all beneath, top first, each with whether the one above amends it.
    fn down(&self, id: SnapshotId) -> Result<Vec<(SnapshotId, bool)>> {
        let rows = self.0.0.meta.rows()?;
        let mut down = Vec::new();
        let mut next = Some((id, false));
        while let Some((id, amended)) = next {
            down.push((id, amended));
            let row = rows.get(&table::SNAPSHOTS, &id)?.ok_or_else(|| not_found(id))?;
            next = row.parent.map(|parent| (parent, row.amends));
        }
        Ok(down)
    }

    /// Whether `id` is in the store.
    pub fn has(&self, id: SnapshotId) -> Result<bool> {
        Ok(self.0.0.meta.get(&table::SNAPSHOTS, &id)?.is_some())
    }

    /// What is known of `id`.
    pub fn info(&self, id: SnapshotId) -> Result<SnapshotInfo> {
        Ok(SnapshotInfo::new(id, self.row(id)?))
    }

    /// The directory of what `id` itself wrote; see [`Snapshots::parts`] for all of its layer. Nobody writes there.
    pub fn dir(&self, id: SnapshotId) -> PathBuf {
        self.0.0.root.join(format::SNAPSHOTS).join(clock::id_text(id.0))
    }

    /// The snapshots right above `id`.
    pub fn children(&self, id: SnapshotId) -> Result<Vec<SnapshotId>> {
        let mut prefix = Vec::new();
        id.encode(&mut prefix);
        let rows = self.0.0.meta.rows()?.list(&table::CHILDREN, &prefix)?;
        Ok(rows.into_iter().map(|((_, child), ())| child).collect())
    }

    /// All snapshots, oldest first.
    pub fn list(&self) -> Result<Vec<SnapshotInfo>> {
        let rows = self.0.0.meta.rows()?.list(&table::SNAPSHOTS, &[])?;
        Ok(rows.into_iter().map(|(id, row)| SnapshotInfo::new(id, row)).collect())
    }

    /// Allocated bytes of `id`'s own layer, measured now if it never was.
    pub fn size(&self, id: SnapshotId) -> Result<u64> {
        if let Some(size) = self.row(id)?.size {
            return Ok(size);
        }
        let size = usage::measure(&self.dir(id))?.bytes;
        self.note_sizes(&[(id, size)])?;
        Ok(size)
    }

    /// Keeps measured sizes.
    pub(crate) fn note_sizes(&self, sizes: &[(SnapshotId, u64)]) -> Result<()> {
        self.0.write(|batch| {
            for (id, size) in sizes {
                if let Some(mut row) = batch.get(&table::SNAPSHOTS, id)? {
                    row.size = Some(*size);
                    batch.put(&table::SNAPSHOTS, id, &row)?;
                }
            }
            Ok(())
        })
    }

    /// Removes a snapshot that nobody holds and nothing is built on.
    pub fn remove(&self, id: SnapshotId) -> Result<()> {
        let what = [Resource::Snapshot(id)];
        let in_use = || Error::InUse { what: what[0].to_string() };
        if !self.children(id)?.is_empty() || self.0.0.leases.doom(&what).is_empty() {
            return Err(in_use());
        }
        let removed = self.0.write(|batch| match batch.get(&table::SNAPSHOTS, &id)? {
            Some(row) => forget(batch, id, &row).and_then(|()| forget_records(batch, id, "its result was removed")),
            None => Ok(()),
        });
        let removed = removed.and_then(|()| trash::take(&self.0.0.root, &self.dir(id)));
        self.0.0.leases.spare(&what);
        removed?;
        trash::empty_in_background(&self.0.0.root)
    }

    fn row(&self, id: SnapshotId) -> Result<Row> {
        self.0.0.meta.get(&table::SNAPSHOTS, &id)?.ok_or_else(|| not_found(id))
    }
}

fn not_found(id: SnapshotId) -> Error {
    Error::NotFound { kind: "snapshot", name: id.to_string() }
}

/// Stages the removal of every row that speaks of the snapshot.
pub(crate) fn forget(batch: &mut Batch<'_>, id: SnapshotId, row: &Row) -> Result<()> {
    batch.delete(&table::SNAPSHOTS, &id);
    if let Some(parent) = row.parent {
        batch.delete(&table::CHILDREN, &(parent, id));
    }
    batch.delete(&table::USES, &Resource::Snapshot(id).key());
    crate::layer_blobs::forget(batch, id)
}

/// Stages the removal of the records whose result is, or contains, the snapshot.
pub(crate) fn forget_records(batch: &mut Batch<'_>, id: SnapshotId, why: &str) -> Result<()> {
    let mut prefix = Vec::new();
    id.encode(&mut prefix);
    let removal = Removal::Lost(why.to_owned());
    for ((_, record), ()) in batch.list(&table::BY_SNAPSHOT, &prefix)? {
        bury(batch, record, &removal, clock::now(), 0)?;
    }
    Ok(())
}

/// A layer being made. Dropping it removes what was written.
///
/// Few folders are made and removed for it: ext4 looks at each inode that was freed in the last minute when it makes one.
pub struct Draft {
    store: Store,
    id: SnapshotId,
    row: Row,
    upper: PathBuf,
    work: Option<PathBuf>,
    committed: bool,
    lower: Vec<PathBuf>,
}

impl Draft {
    /// The directory that takes the writes; it becomes the layer.
    pub fn upper(&self) -> &Path {
        &self.upper
    }

    /// Overlay's work directory, empty, beside the upper. Made when it is first asked for.
    pub fn work(&mut self) -> Result<PathBuf> {
        if let Some(work) = &self.work {
            return Ok(work.clone());
        }
        let work = self.upper.with_extension("work");
        fs::create_dir(&work).doing("make", &work)?;
        Ok(self.work.insert(work).clone())
    }

    /// The layers beneath, top first; empty on nothing.
    pub fn lower(&self) -> &[PathBuf] {
        &self.lower
    }

    /// The name that it will have.
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// Says what it holds and which step made it, for `du`.
    pub fn describe(&mut self, kind: Kind, description: &str) {
        self.row.kind = kind;
        description.clone_into(&mut self.row.description);
    }

    /// Gives its allocated bytes, when the writer knows them; else they are measured when somebody asks.
    pub fn sized(&mut self, bytes: u64) {
        self.row.size = Some(bytes);
    }

    /// Makes the upper an immutable layer. Unmount whatever has it as its upper first.
    pub fn commit(mut self) -> Result<SnapshotId> {
        let target = self.store.snapshots().dir(self.id);
        fs::rename(&self.upper, &target).doing("put in place", &target)?;
        self.committed = true;
        self.row.created = clock::now();
        let noted = self.store.write(|batch| {
            if let Some(parent) = self.row.parent {
                // The collector may have taken the parent if nobody held it.
                batch.get(&table::SNAPSHOTS, &parent)?.ok_or_else(|| not_found(parent))?;
                batch.put(&table::CHILDREN, &(parent, self.id), &())?;
            }
            batch.put(&table::SNAPSHOTS, &self.id, &self.row)
        });
        if noted.is_err() {
            trash::take(&self.store.0.root, &target)?;
        }
        noted?;
        Ok(self.id)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Most are empty, and gone at once. What cannot be removed here is taken out at the next open.
        let root = &self.store.0.root;
        let mut left = Vec::new();
        if let Some(work) = &self.work {
            // The kernel makes `work/work`.
            let _ = fs::remove_dir(work.join("work"));
            left.extend(fs::remove_dir(work).is_err().then_some(work));
        }
        if !self.committed {
            left.extend(fs::remove_dir(&self.upper).is_err().then_some(&self.upper));
        }
        if !left.is_empty() {
            let taken = left.into_iter().try_for_each(|path| trash::take(root, path));
            let _ = taken.and_then(|()| trash::empty_in_background(root));
        }
    }
}
