//! Directories of the client's, scanned in place: one lstat a file when nothing changed.
//! A scanned directory is copied into the store only where a process needs it mounted; it is never written to.

use std::path::Path;
use std::sync::Arc;

use graph::Vertex;
use store::{Resource, SnapshotId};
use tokio::sync::OnceCell;

use crate::event::What;
use crate::ops::copy::{Copier, Notes, Rules};
use crate::ops::mode::ModeChange;
use crate::session::Filter;
use crate::{Error, Work, blocking, ops, sources};
use store::canvas::Canvas;

/// A scanned directory.
pub struct Tree {
    /// The client's name for it: `context`, `dockerfile`, a named context.
    pub name: String,
    /// What is in it.
    pub scanned: Arc<store::tree::Tree>,
    /// Its files may be linked instead of copied.
    pub linkable: bool,
    stored: OnceCell<Option<SnapshotId>>,
    /// The directory stays as it was scanned for as long as somebody reads from it.
    _guard: Option<Arc<dyn Send + Sync>>,
}

impl Tree {
    /// Scans the directory that a `local://` source names.
    pub async fn scan(work: &Work, vertex: &Vertex) -> Result<Tree, Error> {
        let Some(graph::Kind::Source(op)) = vertex.kind() else {
            return Err(sources::Error::UnknownScheme { identifier: vertex.name() }.into());
        };
        let name = op.identifier.strip_prefix("local://").unwrap_or_default().to_owned();
        let list = |attribute: &str| -> Result<Vec<String>, Error> {
            let Some(value) = op.attrs.get(attribute) else { return Ok(Vec::new()) };
            let parsed: Result<Vec<String>, _> = serde_json::from_str(value);
            Ok(parsed.map_err(|error| sources::Error::BadAttribute {
                identifier: op.identifier.clone(),
                name: attribute.to_owned(),
                value: value.clone(),
                reason: error.to_string(),
            })?)
        };
        let wanted = Filter {
            include: list("local.includepattern")?,
            exclude: list("local.excludepatterns")?,
            follow: list("local.followpaths")?,
            hint: op.attrs.get("local.sharedkeyhint").cloned().unwrap_or_default(),
        };
        let directory = work.session.directory(&name, &wanted).await?;
        let (part, current) = (format!("transferring {name}:"), directory.transferred);
        work.events.tell(What::Progress { step: work.step, part, current, total: 0, done: true });
        let (guard, linkable) = (directory.guard.clone(), directory.mirror.is_some());
        let store = work.engine.store.clone();
        let scanned = blocking("scanned the client's directory", move || {
            let filter =
                store::tree::Filter { include: wanted.include, exclude: wanted.exclude, follow: wanted.follow };
            store::tree::Tree::scan(&store, &directory.root, &directory.identity, &filter, directory.mirror.as_ref())
        })
        .await?;
        Ok(Tree { name, scanned: Arc::new(scanned), linkable, stored: OnceCell::new(), _guard: guard })
    }

    /// The (filtered) directory as a snapshot, for processes that mount it.
    pub async fn snapshot(&self, work: &Work) -> Result<Option<SnapshotId>, Error> {
        let made = self.stored.get_or_try_init(|| async {
            let (store, scanned) = (work.engine.store.clone(), self.scanned.clone());
            let name = format!("local source for {}", self.name);
            blocking("copied the client's directory", move || copy_in(&store, &scanned, &name)).await.map(Some)
        });
        made.await.copied()
    }
}

fn copy_in(store: &store::Store, scanned: &store::tree::Tree, name: &str) -> Result<SnapshotId, ops::Error> {
    let mut draft = store.snapshots().begin(None)?;
    draft.describe(store::Kind::SourceLocal, name);
    let _held = store.leases().hold(Resource::Snapshot(draft.id()))?;
    let mut canvas = Canvas::new(&draft)?;
    let view = scanned.view();
    let rules = Rules {
        owner: None,
        mode: ModeChange::Keep,
        time: None,
        include: None,
        exclude: None,
        contents: true,
        follow: false,
        replace: false,
        link: false,
        named: None,
    };
    let mut copier = Copier::new(&view, &mut canvas, &rules).with_copies(scanned.copies(), Notes::new());
    copier.copy(Path::new("/"), "/")?;
    let notes = copier.finish()?;
    canvas.finish()?;
    let made = draft.commit()?;
    if let Some(copies) = scanned.copies() {
        copies.note(made, notes)?;
    }
    Ok(made)
}
