//! What overlay layers are together: a directory of several is one, and whiteouts and opaque directories hide what is
//! beneath. What was found is remembered as long as the look lasts: a path in 500 layers costs 500 system calls once.
//! It never writes.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Kind, Node, is_opaque, is_whiteout, nothing};
use crate::error::{Doing, Result};

/// More directories than this are not remembered.
const REMEMBERED: usize = 1024;

/// What is at a path, with the folders that it is made of if it is a directory.
#[derive(Clone, Debug)]
pub(super) struct Merged {
    pub node: Node,
    top: Option<PathBuf>,
    /// Below `top`, top first.
    layers: Arc<Vec<PathBuf>>,
}

impl Merged {
    /// Of nothing else.
    pub fn alone(node: Node) -> Merged {
        Merged { node, top: None, layers: Arc::default() }
    }

    /// Entries of the directory, sorted by name.
    pub fn list(&self) -> Result<Vec<Node>> {
        let mut found: BTreeMap<OsString, Option<Node>> = BTreeMap::new();
        for folder in self.top.iter().chain(self.layers.iter()) {
            for entry in fs::read_dir(folder).doing("list", folder)? {
                let entry = entry.doing("list", folder)?;
                let name = entry.file_name();
                if found.contains_key(&name) {
                    continue;
                }
                let path = entry.path();
                let data = fs::symlink_metadata(&path).doing("look at", &path)?;
                let node = if is_whiteout(&data) { None } else { Some(Node::read(&name, path, &data)?) };
                found.insert(name, node);
            }
        }
        Ok(found.into_values().flatten().collect())
    }
}

/// Folders that do not change, top first.
#[derive(Debug)]
pub(super) struct Layers {
    folders: Arc<Vec<PathBuf>>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    directories: HashMap<PathBuf, Arc<Merged>>,
    /// What is no directory, or not there, is asked for several times in a row and then not again.
    last: Option<(PathBuf, Option<Arc<Merged>>)>,
}

impl Layers {
    /// These.
    pub fn new(folders: Vec<PathBuf>) -> Layers {
        Layers { folders: Arc::new(folders), known: Mutex::default() }
    }

