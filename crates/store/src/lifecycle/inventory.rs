//! What is in the store, at one moment, as data: one item for each snapshot, volume, loose blob and loose record, with
//! everything that a plan decides by. Taking it measures what nobody measured yet; it changes nothing else.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;

use oci::Digest;

use crate::error::{Doing, Result};
use crate::format::table;
use crate::layer_blobs::Layer;
use crate::uses::Use;
use crate::{Kind, Resource, SnapshotId, Store, blobs, clock, records, snapshots, usage, volumes};

/// One row of `du`: BuildKit's `UsageRecord`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageRecord {
    /// Name.
    pub id: String,
    /// What it is built on.
    pub parents: Vec<String>,
    /// When it was made, milliseconds since 1970.
    pub created: u64,
    /// When it was last used; `None` if never since it was made.
    pub last_used: Option<u64>,
    /// How often it was used.
    pub usage_count: u32,
    /// The step that made it, or what it is.
    pub description: String,
    /// What it holds.
    pub kind: Kind,
    /// A named image has it too.
    pub shared: bool,
    /// Bytes on disk, compressed forms included.
    pub size: u64,
    /// Whether it can still change (a volume).
    pub mutable: bool,
    /// Somebody needs it just now.
    pub in_use: bool,
}

/// Something that can be removed by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What.
    pub resource: Resource,
    /// Its row in `du`.
    pub usage: UsageRecord,
    /// What it is built on.
    pub parent: Option<SnapshotId>,
    /// Milliseconds that making it again would take, as far as known.
    pub cost: u64,
    /// Blobs that go with it, unless something that stays has them too.
    pub blobs: Vec<Digest>,
    /// Records that lead to it and go with it.
    pub records: Vec<Digest>,
    /// The image that cannot be read without it.
    pub image: Option<String>,
    /// Nothing refers to it: a build that goes on made it, or one that ended without a use for it.
    pub alone: bool,
}

/// The file system that holds the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Its size in bytes.
    pub total: u64,
    /// Bytes that are free for us.
    pub free: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Snapshots, volumes, loose blobs and loose records.
    pub items: Vec<Item>,
    /// The disk.
    pub disk: Disk,
    /// Milliseconds since 1970: what was made since then and is alone may belong to a build that goes on.
    pub going_since: u64,
}

/// Where nobody says which builds go on, what is alone is a build's for so long (milliseconds).
const YOUNG: u64 = 600_000;

impl Inventory {
    /// Takes the inventory of `store`.
    pub fn take(store: &Store) -> Result<Inventory> {
        let going_since = store.0.opened.max(clock::now().saturating_sub(YOUNG));
        store.with_ballast(|| {
            measure_missing(store)?;
            Ok(Inventory { items: Tally::read(store)?.items()?, disk: Disk::of(store.root())?, going_since })
        })
    }

    /// The same of a store whose oldest build that goes on began at `since`, milliseconds since 1970; `None`: none does.
    /// To be asked after the inventory was taken: a build that begins later has made nothing that is in it.
    pub fn going_since(self, since: Option<u64>) -> Inventory {
        Inventory { going_since: since.unwrap_or(u64::MAX), ..self }
    }

    /// The rows of `du`, oldest first. Loose records take no room and are not listed.
    pub fn usage(&self) -> impl Iterator<Item = &UsageRecord> {
        self.items.iter().filter(|item| !matches!(item.resource, Resource::Record(_))).map(|item| &item.usage)
    }
}

