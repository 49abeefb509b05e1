//! Runs a process (LLB `ExecOp`): its mounts become sandbox mounts, its writable mounts become layers.
//! What a process may see and do is the sandbox's; nothing here knows a namespace.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use graph::wire::{self, CacheSharing, MountType, NetMode};
use sandbox::{Host, Limits, Mount, MountKind, Network, Rlimit, Root, Security, Spec, User};
use store::{Draft, Lease, Resource, Sharing, SnapshotId, Store, Volume, VolumeRequest};

use super::agent::AgentSocket;
use super::{Doing, Error};
use crate::session::{self, SshSocket};
use store::canvas::Canvas;

/// BuildKit's PATH for a process that is given none.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the client gave beforehand: values of secrets by id, and agents by id.
#[derive(Default)]
pub struct Given {
    /// `None` is a secret that the client does not have.
    pub secrets: BTreeMap<String, Option<Vec<u8>>>,
    /// Sockets of agents; `None` is one that the client does not have.
    pub agents: BTreeMap<String, Option<SshSocket>>,
}

impl Given {
    /// Asks the client for what a process may see of it.
    pub async fn ask(
        session: &session::Shared,
        mounts: &[wire::Mount],
        variables: &[wire::SecretEnv],
    ) -> Result<Given, Error> {
        let mut given = Given::default();
        let mounted = mounts.iter().filter_map(|m| m.secret_opt.as_ref().map(|s| &s.id));
        for id in mounted.chain(variables.iter().map(|s| &s.id)) {
            given.secrets.insert(id.clone(), session.secret(id).await?);
        }
        for opt in mounts.iter().filter_map(|m| m.ssh_opt.as_ref()) {
            let id = if opt.id.is_empty() { "default" } else { &opt.id };
            let agent = match session.ssh(id).await {
                Err(_) if opt.optional => None,
                agent => Some(agent?),
            };
            given.agents.insert(opt.id.clone(), agent);
        }
        Ok(given)
    }

    fn secret(&self, id: &str, optional: bool) -> Result<Option<&[u8]>, Error> {
        match self.secrets.get(id) {
            Some(Some(value)) => Ok(Some(value)),
            _ if optional => Ok(None),
            _ => Err(Error::NoSecret { id: id.to_owned() }),
        }
    }

    /// Adds the variables that hold secrets.
    pub fn add_secrets(&self, wanted: &[wire::SecretEnv], env: &mut Vec<String>) -> Result<(), Error> {
        for secret in wanted {
            if let Some(value) = self.secret(&secret.id, secret.optional)? {
                env.push(format!("{}={}", secret.name, String::from_utf8_lossy(value)));
            }
        }
        Ok(())
    }
}

/// A process made ready: dropping it lets go of everything that it mounts.
pub struct Prepared {
    /// What is run, and in what.
    pub spec: Spec,
    held: Held,
}

impl Prepared {
    /// The layers that a mount shows, top first, by its position in the operation; `None` where no tree is mounted.
    pub fn layers(&self, mount: usize) -> Option<&[PathBuf]> {
        self.held.shown.get(&mount).map(Vec::as_slice)
    }
}

/// A process that did not do what it should.
pub struct Failed {
    /// Why.
    pub error: Error,
    /// The tree of each mount as it was left, by its position; `None` where no tree was mounted.
    pub left: Vec<Option<SnapshotId>>,
    /// Which of these trees nobody else knows.
    pub own: Vec<SnapshotId>,
}

impl Failed {
    fn early(error: Error) -> Box<Failed> {
        Box::new(Failed { error, left: Vec::new(), own: Vec::new() })
    }
}

/// A tree that the process writes to.
struct Written {
    /// Position of its mount.
    mount: usize,
    /// Which result it becomes; negative for none.
    output: i64,
    draft: Draft,
}

/// Everything that must outlive the process.
#[derive(Default)]
struct Held {
    drafts: Vec<Written>,
    /// With what each is told apart by: its id, and what it began with.
    volumes: Vec<(String, Option<SnapshotId>, Volume)>,
    leases: Vec<Lease>,
    agents: Vec<AgentSocket>,
    shown: BTreeMap<usize, Vec<PathBuf>>,
}

