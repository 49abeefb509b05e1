//! The key of file actions: each action as Go JSON, and the paths that it takes from its inputs.

use std::collections::{BTreeMap, BTreeSet};

use graph::pattern;
use graph::wire::{ChownOpt, FileAction, FileActionCopy, FileOp, UserOpt, file_action::Action, user_opt::User};
use oci::Digest;

use super::json::{Object, array, base64};
use super::{CacheMap, InputKey, Selection, dedupe};

pub fn cache_map(op: &FileOp, inputs: usize) -> Result<CacheMap, String> {
    let mut selected: BTreeMap<i64, Vec<Selection>> = BTreeMap::new();
    let mut written: BTreeSet<i64> = BTreeSet::new();
    let mut actions = Vec::with_capacity(op.actions.len());
    for action in &op.actions {
        written.insert(action.input);
        actions.push(action_json(action, inputs, &mut selected)?);
    }
    let mut object = Object::new().always("Type", "buildkit.file.v0");
    object = if actions.is_empty() {
        object.raw("Actions", "[]")
    } else {
        object.raw("Actions", &array(&actions, |a| base64(a.as_bytes())))
    };
    if !default_indexes(&op.actions) && !op.actions.is_empty() {
        let row = |a: &FileAction| format!("[{},{},{}]", a.input, a.secondary_input, a.output);
        object = object.raw("indexes", &array(&op.actions, row));
    }
    let digest = Digest::of(object.end().as_bytes());
    let mut keys = vec![InputKey::default(); inputs];
    for (input, selections) in selected {
        let at = usize::try_from(input).ok().filter(|i| *i < inputs);
        let at = at.ok_or_else(|| format!("an action reads input {input}, of {inputs}"))?;
        // What is written to counts as a whole, not by what is read from it.
        if !written.contains(&input) {
            keys[at] = input_key(selections);
        }
    }
    Ok(CacheMap { digest, inputs: keys })
}

fn input_key(selections: Vec<Selection>) -> InputKey {
    let mut paths: Vec<&str> = selections.iter().map(|s| s.path.as_str()).collect();
    paths.sort_unstable_by(|a, b| b.cmp(a)); // descending, as BuildKit has it
    let selector = Some(Digest::of(paths.join("\0").as_bytes()));
    InputKey { selector, content: Some(dedupe_selections(selections)) }
}

fn filtered(s: &Selection) -> bool {
    s.wildcard || !s.include.is_empty() || !s.exclude.is_empty() || !s.required.is_empty()
}

fn dedupe_selections(selections: Vec<Selection>) -> Vec<Selection> {
    let plain = |follow: bool| -> Vec<String> {
        let of_kind = selections.iter().filter(|s| !filtered(s) && s.follow_links == follow);
        dedupe(&of_kind.map(|s| s.path.clone()).collect::<Vec<_>>())
    };
    let (kept, followed) = (plain(false), plain(true));
    let as_selection = |follow_links: bool| move |path| Selection { path, follow_links, ..Selection::default() };
    let mut all: Vec<Selection> = kept.into_iter().map(as_selection(false)).collect();
    all.extend(followed.into_iter().map(as_selection(true)));
    all.extend(selections.into_iter().filter(filtered));
    all.sort_by(|a, b| a.path.cmp(&b.path));
    all
}

/// A chain that begins at input 0, each action on the one before, the last being output 0: not written out.
fn default_indexes(actions: &[FileAction]) -> bool {
    let count = actions.len() as i64;
    let plain = |(i, a): (usize, &FileAction)| {
        let i = i as i64;
        let input = if i == 0 { 0 } else { count + i - 1 };
        let output = if i == count - 1 { 0 } else { -1 };
        a.input == input && (a.secondary_input == -1 || a.secondary_input == 1) && a.output == output
    };
    !actions.is_empty() && actions.iter().enumerate().all(plain)
}

