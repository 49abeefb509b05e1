//! RUN: a process with its mounts (LLB `ExecOp`), as BuildKit's client encodes it.
//! The process is only described; what a stage or image behind a mount is, the caller says.

use graph::wire::{self, CacheSharing, MountType, NetMode, SecurityMode, op};

use super::draft::{Draft, Drafts, Id};
use super::state::State;
use super::{Lowering, Options};
use crate::ast::{Command, Heredoc, Instruction, Run, Word};
use crate::diagnostic::Diagnostic;
use crate::parse::{self, Mount, MountKind};

type Result<T> = std::result::Result<T, Diagnostic>;

/// A mount with the tree behind it.
struct Mounted {
    mount: wire::Mount,
    from: Option<Id>,
}

/// What is gathered for one process.
#[derive(Default)]
struct Parts {
    mounts: Vec<Mounted>,
    /// Secrets and agents, in the order written.
    last: Vec<wire::Mount>,
    secret_env: Vec<wire::SecretEnv>,
    env: Vec<(String, String)>,
    caps: Vec<&'static str>,
}

/// Lowers a RUN.
pub fn lower(lowering: &mut Lowering<'_>, state: &mut State, instruction: &Instruction, run: &Run) -> Result<()> {
    let mut parts = Parts { env: state.env.clone(), ..Parts::default() };
    parts.mounts.push(Mounted { mount: wire::Mount { dest: "/".into(), ..Default::default() }, from: state.head });
    let (args, history, name) = command(lowering, state, instruction, run, &mut parts)?;
    for word in &run.mounts {
        mount(lowering, state, instruction, word, &mut parts)?;
    }
    // A process may look at anything.
    if let Some(taken) = state.local.and_then(|id| lowering.locals.get_mut(&id)) {
        taken.insert("/".to_owned());
    }
    machine(&mut parts, lowering.options);
    let (mut exec, inputs) = encode(parts.mounts);
    exec.mounts.extend(parts.last);
    exec.secretenv = parts.secret_env;
    exec.network = network(run.network.as_ref(), lowering.options)? as i32;
    exec.security = security(run.security.as_ref())? as i32;
    exec.meta = Some(meta(state, args, &parts.env, lowering.options));
    if exec.network != 0 {
        parts.caps.push("exec.meta.network");
    }
    if exec.security != 0 {
        parts.caps.push("exec.meta.security");
    }
    let mut draft = Draft::new(op::Op::Exec(exec), inputs, &state.naming.next(&name)).on(&state.platform);
    draft.needs(&["exec.meta.base", "exec.meta.setsdefaultpath", "exec.mount.bind"]);
    draft.needs(&parts.caps);
    draft.describe("com.docker.dockerfile.v1.command", &instruction.original);
    let names: Vec<&String> = state.args.iter().filter(|(_, v)| v.is_some()).map(|(n, _)| n).collect();
    draft.describe("larder.args", &serde_json::json!(names).to_string());
    state.head = Some(state.add(&mut lowering.drafts, draft, instruction));
    let value = |name: &str, own: &Option<String>| state.get_env(name).or_else(|| own.clone()).unwrap_or_default();
    let declared: Vec<String> = state.args.iter().map(|(name, own)| format!("{name}={}", value(name, own))).collect();
    let prefix =
        if declared.is_empty() { String::new() } else { format!("|{} {} ", declared.len(), declared.join(" ")) };
    state.record(&format!("RUN {prefix}{history} # buildkit"), true);
    Ok(())
}

/// The process' words, their text in the history, and the step's text.
fn command(
    lowering: &mut Lowering<'_>,
    state: &State,
    instruction: &Instruction,
    run: &Run,
    parts: &mut Parts,
) -> Result<(Vec<String>, String, String)> {
    let shown = state.shown_run(&instruction.original, &secret_names(state, run));
    let line = match &run.command {
        Command::Exec(words) => return Ok((words.clone(), words.join(" "), shown)),
        Command::Shell(line) => &line.value,
    };
    let mut text = line.clone();
    let mut name = shown;
    if let Some(first) = run.heredocs.first() {
        let start = first.content.lines().next().unwrap_or_default();
        let alone = parse::heredoc_word(line.trim(), state.shell.escape).is_some();
        if alone {
            let more = if first.content.lines().count() > 1 { "..." } else { "" };
            name = format!("{name} ({start}{more})");
        }
        if alone && first.content.starts_with("#!") {
            text = script(lowering, first, parts);
        } else {
            text = if alone { first.content.clone() } else { joined(line, &run.heredocs) };
        }
    }
    let mut words = state.shell_words();
    words.push(text);
    let history = words.join(" ");
    Ok((words, history, name))
}

