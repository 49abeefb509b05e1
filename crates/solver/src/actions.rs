//! File actions as named parts: what a COPY, ADD or WORKDIR does, in words that a person compares.
//! They explain and never decide.

use graph::wire::{ChownOpt, FileOp, file_action::Action, user_opt::User};

use crate::ingredients::Part;

/// How many bytes of an inline file are kept as words; of a longer one its digest.
const SHORT: usize = 200;

/// The parts of one file operation. Each is there in every operation, so that two of them can be held against each other.
pub fn parts(op: &FileOp) -> impl Iterator<Item = Part> {
    let all = |words: fn(&Action) -> Vec<String>| {
        let mut said: Vec<String> = Vec::new();
        for word in op.actions.iter().filter_map(|a| a.action.as_ref()).flat_map(words) {
            if !word.is_empty() && !said.contains(&word) {
                said.push(word);
            }
        }
        if said.is_empty() { "none".to_owned() } else { said.join(", ") }
    };
    [
        ("source", all(source)),
        ("destination", all(destination)),
        ("owner", all(|action| vec![owner(action)])),
        ("mode", all(|action| vec![mode(action)])),
        ("content", all(content)),
        ("included files", all(|action| copy(action, |c| c.include_patterns.clone()))),
        ("excluded files", all(|action| copy(action, |c| c.exclude_patterns.clone()))),
        ("timestamp", all(|action| vec![timestamp(action)])),
        ("options", all(options)),
    ]
    .into_iter()
    .map(|(name, value)| Part::Option { name: name.to_owned(), value })
}

fn source(action: &Action) -> Vec<String> {
    match action {
        Action::Copy(copy) if copy.required_paths.is_empty() => vec![copy.src.clone()],
        Action::Copy(copy) => copy.required_paths.clone(),
        Action::Symlink(link) => vec![link.oldpath.clone()],
        Action::MkFile(_) | Action::MkDir(_) | Action::Rm(_) => Vec::new(),
    }
}

fn destination(action: &Action) -> Vec<String> {
    vec![match action {
        Action::Copy(copy) => copy.dest.clone(),
        Action::MkFile(file) => file.path.clone(),
        Action::MkDir(directory) => directory.path.clone(),
        Action::Rm(gone) => gone.path.clone(),
        Action::Symlink(link) => link.newpath.clone(),
    }]
}

fn owner(action: &Action) -> String {
    let owner = match action {
        Action::Copy(copy) => &copy.owner,
        Action::MkFile(file) => &file.owner,
        Action::MkDir(directory) => &directory.owner,
        Action::Symlink(link) => &link.owner,
        Action::Rm(_) => &None,
    };
    let Some(ChownOpt { user, group }) = owner else { return String::new() };
    let name = |who: &Option<graph::wire::UserOpt>| {
        who.as_ref().and_then(|who| who.user.as_ref()).map(|user| match user {
            User::ByName(named) => named.name.clone(),
            User::ById(id) => id.to_string(),
        })
    };
    match (name(user), name(group)) {
        (Some(user), Some(group)) if user != group => format!("{user}:{group}"),
        (Some(user), _) => user,
        (None, Some(group)) => format!(":{group}"),
        (None, None) => String::new(),
    }
}

fn mode(action: &Action) -> String {
    let mode = match action {
        Action::Copy(copy) if !copy.mode_str.is_empty() => return copy.mode_str.clone(),
        Action::Copy(copy) => copy.mode,
        Action::MkFile(file) => file.mode,
        Action::MkDir(directory) => directory.mode,
        Action::Rm(_) | Action::Symlink(_) => -1,
    };
    if mode < 0 { String::new() } else { format!("{mode:04o}") }
}

fn content(action: &Action) -> Vec<String> {
    let Action::MkFile(file) = action else { return Vec::new() };
    match std::str::from_utf8(&file.data) {
        Ok(text) if text.len() <= SHORT => vec![text.to_owned()],
        _ => vec![format!("sha256:{}", oci::Digest::of(&file.data).short())],
    }
}

