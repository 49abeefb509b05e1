//! Source policies: rules that allow a source, deny it, or make it another one (BuildKit's `moby.buildkit.v1.sourcepolicy`,
//! the file that `EXPERIMENTAL_BUILDKIT_SOURCE_POLICY` names). What a source is, and how it is had, is not known here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use graph::git::GitUrl;
use graph::wire::{self, op};
use graph::{Edge, Graph, GraphBuilder};
use oci::Reference;
use regex_lite::Regex;

use crate::build::Build;

/// How often a source may become another one: rules that turn in a circle end here.
const CONVERSIONS: usize = 20;

/// Why a policy does not let a source through. The texts are BuildKit's, which clients look for.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("source {identifier:?} denied by policy: source denied by policy")]
    Denied { identifier: String },
    #[error("too many mutations on a single source: the policy turns {identifier} round and round")]
    Circle { identifier: String },
    #[error(
        "missing destination for convert rule: the source policy makes {identifier} another source, and does not say which"
    )]
    NoUpdate { identifier: String },
    #[error("the source policy has a pattern that can't be read, `{pattern}`: {reason}")]
    Pattern { pattern: String, reason: String },
    #[error(
        "the source policy makes {identifier} into {update}, which is no image: larder takes only an image for an image that a Dockerfile names"
    )]
    NoImage { identifier: String, update: String },
    #[error(transparent)]
    Graph(#[from] graph::Error),
}

/// What becomes of a source that a rule is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// It may be used, whatever earlier rules say.
    #[default]
    Allow,
    /// It may not, unless a later rule says so.
    Deny,
    /// Another one is used.
    Convert,
}

/// How an identifier is compared. One that is the same always fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Match {
    /// `*` stands for anything.
    #[default]
    Wildcard,
    /// Letter by letter.
    Exact,
    /// As a regular expression, which may fit anywhere.
    Regex,
}

/// How an attribute is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// It is the value; an attribute that is not there is empty.
    #[default]
    Equal,
    /// It is anything else.
    NotEqual,
    /// The value is a regular expression that fits it.
    Matches,
}

/// What an attribute must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Constraint {
    /// Its name.
    pub key: String,
    /// What it is compared with.
    pub value: String,
    /// How.
    pub condition: Condition,
}

/// Which sources a rule is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// What the identifier is compared with.
    pub identifier: String,
    /// How.
    pub match_type: Match,
    /// What the attributes must be, all of them.
    pub constraints: Vec<Constraint>,
}

/// What a source becomes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Its identifier; empty for the one of the selector. `$1` and `${1}` are what the pattern's parts stood for.
    pub identifier: String,
    /// Attributes that it gets.
    pub attrs: BTreeMap<String, String>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// What becomes of the source.
    pub action: Action,
    /// Which source.
    pub selector: Selector,
    /// What it becomes.
    pub updates: Option<Update>,
}

/// Rules, of which the last that fits counts; one that converts begins anew with what came out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// BuildKit's version of the format, 1.
    pub version: i64,
    /// In order.
    pub rules: Vec<Rule>,
}

/// Applies policies, one after the other, to a source; whether it is another one now.
pub fn check(policies: &[&Policy], source: &mut wire::SourceOp) -> Result<bool, Error> {
    if policies.iter().all(|policy| policy.rules.is_empty()) {
        return Ok(false);
    }
    let given = source.clone();
    source.identifier = normal(&source.identifier).into_owned();
    for _ in 0..=CONVERSIONS {
        if !once(policies, source)? {
            // A name that only looks different is none.
            let same = source.identifier == normal(&given.identifier) && source.attrs == given.attrs;
            if same {
                *source = given;
            }
            return Ok(!same);
        }
    }
    Err(Error::Circle { identifier: given.identifier })
}

