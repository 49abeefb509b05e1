//! What a user may give to a target: build arguments, secrets, SSH agents (`docker buildx build --call outline`).
//! It is read off what was lowered, so that defaults are expanded and only what the target needs is listed.

use std::collections::{BTreeMap, BTreeSet};

use super::stages::{Base, Stages};
use crate::ast::Instruction;

/// The outline of a target, each list in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The stage's name, if it has one.
    pub name: String,
    /// Its description: the comment above it that begins with its name.
    pub description: String,
    /// Build arguments.
    pub args: Vec<Arg>,
    /// Secrets.
    pub secrets: Vec<Mounted>,
    /// SSH agents.
    pub agents: Vec<Mounted>,
}

/// A build argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// Its name.
    pub name: String,
    /// From the comment above it.
    pub description: String,
    /// The default, or what was given; empty when there is none.
    pub value: String,
    /// First and last line.
    pub lines: (u32, u32),
}

/// A secret or an SSH agent that a step mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Its id.
    pub name: String,
    /// The step fails without it.
    pub required: bool,
    /// First and last line of the first step that names it.
    pub lines: (u32, u32),
}

/// What one stage brings to an outline.
#[derive(Clone, Debug, Default)]
pub struct Part {
    args: Vec<Arg>,
    /// Arguments that are declared here and are the global ones.
    global: BTreeSet<String>,
    secrets: Vec<Mounted>,
    agents: Vec<Mounted>,
}

impl Part {
    /// An `ARG`; `is_own`: it is not the global argument of that name.
    pub fn argument(&mut self, from: &Instruction, name: &str, value: Option<String>, is_own: bool) {
        if is_own {
            self.args.retain(|arg| arg.name != name);
            self.args.push(Arg {
                name: name.to_owned(),
                description: described(from, name),
                value: value.unwrap_or_default(),
                lines: from.lines,
            });
        } else {
            self.global.insert(name.to_owned());
        }
    }

    /// A secret that a step mounts.
    pub fn secret(&mut self, name: String, required: bool, from: &Instruction) {
        self.secrets.push(Mounted { name, required, lines: from.lines });
    }

    /// An SSH agent that a step mounts.
    pub fn agent(&mut self, name: String, required: bool, from: &Instruction) {
        self.agents.push(Mounted { name, required, lines: from.lines });
    }
}

/// The comment above an instruction that begins with a name.
pub fn described(from: &Instruction, name: &str) -> String {
    let mut comments = from.comments.iter().filter(|_| !name.is_empty());
    let about = comments.find_map(|comment| comment.value.strip_prefix(name)?.strip_prefix(' '));
    about.unwrap_or_default().to_owned()
}

/// The outline of a target that was lowered. What several stages have is the target's first, then its base's.
pub(super) fn of(stages: &Stages<'_>, target: usize, parts: &BTreeMap<usize, Part>) -> Outline {
    let stage = &stages.list[target];
    let mut outline =
        Outline { name: stage.name.clone(), description: described(stage.from, &stage.name), ..Outline::default() };
    let mut globals: BTreeSet<String> = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut open = vec![target];
    while let Some(i) = open.pop() {
        if !seen.insert(i) {
            continue;
        }
        let stage = &stages.list[i];
        globals.extend(stage.used.iter().cloned());
        open.extend(stage.reads.iter().copied());
        // The base comes next.
        if let Base::Stage(base) = stage.base {
            open.push(base);
        }
        let Some(part) = parts.get(&i) else { continue };
        globals.extend(part.global.iter().cloned());
        add(&mut outline.args, &part.args, |arg| &arg.name);
        add(&mut outline.secrets, &part.secrets, |secret| &secret.name);
        add(&mut outline.agents, &part.agents, |agent| &agent.name);
    }
    let declared = global_args(stages, globals);
    add(&mut outline.args, &declared, |arg| &arg.name);
    outline.args.sort_by_key(|arg| arg.lines.0);
    outline.secrets.sort_by_key(|secret| secret.lines.0);
    outline.agents.sort_by_key(|agent| agent.lines.0);
    outline
}

/// Adds what is not there yet by its name.
fn add<T: Clone>(list: &mut Vec<T>, more: &[T], name: impl Fn(&T) -> &String) {
    for one in more {
        if !list.iter().any(|known| name(known) == name(one)) {
            list.push(one.clone());
        }
    }
}

/// The global arguments of these names, and those that their defaults name.
fn global_args(stages: &Stages<'_>, names: BTreeSet<String>) -> Vec<Arg> {
    let mut used = BTreeSet::new();
    let mut open: Vec<String> = names.into_iter().collect();
    while let Some(name) = open.pop() {
        let all = stages.arguments.iter().filter(|argument| argument.name == name);
        let reads: Vec<String> = all.flat_map(|argument| argument.reads.iter().cloned()).collect();
        if used.insert(name) {
            open.extend(reads);
        }
    }
    let last = stages.arguments.iter().rev().filter(|argument| used.contains(argument.name));
    last.map(|argument| Arg {
        name: argument.name.to_owned(),
        description: described(argument.from, argument.name),
        value: argument.value.clone().unwrap_or_default(),
        lines: argument.from.lines,
    })
    .collect()
}
