//! File operations: copy, write, make and remove paths (LLB `FileOp`). Each action changes the result of an earlier
//! one or an input; results are layers made without a mount or a process.
//! It never runs anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use graph::pattern::Patterns;
use graph::wire::{self, file_action::Action, user_opt};
use store::tree::{Base, Tree};
use store::view::{Kind, View};
use store::{Draft, SnapshotId, Store};

use super::again::Again;
use super::copy::{self, Copier, Notes, Rules};
use super::mode::ModeChange;
use super::{Doing, Error};
use store::canvas::{Attributes, Canvas, set_owner_and_mode, set_time};

/// An input as a file operation sees it.
pub struct Input {
    /// Its tree in the store; `None` is the empty tree. Sources that were only scanned have none: they can be copied
    /// from and not built on.
    pub snapshot: Option<SnapshotId>,
    /// A look at it.
    pub view: View,
    /// Files of it may be linked: they lie in the store and never change.
    pub link: bool,
    /// The client's directory that it is, if it is one: copies of its files in earlier layers are linked.
    pub tree: Option<Arc<Tree>>,
}

/// A layer that is being changed by one action after another.
struct Layer {
    draft: Draft,
    canvas: Canvas,
    /// The client's directory that was copied from last, and what the layer holds of its files.
    copied: Option<(Arc<Tree>, Notes)>,
    /// How many files were copied into it.
    files: usize,
}

/// What an action gave.
enum State {
    Open(Box<Layer>),
    Closed(Option<SnapshotId>),
    /// A later action went on with it.
    Taken,
}

/// One operation being done.
struct Work<'a> {
    store: &'a Store,
    inputs: &'a [Input],
    states: Vec<State>,
    cancelled: &'a dyn Fn() -> bool,
    /// It may have been done before.
    again: Option<Again>,
    /// Then what it gave, to be amended.
    base: Option<Base>,
}

/// An operation that failed.
pub struct Failed {
    /// Why.
    pub error: Error,
    /// The action that failed; `None` when it was none.
    pub action: Option<usize>,
    /// What each action left, the failed one included; `None` where a later action went on with it.
    pub left: Vec<Option<SnapshotId>>,
    /// Which of these trees nobody else knows.
    pub own: Vec<SnapshotId>,
}

impl From<Error> for Box<Failed> {
    fn from(error: Error) -> Box<Failed> {
        Box::new(Failed { error, action: None, left: Vec::new(), own: Vec::new() })
    }
}

