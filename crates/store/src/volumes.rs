//! Volumes: the directories behind `RUN --mount=type=cache`. Several directories may stand behind one name: a private
//! mount takes a free one or makes one, a locked mount waits for the one, shared mounts use one together (BuildKit's
//! rules). Locks live in this process: one process owns a store. Filling a new volume from its seed is the caller's.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Result};
use crate::format::{self, table};
use crate::meta::{Batch, no_view_is_held};
use crate::{Resource, SnapshotId, Store, clock, trash};

/// How often a waiting mount asks its caller whether it still wants the volume.
const PAUSE: Duration = Duration::from_millis(50);

/// The name of volumes that nobody is to find: none that a step can ask for.
const RETIRED: &str = "\0";

/// Who may use a volume at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Everybody who shares.
    Shared,
    /// One; others get a directory of their own.
    Private,
    /// One; others wait.
    Locked,
}

/// Which volume is wanted.
#[derive(Clone, Debug)]
pub struct VolumeRequest<'a> {
    /// Its name: the mount's `id`, or target path.
    pub name: &'a str,
    /// What it is filled with when it is made. Another seed is another volume, as in BuildKit.
    pub seed: Option<SnapshotId>,
    /// Who else may use it meanwhile.
    pub sharing: Sharing,
    /// For people: the mount as the step names it.
    pub description: &'a str,
}

/// What is known of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) seed: Option<SnapshotId>,
    /// Its seed was copied. A volume that is not, and not in use, was left by a killed process.
    pub(crate) filled: bool,
    pub(crate) created: u64,
    pub(crate) size: Option<(u64, u64)>,
    pub(crate) description: String,
}

/// A volume in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// The number of its directory.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// When it was made, milliseconds since 1970.
    pub created: u64,
    /// For people.
    pub description: String,
}

/// Volumes in use, and whoever waits for one. Its lock comes before the rows' and is never asked for while rows are read:
/// who takes a volume writes rows under it.
#[derive(Default)]
pub(crate) struct Busy {
    state: Mutex<HashMap<u64, Users>>,
    changed: Condvar,
}

#[derive(Clone, Copy)]
struct Users {
    count: usize,
    shared: bool,
}

impl Busy {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Users>> {
        no_view_is_held();
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Volumes in use.
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.lock().keys().copied().collect()
    }
}

/// What a request finds.
enum Choice {
    Take(u64),
    Make,
    Wait,
}

/// See [`Store::volumes`].
pub struct Volumes<'a>(pub(crate) &'a Store);

impl Volumes<'_> {
    /// Takes a volume for one mount. While it must wait for another mount, it calls `waiting` now and then, which breaks
    /// when the volume is not wanted any more.
    ///
    /// # Errors
    /// [`Error::InUse`] when `waiting` broke.
    pub fn take(&self, request: &VolumeRequest<'_>, waiting: &mut dyn FnMut() -> ControlFlow<()>) -> Result<Volume> {
        let busy = &self.0.0.volumes;
        let mut state = busy.lock();
        loop {
            let rows = self.of_name(request)?;
            match choose(&rows, request.sharing, &state) {
                Choice::Make => return self.make(request, &mut state),
                Choice::Take(id) if self.still_there(id)? => return self.reuse(request, id, &mut state),
                Choice::Take(_) => {}
                Choice::Wait => {
                    state = busy.changed.wait_timeout(state, PAUSE).unwrap_or_else(PoisonError::into_inner).0;
                    if waiting().is_break() {
                        return Err(Error::InUse { what: format!("volume `{}`", request.name) });
                    }
                }
            }
        }
    }

    /// All volumes, oldest first.
    pub fn list(&self) -> Result<Vec<VolumeInfo>> {
        let rows = self.0.0.meta.rows()?.list(&table::VOLUMES, &[])?;
        let info = |(id, row): (u64, Row)| VolumeInfo {
            id,
            name: row.name,
            created: row.created,
            description: row.description,
        };
        Ok(rows.into_iter().map(info).collect())
    }

    /// Who takes a volume of these names next gets a new one. What is in use stays with its users, and goes with the last.
    pub fn retire(&self, names: &BTreeSet<String>) -> Result<()> {
        let mut rows: Vec<(u64, Row)> = self.0.0.meta.rows()?.list(&table::VOLUMES, &[])?;
        rows.retain(|(_, row)| names.contains(&row.name));
        let ids: Vec<u64> = rows.iter().map(|(id, _)| *id).collect();
        let gone = self.remove(&ids)?;
        rows.retain(|(id, _)| !gone.contains(id));
        self.0.write(|batch| {
            rows.into_iter()
                .try_for_each(|(id, row)| batch.put(&table::VOLUMES, &id, &Row { name: RETIRED.to_owned(), ..row }))
        })
    }

    /// Marks what is not in use of `ids` as removed and returns it: takes rows and directories away.
    pub(crate) fn remove(&self, ids: &[u64]) -> Result<Vec<u64>> {
        // Under the lock nobody takes one of them meanwhile.
        let state = self.0.0.volumes.lock();
        let free: Vec<u64> = ids.iter().copied().filter(|id| !state.contains_key(id)).collect();
        self.0.write(|batch| {
            free.iter().for_each(|id| forget(batch, *id));
            Ok(())
        })?;
        for id in &free {
            trash::take(&self.0.0.root, &dir(&self.0.0.root, *id))?;
        }
        Ok(free)
    }

    /// The volumes of the requested name and seed, newest first.
    fn of_name(&self, request: &VolumeRequest<'_>) -> Result<Vec<(u64, Row)>> {
        let mut rows = self.0.0.meta.rows()?.list(&table::VOLUMES, &[])?;
        rows.retain(|(_, row)| row.name == request.name && row.seed == request.seed);
        rows.reverse();
        Ok(rows)
    }

    fn still_there(&self, id: u64) -> Result<bool> {
        if dir(&self.0.0.root, id).is_dir() {
            return Ok(true);
        }
        self.0.write(|batch| {
            forget(batch, id);
            Ok(())
        })?;
        Ok(false)
    }

    fn make(&self, request: &VolumeRequest<'_>, state: &mut HashMap<u64, Users>) -> Result<Volume> {
        let (id, path) = loop {
            let id = clock::id();
            let path = dir(&self.0.0.root, id);
            match fs::create_dir(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made.doing("make", &path)?,
            }
            break (id, path);
        };
        let row = Row {
            name: request.name.to_owned(),
            seed: request.seed,
            filled: request.seed.is_none(),
            created: clock::now(),
            size: None,
            description: request.description.to_owned(),
        };
        self.0.write(|batch| batch.put(&table::VOLUMES, &id, &row))?;
        state.insert(id, Users { count: 1, shared: request.sharing == Sharing::Shared });
        Ok(Volume { store: self.0.clone(), id, path, fresh: true })
    }

    fn reuse(&self, request: &VolumeRequest<'_>, id: u64, state: &mut HashMap<u64, Users>) -> Result<Volume> {
        let path = dir(&self.0.0.root, id);
        let row: Row = self.0.0.meta.get(&table::VOLUMES, &id)?.ok_or_else(|| not_found(id))?;
        if !row.filled {
            // Left half filled: begin anew.
            trash::take(&self.0.0.root, &path)?;
            fs::create_dir(&path).doing("make", &path)?;
        }
        let shared = request.sharing == Sharing::Shared;
        state.entry(id).or_insert(Users { count: 0, shared }).count += 1;
        Ok(Volume { store: self.0.clone(), id, path, fresh: !row.filled })
    }
}