/// Variables that secrets are put into. A mount that can't be read is told of where it is lowered.
fn secret_names(state: &State, run: &Run) -> Vec<String> {
    let read = |word: &Word| {
        let expand =
            |text: &str| state.word(&Word { value: text.to_owned(), span: word.span }).map_err(|error| error.message);
        parse::mount(&word.value, &expand).ok().filter(|mount| mount.kind == MountKind::Secret)?.env
    };
    run.mounts.iter().filter_map(read).collect()
}

/// A command with its documents, as a shell reads it.
fn joined(line: &str, heredocs: &[Heredoc]) -> String {
    let mut text = line.to_owned();
    for document in heredocs {
        text.push('\n');
        text.push_str(&document.raw);
        text.push_str(&document.name);
    }
    text
}

/// A document with a `#!` line is a file that is executed.
fn script(lowering: &mut Lowering<'_>, document: &Heredoc, parts: &mut Parts) -> String {
    let data = document.content.clone().into_bytes();
    let file = super::copy::inline(&mut lowering.drafts, &document.name, data, 0o755);
    let dest = "/dev/pipes/".to_owned();
    let selector = "/".to_owned();
    let mount = wire::Mount { dest: dest.clone(), selector, readonly: true, ..Default::default() };
    parts.mounts.push(Mounted { mount, from: Some(file) });
    format!("{dest}{}", document.name)
}

/// One `--mount`.
fn mount(
    lowering: &mut Lowering<'_>,
    state: &State,
    instruction: &Instruction,
    word: &Word,
    parts: &mut Parts,
) -> Result<()> {
    let bad = |text: String| Diagnostic::error(word.span, text);
    let expand = |text: &str| {
        let expanded = state.word(&Word { value: text.to_owned(), span: word.span });
        expanded.map_err(|error| error.message)
    };
    let wanted = parse::mount(&word.value, &expand).map_err(bad)?;
    let dest = if wanted.target.is_empty() { String::new() } else { plain(&state.path(&wanted.target)) };
    if dest == "/" {
        return Err(bad("invalid mount target \"/\"".to_owned()));
    }
    match wanted.kind {
        MountKind::Bind => bind(lowering, word, &wanted, dest, parts),
        MountKind::Cache => cache(lowering, word, &wanted, dest, parts),
        MountKind::Tmpfs => {
            // It reads nothing of the context, and yet BuildKit asks for all of it.
            lowering.take("/");
            parts.caps.push("exec.mount.tmpfs");
            let tmpfs = Some(wire::TmpfsOpt { size: wanted.size });
            parts.mounts.push(Mounted { mount: of(dest, MountType::Tmpfs, |m| m.tmpfs_opt = tmpfs), from: None });
            Ok(())
        }
        MountKind::Secret => {
            let id = secret(&wanted, dest, parts).map_err(bad)?;
            lowering.outlines.entry(lowering.current).or_default().secret(id, wanted.required, instruction);
            Ok(())
        }
        MountKind::Ssh => {
            let id = agent(&wanted, dest, parts);
            lowering.outlines.entry(lowering.current).or_default().agent(id, wanted.required, instruction);
            Ok(())
        }
    }
}

fn plain(path: &str) -> String {
    let path = path.trim_end_matches("/.");
    if path.len() > 1 { path.trim_end_matches('/').to_owned() } else { "/".to_owned() }
}

/// A mount whose writes go nowhere.
fn of(dest: String, kind: MountType, change: impl FnOnce(&mut wire::Mount)) -> wire::Mount {
    let mut mount = wire::Mount { dest, mount_type: kind as i32, output: -1, ..Default::default() };
    change(&mut mount);
    mount
}

fn bind(lowering: &mut Lowering<'_>, word: &Word, wanted: &Mount, dest: String, parts: &mut Parts) -> Result<()> {
    let source = graph::pattern::clean(&format!("/{}", wanted.source));
    let from = match &wanted.from {
        Some(name) => {
            let tree = lowering.tree(name, word)?;
            lowering.take_from(name, &source);
            tree
        }
        None => {
            lowering.take(&source);
            Some(lowering.context())
        }
    };
    let selector = if source == "/" { String::new() } else { source };
    if !selector.is_empty() {
        parts.caps.push("exec.mount.selector");
    }
    let mount = of(dest, MountType::Bind, |m| {
        m.selector = selector;
        m.readonly = wanted.readonly;
    });
    parts.mounts.push(Mounted { mount, from });
    Ok(())
}