impl Disk {
    /// Measures the file system of a folder.
    pub fn of(folder: &Path) -> Result<Disk> {
        let stat = rustix::fs::statvfs(folder).doing("ask the size of the file system of", folder)?;
        Ok(Disk { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
    }
}

/// Measures snapshots and volumes whose size is not known, on two threads, and keeps the sizes.
fn measure_missing(store: &Store) -> Result<()> {
    let mut missing = Vec::new();
    let rows = store.0.meta.rows()?;
    rows.scan(&table::SNAPSHOTS, &[], |id, row| {
        missing.extend(row.size.is_none().then_some(id));
        Ok(ControlFlow::Continue(()))
    })?;
    let volumes = rows.list(&table::VOLUMES, &[])?;
    drop(rows);
    let half = missing.len().div_ceil(2).max(1);
    let measured: Vec<Result<Vec<(SnapshotId, u64)>>> = std::thread::scope(|scope| {
        let measure = |part: &[SnapshotId]| {
            part.iter().map(|id| Ok((*id, usage::measure(&store.snapshots().dir(*id))?.bytes))).collect()
        };
        let threads: Vec<_> = missing.chunks(half).map(|part| scope.spawn(move || measure(part))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    for sizes in measured {
        let sizes = sizes?;
        if !sizes.is_empty() {
            store.snapshots().note_sizes(&sizes)?;
        }
    }
    for (id, mut row) in volumes {
        let used = store.last_use(Resource::Volume(id))?.map_or(0, |(used, _)| used);
        // A volume's size holds until it is used again.
        if row.size.is_none_or(|(_, measured)| measured <= used) {
            let now = clock::now();
            row.size = Some((usage::measure(&volumes::dir(store.root(), id))?.bytes, now));
            store.write(|batch| match batch.get(&table::VOLUMES, &id)? {
                Some(current) => batch.put(&table::VOLUMES, &id, &volumes::Row { size: row.size, ..current }),
                None => Ok(()),
            })?;
        }
    }
    Ok(())
}

/// All rows that an inventory needs.
struct Tally {
    snapshots: Vec<(SnapshotId, snapshots::Row)>,
    layers: HashMap<SnapshotId, Layer>,
    blobs: HashMap<Digest, blobs::Row>,
    records: HashMap<Digest, records::Row>,
    volumes: Vec<(u64, volumes::Row)>,
    uses: HashMap<Resource, Use>,
    /// Blobs of named images.
    image_blobs: HashSet<Digest>,
    /// Blobs of kept builds: theirs to keep and to remove.
    history_blobs: HashSet<Digest>,
    /// Snapshots of named images, with their chains.
    image_snapshots: HashMap<SnapshotId, String>,
    /// Held snapshots with their chains, and everything else that is held.
    held: HashSet<Resource>,
}

impl Tally {
    fn read(store: &Store) -> Result<Tally> {
        store.flush()?;
        // Before the rows: who takes a volume writes a row while it holds the list of these.
        let volumes_in_use = store.0.volumes.ids();
        let rows = store.0.meta.rows()?;
        let snapshots = rows.list(&table::SNAPSHOTS, &[])?;
        let parents: HashMap<SnapshotId, Option<SnapshotId>> =
            snapshots.iter().map(|(id, row)| (*id, row.parent)).collect();
        let chain = |top: SnapshotId| {
            std::iter::successors(Some(top), |id| parents.get(id).copied().flatten()).collect::<Vec<_>>()
        };
        let mut held = store.0.leases.held();
        held.extend(volumes_in_use.into_iter().map(Resource::Volume));
        for what in held.clone() {
            if let Resource::Snapshot(id) = what {
                held.extend(chain(id).into_iter().map(Resource::Snapshot));
            }
        }
        let images = rows.list(&table::IMAGES, &[])?;
        let mut image_snapshots = HashMap::new();
        for (name, image) in &images {
            for id in image.snapshots.iter().flat_map(|top| chain(*top)) {
                image_snapshots.entry(id).or_insert_with(|| name.clone());
            }
        }
        let uses = rows.list(&table::USES, &[])?;
        let layers = rows.list(&table::LAYERS, &[])?.into_iter().collect();
        let blobs = rows.list(&table::BLOBS, &[])?.into_iter().collect();
        let records = rows.list(&table::RECORDS, &[])?.into_iter().collect();
        let volumes = rows.list(&table::VOLUMES, &[])?;
        let history = rows.list(&table::HISTORY_BLOBS, &[])?;
        Ok(Tally {
            layers,
            blobs,
            records,
            volumes,
            snapshots,
            uses: uses.into_iter().filter_map(|(key, uses)| Some((Resource::from_key(&key)?, uses))).collect(),
            image_blobs: images.into_iter().flat_map(|(_, image)| image.blobs).collect(),
            history_blobs: history.into_iter().flat_map(|(_, b)| b.own.into_iter().chain(b.results)).collect(),
            image_snapshots,
            held,
        })
    }

    fn items(&self) -> Result<Vec<Item>> {
        let mut by_snapshot: HashMap<SnapshotId, Vec<Digest>> = HashMap::new();
        let mut loose_records = Vec::new();
        let known: HashSet<SnapshotId> = self.snapshots.iter().map(|(id, _)| *id).collect();
        for (id, row) in &self.records {
            let there: Vec<_> = row.snapshots.iter().filter(|snapshot| known.contains(snapshot)).collect();
            there.iter().for_each(|snapshot| by_snapshot.entry(**snapshot).or_default().push(*id));
            if there.is_empty() {
                loose_records.push((*id, row));
            }
        }
        let mut taken: HashSet<Digest> = self.image_blobs.union(&self.history_blobs).copied().collect();
        let mut items = Vec::new();
        for (id, row) in &self.snapshots {
            let records = by_snapshot.remove(id).unwrap_or_default();
            items.push(self.snapshot(*id, row, records, &mut taken));
        }
        items.extend(self.volumes.iter().map(|(id, row)| self.volume(*id, row)));
        items.extend(loose_records.into_iter().map(|(id, row)| self.loose_record(id, row, &mut taken)));
        let loose = self.blobs.iter().filter(|(digest, _)| !taken.contains(digest));
        items.extend(loose.map(|(digest, row)| self.loose_blob(*digest, row)));
        items.sort_by_key(|item| (item.usage.created, item.resource));
        Ok(items)
    }

    fn snapshot(
        &self,
        id: SnapshotId,
        row: &snapshots::Row,
        records: Vec<Digest>,
        taken: &mut HashSet<Digest>,
    ) -> Item {
        let mut usage = self.usage(Resource::Snapshot(id), row.created);
        usage.size = row.size.unwrap_or(0);
        usage.id = id.to_string();
        usage.parents = row.parent.iter().map(SnapshotId::to_string).collect();
        usage.kind = row.kind;
        usage.description.clone_from(&row.description);
        let forms = self.layers.get(&id).map(|layer| layer.forms.as_slice()).unwrap_or_default();
        let image_has_layer = forms.iter().any(|form| self.image_blobs.contains(&form.digest));
        let named = self.image_snapshots.get(&id);
        usage.shared = image_has_layer || named.is_some();
        let of_records = records.iter().filter_map(|id| self.records.get(id)).flat_map(|row| &row.blobs);
        let blobs = self.own_blobs(forms.iter().map(|form| &form.digest).chain(of_records), &mut usage, taken);
        let cost = records.iter().filter_map(|id| self.records.get(id)).map(|row| row.cost).max().unwrap_or(0);
        // An image that has the layer as a blob can be read without the snapshot.
        let image = named.filter(|_| !image_has_layer).cloned();
        let alone = records.is_empty();
        Item { resource: Resource::Snapshot(id), usage, parent: row.parent, cost, blobs, records, image, alone }
    }

    fn volume(&self, id: u64, row: &volumes::Row) -> Item {
        let resource = Resource::Volume(id);
        let mut usage = self.usage(resource, row.created);
        usage.size = row.size.map_or(0, |(bytes, _)| bytes);
        usage.id = clock::id_text(id);
        usage.kind = Kind::CacheMount;
        usage.mutable = true;
        usage.description =
            if row.description.is_empty() { format!("cached mount {}", row.name) } else { row.description.clone() };
        Item::new(resource, usage)
    }

    fn loose_blob(&self, digest: Digest, row: &blobs::Row) -> Item {
        let resource = Resource::Blob(digest);
        let mut usage = self.usage(resource, row.created);
        usage.size = row.size;
        usage.id = digest.to_string();
        usage.kind = Kind::Internal;
        usage.description = "blob without a layer".to_owned();
        Item { blobs: vec![digest], alone: true, ..Item::new(resource, usage) }
    }

    fn loose_record(&self, id: Digest, row: &records::Row, taken: &mut HashSet<Digest>) -> Item {
        let resource = Resource::Record(id);
        let mut usage = self.usage(resource, row.created);
        usage.id = id.to_string();
        usage.description = "record without a tree".to_owned();
        let blobs = self.own_blobs(row.blobs.iter(), &mut usage, taken);
        Item { cost: row.cost, records: vec![id], blobs, ..Item::new(resource, usage) }
    }

    /// Those of `named` that are here and no image's or kept build's. The bytes of each are added to the first item that has it, so that
    /// a sum over all items counts it once.
    fn own_blobs<'a>(
        &self,
        named: impl Iterator<Item = &'a Digest>,
        usage: &mut UsageRecord,
        taken: &mut HashSet<Digest>,
    ) -> Vec<Digest> {
        let mut own: Vec<Digest> = Vec::new();
        for digest in named.filter(|d| !self.image_blobs.contains(d) && !self.history_blobs.contains(d)) {
            if let Some(blob) = self.blobs.get(digest) {
                usage.size += if taken.insert(*digest) { blob.size } else { 0 };
                own.push(*digest);
            }
        }
        own
    }

    /// The part of a row that every kind of item has alike.
    fn usage(&self, resource: Resource, created: u64) -> UsageRecord {
        let uses = self.uses.get(&resource);
        UsageRecord {
            created,
            last_used: uses.map(|uses| uses.used),
            usage_count: uses.map_or(0, |uses| uses.count),
            in_use: self.held.contains(&resource),
            ..UsageRecord::default()
        }
    }
}

impl Item {
    /// An item that nothing else belongs to.
    pub fn new(resource: Resource, usage: UsageRecord) -> Item {
        Item {
            resource,
            usage,
            parent: None,
            cost: 0,
            blobs: Vec::new(),
            records: Vec::new(),
            image: None,
            alone: false,
        }
    }
}
