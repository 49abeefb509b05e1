//! `buildctl build`: a frontend or a graph on standard input, with buildctl's flags, through any daemon.
//! Flags become a request and a session; the daemon does the rest.

use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use ::daemon::client::{CacheOptions, CacheOptionsEntry, Definition, Exporter, Offered, Refusal, SolveRequest};
use prost::Message;

use super::connection::Connection;
use super::llb;
use crate::client::LocalSession;
use crate::client::content::Folder;
use crate::client::outputs::{Destination, WholeFile};
use crate::client::secrets::Secret;
use crate::client::ssh::Agent;
use crate::commands::build::policy;
use crate::commands::build::{caches, csv, request};
use crate::commands::{Failure, place};
use crate::progress::{Kind, Progress, Target};

#[derive(clap::Args, Debug)]
#[command(
    after_help = "To build and push an image using Dockerfile:\n  $ buildctl build --frontend dockerfile.v0 --opt target=foo \
    --opt build-arg:foo=bar --local context=. --local dockerfile=. --output type=image,name=registry.example/image,push=true"
)]
pub struct Flags {
    /// Define exports for build result, e.g. --output type=image,name=registry.example/image,push=true
    #[arg(long, short, value_name = "OUTPUT")]
    output: Vec<String>,
    /// Set type of progress (auto, plain, tty, rawjson). Use plain to show container output
    #[arg(long, value_name = "KIND", default_value = "auto")]
    progress: String,
    /// Path to trace file. Defaults to no tracing.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Allow build access to the local directory
    #[arg(long, value_name = "NAME=FOLDER")]
    local: Vec<String>,
    /// Allow build access to the local OCI layout
    #[arg(long, value_name = "ID=FOLDER")]
    oci_layout: Vec<String>,
    /// Define frontend used for build
    #[arg(long, value_name = "FRONTEND", default_value = "", hide_default_value = true)]
    frontend: String,
    /// Define custom options for frontend, e.g. --opt target=foo --opt build-arg:foo=bar
    #[arg(long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
    /// Disable cache for all the vertices
    #[arg(long)]
    no_cache: bool,
    /// Export build cache, e.g. --export-cache type=registry,ref=registry.example/foo, or type=local,dest=path/to/dir
    #[arg(long, value_name = "CACHE")]
    export_cache: Vec<String>,
    /// Import build cache, e.g. --import-cache type=registry,ref=registry.example/foo, or type=local,src=path/to/dir
    #[arg(long, value_name = "CACHE")]
    import_cache: Vec<String>,
    /// Secret value exposed to the build. Format id=secretname,src=filepath
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,
    /// Allow extra privileged entitlement, e.g. network.host, security.insecure, device
    #[arg(long, value_name = "ENTITLEMENT")]
    allow: Vec<String>,
    /// Allow forwarding SSH agent to the builder. Format: default, ID, ID=SOCKET or ID=KEY,KEY
    #[arg(long, value_name = "SSH")]
    ssh: Vec<String>,
    /// Output build metadata (e.g., image digest) to a file as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Read source policy file from a JSON file
    #[arg(long, value_name = "FILE")]
    source_policy_file: Option<PathBuf>,
    /// Run build with proxy network enforcement
    #[arg(long)]
    proxy_network: bool,
    /// Write build ref to a file
    #[arg(long, value_name = "FILE")]
    ref_file: Option<PathBuf>,
    /// Overwrite TLS configuration when authenticating with registries
    #[arg(long, value_name = "CONTEXT")]
    registry_auth_tlscontext: Vec<String>,
    /// Where to output json cache metrics
    #[arg(long, value_name = "FILE")]
    debug_json_cache_metrics: Option<String>,
}

/// A request with what this machine offers to it.
struct Plan {
    request: SolveRequest,
    session: LocalSession,
    cache_to: Vec<builder::caches::Request>,
    /// Layouts that get a name for what was written into them: the folder and the name.
    layouts: Vec<(Folder, String)>,
    /// Left out, or meant otherwise than typed.
    warnings: Vec<String>,
}