fn cache(lowering: &mut Lowering<'_>, word: &Word, wanted: &Mount, dest: String, parts: &mut Parts) -> Result<()> {
    parts.caps.extend(["exec.mount.cache", "exec.mount.cache.sharing"]);
    let mut selector = graph::pattern::clean(&format!("/{}", wanted.source));
    let owned = wanted.uid.is_some() || wanted.gid.is_some() || wanted.mode.is_some();
    let from = match &wanted.from {
        Some(name) => {
            let tree = lowering.tree(name, word)?;
            lowering.take_from(name, &selector);
            tree
        }
        None if owned => {
            selector = "/cache".to_owned();
            Some(permissions(&mut lowering.drafts, wanted))
        }
        None => None,
    };
    let id = if wanted.id.is_empty() { graph::pattern::clean(&dest) } else { wanted.id.clone() };
    let sharing = match wanted.sharing {
        parse::CacheSharing::Shared => CacheSharing::Shared,
        parse::CacheSharing::Private => CacheSharing::Private,
        parse::CacheSharing::Locked => CacheSharing::Locked,
    };
    let selector = if selector == "/" { String::new() } else { selector };
    if !selector.is_empty() {
        parts.caps.push("exec.mount.selector");
    }
    let mount = of(dest, MountType::Cache, |m| {
        m.selector = selector;
        m.readonly = wanted.readonly;
        m.cache_opt = Some(wire::CacheOpt { id: format!("/{id}"), sharing: sharing as i32 });
    });
    parts.mounts.push(Mounted { mount, from });
    Ok(())
}

/// A directory with owner and mode that a new volume begins with.
fn permissions(drafts: &mut Drafts, wanted: &Mount) -> Id {
    let by_id = |id: u32| Some(wire::UserOpt { user: Some(wire::user_opt::User::ById(id)) });
    let owner = wire::ChownOpt { user: by_id(wanted.uid.unwrap_or(0)), group: by_id(wanted.gid.unwrap_or(0)) };
    let dir = wire::FileActionMkDir {
        path: "/cache".to_owned(),
        mode: wanted.mode.unwrap_or(0o755) as i32,
        owner: Some(owner),
        timestamp: -1,
        ..Default::default()
    };
    let action = wire::FileAction {
        input: -1,
        secondary_input: -1,
        output: 0,
        action: Some(wire::file_action::Action::MkDir(dir)),
    };
    let op = op::Op::File(wire::FileOp { actions: vec![action] });
    let mut draft = Draft::new(op, Vec::new(), "[internal] setting cache mount permissions");
    draft.needs(&["file.base"]);
    drafts.add(draft)
}

/// Returns its id.
fn secret(wanted: &Mount, dest: String, parts: &mut Parts) -> std::result::Result<String, String> {
    let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let id = [wanted.id.clone(), wanted.source.clone(), base(&wanted.target)].into_iter().find(|i| !i.is_empty());
    let id = id.ok_or("a secret mount needs an id, a source or a target")?;
    let optional = !wanted.required;
    if let Some(name) = &wanted.env {
        parts.caps.push("exec.secretenv");
        parts.secret_env.push(wire::SecretEnv { id: id.clone(), name: name.clone(), optional });
        if wanted.target.is_empty() {
            return Ok(id);
        }
    }
    parts.caps.push("exec.mount.secret");
    let dest = if dest.is_empty() { format!("/run/secrets/{}", base(&id)) } else { dest };
    let mode = wanted.mode.unwrap_or(0o400);
    let (uid, gid) = (wanted.uid.unwrap_or(0), wanted.gid.unwrap_or(0));
    let secret_opt = Some(wire::SecretOpt { id: id.clone(), uid, gid, mode, optional });
    let mount_type = MountType::Secret as i32;
    parts.last.push(wire::Mount { input: -1, dest, mount_type, secret_opt, ..Default::default() });
    Ok(id)
}

/// Returns its id.
fn agent(wanted: &Mount, dest: String, parts: &mut Parts) -> String {
    parts.caps.push("exec.mount.ssh");
    let n = parts.last.iter().filter(|m| m.ssh_opt.is_some()).count();
    let dest = if dest.is_empty() { format!("/run/buildkit/ssh_agent.{n}") } else { dest };
    if !parts.env.iter().any(|(name, _)| name == "SSH_AUTH_SOCK") {
        parts.env.push(("SSH_AUTH_SOCK".to_owned(), dest.clone()));
    }
    let id = if wanted.id.is_empty() { "default" } else { &wanted.id }.to_owned();
    let mode = wanted.mode.unwrap_or(0o600);
    let (uid, gid) = (wanted.uid.unwrap_or(0), wanted.gid.unwrap_or(0));
    // The operation keeps that none was written.
    let ssh_opt = Some(wire::SshOpt { id: wanted.id.clone(), uid, gid, mode, optional: !wanted.required });
    let mount_type = MountType::Ssh as i32;
    parts.last.push(wire::Mount { input: -1, dest, mount_type, ssh_opt, ..Default::default() });
    id
}