fn timestamp(action: &Action) -> String {
    let nanoseconds = match action {
        Action::Copy(copy) => copy.timestamp,
        Action::MkFile(file) => file.timestamp,
        Action::MkDir(directory) => directory.timestamp,
        Action::Symlink(link) => link.timestamp,
        Action::Rm(_) => -1,
    };
    if nanoseconds < 0 { String::new() } else { (nanoseconds / 1_000_000_000).to_string() }
}

fn options(action: &Action) -> Vec<String> {
    let on = |is_on: bool, name: &str| is_on.then(|| name.to_owned());
    match action {
        Action::Copy(copy) => [
            on(copy.attempt_unpack_docker_compatibility, "unpack archives"),
            on(copy.dir_copy_contents, "content of directories"),
            on(copy.follow_symlink, "follow symlinks"),
            on(copy.create_dest_path, "make parents"),
            on(copy.allow_wildcard, "wildcards"),
            on(copy.allow_empty_wildcard, "wildcards may match nothing"),
            on(copy.always_replace_existing_dest_paths, "replace what is there"),
        ]
        .into_iter()
        .flatten()
        .collect(),
        Action::MkDir(directory) => on(directory.make_parents, "make parents").into_iter().collect(),
        Action::Rm(gone) => {
            let both = [on(gone.allow_not_found, "may be missing"), on(gone.allow_wildcard, "wildcards")];
            both.into_iter().flatten().collect()
        }
        Action::MkFile(_) | Action::Symlink(_) => Vec::new(),
    }
}

fn copy(action: &Action, words: impl Fn(&graph::wire::FileActionCopy) -> Vec<String>) -> Vec<String> {
    if let Action::Copy(copy) = action { words(copy) } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use graph::wire::{FileAction, FileActionCopy, UserOpt};

    use super::*;

    fn op(actions: Vec<Action>) -> FileOp {
        let action = |action| FileAction { action: Some(action), ..FileAction::default() };
        FileOp { actions: actions.into_iter().map(action).collect() }
    }

    fn copied(more: impl Fn(&mut FileActionCopy)) -> FileOp {
        let plain = FileActionCopy {
            src: "/src".into(),
            dest: "/w/src".into(),
            mode: -1,
            timestamp: -1,
            ..FileActionCopy::default()
        };
        let mut other = plain.clone();
        more(&mut other);
        op(vec![Action::Copy(other)])
    }

    /// What differs, as it is shown.
    fn differs(before: &FileOp, after: &FileOp) -> Vec<String> {
        let said = |op: &FileOp| -> Vec<(String, String)> {
            let pair = |part| match part {
                Part::Option { name, value } => (name, value),
                other => panic!("{other:?}"),
            };
            parts(op).map(pair).collect()
        };
        let both = said(before).into_iter().zip(said(after)).filter(|(a, b)| a != b);
        both.map(|((name, before), (_, after))| format!("{name} {before} → {after}")).collect()
    }

    #[test]
    fn each_flag_is_a_part() {
        let plain = copied(|_| {});
        let id = |id| Some(UserOpt { user: Some(User::ById(id)) });
        let owned = copied(|c| c.owner = Some(ChownOpt { user: id(1), group: id(2) }));
        assert_eq!(differs(&plain, &owned), ["owner none → 1:2"]);
        assert_eq!(differs(&plain, &copied(|c| c.mode = 0o755)), ["mode none → 0755"]);
        assert_eq!(differs(&plain, &copied(|c| c.src = "/lib".into())), ["source /src → /lib"]);
        let less = copied(|c| c.exclude_patterns = vec!["*.o".into()]);
        assert_eq!(differs(&plain, &less), ["excluded files none → *.o"]);
        assert_eq!(differs(&plain, &copied(|c| c.timestamp = 5_000_000_000)), ["timestamp none → 5"]);
        assert_eq!(differs(&plain, &copied(|c| c.follow_symlink = true)), ["options none → follow symlinks"]);
    }
}
