//! Which paths of a tree a selection takes: wildcards, include and exclude patterns, symlinks, paths that must be there.
//! The order and the paths are BuildKit's (`includedPaths` in `cache/contenthash`), as both go into the digest.

use std::path::{Path, PathBuf};

use graph::pattern::{Patterns, glob};
use oci::Digest;
use solver::key::Selection;

use super::Tree;
use crate::error::{Error, Result};
use crate::view::{Kind, Node, not_found};

/// A path that is taken.
#[derive(Clone)]
pub struct Included {
    /// As the selection names it.
    pub path: String,
    /// Where it is in the tree.
    pub real: PathBuf,
    pub node: Node,
    pub digest: Digest,
    /// It lies in no directory that was looked at before.
    top: bool,
}

struct Search<'a> {
    tree: &'a Tree,
    selection: &'a Selection,
    /// The selection's path; empty for the root.
    path: String,
    include: Option<Patterns>,
    exclude: Option<Patterns>,
    /// What a wildcard matched last: everything below belongs to it.
    matched: String,
    /// Directories above, and whether they were taken.
    parents: Vec<(Included, bool)>,
    found: Vec<Included>,
}

impl Tree {
    /// What `selection` takes, and the path that is cut from each.
    pub(super) fn select(&self, selection: &Selection) -> Result<(String, Vec<Included>)> {
        let bad = |e: graph::pattern::BadPattern| Error::Filter { text: e.pattern, at: 1, why: e.reason.to_owned() };
        let read =
            |list: &[String]| if list.is_empty() { Ok(None) } else { Patterns::new(list).map(Some).map_err(bad) };
        let clean = graph::pattern::clean(&format!("/{}", selection.path));
        let path = if clean == "/" { String::new() } else { clean };
        let (prefix, real) = if selection.wildcard {
            let (literal, rest) = split(&path);
            let real = match (literal.is_empty(), rest) {
                (true, _) => PathBuf::from("/"),
                (false, true) => self.view.resolve(Path::new(&literal))?,
                (false, false) => self.parent_resolved(&literal)?,
            };
            (literal, real)
        } else {
            (path.clone(), self.parent_resolved(&path)?)
        };
        let mut search = Search {
            tree: self,
            selection,
            path,
            include: read(&selection.include)?,
            exclude: read(&selection.exclude)?,
            matched: String::new(),
            parents: Vec::new(),
            found: Vec::new(),
        };
        if let Some(node) = self.view.lookup(&real)? {
            search.visit(&prefix, &real, node)?;
        }
        for required in &selection.required {
            if !search.found.iter().any(|one| one.path.starts_with(required.as_str())) {
                return Err(not_found(required));
            }
        }
        let mut found = search.found;
        found.iter_mut().try_for_each(|one| self.follow(selection, one))?;
        Ok((prefix, found))
    }

    fn parent_resolved(&self, path: &str) -> Result<PathBuf> {
        let path = if path.is_empty() { Path::new("/") } else { Path::new(path) };
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok(self.view.resolve(parent)?.join(name)),
            _ => Ok(PathBuf::from("/")),
        }
    }

    /// A symlink that was matched itself, and not in a matched directory, stands for what it leads to.
    fn follow(&self, selection: &Selection, one: &mut Included) -> Result<()> {
        if one.top && one.node.kind == Kind::Link && selection.follow_links {
            let real = self.view.resolve(&one.real)?;
            let node = self.view.lookup(&real)?.ok_or_else(|| not_found(&one.path))?;
            one.digest = self.whole(&real, &node)?;
        }
        Ok(())
    }
}

impl Search<'_> {
    fn visit(&mut self, path: &str, real: &Path, node: Node) -> Result<()> {
        let is_dir = node.kind == Kind::Dir;
        while self.parents.last().is_some_and(|(dir, _)| !is_below(path, &dir.path)) {
            self.parents.pop();
        }
        if let Some(takes) = self.takes(path)? {
            let skip_header = is_dir && path == self.path && self.selection.path.ends_with('/');
            if (takes || is_dir) && !skip_header {
                let digest = self.tree.single(real, &node)?;
                let top = self.parents.is_empty();
                let (path, real) = (path.to_owned(), real.to_owned());
                let one = Included { path, real, node: node.clone(), digest, top };
                self.add(one, takes, is_dir);
            }
        }
        if is_dir && self.may_go_down(path) {
            for child in self.tree.view.list(real)? {
                let below = format!("{path}/{}", child.name.to_string_lossy());
                let real = real.join(&child.name);
                self.visit(&below, &real, child)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, one: Included, takes: bool, is_dir: bool) {
        if takes {
            for (dir, taken) in &mut self.parents {
                if !*taken {
                    *taken = true;
                    self.found.push(dir.clone());
                }
            }
            self.found.push(one.clone());
        }
        if is_dir {
            self.parents.push((one, takes));
        }
    }

    /// Whether a path is taken; `None` when the wildcard does not match it at all.
    fn takes(&mut self, path: &str) -> Result<Option<bool>> {
        let base = if self.selection.wildcard {
            if !self.path.is_empty() && (self.matched.is_empty() || !is_below(path, &self.matched)) {
                if !glob(&self.path, path) {
                    return Ok(None);
                }
                path.clone_into(&mut self.matched);
            }
            self.matched.as_str()
        } else {
            self.path.as_str()
        };
        let candidate = path.strip_prefix(base).unwrap_or(path).trim_start_matches('/');
        let included = self.include.as_ref().is_none_or(|p| p.matches(candidate));
        let excluded = self.exclude.as_ref().is_some_and(|p| p.matches(candidate));
        Ok(Some(included && !excluded))
    }

    /// Below a directory that no wildcard matched, only as deep as the wildcard reaches.
    fn may_go_down(&self, path: &str) -> bool {
        if !self.selection.wildcard || self.path.is_empty() {
            return true;
        }
        let inside = !self.matched.is_empty() && (path == self.matched || is_below(path, &self.matched));
        inside || path.matches('/').count() < self.path.matches('/').count()
    }
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// The part of a path before its first wildcard, and whether there is more.
fn split(path: &str) -> (String, bool) {
    let mut literal = String::new();
    for part in path.split('/').filter(|p| !p.is_empty()) {
        if part.contains(['*', '?', '[', '\\']) {
            return (literal, true);
        }
        literal.push('/');
        literal.push_str(part);
    }
    (literal, false)
}
