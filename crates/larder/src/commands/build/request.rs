//! What the flags mean: the builder's request, and what this machine offers to it.
//! Nothing is built here; a wrong flag says what was expected.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use builder::build::Request;
use builder::exporters;
use graph::git::GitUrl;

use super::flags::Flags;
use super::{attest, caches, csv};
use crate::client::content::Folder;
use crate::client::outputs::Destination;
use crate::client::secrets::Secret;
use crate::client::ssh::Agent;
use crate::client::{LocalSession, STANDARD_INPUT};

/// Everything for one build.
pub struct Plan {
    /// For the builder.
    pub request: Request,
    /// What this machine offers.
    pub session: LocalSession,
    /// Only the build checks are wanted.
    pub check: bool,
    /// The Dockerfile's path.
    pub dockerfile: PathBuf,
    /// What was left out.
    pub warnings: Vec<String>,
}

type Result<T> = std::result::Result<T, String>;

/// Reads the flags.
pub fn plan(flags: &Flags) -> Result<Plan> {
    let check = match flags.call.as_str() {
        "build" => flags.check,
        "check" | "lint" => true,
        other => return Err(format!("--call {other} is not built yet; expected build or check")),
    };
    // Asked before this process enters a user namespace, where it is root.
    let keep_owners = rustix::process::geteuid().is_root();
    let mut session = LocalSession { docker_config: docker_config(), keep_owners, ..LocalSession::default() };
    let (dockerfile, remote) = contexts(flags, &mut session)?;
    if check && remote.is_some() {
        return Err("--check of a remote context is not built yet; fetch it first".to_owned());
    }
    let mut attributes = attributes(flags, &dockerfile)?;
    attributes.extend(attest::attributes(flags)?);
    if let Some(url) = remote {
        attributes.insert("filename".to_owned(), dockerfile.to_string_lossy().into_owned());
        attributes.insert("context".to_owned(), url);
    }
    named_contexts(flags, &mut session, &mut attributes)?;
    for text in &flags.secret {
        let (id, secret) = Secret::parse(text, |name| std::env::var_os(name).is_some())?;
        session.secrets.insert(id, secret);
    }
    let socket = || std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from);
    // A repository over SSH is read with the user's own agent, as with buildx.
    let needs_agent = flags.ssh.is_empty() && is_over_ssh(&flags.context) && socket().is_some();
    for text in flags.ssh.iter().map(String::as_str).chain(needs_agent.then_some("default")) {
        let (id, agent) = Agent::parse(text, socket())?;
        session.agents.insert(id, agent);
    }
    let outputs = outputs(flags, &mut session)?;
    let (cache_from, warnings) = caches::imports("--cache-from", &flags.cache_from, &mut session)?;
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
        internal: false,
        entitlements: flags.allow.clone(),
    };
    Ok(Plan { request, session, check, dockerfile, warnings })
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

/// The main context and the Dockerfile's folder. Returns the Dockerfile's path, and the context if it is no directory.
fn contexts(flags: &Flags, session: &mut LocalSession) -> Result<(PathBuf, Option<String>)> {
    if flags.context == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin().read_to_end(&mut bytes);
        read.map_err(|e| format!("can't read the context from standard input: {e}"))?;
        session.standard_input = Some(bytes);
        return remote(flags, session, format!("http://buildkit-session{STANDARD_INPUT}"));
    }
    let is_web = flags.context.starts_with("http://") || flags.context.starts_with("https://");
    if is_web || GitUrl::parse(&flags.context).is_some() {
        return remote(flags, session, flags.context.clone());
    }
    let context = absolute(&flags.context)?;
    if !context.is_dir() {
        return Err(format!("the context {} is no directory", flags.context));
    }
    let dockerfile = match flags.file.as_deref() {
        Some("-") => standard_input()?,
        Some(file) => absolute(file)?,
        None => context.join("Dockerfile"),
    };
    let folder = dockerfile.parent().unwrap_or(Path::new("/")).to_owned();
    session.directories.insert("context".to_owned(), context);
    session.directories.insert("dockerfile".to_owned(), folder);
    Ok((dockerfile, None))
}

/// A context that is fetched; its Dockerfile lies in it.
fn remote(flags: &Flags, session: &mut LocalSession, url: String) -> Result<(PathBuf, Option<String>)> {
    if flags.file.as_deref() == Some("-") {
        return Err("a Dockerfile on standard input needs a directory as context".to_owned());
    }
    session.project = Some(url.clone());
    Ok((PathBuf::from(flags.file.as_deref().unwrap_or("Dockerfile")), Some(url)))
}

fn absolute(path: &str) -> Result<PathBuf> {
    std::fs::canonicalize(path).map_err(|e| format!("can't find {path}: {e}"))
}

/// A Dockerfile from standard input lies in a folder of its own for the build.
fn standard_input() -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("larder-dockerfile-{}", std::process::id()));
    let path = folder.join("Dockerfile");
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(&folder)?;
        std::fs::write(&path, std::io::read_to_string(std::io::stdin())?)
    };
    write().map_err(|e| format!("can't take the Dockerfile from standard input: {e}"))?;
    Ok(path)
}