/// One round; whether the source became another one.
fn once(policies: &[&Policy], source: &mut wire::SourceOp) -> Result<bool, Error> {
    for policy in policies {
        let mut denied = false;
        for rule in &policy.rules {
            let Some(pattern) = fits(&rule.selector, source)? else { continue };
            match rule.action {
                Action::Allow => denied = false,
                Action::Deny => denied = true,
                Action::Convert if convert(rule, pattern.as_ref(), source)? => return Ok(true),
                Action::Convert => {}
            }
        }
        if denied {
            return Err(Error::Denied { identifier: source.identifier.clone() });
        }
    }
    Ok(false)
}

/// The expression by which a selector fits a source, if it does; inside is none where the texts are the same.
fn fits(selector: &Selector, source: &wire::SourceOp) -> Result<Option<Option<Regex>>, Error> {
    for constraint in &selector.constraints {
        let value = source.attrs.get(&constraint.key).map(String::as_str).unwrap_or_default();
        let holds = match constraint.condition {
            Condition::Equal => value == constraint.value,
            Condition::NotEqual => value != constraint.value,
            Condition::Matches => expression(&constraint.value)?.is_match(value),
        };
        if !holds {
            return Ok(None);
        }
    }
    let pattern = match selector.match_type {
        Match::Exact => None,
        Match::Regex => Some(expression(&selector.identifier)?),
        Match::Wildcard => Some(wildcard(&selector.identifier)?),
    };
    let matched = pattern.as_ref().is_some_and(|pattern| pattern.is_match(&source.identifier));
    Ok((matched || selector.identifier == source.identifier).then_some(pattern.filter(|_| matched)))
}

fn expression(pattern: &str) -> Result<Regex, Error> {
    Regex::new(pattern).map_err(|e| Error::Pattern { pattern: pattern.to_owned(), reason: e.to_string() })
}

fn wildcard(pattern: &str) -> Result<Regex, Error> {
    if pattern.contains("**") {
        return Err(Error::Pattern { pattern: pattern.to_owned(), reason: "invalid wildcard: \"**\"".to_owned() });
    }
    let parts: Vec<_> = pattern.split('*').map(regex_lite::escape).collect();
    expression(&format!("^{}$", parts.join("(.*)")))
}

/// Makes a source what a rule says; whether that is anything else.
fn convert(rule: &Rule, pattern: Option<&Regex>, source: &mut wire::SourceOp) -> Result<bool, Error> {
    let missing = || Error::NoUpdate { identifier: source.identifier.clone() };
    let update = rule.updates.as_ref().ok_or_else(missing)?;
    let form = if update.identifier.is_empty() { &rule.selector.identifier } else { &update.identifier };
    let identifier = match (rule.selector.match_type, pattern) {
        (Match::Regex, Some(pattern)) => pattern.replace_all(&source.identifier, form.as_str()).into_owned(),
        (Match::Wildcard, Some(pattern)) => pattern.replace(&source.identifier, form.as_str()).into_owned(),
        _ => form.clone(),
    };
    let mut changed = false;
    if !identifier.is_empty() && identifier != source.identifier {
        source.identifier = identifier;
        changed = true;
    }
    for (name, value) in &update.attrs {
        let before = source.attrs.insert(name.clone(), value.clone());
        changed |= before.as_ref() != Some(value);
    }
    Ok(changed)
}

/// An identifier as rules are written for it: an image by its whole name, a folder of a repository by its clean path.
fn normal(identifier: &str) -> Cow<'_, str> {
    let normal = match identifier.split_once("://") {
        Some(("docker-image", name)) => {
            Reference::parse(name).ok().map(|reference| format!("docker-image://{}", reference.or_latest()))
        }
        Some(("git", _)) => GitUrl::parse(identifier).map(|mut url| {
            // `..` leads to the repository's root at most.
            let clean = graph::pattern::clean(&format!("/{}", url.subdir));
            url.subdir = clean.trim_matches('/').to_owned();
            url.identifier()
        }),
        _ => None,
    };
    normal.map_or(Cow::Borrowed(identifier), Cow::Owned)
}