/// One run.
pub struct Exec<'a> {
    /// This disk.
    pub store: &'a Store,
    /// This kernel.
    pub sandbox: &'a sandbox::Sandbox,
    /// What is run.
    pub op: &'a wire::ExecOp,
    /// Limits, which are no part of the operation.
    pub resources: Option<&'a wire::LinuxResources>,
    /// Trees of the inputs.
    pub inputs: &'a [Option<SnapshotId>],
    /// What the client gave.
    pub given: &'a Given,
    /// The step's name.
    pub name: &'a str,
    /// Ends the run.
    pub cancel: &'a sandbox::Cancel,
    /// Names on the network.
    pub dns: &'a sandbox::Dns,
}

impl Exec<'_> {
    /// Runs it; returns one result an output.
    pub fn run(&self, output: &mut dyn FnMut(sandbox::Stream, &[u8])) -> Result<Vec<Option<SnapshotId>>, Box<Failed>> {
        let Prepared { spec, held } = self.prepare().map_err(Failed::early)?;
        match self.execute(&spec, output) {
            Ok(()) => self.results(held).map_err(Failed::early),
            Err(Error::Cancelled) => Err(Failed::early(Error::Cancelled)),
            Err(error) => Err(self.remains(error, held)),
        }
    }

    fn execute(&self, spec: &Spec, output: &mut dyn FnMut(sandbox::Stream, &[u8])) -> Result<(), Error> {
        let exit = match self.sandbox.run(spec, self.cancel, output) {
            Err(sandbox::Error::Cancelled) => return Err(Error::Cancelled),
            Err(source) => return Err(Error::Begin { command: spec.args.join(" "), source }),
            Ok(exit) => exit,
        };
        let valid_codes = self.op.meta.iter().flat_map(|meta| &meta.valid_exit_codes);
        match valid_codes.clone().next() {
            Some(_) if valid_codes.clone().any(|code| *code == exit.status.code()) => Ok(()),
            None if exit.status.code() == 0 => Ok(()),
            _ => Err(ended(&spec.args, &exit)),
        }
    }

    /// What was written, as layers.
    fn results(&self, held: Held) -> Result<Vec<Option<SnapshotId>>, Error> {
        let outputs = self.op.mounts.iter().map(|m| m.output).max().unwrap_or(-1);
        let mut results = vec![None; usize::try_from(outputs + 1).unwrap_or(0)];
        for Written { output, draft, .. } in held.drafts.into_iter().filter(|written| written.output >= 0) {
            forget_mount_points(&draft)?;
            let made = draft.commit()?;
            if let Some(slot) = usize::try_from(output).ok().and_then(|i| results.get_mut(i)) {
                *slot = Some(made);
            }
        }
        Ok(results)
    }

    /// What a failed process left, for who wants to look at it.
    fn remains(&self, error: Error, held: Held) -> Box<Failed> {
        let input = |mount: &wire::Mount| usize::try_from(mount.input).ok().and_then(|i| *self.inputs.get(i)?);
        let mut left: Vec<_> = self.op.mounts.iter().map(input).collect();
        let mut own = Vec::new();
        for Written { mount, draft, .. } in held.drafts {
            // What can't be kept can't be looked at; the failure is what counts.
            let made = forget_mount_points(&draft).and_then(|()| Ok(draft.commit()?)).ok();
            own.extend(made);
            if let Some(slot) = left.get_mut(mount) {
                *slot = made;
            }
        }
        Box::new(Failed { error, left, own })
    }

    /// Makes everything ready that the process mounts and is.
    pub fn prepare(&self) -> Result<Prepared, Error> {
        let meta = self.op.meta.as_ref().ok_or_else(|| malformed("it has no process"))?;
        let mut held = Held::default();
        let spec = self.spec(meta, &mut held)?;
        Ok(Prepared { spec, held })
    }

    fn spec(&self, meta: &wire::Meta, held: &mut Held) -> Result<Spec, Error> {
        let root_mount = self.op.mounts.iter().enumerate().find(|(_, m)| m.dest == "/");
        let (position, root_mount) = root_mount.ok_or_else(|| malformed("it has no mount at /"))?;
        if root_mount.mount_type != MountType::Bind as i32 {
            return Err(malformed("what is mounted at / must be a tree"));
        }
        let root = self.tree(position, root_mount, held)?;
        let mut spec = Spec::new(root, meta.args.iter().cloned());
        spec.readonly_root = root_mount.readonly;
        spec.env = environment(meta);
        spec.cwd = PathBuf::from(graph::pattern::clean(&format!("/{}", meta.cwd)));
        spec.user = User::Named(meta.user.clone());
        if !meta.hostname.is_empty() {
            spec.hostname = meta.hostname.clone();
        }
        spec.dns = self.dns.clone();
        spec.hosts = meta.extra_hosts.iter().map(host).collect::<Result<_, _>>()?;
        spec.network = match NetMode::try_from(self.op.network) {
            Ok(NetMode::Host) => Network::Host,
            Ok(NetMode::None) => Network::None,
            _ => Network::Default,
        };
        spec.security = if self.op.security == 1 { Security::Insecure } else { Security::Sandbox };
        spec.rlimits =
            meta.ulimit.iter().map(|u| Rlimit { name: u.name.clone(), soft: u.soft, hard: u.hard }).collect();
        spec.limits = self.resources.map(limits).unwrap_or_default();
        spec.cgroup_parent = (!meta.cgroup_parent.is_empty()).then(|| meta.cgroup_parent.clone());
        spec.remove_stub_parents = meta.remove_mount_stubs_recursive;
        if !self.op.cdi_devices.iter().all(|d| d.optional) {
            return Err(malformed("devices (CDI) are not built yet"));
        }
        self.given.add_secrets(&self.op.secretenv, &mut spec.env)?;
        self.mounts(&mut spec, held)?;
        Ok(spec)
    }

    /// Everything that is mounted but the root.
    fn mounts(&self, spec: &mut Spec, held: &mut Held) -> Result<(), Error> {
        let mut mounts: Vec<_> = self.op.mounts.iter().enumerate().filter(|(_, m)| m.dest != "/").collect();
        // Parents are mounted before what lies in them.
        mounts.sort_by_key(|(_, m)| Path::new(&m.dest).components().count());
        for (position, mount) in mounts {
            if mount.dest == "/dev/shm" && mount.mount_type == MountType::Tmpfs as i32 {
                spec.shm_size = mount.tmpfs_opt.as_ref().map(|t| t.size as u64).filter(|s| *s > 0);
                continue;
            }
            if let Some(kind) = self.mount(position, mount, held)? {
                // What is not absolute lies in the working directory.
                let dest = Path::new("/").join(&spec.cwd).join(&mount.dest);
                spec.mounts.push(Mount { dest, kind, readonly: mount.readonly });
            }
        }
        Ok(())
    }

    /// What is mounted; `None` for an optional thing that is not there.
    fn mount(&self, position: usize, mount: &wire::Mount, held: &mut Held) -> Result<Option<MountKind>, Error> {
        let selector = PathBuf::from(&mount.selector);
        Ok(Some(match MountType::try_from(mount.mount_type) {
            Ok(MountType::Bind) => MountKind::Overlay { root: self.tree(position, mount, held)?, selector },
            Ok(MountType::Tmpfs) => {
                let size = mount.tmpfs_opt.as_ref().map(|t| t.size as u64).filter(|s| *s > 0);
                MountKind::Tmpfs { size, mode: 0o1777 }
            }
            Ok(MountType::Secret) => {
                let opt = mount.secret_opt.as_ref().ok_or_else(|| malformed("a secret mount without an id"))?;
                let Some(value) = self.given.secret(&opt.id, opt.optional)? else { return Ok(None) };
                MountKind::Secret { bytes: value.to_vec(), uid: opt.uid, gid: opt.gid, mode: opt.mode }
            }
            Ok(MountType::Ssh) => {
                let opt = mount.ssh_opt.as_ref().ok_or_else(|| malformed("an ssh mount without an id"))?;
                match self.given.agents.get(&opt.id) {
                    Some(Some(agent)) => {
                        let socket = AgentSocket::open(self.store.temporary(), &agent.path, opt)?;
                        let source = socket.path().to_owned();
                        held.agents.push(socket);
                        MountKind::Bind { source, selector: PathBuf::new() }
                    }
                    _ if opt.optional => return Ok(None),
                    _ => return Err(crate::session::Error::NoSshAgent { id: opt.id.clone() }.into()),
                }
            }
            Ok(MountType::Cache) => self.volume(position, mount, held)?,
            Err(_) => return Err(malformed(&format!("mount type {} is unknown", mount.mount_type))),
        }))
    }

    /// The tree of a mount: writable in a draft, which becomes a layer when it is an output.
    fn tree(&self, position: usize, mount: &wire::Mount, held: &mut Held) -> Result<Root, Error> {
        let input = match usize::try_from(mount.input) {
            Err(_) => None,
            Ok(i) => *self.inputs.get(i).ok_or_else(|| malformed("a mount names an input that it does not have"))?,
        };
        if let Some(id) = input {
            held.leases.push(self.store.leases().hold(Resource::Snapshot(id))?);
        }
        // A read-only root takes mount points all the same.
        let shared = mount.readonly && mount.output < 0 && mount.dest != "/";
        if let (true, Some(id)) = (shared, input) {
            let layers = self.store.snapshots().layers(id)?;
            held.shown.insert(position, layers.clone());
            return Ok(Root::read_only(layers));
        }
        let mut draft = self.store.snapshots().begin(input)?;
        draft.describe(store::Kind::Regular, self.name);
        // The upper's own root hides the lower's: it must look the same.
        Canvas::new(&draft)?.finish()?;
        let work = draft.work()?;
        let root = Root::writable(draft.lower().to_vec(), draft.upper(), &work);
        let shown = std::iter::once(draft.upper().to_owned()).chain(draft.lower().iter().cloned());
        held.shown.insert(position, shown.collect());
        held.drafts.push(Written { mount: position, output: mount.output, draft });
        Ok(root)
    }

    fn volume(&self, position: usize, mount: &wire::Mount, held: &mut Held) -> Result<MountKind, Error> {
        let opt = mount.cache_opt.as_ref().ok_or_else(|| malformed("a cache mount without an id"))?;
        let own = [crate::sources::git::VOLUMES, crate::sources::http::VOLUMES, crate::session::MIRRORS];
        if own.iter().any(|prefix| opt.id.starts_with(prefix)) {
            return Err(malformed("a cache mount with an id that is larder's own"));
        }
        let seed = usize::try_from(mount.input).ok().and_then(|i| *self.inputs.get(i)?);
        let selector = PathBuf::from(&mount.selector);
        // A process that mounts a volume twice shares it with itself, and waits for nobody.
        if let Some((.., taken)) = held.volumes.iter().find(|(id, from, _)| *id == opt.id && *from == seed) {
            let source = taken.path().to_owned();
            held.shown.insert(position, vec![source.clone()]);
            return Ok(MountKind::Bind { source, selector });
        }
        let sharing = match CacheSharing::try_from(opt.sharing) {
            Ok(CacheSharing::Private) => Sharing::Private,
            Ok(CacheSharing::Locked) => Sharing::Locked,
            _ => Sharing::Shared,
        };
        let description = format!("cache mount {} of {}", mount.dest, self.name);
        let request = VolumeRequest { name: &opt.id, seed, sharing, description: &description };
        let cancel = self.cancel;
        let mut waiting = || {
            if cancel.is_cancelled() { std::ops::ControlFlow::Break(()) } else { std::ops::ControlFlow::Continue(()) }
        };
        let taken = self.store.volumes().take(&request, &mut waiting);
        let mut volume = match taken {
            Err(_) if cancel.is_cancelled() => return Err(Error::Cancelled),
            taken => taken?,
        };
        if volume.fresh() {
            if let Some(seed) = seed {
                self.fill(seed, volume.path())?;
            }
            volume.filled()?;
        }
        let source = volume.path().to_owned();
        held.shown.insert(position, vec![source.clone()]);
        held.volumes.push((opt.id.clone(), seed, volume));
        Ok(MountKind::Bind { source, selector })
    }

    /// Copies a tree into a new volume. A volume is written to, so its files are its own.
    fn fill(&self, seed: SnapshotId, volume: &Path) -> Result<(), Error> {
        let view = store::view::View::of_layers(self.store.snapshots().layers(seed)?);
        store::layer::write_dir(&view, volume, store::layer::Owners::Kept, None)?;
        let data = view.lookup(Path::new("/"))?;
        data.map_or(Ok(()), |node| {
            let attributes = store::canvas::Attributes::of(&node);
            store::canvas::set_owner_and_mode(volume, &attributes).doing("set owner and mode of", volume)
        })
    }
}

