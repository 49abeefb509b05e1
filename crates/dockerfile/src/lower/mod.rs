//! The tree to a graph and an image configuration: BuildKit's Dockerfile frontend, byte for byte the same operations.
//! It asks and never fetches: what must be known of the outside comes in as facts, and what is missing comes out as needs.

mod build;
mod copy;
mod draft;
mod epoch;
pub mod outline;
mod run;
mod scan;
mod settings;
mod sources;
mod stages;
mod state;

use std::collections::BTreeMap;
use std::sync::Arc;

use graph::{Graph, wire};
use oci::{Digest, ImageConfig, Platform};

use crate::ast::File;
use crate::diagnostic::Diagnostic;
use crate::rules::{self, Found, Wish};

/// Whose cache is not used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NoCache {
    /// Every cache is used.
    #[default]
    None,
    /// No step's.
    All,
    /// Not these stages' (names or numbers).
    Stages(Vec<String>),
}

/// What stands behind the name of a named context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory of the client's, under this name in the session.
    Local(String),
    /// An image reference.
    Image(String),
    /// A git URL.
    Remote(String),
    /// A graph from elsewhere: one of [`Options::inputs`].
    Input(String),
    /// An image of an OCI layout: the client's store name and an optional tag or digest.
    Layout {
        /// The session's name for the layout.
        store: String,
        /// `name@sha256:…`, `:tag`, or empty.
        reference: String,
    },
}

/// A graph from elsewhere: the result of another target, a remote context.
#[derive(Clone, Debug)]
pub struct Input {
    /// What it is made of.
    pub graph: Arc<Graph>,
    /// The configuration of the image that it is, if it is one.
    pub config: Option<Box<ImageConfig>>,
}

/// What a build is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The wanted stage by name or number; empty is the last.
    pub target: String,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// The platform to build for.
    pub platform: Platform,
    /// The client asked for it: the image is said to be for it, whatever its base is for.
    pub platform_given: bool,
    /// The platform that builds.
    pub build_platform: Platform,
    /// Whether names carry the platform.
    pub multi_platform: bool,
    /// Whose cache is not used.
    pub no_cache: NoCache,
    /// `--build-context`.
    pub contexts: BTreeMap<String, NamedContext>,
    /// Graphs that contexts may name.
    pub inputs: BTreeMap<String, Input>,
    /// What the main context is: `None` is the client's directory `context`.
    pub context: Option<Arc<Graph>>,
    /// The client's session id, part of `local://` and `oci-layout://` operations (BuildKit's `local.session`).
    pub session: String,
    /// Patterns of the main context's ignore file.
    pub ignore: Vec<String>,
    /// The Dockerfile's own name, for source locations.
    pub filename: String,
    /// How the Dockerfile is got, for source locations.
    pub definition: Option<wire::Definition>,
    /// `host`, `none`, or empty.
    pub network: String,
    /// `NAME=IP` lines.
    pub add_hosts: Vec<(String, String)>,
    /// Bytes of /dev/shm; 0 is the default.
    pub shm_size: u64,
    /// name, soft, hard.
    pub ulimits: Vec<(String, i64, i64)>,
    /// `--cgroup-parent`.
    pub cgroup_parent: String,
    /// Host name of RUN steps.
    pub hostname: String,
    /// `image.resolvemode` of image sources: empty, `pull` or `local`.
    pub resolve_mode: String,
    /// Whether trees that are to be scanned for an SBOM are wanted.
    pub scan: bool,
    /// Every stage is lowered, not only those that the target needs: the checks look at all.
    pub all_stages: bool,
    /// The client's wish of the checks, which goes before the file's (`skip=…;experimental=…;error=…`).
    pub check: Option<String>,
}

impl Options {
    /// Nothing special, for `platform` on `build_platform`.
    pub fn new(platform: Platform, build_platform: Platform) -> Options {
        Options {
            target: String::new(),
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            platform,
            platform_given: true,
            build_platform,
            multi_platform: false,
            no_cache: NoCache::None,
            contexts: BTreeMap::new(),
            inputs: BTreeMap::new(),
            context: None,
            session: String::new(),
            ignore: Vec::new(),
            filename: "Dockerfile".into(),
            definition: None,
            network: String::new(),
            add_hosts: Vec::new(),
            shm_size: 0,
            ulimits: Vec::new(),
            cgroup_parent: String::new(),
            hostname: String::new(),
            resolve_mode: String::new(),
            scan: false,
            all_stages: false,
            check: None,
        }
    }
}

