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
use crate::session::SshSocket;
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

/// Everything that must outlive the process.
#[derive(Default)]
struct Held {
    drafts: Vec<(i64, Draft)>,
    scrap: Vec<Draft>,
    volumes: Vec<Volume>,
    leases: Vec<Lease>,
    agents: Vec<AgentSocket>,
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
    pub fn run(&self, output: &mut dyn FnMut(sandbox::Stream, &[u8])) -> Result<Vec<Option<SnapshotId>>, Error> {
        let meta = self.op.meta.as_ref().ok_or_else(|| malformed("it has no process"))?;
        let mut held = Held::default();
        let spec = self.spec(meta, &mut held)?;
        let exit = match self.sandbox.run(&spec, self.cancel, output) {
            Err(sandbox::Error::Cancelled) => return Err(Error::Cancelled),
            exit => exit?,
        };
        let code = exit.status.code();
        let valid = if meta.valid_exit_codes.is_empty() { code == 0 } else { meta.valid_exit_codes.contains(&code) };
        if !valid {
            let how = match exit.status {
                _ if exit.out_of_memory => format!("exit code: {code} (it used more memory than its limit)"),
                sandbox::Status::Code(code) => format!("exit code: {code}"),
                sandbox::Status::Signal(signal) => format!("exit code: {code} (killed by signal {signal})"),
            };
            return Err(Error::Exit { command: meta.args.join(" "), code, how });
        }
        let outputs = self.op.mounts.iter().map(|m| m.output).max().unwrap_or(-1);
        let mut results = vec![None; usize::try_from(outputs + 1).unwrap_or(0)];
        for (index, draft) in held.drafts {
            forget_mount_points(&draft)?;
            let made = draft.commit()?;
            if let Some(slot) = usize::try_from(index).ok().and_then(|i| results.get_mut(i)) {
                *slot = Some(made);
            }
        }
        Ok(results)
    }

    fn spec(&self, meta: &wire::Meta, held: &mut Held) -> Result<Spec, Error> {
        let root_mount = self.op.mounts.iter().find(|m| m.dest == "/");
        let root_mount = root_mount.ok_or_else(|| malformed("it has no mount at /"))?;
        let root = self.tree(root_mount, held)?;
        let mut spec = Spec::new(root, meta.args.iter().cloned());
        spec.readonly_root = root_mount.readonly;
        spec.env = environment(meta);
        spec.cwd = PathBuf::from(if meta.cwd.is_empty() { "/" } else { &meta.cwd });
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
        for secret in &self.op.secretenv {
            match self.secret(&secret.id, secret.optional)? {
                Some(value) => {
                    let value = String::from_utf8_lossy(value);
                    spec.env.push(format!("{}={value}", secret.name));
                }
                None => continue,
            }
        }
        let mut mounts: Vec<&wire::Mount> = self.op.mounts.iter().filter(|m| m.dest != "/").collect();
        // Parents are mounted before what lies in them.
        mounts.sort_by_key(|m| Path::new(&m.dest).components().count());
        for mount in mounts {
            if mount.dest == "/dev/shm" && mount.mount_type == MountType::Tmpfs as i32 {
                spec.shm_size = mount.tmpfs_opt.as_ref().map(|t| t.size as u64).filter(|s| *s > 0);
                continue;
            }
            if let Some(kind) = self.mount(mount, held)? {
                spec.mounts.push(Mount { dest: PathBuf::from(&mount.dest), kind, readonly: mount.readonly });
            }
        }
        Ok(spec)
    }

    /// What is mounted; `None` for an optional thing that is not there.
    fn mount(&self, mount: &wire::Mount, held: &mut Held) -> Result<Option<MountKind>, Error> {
        let selector = PathBuf::from(&mount.selector);
        Ok(Some(match MountType::try_from(mount.mount_type) {
            Ok(MountType::Bind) => MountKind::Overlay { root: self.tree(mount, held)?, selector },
            Ok(MountType::Tmpfs) => {
                let size = mount.tmpfs_opt.as_ref().map(|t| t.size as u64).filter(|s| *s > 0);
                MountKind::Tmpfs { size, mode: 0o1777 }
            }
            Ok(MountType::Secret) => {
                let opt = mount.secret_opt.as_ref().ok_or_else(|| malformed("a secret mount without an id"))?;
                let Some(value) = self.secret(&opt.id, opt.optional)? else { return Ok(None) };
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
            Ok(MountType::Cache) => self.volume(mount, held)?,
            Err(_) => return Err(malformed(&format!("mount type {} is unknown", mount.mount_type))),
        }))
    }

    fn secret(&self, id: &str, optional: bool) -> Result<Option<&[u8]>, Error> {
        match self.given.secrets.get(id) {
            Some(Some(value)) => Ok(Some(value)),
            _ if optional => Ok(None),
            _ => Err(Error::NoSecret { id: id.to_owned() }),
        }
    }

    /// The tree of a mount: writable in a draft, which becomes a layer when it is an output.
    fn tree(&self, mount: &wire::Mount, held: &mut Held) -> Result<Root, Error> {
        let input = match usize::try_from(mount.input) {
            Err(_) => None,
            Ok(i) => *self.inputs.get(i).ok_or_else(|| malformed("a mount names an input that it does not have"))?,
        };
        if let Some(id) = input {
            held.leases.push(self.store.leases().hold(Resource::Snapshot(id))?);
        }
        if let (true, Some(id)) = (mount.readonly && mount.output < 0, input) {
            return Ok(Root::read_only(self.store.snapshots().layers(id)?));
        }
        let mut draft = self.store.snapshots().begin(input)?;
        draft.describe(store::Kind::Regular, self.name);
        // The upper's own root hides the lower's: it must look the same.
        Canvas::new(&draft)?.finish()?;
        let root = Root::writable(draft.lower().to_vec(), draft.upper(), draft.work());
        match mount.output {
            0.. => held.drafts.push((mount.output, draft)),
            _ => held.scrap.push(draft),
        }
        Ok(root)
    }

    fn volume(&self, mount: &wire::Mount, held: &mut Held) -> Result<MountKind, Error> {
        let opt = mount.cache_opt.as_ref().ok_or_else(|| malformed("a cache mount without an id"))?;
        if opt.id.starts_with(crate::sources::git::VOLUMES) || opt.id.starts_with(crate::session::MIRRORS) {
            return Err(malformed("a cache mount with an id that is larder's own"));
        }
        let seed = usize::try_from(mount.input).ok().and_then(|i| *self.inputs.get(i)?);
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
        held.volumes.push(volume);
        Ok(MountKind::Bind { source, selector: PathBuf::from(&mount.selector) })
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
                let beneath = (node.mode, node.uid, node.gid);
                node.kind == store::view::Kind::Dir && beneath == (data.mode() & 0o7777, data.uid(), data.gid())
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
