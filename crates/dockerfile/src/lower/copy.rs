//! COPY, ADD and WORKDIR: file operations (LLB `FileOp`, `MergeOp`), as BuildKit's client encodes them.
//! Whether a path is there nobody knows here; patterns go into the operation as they are.

use std::collections::BTreeMap;

use graph::git::GitUrl;
use graph::wire::{self, file_action::Action, op, user_opt};

use super::Lowering;
use super::draft::{Draft, Drafts, Id};
use super::state::State;
use crate::ast::{Copy, Heredoc, Instruction, Word};
use crate::diagnostic::Diagnostic;
use crate::parse;
use crate::rules;

type Result<T, E = Diagnostic> = std::result::Result<T, E>;

/// One copy that is to be done.
struct One {
    from: Id,
    action: wire::FileActionCopy,
}

/// Lowers a COPY or ADD.
pub fn lower(lowering: &mut Lowering<'_>, state: &mut State, instruction: &Instruction, copy: &Copy) -> Result<()> {
    let keyword = if copy.add { "ADD" } else { "COPY" };
    let written = state.word(&copy.dest)?;
    let mut dest = state.path(&written);
    // What names a directory by a dot names one also where none is yet (BuildKit adds the slash before it digests).
    if matches!(written.as_str(), "." | "") && !dest.ends_with('/') {
        dest.push('/');
    }
    let chown = copy.chown.as_ref().map(|w| state.word(w)).transpose()?.filter(|c| !c.is_empty());
    let (mode, mode_str) = match &copy.chmod {
        Some(word) => mode_of(&state.word(word)?, word)?,
        None => (-1, String::new()),
    };
    let link = copy.link && copy.chmod.is_none();
    let template = wire::FileActionCopy {
        dest,
        mode,
        mode_str,
        create_dest_path: true,
        timestamp: -1,
        exclude_patterns: copy.exclude.iter().map(|w| state.word(w)).collect::<Result<_>>()?,
        ..Default::default()
    };
    let text = state.shown(&instruction.original);
    let name = state.naming.next(&text);
    let mut copies = Vec::new();
    let mut shown = Vec::new();
    for word in &copy.sources {
        if parse::heredoc_word(&word.value, state.shell.escape).is_some() {
            continue;
        }
        // A source is one word, whatever blanks its variables hold; an empty one is the whole tree.
        let source = state.word(word)?;
        copies.push(one(lowering, state, copy, word, &source, &template, &name)?);
        shown.push(source);
    }
    for document in &copy.heredocs {
        let (from, name) = heredoc(lowering, state, document)?;
        let action = wire::FileActionCopy { src: format!("/{name}"), ..template.clone() };
        copies.push(One { from, action });
        shown.push(format!("<<{}", document.name));
    }
    put(lowering, state, instruction, copies, chown.as_deref(), link, &name, &text);
    let mut line = keyword.to_owned();
    if copy.parents {
        line.push_str(" --parents");
    }
    if let Some(chown) = &chown {
        line.push_str(&format!(" --chown={chown}"));
    }
    if let Some(chmod) = &copy.chmod {
        line.push_str(&format!(" --chmod={}", state.word(chmod)?));
    }
    state.record(&format!("{line} {} {} # buildkit", shown.join(" "), state.word(&copy.dest)?), true);
    Ok(())
}

/// One source that is no inline document.
fn one(
    lowering: &mut Lowering<'_>,
    state: &State,
    copy: &Copy,
    word: &Word,
    source: &str,
    template: &wire::FileActionCopy,
    step: &str,
) -> Result<One> {
    if copy.add && copy.from.is_none() {
        let checksum = copy.checksum.as_ref().map(|w| state.word(w)).transpose()?;
        let web = from_web(source, checksum, copy.keep_git_dir).map_err(|e| Diagnostic::error(word.span, e))?;
        if let Some(web) = web {
            return Ok(remote(lowering, copy, web, template, step));
        }
    }
    if let Some(checksum) = &copy.checksum {
        return Err(Diagnostic::error(checksum.span, "checksum requires HTTP(S) or Git sources"));
    }
    let mut action = wire::FileActionCopy {
        follow_symlink: true,
        dir_copy_contents: true,
        allow_wildcard: true,
        allow_empty_wildcard: true,
        attempt_unpack_docker_compatibility: copy.add && copy.unpack.unwrap_or(true),
        ..template.clone()
    };
    let mut path = source.to_owned();
    if copy.parents {
        let (prefix, pattern) = source.split_once("/./").map_or(("", source), |(a, b)| (a, b));
        let pattern = pattern.trim_start_matches('/').trim_start_matches("./").to_owned();
        if !source.contains(['*', '?', '[']) {
            action.required_paths.push(graph::pattern::clean(&format!("/{prefix}/{pattern}")));
        }
        action.include_patterns.push(pattern);
        path = prefix.to_owned();
    }
    action.src = graph::pattern::clean(&format!("/{path}"));
    let taken = graph::pattern::clean(&format!("/{source}"));
    let from = match &copy.from {
        Some(name) => {
            let tree = lowering.tree(&name.value, name)?;
            lowering.take_from(&name.value, &taken);
            tree
        }
        None => {
            rules::instructions::ignored(&mut lowering.found, &lowering.ignore, copy.add, source, word.span);
            lowering.take(&taken);
            Some(lowering.context())
        }
    };
    let nothing = || Diagnostic::error(word.span, "there is nothing in scratch that could be copied");
    Ok(One { from: from.ok_or_else(nothing)?, action })
}

