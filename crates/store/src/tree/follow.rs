//! Which paths a list of followed paths stands for (BuildKit's `followpaths`): each, and what the symlinks on it lead to.
//! It reads links and lists folders; no symlink leads out of the directory.

use std::fs;
use std::path::Path;

use graph::pattern;

use crate::error::{Doing, Result};

/// Patterns for the paths that are followed: each path, and what the symlinks on it lead to.
pub fn follow(base: &Path, paths: &[String]) -> Result<Vec<String>> {
    let mut patterns = Vec::new();
    for path in paths {
        let clean = pattern::clean(path);
        let parts: Vec<String> = clean.split('/').filter(|p| !p.is_empty() && *p != ".").map(str::to_owned).collect();
        if parts.is_empty() {
            return Ok(vec![".".to_owned()]);
        }
        follow_one(base, String::new(), &parts, &mut patterns, 0)?;
    }
    patterns.sort();
    patterns.dedup();
    Ok(patterns)
}

fn follow_one(base: &Path, done: String, left: &[String], found: &mut Vec<String>, links: usize) -> Result<()> {
    let Some((part, rest)) = left.split_first() else {
        found.push(if done.is_empty() { ".".to_owned() } else { done });
        return Ok(());
    };
    let join = |name: &str| if done.is_empty() { name.to_owned() } else { format!("{done}/{name}") };
    if part.contains(['*', '?', '[']) {
        let folder = base.join(&done);
        let Ok(entries) = fs::read_dir(&folder) else { return Ok(()) };
        for entry in entries {
            let name = entry.doing("list", &folder)?.file_name().to_string_lossy().into_owned();
            if pattern::glob(part, &name) {
                let mut left = vec![name];
                left.extend_from_slice(rest);
                follow_one(base, done.clone(), &left, found, links)?;
            }
        }
        return Ok(());
    }
    let next = join(&part.replace('\\', ""));
    match fs::read_link(base.join(&next)) {
        Ok(target) if links < 40 => {
            found.push(next);
            let target = target.to_string_lossy().into_owned();
            let from = if target.starts_with('/') { target } else { format!("{done}/{target}") };
            // Above the directory is the directory, as in a root.
            let clean = pattern::clean(&format!("/{from}"));
            let mut left: Vec<String> = clean.split('/').filter(|p| !p.is_empty()).map(str::to_owned).collect();
            left.extend_from_slice(rest);
            follow_one(base, String::new(), &left, found, links + 1)
        }
        _ => follow_one(base, next, rest, found, links),
    }
}