/// A graph with the sources that policies let through; the same one where nothing changes.
pub fn apply(policies: &[&Policy], graph: &Graph) -> Result<Option<Graph>, Error> {
    if policies.iter().all(|policy| policy.rules.is_empty()) {
        return Ok(None);
    }
    let mut builder = GraphBuilder::default();
    let mut moved = BTreeMap::new();
    for vertex in graph.vertices() {
        let mut op = vertex.op.clone();
        for input in &mut op.inputs {
            if let Some(now) = moved.get(&input.digest) {
                input.digest = String::clone(now);
            }
        }
        if let Some(op::Op::Source(source)) = &mut op.op {
            check(policies, source)?;
        }
        let digest = builder.add(op, vertex.metadata.clone())?;
        if digest != vertex.digest {
            moved.insert(vertex.digest.to_string(), digest.to_string());
        }
    }
    if moved.is_empty() {
        return Ok(None);
    }
    let now = |edge: Edge| {
        let digest = moved.get(&edge.vertex.to_string()).and_then(|text| oci::Digest::parse(text).ok());
        Edge { vertex: digest.unwrap_or(edge.vertex), ..edge }
    };
    let mut places = graph.source.clone();
    if let Some(places) = &mut places {
        let locations = std::mem::take(&mut places.locations).into_iter();
        places.locations = locations.map(|(of, at)| (moved.get(&of).cloned().unwrap_or(of), at)).collect();
    }
    Ok(Some(builder.finish(graph.head.map(now), places)))
}

impl Build {
    /// A graph with the sources that the build's policies, and `more`, let through.
    pub fn let_through(&self, graph: Arc<Graph>, more: &[Policy]) -> Result<Arc<Graph>, Error> {
        let policies: Vec<_> = self.request().policies.iter().chain(more).collect();
        let moved = apply(&policies, &graph);
        Ok(moved?.map_or(graph, Arc::new))
    }

    /// A source as the build's policies, and `more`, let it through; whether it is another one now.
    pub fn let_source(&self, source: &mut wire::SourceOp, more: &[Policy]) -> Result<bool, Error> {
        let policies: Vec<_> = self.request().policies.iter().chain(more).collect();
        check(&policies, source)
    }