/// Something that must be known first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// What the image is now (normalised reference).
    Image {
        /// `docker.io/library/debian:12`.
        reference: String,
        /// For which platform.
        platform: String,
    },
    /// What an OCI layout's image is.
    Layout {
        /// The session's name for the layout.
        store: String,
        /// Tag, digest or empty.
        reference: String,
        /// For which platform.
        platform: String,
    },
    /// Patterns of a named local context's ignore file.
    Ignore {
        /// The session's name for the directory.
        context: String,
    },
    /// When what a source is was made: SOURCE_DATE_EPOCH is taken from it.
    Time {
        /// The source operation's identifier.
        identifier: String,
        /// Its attributes.
        attributes: BTreeMap<String, String>,
    },
}

/// The answer to a [`Need`].
#[derive(Clone, Debug)]
pub enum Fact {
    /// To `Image` and `Layout`.
    Image {
        /// Pins the reference.
        digest: Digest,
        /// The configuration.
        config: Box<ImageConfig>,
        /// The name that it is had by, when that is another one than was asked about.
        moved: Option<String>,
    },
    /// To `Ignore`.
    Patterns(Vec<String>),
    /// To `Time`: seconds since 1970, if the source has a time of its own.
    Time(Option<i64>),
    /// To anything that nobody can be asked: what is lowered is good for checks and nothing else.
    Unknown,
}

/// A lowered Dockerfile.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The operations; the head is the target's files.
    pub graph: Graph,
    /// The image's configuration, without diff ids of what is to be built.
    pub config: ImageConfig,
    /// The configuration of the target's base image, if it has one.
    pub base_config: Option<ImageConfig>,
    /// SOURCE_DATE_EPOCH in seconds, when there is one: the time of everything in the image.
    pub epoch: Option<i64>,
    /// What else is to be scanned for an SBOM, by name: stages and the context that ask for it by the arguments
    /// `BUILDKIT_SBOM_SCAN_STAGE` and `BUILDKIT_SBOM_SCAN_CONTEXT`. Only with [`Options::scan`].
    pub scanned: BTreeMap<String, Graph>,
    /// The target or a scanned stage does not use the cache.
    pub no_cache: bool,
    /// What the build checks found, in the order of the file.
    pub findings: Vec<Diagnostic>,
    /// What a user may give to the target.
    pub outline: outline::Outline,
}

/// How far lowering came.
#[derive(Debug)]
pub enum Outcome {
    /// All was known.
    Done(Box<Lowered>),
    /// Learn these and lower again.
    Needs {
        /// What is to be learnt, and the lines that ask for it first.
        needs: BTreeMap<Need, Lines>,
        /// What the checks found so far: if something can't be learnt, this is all they will say.
        findings: Vec<Diagnostic>,
    },
}

use build::Lowering;

/// Lowers `file`. Pure: the same arguments give the same outcome. A failure is told with what the checks found before it.
pub fn lower(file: &File, options: &Options, facts: &BTreeMap<Need, Fact>) -> Result<Outcome, Vec<Diagnostic>> {
    let wish = Wish::of(file, options.check.as_deref()).map_err(|error| vec![error])?;
    let mut found = Found::default();
    rules::file::whole(&mut found, file);
    let made = made(file, options, facts, &mut found);
    let mut findings = wish.settle(file, found.into_list());
    match made {
        Err(errors) => {
            findings.extend(errors);
            Err(findings)
        }
        Ok((None, needs)) => Ok(Outcome::Needs { needs, findings }),
        Ok((Some(mut lowered), _)) => match wish.violation(&findings) {
            Some(error) => {
                findings.push(error);
                Err(findings)
            }
            None => {
                lowered.findings = findings;
                Ok(Outcome::Done(Box::new(lowered)))
            }
        },
    }
}

/// First and last line of an instruction.
pub type Lines = (u32, u32);

type Made = (Option<Lowered>, BTreeMap<Need, Lines>);

fn made(
    file: &File,
    options: &Options,
    facts: &BTreeMap<Need, Fact>,
    found: &mut Found,
) -> Result<Made, Vec<Diagnostic>> {
    let mut globals = stages::Globals::read(file, options)?;
    let said = epoch::Epoch::of(file, &globals, options, facts).map_err(|d| vec![d])?;
    let said = match said {
        Ok(said) => said,
        Err((need, lines)) => return Ok((None, BTreeMap::from([(need, lines)]))),
    };
    let options = &*said.settle(options, &mut globals);
    let stages = stages::Stages::read(file, globals, options, found)?;
    let target = stages.target(options).map_err(|d| vec![d])?;
    let mut lowering = Lowering::new(&stages, options, facts, said.time());
    let lowered = lowering.all(target, file);
    for finding in std::mem::take(&mut lowering.found).into_list() {
        found.add(finding);
    }
    Ok((lowered?, lowering.needs))
}

/// A list as Go's `encoding/json` writes it: `<`, `>` and `&` are escaped.
fn json_list(list: &[String]) -> String {
    let text = serde_json::json!(list).to_string();
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}