/// BuildKit's attributes of the Dockerfile frontend.
fn attributes(flags: &Flags, dockerfile: &Path) -> Result<BTreeMap<String, String>> {
    let mut attributes = BTreeMap::new();
    let name = dockerfile.file_name().unwrap_or_default().to_string_lossy().into_owned();
    attributes.insert("filename".to_owned(), name);
    let mut set = |key: &str, value: String| {
        if !value.is_empty() {
            attributes.insert(key.to_owned(), value);
        }
    };
    set("target", flags.target.clone());
    set("platform", flags.platform.join(","));
    set("cgroup-parent", flags.cgroup_parent.clone());
    if flags.network != "default" {
        set("force-network-mode", flags.network.clone());
    }
    if flags.pull {
        set("image-resolve-mode", "pull".to_owned());
    }
    set("ulimit", flags.ulimit.join(","));
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

fn named_contexts(flags: &Flags, session: &mut LocalSession, attributes: &mut BTreeMap<String, String>) -> Result<()> {
    for text in &flags.build_context {
        let (name, value) =
            text.split_once('=').ok_or_else(|| format!("--build-context {text}: expected NAME=VALUE"))?;
        let key = format!("context:{name}");
        if let Some(layout) = value.strip_prefix("oci-layout://") {
            let (image, digest) = match layout.split_once('@') {
                Some((image, digest)) => (image, Some(digest.to_owned())),
                None => (layout, None),
            };
            let tag = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
            let (path, tag) = tag.map_or((image, None), |(path, tag)| (path, Some(tag)));
            let folder = Folder::new(&absolute(path)?);
            let digest = match digest {
                Some(digest) => digest,
                None => folder.named(tag).map_err(|e| format!("--build-context {text}: {e}"))?.to_string(),
            };
            let key_of_layout = format!("layout-{name}");
            attributes.insert(key, format!("oci-layout://{key_of_layout}@{digest}"));
            session.content.insert(format!("oci:{key_of_layout}"), folder);
        } else if value.contains("://") || value.starts_with("git@") {
            attributes.insert(key, value.to_owned());
        } else {
            session.directories.insert(name.to_owned(), absolute(value)?);
            attributes.insert(key, format!("local:{name}"));
        }
    }
    Ok(())
}

/// Outputs as asked for; with names and no output it is an image in the store.
fn outputs(flags: &Flags, session: &mut LocalSession) -> Result<Vec<exporters::Request>> {
    let mut requests = Vec::new();
    for text in &flags.output {
        requests.push(output(text, session)?);
    }
    if flags.push {
        push(&mut requests, session);
    }
    if flags.load {
        session.outputs.push(Destination::DockerLoad);
        requests.push(exporters::Request { kind: "docker".to_owned(), ..Default::default() });
    }
    if requests.is_empty() {
        session.outputs.push(Destination::None);
        requests.push(exporters::Request { kind: "image".to_owned(), ..Default::default() });
    }
    for request in &mut requests {
        if matches!(request.kind.as_str(), "image" | "registry" | "oci" | "docker") {
            if !flags.tag.is_empty() {
                request.attributes.insert("name".to_owned(), flags.tag.join(","));
            }
            for text in &flags.annotation {
                let (key, value) =
                    text.split_once('=').ok_or_else(|| format!("--annotation {text}: expected KEY=VALUE"))?;
                let (place, key) = match key.split_once(':') {
                    Some((place, key)) => (format!("-{place}"), key),
                    None => (String::new(), key),
                };
                request.attributes.insert(format!("annotation{place}.{key}"), value.to_owned());
            }
        }
    }
    Ok(requests)
}

fn push(requests: &mut Vec<exporters::Request>, session: &mut LocalSession) {
    let pushed = "push".to_owned();
    let image = requests.iter_mut().find(|r| matches!(r.kind.as_str(), "image" | "registry"));
    match image {
        Some(request) => drop(request.attributes.insert(pushed, "true".to_owned())),
        None => {
            let attributes = BTreeMap::from([(pushed, "true".to_owned())]);
            requests.push(exporters::Request { kind: "image".to_owned(), attributes });
            session.outputs.push(Destination::None);
        }
    }
}

/// One `--output`: `type=…,…`, a directory, or `-`.
fn output(text: &str, session: &mut LocalSession) -> Result<exporters::Request> {
    if !text.contains('=') {
        let (kind, place) = match text {
            "-" => ("tar", Destination::Standard),
            path => ("local", Destination::Directory(path.into())),
        };
        session.outputs.push(place);
        return Ok(exporters::Request { kind: kind.to_owned(), ..Default::default() });
    }
    let mut attributes = csv::pairs(text)?;
    let kind = attributes.remove("type").ok_or_else(|| format!("--output {text}: a type is missing"))?;
    let dest = attributes.remove("dest").filter(|d| !d.is_empty());
    let is_directory = attributes.get("tar").is_some_and(|t| t == "false");
    let place = match (kind.as_str(), dest.as_deref()) {
        ("local", None) => return Err(format!("--output {text}: dest=FOLDER is missing")),
        ("local", Some(path)) => Destination::Directory(path.into()),
        ("docker", None) => Destination::DockerLoad,
        ("oci", Some(path)) if is_directory => Destination::Directory(path.into()),
        ("tar" | "oci" | "docker", Some("-")) => Destination::Standard,
        ("tar" | "oci" | "docker", Some(path)) => Destination::File(path.into()),
        ("tar" | "oci", None) => return Err(format!("--output {text}: dest=FILE is missing")),
        _ => Destination::None,
    };
    session.outputs.push(place);
    Ok(exporters::Request { kind, attributes })
}