    /// The image that an image reference stands for, by the build's policies and `more`.
    pub(crate) fn let_image(&self, reference: &Reference, more: &[Policy]) -> Result<Reference, Error> {
        let identifier = format!("docker-image://{reference}");
        let mut source = wire::SourceOp { identifier, ..wire::SourceOp::default() };
        if !self.let_source(&mut source, more)? {
            return Ok(reference.clone());
        }
        let image = source.identifier.strip_prefix("docker-image://").and_then(|name| Reference::parse(name).ok());
        let missing = || Error::NoImage { identifier: reference.to_string(), update: source.identifier.clone() };
        image.ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(action: Action, match_type: Match, identifier: &str) -> Rule {
        let selector = Selector { identifier: identifier.to_owned(), match_type, constraints: Vec::new() };
        Rule { action, selector, updates: None }
    }

    fn to(match_type: Match, identifier: &str, update: &str, attrs: &[(&str, &str)]) -> Rule {
        let attrs = attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let updates = Some(Update { identifier: update.to_owned(), attrs });
        Rule { updates, ..rule(Action::Convert, match_type, identifier) }
    }

    fn policy(rules: impl IntoIterator<Item = Rule>) -> Policy {
        Policy { version: 1, rules: rules.into_iter().collect() }
    }

    fn checked(policy: &Policy, identifier: &str) -> Result<String, String> {
        let mut source = wire::SourceOp { identifier: identifier.to_owned(), attrs: BTreeMap::new() };
        let changed = check(&[policy], &mut source).map_err(|e| e.to_string())?;
        Ok(if changed { format!("{} {:?}", source.identifier, source.attrs) } else { "same".to_owned() })
    }

    #[test]
    fn the_last_rule_that_fits_counts() {
        let policy = policy([
            rule(Action::Deny, Match::Wildcard, "*"),
            rule(Action::Allow, Match::Wildcard, "docker-image://docker.io/library/alpine:*"),
            rule(Action::Deny, Match::Regex, "^docker-image://.*:edge$"),
        ]);
        assert_eq!(checked(&policy, "docker-image://alpine").unwrap(), "same");
        let refused = checked(&policy, "docker-image://alpine:edge").unwrap_err();
        assert!(
            refused.starts_with("source \"docker-image://docker.io/library/alpine:edge\" denied by policy"),
            "{refused}"
        );
        assert!(checked(&policy, "https://e.example/f").is_err());
    }

    #[test]
    fn a_source_becomes_another() {
        let policy = policy([
            to(
                Match::Wildcard,
                "docker-image://docker.io/library/golang:*",
                "docker-image://mirror.example/go:${1}-alpine",
                &[],
            ),
            to(Match::Exact, "https://e.example/f", "", &[("http.checksum", "sha256:00")]),
            to(Match::Regex, "git://(.*)/old.git", "git://$1/new.git", &[]),
        ]);
        assert_eq!(
            checked(&policy, "docker-image://golang:1.19").unwrap(),
            "docker-image://mirror.example/go:1.19-alpine {}"
        );
        assert_eq!(
            checked(&policy, "https://e.example/f").unwrap(),
            r#"https://e.example/f {"http.checksum": "sha256:00"}"#
        );
        assert_eq!(checked(&policy, "git://e.example/a/old.git").unwrap(), "git://e.example/a/new.git {}");
        assert_eq!(checked(&policy, "local://context").unwrap(), "same");
        let escape = "git://e.example/a/old.git#main:../up/./dir";
        assert_eq!(checked(&policy, escape).unwrap(), "git://e.example/a/new.git#main:up/dir {}");
    }

    #[test]
    fn attributes_are_compared_and_circles_end() {
        let mut denied = rule(Action::Deny, Match::Wildcard, "https://*");
        denied.selector.constraints = vec![Constraint { key: "http.checksum".to_owned(), ..Constraint::default() }];
        let round = [("a", "b"), ("b", "a")]
            .map(|(from, into)| to(Match::Wildcard, &format!("local://{from}"), &format!("local://{into}"), &[]));
        let policy = policy(std::iter::once(denied).chain(round));
        assert!(checked(&policy, "https://e.example/f").is_err());
        assert!(checked(&policy, "local://a").unwrap_err().contains("too many mutations"));
        let mut pinned = wire::SourceOp { identifier: "https://e.example/f".to_owned(), attrs: BTreeMap::new() };
        pinned.attrs.insert("http.checksum".to_owned(), "sha256:00".to_owned());
        assert!(!check(&[&policy], &mut pinned).unwrap());
    }

    #[test]
    fn what_reads_a_source_that_moved_moves_too() {
        let mut builder = GraphBuilder::default();
        let source = wire::SourceOp { identifier: "docker-image://a".to_owned(), attrs: BTreeMap::new() };
        let op = wire::Op { op: Some(op::Op::Source(source)), ..wire::Op::default() };
        let from = builder.add(op, wire::OpMetadata::default()).unwrap();
        let input = wire::Input { digest: from.to_string(), index: 0 };
        let merge = op::Op::Merge(wire::MergeOp { inputs: vec![wire::MergeInput { input: 0 }] });
        let op = wire::Op { inputs: vec![input], op: Some(merge), ..wire::Op::default() };
        let vertex = builder.add(op, wire::OpMetadata::default()).unwrap();
        let graph = builder.finish(Some(Edge { vertex, output: 0 }), None);
        let policy = policy([to(
            Match::Wildcard,
            "docker-image://docker.io/library/a:latest",
            "docker-image://e.example/b",
            &[],
        )]);
        let moved = apply(&[&policy], &graph).unwrap().unwrap();
        let read = moved.get(&moved.head.unwrap().vertex).unwrap();
        assert_eq!(moved.get(&read.inputs[0].vertex).unwrap().name(), "docker-image://e.example/b");
        assert!(apply(&[&policy], &moved).unwrap().is_none());
        assert!(apply(&[&Policy::default()], &graph).unwrap().is_none());
    }
}