/// A process' end as an error.
pub(crate) fn ended(args: &[String], exit: &sandbox::Exit) -> Error {
    let code = exit.status.code();
    let how = match exit.status {
        _ if exit.out_of_memory => format!("exit code: {code} (it used more memory than its limit)"),
        sandbox::Status::Code(code) => format!("exit code: {code}"),
        sandbox::Status::Signal(signal) => format!("exit code: {code} (killed by signal {signal})"),
    };
    Error::Exit { command: args.join(" "), code, how }
}

/// Folders of the root that the system's own mounts lie in or pass through.
const SYSTEM: [&str; 4] = ["dev", "etc", "proc", "sys"];

/// Takes out of the layer what is there only because something was mounted: empty folders that the tree beneath has in the
/// same form, or that nobody but the mount needed.
fn forget_mount_points(draft: &Draft) -> Result<(), Error> {
    use std::os::unix::fs::MetadataExt;
    let lower = store::view::View::of_layers(draft.lower().to_vec());
    for name in SYSTEM {
        let folder = draft.upper().join(name);
        let Ok(data) = std::fs::symlink_metadata(&folder) else { continue };
        let is_empty = || std::fs::read_dir(&folder).map(|mut entries| entries.next().is_none());
        if !data.is_dir() || !is_empty().doing("list", &folder)? {
            continue;
        }
        let same = match lower.lookup(&Path::new("/").join(name))? {
            None => true,
            Some(node) => {
                let beneath = (node.mode, node.uid, node.gid, node.mtime);
                let time = data.mtime() * 1_000_000_000 + data.mtime_nsec();
                node.kind == store::view::Kind::Dir && beneath == (data.mode() & 0o7777, data.uid(), data.gid(), time)
            }
        };
        if same {
            std::fs::remove_dir(&folder).doing("remove", &folder)?;
        }
    }
    Ok(())
}

