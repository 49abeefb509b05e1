//! What a build really used: images, commits, files from the web and directories of the client, each by digest where it
//! has one; ids of secrets and agents, never their values. Read from graphs and from what their sources turned out to be.

use std::collections::{BTreeMap, BTreeSet};

use graph::{Graph, Kind, Vertex, wire};
use oci::{Digest, Platform, Reference};
use serde::{Deserialize, Serialize};

use super::{purl, redact};

/// What a source turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// An image's manifest or index.
    Image(Digest),
    /// A commit.
    Git(String),
    /// A file's bytes.
    Http(Digest),
}

/// What the sources of a build turned out to be, by their operations.
pub type Pins = BTreeMap<Digest, Pin>;

/// Something that went into a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Material {
    /// A package URL, or the address it came from.
    pub uri: String,
    /// By algorithm.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digest: BTreeMap<String, String>,
}

/// What kind of material; they are listed in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Image,
    Git,
    Http,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    materials: BTreeMap<(Class, String), Material>,
    /// Ids of secrets, and whether each was optional everywhere.
    pub secrets: BTreeMap<String, bool>,
    /// Ids of SSH agents, the same.
    pub agents: BTreeMap<String, bool>,
    /// Names of the client's directories.
    pub locals: BTreeSet<String>,
    /// A process could reach a network.
    pub network: bool,
    /// Something was used that is not known by digest, beside the client's directories.
    pub unknown: bool,
}

impl Capture {
    /// Adds everything that a graph's result is made of.
    pub fn add(&mut self, graph: &Graph, pins: &Pins) {
        for vertex in graph.vertices() {
            match vertex.kind() {
                Some(Kind::Source(source)) => self.source(vertex, source, pins.get(&vertex.digest)),
                Some(Kind::Exec(exec)) => self.process(exec),
                Some(Kind::Build(_)) => self.unknown = true,
                _ => {}
            }
        }
    }

    /// All materials: images, commits, files, each by name.
    pub fn materials(&self) -> impl Iterator<Item = &Material> {
        self.materials.values()
    }

    /// Whether all that was used is known by digest.
    pub fn is_complete(&self) -> bool {
        !self.unknown && self.locals.is_empty()
    }

    /// The commit or file that is meant by an address.
    pub fn find(&self, uri: &str) -> Option<&Material> {
        self.materials.iter().find(|((class, _), m)| *class != Class::Image && m.uri == uri).map(|(_, m)| m)
    }

    fn source(&mut self, vertex: &Vertex, source: &wire::SourceOp, pin: Option<&Pin>) {
        let attribute = |name: &str| source.attrs.get(name).map(String::as_str).filter(|v| !v.is_empty());
        let (scheme, rest) = source.identifier.split_once("://").unwrap_or_default();
        match scheme {
            "docker-image" | "oci-layout" => self.image(vertex, rest, scheme == "oci-layout", pin),
            "local" => drop(self.locals.insert(rest.to_owned())),
            "git" => {
                for (name, of) in
                    [("git.authtokensecret", true), ("git.authheadersecret", true), ("git.mountsshsock", false)]
                {
                    if let Some(id) = attribute(name) {
                        note(if of { &mut self.secrets } else { &mut self.agents }, id, true);
                    }
                }
                let commit = match pin {
                    Some(Pin::Git(commit)) => Some(commit.as_str()),
                    _ => attribute("git.checksum").filter(|c| matches!(c.len(), 40 | 64)),
                };
                self.git(attribute("git.fullurl").unwrap_or(&source.identifier), rest, commit);
            }
            "http" | "https" => {
                let given = attribute("http.checksum").and_then(|text| Digest::parse(text).ok());
                let digest = match pin {
                    Some(Pin::Http(digest)) => Some(*digest),
                    _ => given,
                };
                let uri = redact(&source.identifier);
                self.put(Class::Http, uri.clone(), uri, digest.map(|d| ("sha256", d.hex())));
            }
            _ => self.unknown = true,
        }
    }

    fn image(&mut self, vertex: &Vertex, name: &str, local: bool, pin: Option<&Pin>) {
        let Ok(mut reference) = Reference::parse(name) else { return self.unknown = true };
        let digest = match (reference.digest, pin) {
            (Some(digest), _) => Some(digest),
            (None, Some(Pin::Image(digest))) => Some(*digest),
            _ => None,
        };
        if reference.tag.is_some() {
            // The tag is what was asked for; the digest beside it is what it was.
            reference.digest = None;
        }
        let platform = vertex.op.platform.as_ref().map(|p| Platform::new(&p.os, &p.architecture, &p.variant));
        let platform = platform.unwrap_or_else(Platform::host);
        let uri = purl::of(&reference, Some(&platform), local);
        self.put(Class::Image, format!("{reference} {platform}"), uri, digest.map(|d| ("sha256", d.hex())));
    }

    /// `place` is `host/path#REFERENCE:FOLDER`.
    fn git(&mut self, remote: &str, place: &str, commit: Option<&str>) {
        let reference = place.split_once('#').map_or("", |(_, fragment)| fragment);
        let reference = reference.split_once(':').map_or(reference, |(reference, _)| reference);
        let short = reference.strip_prefix("refs/heads/").or(reference.strip_prefix("refs/tags/")).unwrap_or(reference);
        let mut uri = redact(remote.split('#').next().unwrap_or(remote));
        if !short.is_empty() {
            uri = format!("{uri}#{short}");
        }
        let digest = commit.map(|c| (if c.len() == 64 { "sha256" } else { "sha1" }, c.to_owned()));
        self.put(Class::Git, uri.clone(), uri, digest);
    }

    fn put(&mut self, class: Class, key: String, uri: String, digest: Option<(&str, String)>) {
        self.unknown |= digest.is_none();
        let digest = digest.map(|(algorithm, hex)| (algorithm.to_owned(), hex)).into_iter().collect();
        self.materials.entry((class, key)).or_insert(Material { uri, digest });
    }

    fn process(&mut self, exec: &wire::ExecOp) {
        for mount in &exec.mounts {
            if let Some(secret) = &mount.secret_opt {
                note(&mut self.secrets, &secret.id, secret.optional);
            }
            if let Some(agent) = &mount.ssh_opt {
                note(&mut self.agents, if agent.id.is_empty() { "default" } else { &agent.id }, agent.optional);
            }
        }
        for secret in &exec.secretenv {
            note(&mut self.secrets, &secret.id, secret.optional);
        }
        const NONE: i32 = 2;
        self.network |= exec.network != NONE;
    }
}

/// One use that is not optional makes the whole not optional.
fn note(ids: &mut BTreeMap<String, bool>, id: &str, optional: bool) {
    ids.entry(id.to_owned()).and_modify(|known| *known &= optional).or_insert(optional);
}
