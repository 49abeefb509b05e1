//! The named parts of a step's key, kept readable: what was run, with which arguments, on which inputs.
//! They explain and never decide: the key itself is `key`'s.

use graph::{Kind, Vertex, wire};
use oci::Digest;
use serde::{Deserialize, Serialize};

use crate::actions;
use crate::record::KeyId;

/// One named part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Part {
    /// The text that a person wrote (or the process' words).
    Instruction(String),
    /// A build argument that is live at the step.
    Arg { name: String, value: String },
    /// An environment variable.
    Env { name: String, value: String },
    /// A base image, by the name that the Dockerfile gives, and its digest.
    Base { reference: String, digest: Digest },
    /// Files taken from a directory of the client's or another tree: digest and number of the kept listing.
    Files { from: String, listing: Digest, count: u64 },
    /// The platform that the step runs for.
    Platform(String),
    /// A mount of the process.
    Mount { target: String, what: String },
    /// Anything else by name: user, working directory, network, security, hosts.
    Option { name: String, value: String },
    /// Files from elsewhere by their name, and what that name meant: a commit, the digest of a file.
    Source { name: String, version: String },
}

/// The step that an input comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Its display name.
    pub name: String,
    /// Its key, when it has one.
    pub key: Option<KeyId>,
}

/// All parts of one step's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingredients {
    /// The step's display name.
    pub name: String,
    /// Parts in a fixed order.
    pub parts: Vec<Part>,
    /// One entry an input.
    pub parents: Vec<Parent>,
}

impl Ingredients {
    /// The parts of a vertex that can be read off the operation itself. Bases and files are added by who knows them.
    pub fn of(vertex: &Vertex) -> Ingredients {
        let description = &vertex.metadata.description;
        let mut parts = Vec::new();
        let instruction = description.get("com.docker.dockerfile.v1.command").cloned();
        parts.push(Part::Instruction(instruction.unwrap_or_else(|| text(vertex))));
        match vertex.kind() {
            Some(Kind::Exec(op)) => {
                let args = description.get("larder.args").map(|json| arg_names(json)).unwrap_or_default();
                exec_parts(op, &args, &mut parts);
            }
            Some(Kind::File(op)) => parts.extend(actions::parts(op)),
            _ => {}
        }
        if let Some(p) = &vertex.op.platform {
            parts.push(Part::Platform(oci::Platform::new(&p.os, &p.architecture, &p.variant).to_string()));
        }
        Ingredients { name: vertex.name(), parts, parents: Vec::new() }
    }

    /// The instruction's text.
    pub fn instruction(&self) -> &str {
        let text = self.parts.iter().find_map(|p| if let Part::Instruction(t) = p { Some(t.as_str()) } else { None });
        text.unwrap_or(&self.name)
    }
}

fn arg_names(json: &str) -> Vec<String> {
    // Metadata of ours; anything else there names no arguments.
    serde_json::from_str(json).unwrap_or_default()
}

fn text(vertex: &Vertex) -> String {
    match vertex.kind() {
        Some(Kind::Exec(op)) => op.meta.as_ref().map(|m| m.args.join(" ")).unwrap_or_default(),
        // Its name for people, without `[build 3/7]`: a stage that became longer is no other instruction.
        _ => {
            let name = vertex.name();
            let instruction = name.strip_prefix('[').and_then(|rest| rest.split_once("] "));
            instruction.map_or(name.as_str(), |(_, instruction)| instruction).to_owned()
        }
    }
}

fn exec_parts(op: &wire::ExecOp, args: &[String], parts: &mut Vec<Part>) {
    let Some(meta) = &op.meta else { return };
    parts.push(Part::Option { name: "command".into(), value: meta.args.join(" ") });
    for entry in &meta.env {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        let (name, value) = (name.to_owned(), shown(name, value));
        parts.push(if args.contains(&name) { Part::Arg { name, value } } else { Part::Env { name, value } });
    }
    let options = [
        ("working directory", meta.cwd.clone()),
        ("user", meta.user.clone()),
        ("hostname", meta.hostname.clone()),
        ("network", ["default", "host", "none"].get(op.network as usize).copied().unwrap_or("unknown").into()),
        ("security", if op.security == 0 { "sandbox".into() } else { "insecure".into() }),
        ("hosts", meta.extra_hosts.iter().map(|h| h.host.clone()).collect::<Vec<_>>().join(",")),
    ];
    parts.extend(options.into_iter().map(|(name, value)| Part::Option { name: name.into(), value }));
    for m in op.mounts.iter().filter(|m| m.dest != "/") {
        let kind = ["bind", "secret", "ssh", "cache", "tmpfs"].get(m.mount_type as usize).copied().unwrap_or("unknown");
        let mode = if m.readonly { " read-only" } else { "" };
        parts.push(Part::Mount { target: m.dest.clone(), what: format!("{kind} {}{mode}", m.selector) });
    }
}

/// A value as it may be shown: one that looks like a secret is shown as a digest.
pub fn shown(name: &str, value: &str) -> String {
    const SECRET: [&str; 8] =
        ["secret", "token", "password", "passwd", "apikey", "api_key", "credential", "private_key"];
    let lower = name.to_ascii_lowercase();
    if !value.is_empty() && SECRET.iter().any(|s| lower.contains(s)) {
        format!("({})", Digest::of(value.as_bytes()).short())
    } else {
        value.to_owned()
    }
}
