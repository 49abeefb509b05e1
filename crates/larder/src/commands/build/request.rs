//! What the flags mean: the builder's request, and what this machine offers to it.
//! Nothing is built here; a wrong flag says what was expected.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use builder::build::Request;
use graph::git::GitUrl;
use oci::Platform;

use super::call::Call;
use super::flags::Flags;
use super::{attest, caches, contexts, csv, outputs, policy};
use crate::client::LocalSession;
use crate::client::secrets::Secret;
use crate::client::ssh::Agent;

/// Everything for one build.
pub struct Plan {
    /// For the builder.
    pub request: Request,
    /// What this machine offers.
    pub session: LocalSession,
    /// A question is asked instead of building.
    pub call: Option<Call>,
    /// The Dockerfile as the user named it.
    pub dockerfile: String,
    /// What was left out.
    pub warnings: Vec<String>,
}

type Result<T> = std::result::Result<T, String>;

/// Reads the flags.
pub fn plan(flags: &Flags) -> Result<Plan> {
    let call = if flags.check { "check" } else { &flags.call };
    let call = Call::parse(call)?;
    // Asked before this process enters a user namespace, where it is root.
    let keep_owners = rustix::process::geteuid().is_root();
    let mut session = LocalSession { docker_config: docker_config(), keep_owners, ..LocalSession::default() };
    let mut attributes = attributes(flags)?;
    attributes.extend(attest::attributes(flags)?);
    contexts::main(flags, &mut session, &mut attributes)?;
    contexts::named(flags, &mut session, &mut attributes)?;
    for text in &flags.secret {
        let (id, secret) = Secret::given(text)?;
        session.secrets.insert(id, secret);
    }
    let socket = || std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from);
    // A repository over SSH is read with the user's own agent, as with buildx.
    let needs_agent = flags.ssh.is_empty() && is_over_ssh(&flags.context) && socket().is_some();
    for text in flags.ssh.iter().map(String::as_str).chain(needs_agent.then_some("default")) {
        let (id, agent) = Agent::parse(text, socket())?;
        session.agents.insert(id, agent);
    }
    let outputs = match &call {
        Some(call) => {
            attributes.insert("requestid".to_owned(), call.question());
            Vec::new()
        }
        None => outputs::of(flags, &mut session)?,
    };
    let (cache_from, mut warnings) = caches::imports("--cache-from", &flags.cache_from, &mut session)?;
    warnings.extend(flags.old.warnings());
    let cache_to = caches::exports("--cache-to", &flags.cache_to, &mut session)?;
    let request = Request {
        cache_from,
        cache_to,
        id: id(),
        frontend: "dockerfile.v0".to_owned(),
        inputs: BTreeMap::new(),
        traceparent: String::new(),
        attributes,
        outputs,
        fail_on_miss: flags.fail_on_miss.clone(),
        internal: call.is_some(),
        entitlements: flags.allow.clone(),
        policies: policies()?,
    };
    Ok(Plan { request, session, call, dockerfile: contexts::dockerfile(flags), warnings })
}

/// The source policy that the user has set, as for buildx.
fn policies() -> Result<Vec<builder::policy::Policy>> {
    let path = std::env::var_os("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY").filter(|path| !path.is_empty());
    let policy = path.map(|path| policy::read(Path::new(&path))).transpose()?;
    daemon::policies::read(policy.as_slice()).map_err(|status| status.message().to_owned())
}

fn is_over_ssh(context: &str) -> bool {
    GitUrl::parse(context).is_some_and(|url| url.attributes().contains_key("git.mountsshsock"))
}

/// A name for this build: time and process make it one of its own.
pub fn id() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let mut value = now.as_nanos() << 22 | u128::from(std::process::id());
    let mut text = Vec::new();
    while value > 0 {
        text.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(value % 36) as usize]);
        value /= 36;
    }
    text.reverse();
    String::from_utf8_lossy(&text).into_owned()
}

pub fn docker_config() -> Option<PathBuf> {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker"));
    folder.or_else(home).map(|folder| folder.join("config.json"))
}

/// BuildKit's attributes of the Dockerfile frontend.
fn attributes(flags: &Flags) -> Result<BTreeMap<String, String>> {
    let mut attributes = BTreeMap::new();
    let mut set = |key: &str, value: String| {
        if !value.is_empty() {
            attributes.insert(key.to_owned(), value);
        }
    };
    set("target", flags.target.clone());
    set("platform", flags.platform.join(","));
    set("cgroup-parent", flags.cgroup_parent.clone());
    if !matches!(flags.network.as_str(), "" | "default" | "none" | "host") {
        return Err(format!("--network {}: expected default, none or host", flags.network));
    }
    if flags.network != "default" {
        set("force-network-mode", flags.network.clone());
    }
    if flags.pull {
        set("image-resolve-mode", "pull".to_owned());
    }
    for text in &flags.ulimit {
        builder::frontends::options::ulimit(text)
            .ok_or_else(|| format!("--ulimit {text}: expected NAME=SOFT[:HARD]"))?;
    }
    set("ulimit", flags.ulimit.join(","));
    for text in &flags.platform {
        Platform::parse(text, &Platform::host()).map_err(|error| format!("--platform {text}: {error}"))?;
    }
    let hosts = flags.add_host.iter().map(|line| {
        let pair = line.split_once('=').or_else(|| line.split_once(':'));
        let (name, ip) = pair.ok_or_else(|| format!("--add-host {line}: expected HOST:IP"))?;
        Ok(format!("{name}={}", ip.trim_matches(['[', ']'])))
    });
    set("add-hosts", hosts.collect::<Result<Vec<_>>>()?.join(","));
    if let Some(size) = &flags.shm_size {
        set("shm-size", csv::bytes(size)?.to_string());
    }
    for arg in &flags.build_arg {
        let value = match arg.split_once('=') {
            Some((name, value)) => Some((name.to_owned(), value.to_owned())),
            None => std::env::var(arg).ok().map(|value| (arg.clone(), value)),
        };
        if let Some((name, value)) = value {
            attributes.insert(format!("build-arg:{name}"), value);
        }
    }
    // Docker's configuration may name proxies for what is built.
    if let Some(path) = docker_config() {
        for (name, value) in registry::docker_config::proxies(&path).map_err(|e| e.to_string())? {
            let is_it = |arg: &String| arg.split('=').next().is_some_and(|given| given.eq_ignore_ascii_case(&name));
            if !flags.build_arg.iter().any(is_it) {
                attributes.insert(format!("build-arg:{name}"), value);
            }
        }
    }
    if let (None, Ok(epoch)) = (attributes.get("build-arg:SOURCE_DATE_EPOCH"), std::env::var("SOURCE_DATE_EPOCH")) {
        attributes.insert("build-arg:SOURCE_DATE_EPOCH".to_owned(), epoch);
    }
    for label in &flags.label {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        attributes.insert(format!("label:{name}"), value.to_owned());
    }
    match (flags.no_cache, flags.no_cache_filter.is_empty()) {
        (true, false) => return Err("--no-cache and --no-cache-filter exclude each other".to_owned()),
        (true, true) => drop(attributes.insert("no-cache".to_owned(), String::new())),
        (false, false) => drop(attributes.insert("no-cache".to_owned(), flags.no_cache_filter.join(","))),
        (false, true) => {}
    }
    Ok(attributes)
}