/// Builds.
pub async fn run(at: &Connection, flags: Flags) -> Result<(), Failure> {
    refuse(&flags)?;
    let kind = Kind::parse(&flags.progress).map_err(Failure::usage)?;
    let plan = plan(&flags).map_err(Failure::usage)?;
    plan.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let client = at.client().await?;
    let target = match &flags.trace {
        None => Target::Error,
        Some(path) => {
            let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
            Target::Traced(file.map_err(|e| Failure::failed(format!("can't write {}: {e}", path.display())))?)
        }
    };
    if let Some(path) = &flags.ref_file {
        write_whole(path, plan.request.r#ref.as_bytes())?;
    }
    let progress = Progress::start_summed(kind, target);
    let offered: Offered = place::offered(plan.session.into());
    let written = caches::Written::default();
    let events = written.listening(progress.events());
    // A question to the frontend is answered by its result alone.
    if plan.request.frontend_attrs.contains_key("requestid") {
        let answer = client.answer(offered, plan.request, &events).await;
        drop(events);
        progress.finish();
        return print_answer(&answer.map_err(|refusal| failure(&refusal))?);
    }
    let response = client.solve(offered, plan.request, &events).await;
    drop(events);
    progress.finish();
    if let Ok(response) = &response {
        written.by_response(&plan.cache_to, response.get("cache.manifest"));
    }
    // A build that failed leaves what succeeded: its caches get their names before anything else is said.
    let named = written.name(&plan.cache_to);
    let response = response.map_err(|refusal| failure(&refusal))?;
    named.map_err(Failure::failed)?;
    let image = decoded(response.get("containerimage.descriptor")).and_then(|d| serde_json::from_value(d).ok());
    for (folder, name) in &plan.layouts {
        let image: oci::Descriptor =
            Option::clone(&image).ok_or_else(|| Failure::failed("the daemon did not say which image it wrote"))?;
        folder.name(name, image).map_err(Failure::failed)?;
    }
    match &flags.metadata_file {
        Some(path) => write_whole(path, &serde_json::to_vec_pretty(&metadata(&response)).map_err(Failure::failed)?),
        None => Ok(()),
    }
}

/// What buildctl can ask for and larder's client can't do is refused by name.
fn refuse(flags: &Flags) -> Result<(), Failure> {
    let unbuilt = |flag: &str, why: &str| Err(Failure::usage(format!("{flag}: {why}")));
    if flags.proxy_network {
        return unbuilt("--proxy-network", "there is no proxy network in larder");
    }
    if !flags.registry_auth_tlscontext.is_empty() {
        let why = "the daemon itself fetches tokens of registries: give it the certificates in its configuration";
        return unbuilt("--registry-auth-tlscontext", why);
    }
    if flags.debug_json_cache_metrics.is_some() {
        return unbuilt("--debug-json-cache-metrics", "is not built: --progress rawjson or --trace have every hit");
    }
    Ok(())
}

fn plan(flags: &Flags) -> Result<Plan, String> {
    // Asked before anything else: who may keep owners is root.
    let keep_owners = rustix::process::geteuid().is_root();
    let docker_config = request::docker_config();
    let mut session = LocalSession { docker_config, keep_owners, ..LocalSession::default() };
    for (name, path) in pairs("--local", &flags.local)? {
        let folder = std::fs::canonicalize(&path).map_err(|e| format!("invalid local: can't find {path}: {e}"))?;
        session.directories.insert(name, folder);
    }
    for (name, path) in pairs("--oci-layout", &flags.oci_layout)? {
        session.content.insert(format!("oci:{name}"), Folder::new(Path::new(&path)));
    }
    if !session.directories.contains_key("context") {
        // Names this client's directories between builds.
        session.project = Some(flags.local.join("\n")).filter(|project| !project.is_empty());
    }
    for text in &flags.secret {
        let (id, secret) = Secret::given(text)?;
        session.secrets.insert(id, secret);
    }
    for text in &flags.ssh {
        let (id, agent) = Agent::parse(text, std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from))?;
        session.agents.insert(id, agent);
    }
    let mut layouts = Vec::new();
    let exporters = flags.output.iter().map(|text| output(text, &mut session, &mut layouts));
    let exporters = exporters.collect::<Result<Vec<_>, _>>()?;
    let (cache_from, warnings) = caches::imports("--import-cache", &flags.import_cache, &mut session)?;
    let cache_to = caches::exports("--export-cache", &flags.export_cache, &mut session)?;
    let mut frontend_attrs = attributes(&flags.opt)?;
    let definition = if flags.frontend.is_empty() { Some(definition(flags.no_cache)?) } else { None };
    if flags.no_cache && definition.is_none() {
        frontend_attrs.insert("no-cache".to_owned(), String::new());
    }
    if frontend_attrs.contains_key("requestid") {
        let caps = || "moby.buildkit.frontend.subrequests".to_owned();
        frontend_attrs.entry("frontend.caps".to_owned()).or_insert_with(caps);
    }
    let entry = |cache: &builder::caches::Request| CacheOptionsEntry {
        r#type: cache.kind.clone(),
        attrs: cache.attributes.clone().into_iter().collect(),
    };
    let (imports, exports) = (cache_from.iter().map(entry).collect(), cache_to.iter().map(entry).collect());
    let request = SolveRequest {
        r#ref: request::id(),
        frontend: flags.frontend.clone(),
        frontend_attrs,
        definition,
        exporters,
        cache: Some(CacheOptions { imports, exports, ..CacheOptions::default() }),
        entitlements: flags.allow.clone(),
        source_policy: flags.source_policy_file.as_deref().map(policy::read).transpose()?,
        ..SolveRequest::default()
    };
    Ok(Plan { request, session, cache_to, layouts, warnings })
}