/// Does all actions; returns one result an output.
pub fn run(
    store: &Store,
    op: &wire::FileOp,
    inputs: &[Input],
    name: &str,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<Option<SnapshotId>>, Box<Failed>> {
    let again = Again::of(op, inputs);
    let base = again.as_ref().and_then(Again::base);
    let mut work = Work { store, inputs, states: Vec::new(), cancelled, again, base };
    for (i, action) in op.actions.iter().enumerate() {
        if cancelled() {
            return Err(Error::Cancelled.into());
        }
        // Who comes later and goes on with the same result needs it to be a layer of its own.
        let shared = op.actions[i + 1..].iter().any(|later| later.input == action.input && action.input >= 0)
            || op
                .actions
                .iter()
                .any(|other| other.secondary_input == action.input && action.input >= inputs.len() as i64);
        let begun = work.base(action.input, shared, name);
        let acted = begun.map_err(|error| (error, State::Taken)).and_then(|layer| work.act(action, layer, name));
        match acted {
            Ok(state) => work.states.push(state),
            Err((error, state)) => {
                work.states.push(state);
                return Err(work.remains(error, op.actions.len(), name));
            }
        }
    }
    let outputs = op.actions.iter().map(|a| a.output).max().unwrap_or(-1);
    let mut results = Vec::new();
    for output in 0..=outputs {
        let of = op.actions.iter().position(|a| a.output == output);
        let of = of.ok_or_else(|| malformed(format!("no action gives output {output}")))?;
        results.push(work.close(of, name)?);
    }
    Ok(results)
}

fn malformed(reason: impl Into<String>) -> Error {
    Error::Malformed { operation: "file", reason: reason.into() }
}

impl Work<'_> {
    /// Does an action; one that fails gives the layer as it left it.
    fn act(&mut self, action: &wire::FileAction, mut layer: Layer, name: &str) -> Result<State, (Error, State)> {
        let done = self.change(action, &mut layer, name);
        let state = State::Open(Box::new(layer));
        match done {
            Ok(()) => Ok(state),
            Err(error) => Err((error, state)),
        }
    }

    fn change(&mut self, action: &wire::FileAction, layer: &mut Layer, name: &str) -> Result<(), Error> {
        let kind = action.action.as_ref().ok_or_else(|| malformed("an action of a kind that larder does not know"))?;
        if !matches!(kind, Action::Copy(_)) {
            // It may change what was copied.
            layer.copied = None;
        }
        match kind {
            Action::Copy(copy) => self.copy(copy, action.secondary_input, layer, name),
            Action::MkFile(file) => self.make_file(file, layer),
            Action::MkDir(dir) => self.make_dir(dir, layer),
            Action::Rm(rm) => remove(rm, &mut layer.canvas),
            Action::Symlink(link) => self.make_link(link, layer),
        }
    }

    /// What the actions left up to the one that failed, for who wants to look at it.
    fn remains(&mut self, error: Error, actions: usize, name: &str) -> Box<Failed> {
        let failed = self.states.len() - 1;
        if let Error::Cancelled = error {
            return error.into();
        }
        // What is not whole is no base for later.
        self.again = None;
        let mut left = vec![None; actions];
        for (action, slot) in left.iter_mut().enumerate().take(failed + 1) {
            if !matches!(self.states[action], State::Taken) {
                // What can't be kept can't be looked at; the failure is what counts.
                *slot = self.close(action, name).ok().flatten();
            }
        }
        let own = left.iter().flatten().copied().collect();
        Box::new(Failed { error, action: Some(failed), left, own })
    }

    /// The layer that an action writes to.
    fn base(&mut self, input: i64, shared: bool, name: &str) -> Result<Layer, Error> {
        let parent = match self.place(input)? {
            Place::Scratch => None,
            Place::Input(i) => self.inputs[i].snapshot,
            Place::Action(i) if shared => self.close(i, name)?,
            Place::Action(i) => match std::mem::replace(&mut self.states[i], State::Taken) {
                State::Open(layer) => return Ok(*layer),
                State::Closed(parent) => {
                    self.states[i] = State::Closed(parent);
                    parent
                }
                State::Taken => return Err(malformed(format!("the result of action {i} is used twice"))),
            },
        };
        let snapshots = self.store.snapshots();
        let mut draft = match &self.base {
            Some(base) => snapshots.amend(base.id)?,
            None => snapshots.begin(parent)?,
        };
        draft.describe(store::Kind::Regular, name);
        let canvas = Canvas::new(&draft)?;
        Ok(Layer { draft, canvas, copied: None, files: 0 })
    }

    /// Commits what an action gave.
    fn close(&mut self, action: usize, name: &str) -> Result<Option<SnapshotId>, Error> {
        let state = self.states.get_mut(action).ok_or_else(|| malformed("an action that comes later is used"))?;
        match std::mem::replace(state, State::Taken) {
            State::Open(mut layer) => {
                layer.canvas.finish()?;
                layer.draft.describe(store::Kind::Regular, name);
                let made = layer.draft.commit()?;
                if let (Some(again), Some(_)) = (&self.again, &self.base) {
                    again.amended(layer.files)?;
                } else if let Some((tree, notes)) = layer.copied
                    && let Some(copies) = tree.copies()
                {
                    self.again.as_ref().map_or(Ok(()), |again| again.note(made, &notes))?;
                    copies.note(made, notes)?;
                }
                self.states[action] = State::Closed(Some(made));
                Ok(Some(made))
            }
            State::Closed(made) => {
                self.states[action] = State::Closed(made);
                Ok(made)
            }
            State::Taken => Err(malformed(format!("the result of action {action} is used twice"))),
        }
    }

    fn place(&self, index: i64) -> Result<Place, Error> {
        let Ok(index) = usize::try_from(index) else { return Ok(Place::Scratch) };
        match index.checked_sub(self.inputs.len()) {
            None => Ok(Place::Input(index)),
            Some(action) if action < self.states.len() => Ok(Place::Action(action)),
            Some(action) => Err(malformed(format!("action {action} is used before it is done"))),
        }
    }

    /// A look at an input or at an earlier action's result; whether its files may be linked.
    fn look(&mut self, index: i64, name: &str) -> Result<(View, bool), Error> {
        let snapshot = match self.place(index)? {
            Place::Scratch => None,
            Place::Input(i) => return Ok((self.inputs[i].view.clone(), self.inputs[i].link)),
            Place::Action(i) => self.close(i, name)?,
        };
        let Some(snapshot) = snapshot else { return Ok((View::empty(), false)) };
        Ok((View::of_layers(self.store.snapshots().layers(snapshot)?), true))
    }

    /// The client's directory that an input is.
    fn tree(&self, index: i64) -> Option<Arc<Tree>> {
        usize::try_from(index).ok().and_then(|i| self.inputs.get(i)?.tree.clone())
    }

    fn copy(&mut self, action: &wire::FileActionCopy, from: i64, layer: &mut Layer, name: &str) -> Result<(), Error> {
        let (source, link) = self.look(from, name)?;
        let tree = self.tree(from);
        // Notes are of one directory's files only.
        let same = |(of, _): &(Arc<Tree>, Notes)| tree.as_ref().is_some_and(|tree| Arc::ptr_eq(of, tree));
        let mut notes = layer.copied.take().filter(same).map(|(_, notes)| notes).unwrap_or_default();
        let rules = Rules {
            owner: self.owner(action.owner.as_ref(), name)?,
            mode: mode_of(action)?,
            time: copy::time(action.timestamp),
            include: patterns(&action.include_patterns)?,
            exclude: patterns(&action.exclude_patterns)?,
            contents: action.dir_copy_contents,
            follow: action.follow_symlink,
            replace: action.always_replace_existing_dest_paths,
            link,
            named: None,
        };
        let (from, to) = (clean(&action.src), clean(&action.dest));
        let parent = layer.canvas.resolve(Path::new(&to))?;
        if !action.create_dest_path
            && let Some(parent) = parent.parent()
            && layer.canvas.look(parent)?.is_none()
        {
            return Err(Error::NotFound { path: parent.display().to_string() });
        }
        let wild = action.allow_wildcard;
        let sources =
            if wild { copy::sources(&source, &from, action.follow_symlink)? } else { vec![PathBuf::from(&from)] };
        if sources.is_empty() && !action.allow_empty_wildcard {
            return Err(Error::NotFound { path: from });
        }
        for path in sources {
            if action.attempt_unpack_docker_compatibility && self.unpack(&source, &path, &to, layer, &rules)? {
                notes.clear();
                continue;
            }
            // Few files change: they are copied without a look at all the copies that there are.
            let copies = tree.as_ref().and_then(|tree| tree.copies()).filter(|_| self.base.is_none());
            let copier = Copier::new(&source, &mut layer.canvas, &rules).with_copies(copies, notes);
            let mut copier = copier.over(self.base.as_ref());
            copier.copy(&path, &to)?;
            layer.files += copier.count();
            notes = copier.finish()?;
        }
        layer.copied = tree.map(|tree| (tree, notes));
        if (self.cancelled)() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Unpacks an archive; says whether it was one.
    fn unpack(&self, from: &View, path: &Path, to: &str, layer: &mut Layer, rules: &Rules) -> Result<bool, Error> {
        let path = from.resolve(path)?;
        let Some(node) = from.lookup(&path)?.filter(|n| n.kind == Kind::File) else { return Ok(false) };
        let file = std::fs::File::open(&node.source).doing("open", &path)?;
        // Unpacked beside the layer first: an archive's entries are then copied under the same rules as any files.
        let aside = self.store.snapshots().begin(None)?;
        let Some(named) = store::layer::unpack_archive(&file, &aside)? else { return Ok(false) };
        let target = layer.canvas.resolve(Path::new(to))?;
        layer.canvas.make_dirs(&target, &Attributes::made(0o755, rules.owner, rules.time))?;
        let unpacked = View::of_dir(aside.upper().to_owned());
        let rules = Rules {
            owner: rules.owner,
            mode: ModeChange::Keep,
            time: rules.time,
            include: None,
            exclude: None,
            contents: true,
            follow: false,
            replace: true,
            link: true,
            named: Some(named),
        };
        let mut copier = Copier::new(&unpacked, &mut layer.canvas, &rules);
        // All of it at once: only what lies in the copied directory keeps its own mode, owner and time.
        copier.copy(Path::new("/"), &target.to_string_lossy())?;
        copier.finish()?;
        Ok(true)
    }

    fn make_file(&mut self, file: &wire::FileActionMkFile, layer: &mut Layer) -> Result<(), Error> {
        let owner = self.owner(file.owner.as_ref(), "")?;
        let path = layer.canvas.resolve(Path::new(&clean(&file.path)))?;
        if layer.canvas.look(&path)?.is_some_and(|n| n.kind == Kind::Dir) {
            return Err(Error::IsADirectory { path });
        }
        let attributes = Attributes::made(file.mode as u32 & 0o777, owner, copy::time(file.timestamp));
        let place = layer.canvas.make_room(&path)?;
        std::fs::write(&place, &file.data).doing("write", &path)?;
        set_owner_and_mode(&place, &attributes).doing("set owner and mode of", &path)?;
        set_time(&place, attributes.time).doing("set the time of", &path)
    }

    fn make_dir(&mut self, dir: &wire::FileActionMkDir, layer: &mut Layer) -> Result<(), Error> {
        let owner = self.owner(dir.owner.as_ref(), "")?;
        let path = layer.canvas.resolve(Path::new(&clean(&dir.path)))?;
        let attributes = Attributes::made(dir.mode as u32 & 0o777, owner, copy::time(dir.timestamp));
        if dir.make_parents {
            return Ok(layer.canvas.make_dirs(&path, &attributes)?);
        }
        match layer.canvas.look(&path)? {
            Some(_) => Ok(()),
            None => Ok(layer.canvas.make_dir(&path, &attributes)?),
        }
    }

    fn make_link(&mut self, link: &wire::FileActionSymlink, layer: &mut Layer) -> Result<(), Error> {
        let owner = self.owner(link.owner.as_ref(), "")?;
        let path = PathBuf::from(clean(&link.newpath));
        let parent = layer.canvas.resolve(path.parent().unwrap_or(Path::new("/")))?;
        let path = parent.join(path.file_name().unwrap_or_default());
        let attributes = Attributes::made(0o777, owner, copy::time(link.timestamp));
        let place = layer.canvas.make_room(&path)?;
        std::os::unix::fs::symlink(&link.oldpath, &place).doing("make the symlink", &path)?;
        set_owner_and_mode(&place, &attributes).doing("set the owner of", &path)?;
        set_time(&place, attributes.time).doing("set the time of", &path)
    }

    /// Numbers of an owner; names are looked up in the tree that the action says. Who is not there is root, as BuildKit has it:
    /// there are Dockerfiles that build so.
    fn owner(&mut self, owner: Option<&wire::ChownOpt>, name: &str) -> Result<Option<(u32, u32)>, Error> {
        let Some(owner) = owner else { return Ok(None) };
        let (mut uid, mut gid) = (0, 0);
        match owner.user.as_ref().and_then(|u| u.user.as_ref()) {
            Some(user_opt::User::ById(id)) => (uid, gid) = (*id, *id),
            Some(user_opt::User::ByName(named)) => {
                let (view, _) = self.look(named.input, name)?;
                let found = sandbox::user::named(&named.name, text(&view, "/etc/passwd")?.as_deref());
                (uid, gid) = found.unwrap_or((uid, gid));
            }
            None => {}
        }
        match owner.group.as_ref().and_then(|g| g.user.as_ref()) {
            Some(user_opt::User::ById(id)) => gid = *id,
            Some(user_opt::User::ByName(named)) => {
                let (view, _) = self.look(named.input, name)?;
                gid = sandbox::user::named_group(&named.name, text(&view, "/etc/group")?.as_deref()).unwrap_or(gid);
            }
            None => {}
        }
        Ok(Some((uid, gid)))
    }
}

enum Place {
    Scratch,
    Input(usize),
    Action(usize),
}

/// A small file of a tree as text.
fn text(view: &View, path: &str) -> Result<Option<String>, Error> {
    let path = view.resolve(Path::new(path))?;
    match view.lookup(&path)?.filter(|n| n.kind == Kind::File) {
        Some(node) => {
            let bytes = std::fs::read(&node.source).doing("read", &path)?;
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        }
        None => Ok(None),
    }
}

fn mode_of(action: &wire::FileActionCopy) -> Result<ModeChange, Error> {
    if !action.mode_str.is_empty() {
        return ModeChange::parse(&action.mode_str);
    }
    Ok(u32::try_from(action.mode).map_or(ModeChange::Keep, |mode| ModeChange::Set(mode & 0o7777)))
}

fn patterns(texts: &[String]) -> Result<Option<Patterns>, Error> {
    if texts.is_empty() {
        return Ok(None);
    }
    let bad =
        |error: graph::pattern::BadPattern| Error::Pattern { pattern: texts.join(", "), reason: error.to_string() };
    Patterns::new(texts).map(Some).map_err(bad)
}

/// An absolute clean path; a trailing `/` (or `/.`) stays as `/`, because it means "into this directory".
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let dir = (path.ends_with('/') || path.ends_with("/.")) && !parts.is_empty();
    format!("/{}{}", parts.join("/"), if dir { "/" } else { "" })
}

fn remove(rm: &wire::FileActionRm, canvas: &mut Canvas) -> Result<(), Error> {
    let path = clean(&rm.path);
    let paths = if rm.allow_wildcard { copy::sources(canvas.view(), &path, false)? } else { vec![PathBuf::from(path)] };
    for path in paths {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(malformed("the root can't be removed"));
        };
        let path = canvas.resolve(parent)?.join(name);
        if !rm.allow_not_found && canvas.look(&path)?.is_none() {
            return Err(Error::NotFound { path: path.display().to_string() });
        }
        canvas.remove(&path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_clean() {
        for (path, expected) in [("", "/"), ("/", "/"), ("a/../b", "/b"), ("/a/", "/a/"), ("../../x/.", "/x/")] {
            assert_eq!(clean(path), expected);
        }
    }
}