fn action_json(
    action: &FileAction,
    inputs: usize,
    selected: &mut BTreeMap<i64, Vec<Selection>>,
) -> Result<String, String> {
    Ok(match action.action.as_ref() {
        Some(Action::MkDir(a)) => {
            owner_selections(a.owner.as_ref(), selected)?;
            Object::new()
                .text("path", &a.path)
                .number("mode", a.mode.into())
                .flag("makeParents", a.make_parents)
                .message("owner", a.owner.as_ref(), owner_json)
                .number("timestamp", a.timestamp)
                .end()
        }
        Some(Action::MkFile(a)) => {
            owner_selections(a.owner.as_ref(), selected)?;
            Object::new()
                .text("path", &a.path)
                .number("mode", a.mode.into())
                .bytes("data", &a.data)
                .message("owner", a.owner.as_ref(), owner_json)
                .number("timestamp", a.timestamp)
                .end()
        }
        Some(Action::Symlink(a)) => Object::new()
            .text("oldpath", &a.oldpath)
            .text("newpath", &a.newpath)
            .message("owner", a.owner.as_ref(), owner_json)
            .number("timestamp", a.timestamp)
            .end(),
        Some(Action::Rm(a)) => Object::new()
            .text("path", &a.path)
            .flag("allowNotFound", a.allow_not_found)
            .flag("allowWildcard", a.allow_wildcard)
            .end(),
        Some(Action::Copy(a)) => {
            owner_selections(a.owner.as_ref(), selected)?;
            let from_input = action.secondary_input != -1 && action.secondary_input < inputs as i64;
            if from_input {
                selected.entry(action.secondary_input).or_default().push(copy_selection(a));
            }
            copy_json(a, from_input)
        }
        None => return Err("a file action of a kind that is not known".into()),
    })
}

fn copy_selection(a: &FileActionCopy) -> Selection {
    Selection {
        path: a.src.clone(),
        wildcard: a.allow_wildcard && pattern::has_wildcard(&a.src),
        follow_links: a.follow_symlink,
        include: a.include_patterns.clone(),
        exclude: a.exclude_patterns.clone(),
        required: a.required_paths.clone(),
    }
}

fn copy_json(a: &FileActionCopy, from_input: bool) -> String {
    let source = if from_input { base_name(&a.src) } else { a.src.clone() };
    Object::new()
        .text("src", &source)
        .text("dest", &a.dest)
        .message("owner", a.owner.as_ref(), owner_json)
        .number("mode", a.mode.into())
        .flag("followSymlink", a.follow_symlink)
        .flag("dirCopyContents", a.dir_copy_contents)
        .flag("attemptUnpackDockerCompatibility", a.attempt_unpack_docker_compatibility)
        .flag("createDestPath", a.create_dest_path)
        .flag("allowWildcard", a.allow_wildcard)
        .flag("allowEmptyWildcard", a.allow_empty_wildcard)
        .number("timestamp", a.timestamp)
        .texts("include_patterns", &a.include_patterns)
        .texts("exclude_patterns", &a.exclude_patterns)
        .flag("alwaysReplaceExistingDestPaths", a.always_replace_existing_dest_paths)
        .text("modeStr", &a.mode_str)
        .texts("required_paths", &a.required_paths)
        .end()
}

/// Go's `path.Base`.
fn base_name(path: &str) -> String {
    if path.is_empty() {
        return ".".into();
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        return "/".into();
    }
    trimmed.rsplit('/').next().unwrap_or(trimmed).to_owned()
}

fn owner_json(owner: &ChownOpt) -> String {
    Object::new()
        .message("user", owner.user.as_ref(), user_json)
        .message("group", owner.group.as_ref(), user_json)
        .end()
}

fn user_json(user: &UserOpt) -> String {
    let inner = match &user.user {
        Some(User::ByName(n)) => {
            let name = Object::new().text("name", &n.name).number("input", n.input).end();
            Object::new().raw("byName", &name).end()
        }
        Some(User::ById(id)) => Object::new().number("byId", i64::from(*id)).end(),
        None => Object::new().end(),
    };
    Object::new().raw("User", &inner).end()
}

fn owner_selections(owner: Option<&ChownOpt>, selected: &mut BTreeMap<i64, Vec<Selection>>) -> Result<(), String> {
    let Some(owner) = owner else { return Ok(()) };
    for (user, file) in [(&owner.user, "/etc/passwd"), (&owner.group, "/etc/group")] {
        if let Some(User::ByName(name)) = user.as_ref().and_then(|u| u.user.as_ref()) {
            if name.input < 0 {
                let why = "there is no image to look it up in: expected a number (COPY --link has none)";
                return Err(format!("owner `{}`: {why}", name.name));
            }
            let selection = Selection { path: file.into(), follow_links: true, ..Selection::default() };
            selected.entry(name.input).or_default().push(selection);
        }
    }
    Ok(())
}