    /// What is at `path`, which is absolute and has nothing but names.
    pub fn at(&self, path: &Path) -> Result<Option<Arc<Merged>>> {
        if let Some(found) = self.lock().find(path) {
            return Ok(found);
        }
        let found = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => match self.at(parent)? {
                Some(dir) if dir.node.kind == Kind::Dir => descend(&dir.layers, name)?.map(Arc::new),
                _ => None,
            },
            _ => Some(Arc::new(self.root()?)),
        };
        self.lock().note(path, &found);
        Ok(found)
    }

    /// The same with the folder `upper` over them, which may change from one look to the next.
    pub fn under(&self, upper: &Path, path: &Path) -> Result<Option<Merged>> {
        let mut at = PathBuf::from("/");
        let mut over = Some(Node::at(at.as_os_str(), upper.to_owned())?);
        let mut below = self.at(&at)?;
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            at.push(name);
            let found = match &over {
                Some(dir) if dir.kind == Kind::Dir => look(dir.source.join(name), name)?,
                Some(_) => return Ok(None),
                None => Found::Nothing,
            };
            // Only what is in a directory that is not hidden.
            below = if below.is_some() { self.at(&at)? } else { None };
            over = match found {
                Found::Hidden => return Ok(None),
                Found::Nothing if below.is_none() => return Ok(None),
                Found::Nothing => None,
                Found::There(node) => {
                    let shows = |below: &Arc<Merged>| {
                        node.kind == Kind::Dir && below.node.kind == Kind::Dir && !is_opaque(&node.source)
                    };
                    below = below.filter(shows);
                    Some(node)
                }
            };
        }
        let layers = below.as_ref().map(|below| below.layers.clone()).unwrap_or_default();
        Ok(match over {
            Some(node) => Some(Merged { top: (node.kind == Kind::Dir).then(|| node.source.clone()), node, layers }),
            None => below.map(Arc::unwrap_or_clone),
        })
    }

    fn root(&self) -> Result<Merged> {
        let node = match self.folders.first() {
            Some(top) => Node::at(OsStr::new("/"), top.clone())?,
            None => nothing(),
        };
        Ok(Merged { node, top: None, layers: self.folders.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn find(&self, path: &Path) -> Option<Option<Arc<Merged>>> {
        if let Some(found) = self.directories.get(path) {
            return Some(Some(found.clone()));
        }
        self.last.as_ref().filter(|(of, _)| of == path).map(|(_, found)| found.clone())
    }

    fn note(&mut self, path: &Path, found: &Option<Arc<Merged>>) {
        match found {
            Some(dir) if dir.node.kind == Kind::Dir => {
                if self.directories.len() < REMEMBERED {
                    self.directories.insert(path.to_owned(), dir.clone());
                }
            }
            other => self.last = Some((path.to_owned(), other.clone())),
        }
    }
}

enum Found {
    There(Node),
    Nothing,
    /// Nothing, and what is beneath is hidden.
    Hidden,
}

fn look(path: PathBuf, name: &OsStr) -> Result<Found> {
    let data = match fs::symlink_metadata(&path) {
        Ok(data) => data,
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => return Ok(Found::Nothing),
        Err(error) => return Err(error).doing("look at", &path),
    };
    if is_whiteout(&data) { Ok(Found::Hidden) } else { Node::read(name, path, &data).map(Found::There) }
}

/// The entry `name` of a directory that is made of `folders`.
fn descend(folders: &[PathBuf], name: &OsStr) -> Result<Option<Merged>> {
    let mut found: Option<(Node, Vec<PathBuf>)> = None;
    for folder in folders {
        let node = match look(folder.join(name), name)? {
            Found::There(node) => node,
            Found::Nothing => continue,
            Found::Hidden => break,
        };
        if node.kind != Kind::Dir {
            if found.is_none() {
                return Ok(Some(Merged::alone(node)));
            }
            break;
        }
        let place = node.source.clone();
        let last = folders.len() > 1 && is_opaque(&place);
        match &mut found {
            Some((_, places)) => places.push(place),
            None => found = Some((node, vec![place])),
        }
        if last {
            break;
        }
    }
    Ok(found.map(|(node, places)| Merged { node, top: None, layers: Arc::new(places) }))
}

#[cfg(test)]
mod tests {
    use super::super::View;
    use super::*;
    use crate::canvas::{set_opaque, whiteout};

    /// A path, what is there and where it lies, and where its entries lie.
    type Seen = (String, Option<(Kind, PathBuf)>, Vec<PathBuf>);

    /// What a look at every path of interest gives, with the same places twice: the second look is answered from memory.
    fn seen(view: &View) -> Vec<Seen> {
        let names =
            ["", "a", "a/f", "a/g", "a/h", "a/h/x", "b", "b/f", "c", "c/f", "d", "d/f", "d/d/e", "l", "l/f", "n"];
        let look = |name: &&str| {
            let path = Path::new("/").join(name);
            let node = view.lookup(&path).unwrap().map(|node| (node.kind, node.source));
            let listed = view.list(&path).unwrap().into_iter().map(|node| node.source).collect();
            ((*name).to_owned(), node, listed)
        };
        names.iter().chain(&names).map(look).collect()
    }

    #[test]
    fn a_draft_over_layers_is_like_one_more_layer() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        let file = |path: &str| {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), path).unwrap();
        };
        let files = ["0/a/f", "0/a/g", "0/b/f", "0/c/f", "0/d/d/e", "1/a/h/x", "1/b/g", "1/c", "2/a/g", "2/d/f"];
        files.iter().for_each(|path| file(path));
        // A whiteout, an opaque folder, a file in a folder's place, a symlink.
        whiteout(&at("1/a/f")).unwrap();
        set_opaque(&at("1/b")).unwrap();
        std::os::unix::fs::symlink("a", at("1/l")).unwrap();
        let lower = || vec![at("1"), at("0")];
        let (beneath, both) = View::of_draft(at("2"), lower());
        let as_layers = || seen(&View::of_layers(vec![at("2"), at("1"), at("0")]));
        assert_eq!(seen(&beneath), seen(&View::of_layers(lower())));
        assert_eq!(seen(&both), as_layers());
        let found = |view: &View, path: &str| view.lookup(Path::new(path)).unwrap().map(|node| node.source);
        assert_eq!(found(&both, "/a/f"), None);
        assert_eq!(found(&both, "/a/g"), Some(at("2/a/g")));
        assert_eq!(found(&both, "/b/f"), None);
        assert_eq!(found(&both, "/d/d/e"), Some(at("0/d/d/e")));

        // The draft changes under the look.
        whiteout(&at("2/b")).unwrap();
        file("2/c/f");
        set_opaque(&at("2/d")).unwrap();
        file("2/n");
        fs::remove_file(at("2/a/g")).unwrap();
        assert_eq!(seen(&both), as_layers());
        assert_eq!(found(&both, "/b/g"), None);
        assert_eq!(found(&both, "/c/f"), Some(at("2/c/f")));
        assert_eq!(found(&both, "/d/d/e"), None);
        assert_eq!(found(&both, "/a/g"), Some(at("0/a/g")));
    }
}