/// What the build asks for of every process.
fn machine(parts: &mut Parts, options: &Options) {
    if options.shm_size > 0 {
        let size = i64::try_from(options.shm_size).unwrap_or(i64::MAX);
        let tmpfs = Some(wire::TmpfsOpt { size });
        let mount = of("/dev/shm".to_owned(), MountType::Tmpfs, |m| m.tmpfs_opt = tmpfs);
        parts.mounts.push(Mounted { mount, from: None });
        parts.caps.extend(["exec.mount.tmpfs", "exec.mount.tmpfs.size"]);
    }
}

/// Mounts by destination, inputs once each in that order, outputs numbered.
fn encode(mut mounts: Vec<Mounted>) -> (wire::ExecOp, Vec<Id>) {
    mounts.sort_by(|a, b| a.mount.dest.cmp(&b.mount.dest));
    let (mut made, mut inputs, mut output) = (Vec::new(), Vec::new(), 0);
    for Mounted { mut mount, from } in mounts {
        mount.input = match from {
            None => -1,
            Some(id) => {
                let at = inputs.iter().position(|i| *i == id).unwrap_or_else(|| {
                    inputs.push(id);
                    inputs.len() - 1
                });
                at as i64
            }
        };
        if mount.output >= 0 && !mount.readonly {
            mount.output = output;
            output += 1;
        } else {
            mount.output = -1;
        }
        made.push(mount);
    }
    (wire::ExecOp { mounts: made, ..Default::default() }, inputs)
}

fn meta(state: &State, args: Vec<String>, env: &[(String, String)], options: &Options) -> wire::Meta {
    let host = |(host, ip): &(String, String)| wire::HostIp { host: host.clone(), ip: ip.clone() };
    let limit = |(name, soft, hard): &(String, i64, i64)| wire::Ulimit { name: name.clone(), soft: *soft, hard: *hard };
    wire::Meta {
        args,
        env: env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        cwd: state.cwd.clone(),
        user: state.image.config.user.clone(),
        proxy_env: proxies(options),
        extra_hosts: options.add_hosts.iter().map(host).collect(),
        hostname: options.hostname.clone(),
        ulimit: options.ulimits.iter().map(limit).collect(),
        cgroup_parent: options.cgroup_parent.clone(),
        remove_mount_stubs_recursive: true,
        valid_exit_codes: Vec::new(),
    }
}

/// Proxy arguments are for the process only.
fn proxies(options: &Options) -> Option<wire::ProxyEnv> {
    let of = |name: &str| {
        let upper = options.build_args.get(&name.to_ascii_uppercase());
        upper.or_else(|| options.build_args.get(name)).cloned().unwrap_or_default()
    };
    let proxy = wire::ProxyEnv {
        http_proxy: of("http_proxy"),
        https_proxy: of("https_proxy"),
        ftp_proxy: of("ftp_proxy"),
        no_proxy: of("no_proxy"),
        all_proxy: of("all_proxy"),
    };
    (proxy != wire::ProxyEnv::default()).then_some(proxy)
}

fn network(word: Option<&Word>, options: &Options) -> Result<NetMode> {
    let text = word.map_or(options.network.as_str(), |w| w.value.as_str());
    Ok(match text {
        "" | "default" | "sandbox" => NetMode::Unset,
        "host" => NetMode::Host,
        "none" => NetMode::None,
        other => {
            let span = word.map(|w| w.span).unwrap_or_default();
            let error = Diagnostic::error(span, format!("unsupported network mode \"{other}\""));
            return Err(error.help("expected default, none or host"));
        }
    })
}

fn security(word: Option<&Word>) -> Result<SecurityMode> {
    match word.map(|w| w.value.as_str()) {
        None | Some("sandbox") => Ok(SecurityMode::Sandbox),
        Some("insecure") => Ok(SecurityMode::Insecure),
        Some(other) => {
            let span = word.map(|w| w.span).unwrap_or_default();
            let error = Diagnostic::error(span, format!("unsupported security mode \"{other}\""));
            Err(error.help("expected sandbox or insecure"))
        }
    }
}