fn malformed(reason: &str) -> Error {
    Error::Malformed { operation: "exec", reason: reason.to_owned() }
}

/// Adds the PATH that a process has when it is given none.
pub(crate) fn add_path(env: &mut Vec<String>) {
    if !env.iter().any(|e| e.starts_with("PATH=")) {
        env.insert(0, PATH.to_owned());
    }
}

/// The process' variables: PATH when there is none, proxies (both ways to write them) for the run only.
fn environment(meta: &wire::Meta) -> Vec<String> {
    let mut env = meta.env.clone();
    add_path(&mut env);
    if let Some(proxy) = &meta.proxy_env {
        let pairs = [
            ("HTTP_PROXY", &proxy.http_proxy),
            ("HTTPS_PROXY", &proxy.https_proxy),
            ("FTP_PROXY", &proxy.ftp_proxy),
            ("NO_PROXY", &proxy.no_proxy),
            ("ALL_PROXY", &proxy.all_proxy),
        ];
        for (name, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
            env.push(format!("{name}={value}"));
            env.push(format!("{}={value}", name.to_ascii_lowercase()));
        }
    }
    env
}

fn host(line: &wire::HostIp) -> Result<Host, Error> {
    let ip: IpAddr = line.ip.parse().map_err(|_| malformed(&format!("`{}` is no IP address", line.ip)))?;
    Ok(Host { name: line.host.clone(), ip })
}

fn limits(r: &wire::LinuxResources) -> Limits {
    Limits {
        memory: u64::try_from(r.memory).ok().filter(|m| *m > 0),
        memory_swap: (r.memory_swap != 0).then_some(r.memory_swap),
        cpu_shares: (r.cpu_shares > 0).then_some(r.cpu_shares),
        cpu_quota: (r.cpu_quota != 0).then_some(r.cpu_quota),
        cpu_period: (r.cpu_period > 0).then_some(r.cpu_period),
        cpuset_cpus: (!r.cpuset_cpus.is_empty()).then(|| r.cpuset_cpus.clone()),
        cpuset_mems: (!r.cpuset_mems.is_empty()).then(|| r.cpuset_mems.clone()),
        pids: None,
    }
}