/// `KEY=VALUE` texts.
fn pairs(flag: &str, texts: &[String]) -> Result<BTreeMap<String, String>, String> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').ok_or_else(|| format!("{flag}: invalid value {text}"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    texts.iter().map(pair).collect()
}

/// `--opt`. A build argument without a value has that of the variable of its name, if it is set.
fn attributes(texts: &[String]) -> Result<HashMap<String, String>, String> {
    let mut attributes = HashMap::new();
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        attributes.insert("build-arg:SOURCE_DATE_EPOCH".to_owned(), epoch);
    }
    for text in texts {
        let name = text.strip_prefix("build-arg:").filter(|name| !name.is_empty() && !name.contains('='));
        match name {
            Some(name) => attributes.extend(std::env::var(name).ok().map(|value| (text.clone(), value))),
            None => attributes.extend(pairs("--opt", std::slice::from_ref(text))?),
        }
    }
    Ok(attributes)
}

/// The graph on standard input.
fn definition(no_cache: bool) -> Result<Definition, String> {
    if std::io::stdin().is_terminal() {
        return Err("please specify --frontend or pipe LLB definition to stdin".to_owned());
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).map_err(|e| format!("can't read the graph from standard input: {e}"))?;
    let mut definition = Definition::decode(bytes.as_slice()).map_err(|e| format!("failed to parse input: {e}"))?;
    if definition.def.is_empty() {
        return Err("empty definition sent to build. Specify --frontend instead?".to_owned());
    }
    if no_cache {
        llb::uncached(&mut definition);
    }
    Ok(definition)
}