fn not_found(id: u64) -> Error {
    Error::NotFound { kind: "volume", name: clock::id_text(id) }
}

/// Where a volume's directory is.
pub(crate) fn dir(root: &Path, id: u64) -> PathBuf {
    root.join(format::VOLUMES).join(clock::id_text(id))
}

/// Stages the removal of a volume's rows.
pub(crate) fn forget(batch: &mut Batch<'_>, id: u64) {
    batch.delete(&table::VOLUMES, &id);
    batch.delete(&table::USES, &Resource::Volume(id).key());
}

/// Which of `rows` (newest first) a mount takes.
fn choose(rows: &[(u64, Row)], sharing: Sharing, state: &HashMap<u64, Users>) -> Choice {
    if sharing == Sharing::Shared {
        let together = rows.iter().find(|(id, _)| state.get(id).is_some_and(|users| users.shared));
        match together {
            // Somebody fills it just now.
            Some((_, row)) if !row.filled => return Choice::Wait,
            Some((id, _)) => return Choice::Take(*id),
            None => {}
        }
    }
    match rows.iter().find(|(id, _)| !state.contains_key(id)) {
        Some((id, _)) => Choice::Take(*id),
        None if sharing == Sharing::Locked && !rows.is_empty() => Choice::Wait,
        None => Choice::Make,
    }
}

/// A volume in use. Dropping it lets the next one in.
pub struct Volume {
    store: Store,
    id: u64,
    path: PathBuf,
    fresh: bool,
}

impl Volume {
    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it is empty and has just been made: set owner and mode, and copy the seed into it when there is one; then
    /// call [`Volume::filled`].
    pub fn fresh(&self) -> bool {
        self.fresh
    }

    /// Says that the seed is copied. Until then others who share it wait, and after a kill it begins anew.
    pub fn filled(&mut self) -> Result<()> {
        self.fresh = false;
        self.store.write(|batch| {
            let mut row: Row = batch.get(&table::VOLUMES, &self.id)?.ok_or_else(|| not_found(self.id))?;
            row.filled = true;
            batch.put(&table::VOLUMES, &self.id, &row)
        })?;
        self.store.0.volumes.changed.notify_all();
        Ok(())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // A use that is not noted only makes the volume look older.
        let _ = self.store.touch(Resource::Volume(self.id));
        let mut state = self.store.0.volumes.lock();
        let mut last = false;
        if let Some(users) = state.get_mut(&self.id) {
            users.count -= 1;
            last = users.count == 0;
            if last {
                state.remove(&self.id);
            }
        }
        drop(state);
        let row: Result<Option<Row>> = self.store.0.meta.get(&table::VOLUMES, &self.id);
        if last && row.is_ok_and(|row| row.is_some_and(|row| row.name == RETIRED)) {
            // One that stays is nobody's, and goes when the store is swept.
            let _ = self.store.volumes().remove(&[self.id]);
        }
        self.store.0.volumes.changed.notify_all();
    }
}