/// An inline document as a tree with one file; returns the file's name.
fn heredoc(lowering: &mut Lowering<'_>, state: &State, document: &Heredoc) -> Result<(Id, String)> {
    let mut content = document.content.clone();
    if document.expand {
        let word = Word { value: content, span: document.span };
        let lookup = |name: &str| state.get_env(name);
        let shell = crate::words::Shell { plain_quotes: true, ..state.shell };
        content = shell.word(&word.value, &lookup).map_err(|e| Diagnostic::error(word.span, e))?;
    }
    let file = inline(&mut lowering.drafts, &document.name, content.into_bytes(), 0o644);
    Ok((file, document.name.clone()))
}

/// A tree with one file.
pub fn inline(drafts: &mut Drafts, name: &str, data: Vec<u8>, mode: i32) -> Id {
    let file = wire::FileActionMkFile { path: format!("/{name}"), mode, data, timestamp: -1, owner: None };
    let action = wire::FileAction { input: -1, secondary_input: -1, output: 0, action: Some(Action::MkFile(file)) };
    let op = op::Op::File(wire::FileOp { actions: vec![action] });
    let mut draft = Draft::new(op, Vec::new(), "[internal] preparing inline document");
    draft.needs(&["file.base"]);
    drafts.add(draft)
}

fn is_http(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// A file or a repository from the web, as a source operation.
pub struct Web {
    pub identifier: String,
    pub attributes: BTreeMap<String, String>,
    /// The name that a file gets; `None` for a repository.
    pub file: Option<String>,
}

/// What stands for a file whose address ends without a name.
const UNNAMED: &str = "__unnamed__";

/// What an address means; `None` where it is none.
pub fn from_web(source: &str, checksum: Option<String>, keep_git_dir: Option<bool>) -> Result<Option<Web>, String> {
    if let Some(url) = GitUrl::read(source).map_err(|e| e.to_string())?.filter(|url| !url.like_a_path) {
        let mut attributes = url.attributes();
        let said = attributes.contains_key("git.keepgitdir");
        match keep_git_dir {
            Some(false) if said => return Err("inconsistent keep-git-dir configuration".to_owned()),
            Some(true) => drop(attributes.insert("git.keepgitdir".to_owned(), "true".to_owned())),
            _ => {}
        }
        if let Some(checksum) = checksum {
            let said = attributes.insert("git.checksum".to_owned(), checksum.clone());
            if let Some(said) = said.filter(|said| *said != checksum) {
                return Err(format!("checksum mismatch \"{checksum}\" != \"{said}\""));
            }
        }
        return Ok(Some(Web { identifier: url.identifier(), attributes, file: None }));
    }
    if !is_http(source) {
        return Ok(None);
    }
    let path = source.split(['?', '#']).next().unwrap_or(source);
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let path = path.split_once('/').map_or("", |(_, path)| path).trim_end_matches('/');
    let name = path.rsplit('/').next().filter(|name| !matches!(*name, "" | "."));
    let name = name.map_or_else(|| UNNAMED.to_owned(), graph::git::decoded);
    let mut attributes = BTreeMap::from([("http.filename".to_owned(), name.clone())]);
    if let Some(checksum) = checksum {
        if oci::Digest::parse(&checksum).is_err() {
            return Err(format!("invalid checksum digest format: `{checksum}`; expected sha256:HEX"));
        }
        attributes.insert("http.checksum".to_owned(), checksum);
    }
    Ok(Some(Web { identifier: source.to_owned(), attributes, file: Some(name) }))
}

/// ADD of a URL.
fn remote(lowering: &mut Lowering<'_>, copy: &Copy, web: Web, template: &wire::FileActionCopy, step: &str) -> One {
    let Some(name) = web.file else {
        let from = lowering.source(&web.identifier, web.attributes, step, &["source.git"]);
        let action = wire::FileActionCopy { src: "/".to_owned(), ..template.clone() };
        return One { from, action };
    };
    let from = lowering.source(&web.identifier, web.attributes, step, &["source.http"]);
    let unpack = copy.unpack.unwrap_or(false);
    let action = wire::FileActionCopy {
        src: format!("/{name}"),
        attempt_unpack_docker_compatibility: unpack,
        ..template.clone()
    };
    One { from, action }
}

#[allow(clippy::too_many_arguments)] // one instruction's parts
fn put(
    lowering: &mut Lowering<'_>,
    state: &mut State,
    instruction: &Instruction,
    copies: Vec<One>,
    chown: Option<&str>,
    link: bool,
    name: &str,
    text: &str,
) {
    let base = if link { None } else { state.head };
    let mut inputs: Vec<Id> = base.into_iter().collect();
    for one in &copies {
        if !inputs.contains(&one.from) {
            inputs.push(one.from);
        }
    }
    let (count, last) = (inputs.len() as i64, copies.len() - 1);
    let mut actions = Vec::new();
    for (i, one) in copies.into_iter().enumerate() {
        let input = match (i, base) {
            (0, Some(_)) => 0,
            (0, None) => -1,
            (i, _) => count + i as i64 - 1,
        };
        let secondary = inputs.iter().position(|id| *id == one.from).map_or(-1, |at| at as i64);
        let mut action = one.action;
        action.owner = chown.map(|chown| owner(chown, input));
        actions.push(wire::FileAction {
            input,
            secondary_input: secondary,
            output: if i == last { 0 } else { -1 },
            action: Some(Action::Copy(action)),
        });
    }
    let mut draft = Draft::new(op::Op::File(wire::FileOp { actions }), inputs, name);
    draft.needs(&["file.base"]);
    if !link || state.head.is_none() {
        state.head = Some(state.add(&mut lowering.drafts, draft, instruction));
        return;
    }
    let group = |weak| Some(wire::ProgressGroup { id: format!("link {name}"), name: name.to_owned(), weak });
    draft.metadata.progress_group = group(true);
    let copied = state.add(&mut lowering.drafts, draft, instruction);
    let inputs: Vec<Id> = state.head.into_iter().chain([copied]).collect();
    let merged = (0..inputs.len() as i64).map(|input| wire::MergeInput { input }).collect();
    let shown = name.replacen(text, &format!("LINK {text}"), 1);
    let mut merge = Draft::new(op::Op::Merge(wire::MergeOp { inputs: merged }), inputs, &shown);
    merge.needs(&["mergeop"]);
    merge.metadata.progress_group = group(false);
    state.head = Some(state.add(&mut lowering.drafts, merge, instruction));
}

/// `user[:group]`, names looked up in input `input`; `root`, and an empty part, need no look.
pub fn owner(text: &str, input: i64) -> wire::ChownOpt {
    let one = |part: &str| {
        let user = match part.parse::<u32>() {
            Ok(id) => user_opt::User::ById(id),
            Err(_) if matches!(part, "" | "root") => user_opt::User::ById(0),
            Err(_) => user_opt::User::ByName(wire::NamedUserOpt { name: part.to_owned(), input }),
        };
        Some(wire::UserOpt { user: Some(user) })
    };
    match text.split_once(':') {
        Some((user, group)) => wire::ChownOpt { user: one(user), group: one(group) },
        None => wire::ChownOpt { user: one(text), group: None },
    }
}

/// Octal bits, or symbolic terms as they are.
fn mode_of(text: &str, word: &Word) -> Result<(i32, String)> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let bits = u32::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777);
        let text = format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777");
        let bits = bits.ok_or_else(|| Diagnostic::error(word.span, text))?;
        return Ok((bits as i32, String::new()));
    }
    Ok((0, text.to_owned()))
}