/// One `--output`. Without a place, what is one stream goes to standard output.
fn output(text: &str, session: &mut LocalSession, layouts: &mut Vec<(Folder, String)>) -> Result<Exporter, String> {
    let mut attributes = csv::pairs(text)?;
    let kind = attributes.remove("type").ok_or("--output requires type=<type>")?;
    let dest = attributes.remove("dest").filter(|dest| !dest.is_empty());
    let is_folder = kind == "local" || attributes.get("tar").is_some_and(|tar| tar == "false");
    let destination = match (kind.as_str(), dest.as_deref()) {
        ("local" | "oci" | "docker", None) if is_folder => {
            return Err(format!("output directory is required for {kind} exporter"));
        }
        ("local", Some(path)) => Destination::Directory(path.into()),
        ("oci" | "docker", Some(path)) if is_folder => {
            let folder = Folder::new(Path::new(path));
            let name = attributes.get("name").map_or("latest", |names| names.split(',').next().unwrap_or("latest"));
            layouts.push((folder.clone(), name.to_owned()));
            session.content.insert("export".to_owned(), folder);
            Destination::None
        }
        ("tar" | "oci" | "docker", None | Some("-")) => {
            if std::io::stdout().is_terminal() {
                return Err(format!("output file is required for {kind} exporter. refusing to write to console"));
            }
            Destination::Standard
        }
        ("tar" | "oci" | "docker", Some(path)) => {
            if Path::new(path).is_dir() {
                return Err("invalid output option: output: destination file is a directory".to_owned());
            }
            Destination::File(path.into())
        }
        (_, Some(path)) => return Err(format!("output {path} is not supported by {kind} exporter")),
        (_, None) => Destination::None,
    };
    session.outputs.push(destination);
    Ok(Exporter { r#type: kind, attrs: attributes.into_iter().collect() })
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let cant = |e: &dyn std::fmt::Display| Failure::failed(format!("can't write {}: {e}", path.display()));
    let mut file = WholeFile::create(path).map_err(|e| cant(&e))?;
    file.write_all(bytes).map_err(|e| cant(&e))?;
    builder::session::Output::finish(Box::new(file)).map_err(|e| cant(&e))
}

/// The JSON object that a value is the base64 of, if it is.
fn decoded(value: Option<&String>) -> Option<serde_json::Value> {
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, value?).ok()?;
    serde_json::from_slice::<serde_json::Value>(&bytes).ok().filter(serde_json::Value::is_object)
}

/// The response as buildctl writes it.
fn metadata(response: &BTreeMap<String, String>) -> serde_json::Value {
    let value = |text: &String| decoded(Some(text)).unwrap_or_else(|| serde_json::Value::String(text.clone()));
    response.iter().map(|(key, text)| (key.clone(), value(text))).collect::<serde_json::Map<_, _>>().into()
}

fn print_answer(answer: &HashMap<String, Vec<u8>>) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    if let Some(text) = answer.get("result.txt") {
        return Ok(out.write_all(text)?);
    }
    let mut results: Vec<_> = answer.iter().filter(|(key, _)| key.starts_with("result.")).collect();
    results.sort();
    for (key, value) in results {
        writeln!(out, "{key}\n{}", String::from_utf8_lossy(value))?;
    }
    Ok(())
}

/// The failure as buildctl shows it: the lines of the client's file, and what went wrong.
fn failure(refusal: &Refusal) -> Failure {
    let lines = refusal.place.as_ref().map(lines).unwrap_or_default();
    Failure { code: 1, text: format!("{lines}error: failed to solve: {}", refusal.message) }
}

/// The lines that a place names, marked, with some around them.
fn lines(place: &graph::Place) -> String {
    let text = String::from_utf8_lossy(&place.file.data).into_owned();
    let all: Vec<&str> = text.split('\n').collect();
    let Some((first, last)) = place.lines() else { return String::new() };
    let (first, last) = (first as usize, last.max(first) as usize);
    if first < 1 || first > all.len() {
        return String::new();
    }
    let (mut start, mut end) = (first, last.min(all.len()));
    let (mut around, wanted) = (0, if start == end { 4 } else { 2 });
    while around < wanted {
        if start > 1 {
            start -= 1;
            around += 1;
        }
        if end < all.len() {
            end += 1;
            around += 1;
        }
        around += 1;
    }
    let mark = |number: usize| if (first..=last).contains(&number) { ">>>" } else { "   " };
    let shown = (start..=end).map(|number| format!(" {number:3} | {} {}\n", mark(number), all[number - 1]));
    let frame = "--------------------\n";
    format!("{}:{first}\n{frame}{}{frame}", place.file.filename, shown.collect::<String>())
}