/// Lowers a WORKDIR.
pub fn workdir(lowering: &mut Lowering<'_>, state: &mut State, instruction: &Instruction, word: &Word) -> Result<()> {
    let written = state.word(word)?;
    // A whole path stays as it is written, for the image and for processes.
    let told = if written.starts_with('/') { written.clone() } else { graph::pattern::clean(&state.path(&written)) };
    let path = graph::pattern::clean(&state.path(&written));
    state.cwd.clone_from(&told);
    state.config().working_dir.clone_from(&told);
    let layer = path != "/";
    if layer {
        let user = state.image.config.user.clone();
        let input = if state.head.is_some() { 0 } else { -1 };
        let dir = wire::FileActionMkDir {
            path: path.clone(),
            mode: 0o755,
            make_parents: true,
            owner: (!user.is_empty()).then(|| owner(&user, input)),
            // Nanoseconds; else the time at which it is made.
            timestamp: state.epoch.map_or(-1, |seconds| seconds.saturating_mul(1_000_000_000)),
        };
        let action = wire::FileAction { input, secondary_input: -1, output: 0, action: Some(Action::MkDir(dir)) };
        let name = state.naming.next(&state.clone().shown(&instruction.original));
        let op = op::Op::File(wire::FileOp { actions: vec![action] });
        let mut draft = Draft::new(op, state.head.into_iter().collect(), &name);
        draft.needs(&["file.base"]);
        state.head = Some(state.add(&mut lowering.drafts, draft, instruction));
    }
    state.record(&format!("WORKDIR {told}"), layer);
    Ok(())
}
