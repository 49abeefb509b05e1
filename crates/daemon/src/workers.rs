//! What the daemon says of itself: its one worker, its version, its capabilities.
//! A capability is named here when it works, and only then: clients build with what is offered.

use std::collections::HashMap;

use oci::Platform;
use proto::apicaps::ApiCap;
use proto::pb;
use proto::version::Version;
use proto::worker::{BuildkitVersion, GcPolicy, WorkerRecord};
use store::lifecycle::Disk;

use crate::Daemon;

/// The version of BuildKit whose behaviour clients may expect.
const COMPATIBLE: &str = "v0.30.0";

const FRONTEND: [&str; 28] = [
    "frontend.caps",
    "frontend.inputs",
    "gateway.evaluate",
    "gateway.exec",
    "gateway.exec.extrahosts",
    "gateway.exec.filesystem",
    "gateway.exec.secretenv",
    "gateway.exec.signals",
    "gateway.solve.evaluate",
    "gateway.solve.metadata",
    "gateway.warnings",
    "importcaches",
    "proto.refarray",
    "readdir",
    "readfile",
    "reference.attestations",
    "reference.output",
    "resolveimage",
    "resolveimage.resolvemode",
    "return",
    "returnmap",
    "solve.base",
    "solve.inlinereturn",
    "source.metaresolver",
    "statfile",
    "moby.buildkit.frontend.contexts",
    "moby.buildkit.frontend.inputs",
    "moby.buildkit.frontend.subrequests",
];

const LLB: [&str; 76] = [
    "source.ocilayout",
    "source.image",
    "source.image.checksum",
    "source.image.layerlimit",
    "source.image.resolvemode",
    "source.local",
    "source.local.differ",
    "source.local.excludepatterns",
    "source.local.followpaths",
    "source.local.includepatterns",
    "source.local.sessionid",
    "source.local.sharedkeyhint",
    "source.local.unique",
    "source.http",
    "source.http.auth",
    "source.http.checksum",
    "source.http.header",
    "source.http.perm",
    "soruce.http.uidgid",
    "source.git",
    "source.git.checksum",
    "source.git.fetchbycommit",
    "source.git.fullurl",
    "source.git.httpauth",
    "source.git.keepgitdir",
    "source.git.knownsshhosts",
    "source.git.mountsshsock",
    "source.git.mtime",
    "source.git.skipsubmodules",
    "source.git.subdir",
    "source.policy",
    "exec.meta.base",
    "exec.meta.cgroup.parent",
    "exec.meta.linux.resources",
    "exec.meta.network",
    "exec.meta.proxyenv",
    "exec.meta.security",
    "exec.meta.setsdefaultpath",
    "exec.meta.ulimit",
    "exec.meta.removemountstubs.recursive",
    "exec.cgroup",
    "exec.mount.bind",
    "exec.mount.bind.readwrite-nooutput",
    "exec.mount.cache",
    "exec.mount.cache.content",
    "exec.mount.cache.sharing",
    "exec.mount.secret",
    "exec.mount.selector",
    "exec.mount.ssh",
    "exec.mount.tmpfs",
    "exec.mount.tmpfs.size",
    "exec.secretenv",
    "exec.validexitcode",
    "file.base",
    "file.copy.alwaysreplaceexistingdestpaths",
    "file.copy.includeexcludepatterns",
    "file.copy.modestring",
    "file.copy.requiredpaths",
    "file.rm.nofollowsymlink",
    "file.rm.wildcard",
    "file.symlink.create",
    "cache.gha",
    "cache.s3",
    "constraints",
    "platform",
    "mergeop",
    "diffop",
    "meta.description",
    "meta.exportcache",
    "meta.ignorecache",
    "gc.freespacefilter",
    "history.filter",
    "exporter.image.annotations",
    "exporter.image.attestations",
    "exporter.multiple",
    "exporter.sourcedateepoch",
];

fn caps(names: &[&str]) -> Vec<ApiCap> {
    names.iter().map(|id| ApiCap { id: (*id).to_owned(), enabled: true, ..ApiCap::default() }).collect()
}

/// What clients may ask of the bridge.
pub fn frontend_caps() -> Vec<ApiCap> {
    caps(&FRONTEND)
}

/// What operations may need.
pub fn llb_caps() -> Vec<ApiCap> {
    caps(&LLB)
}

/// Whether operations may need it.
pub fn has(cap: &str) -> bool {
    LLB.contains(&cap)
}

/// The version as BuildKit's clients read it.
pub fn version() -> BuildkitVersion {
    BuildkitVersion {
        package: "larder".to_owned(),
        version: COMPATIBLE.to_owned(),
        revision: format!("larder-{}", env!("CARGO_PKG_VERSION")),
    }
}

/// The same, with the version of the Dockerfile's language.
pub fn full_version() -> Version {
    let BuildkitVersion { package, version, revision } = version();
    Version { package, version, revision, dockerfile_version: builder::frontends::LANGUAGE.to_owned() }
}

/// A platform as a message.
pub fn platform(platform: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: Vec::new(),
    }
}

/// The one worker.
pub fn worker(daemon: &Daemon) -> WorkerRecord {
    let label = |name: &str, value: &str| (format!("org.mobyproject.buildkit.worker.{name}"), value.to_owned());
    let uname = rustix::system::uname();
    let hostname = uname.nodename().to_string_lossy();
    let mut labels = HashMap::from([
        label("executor", "oci"),
        label("snapshotter", "overlayfs"),
        label("hostname", &hostname),
        label("network", "host"),
        label("oci.process-mode", "sandbox"),
        label("selinux.enabled", "false"),
    ]);
    labels.extend(daemon.settings.labels.clone());
    WorkerRecord {
        id: daemon.worker.clone(),
        labels,
        platforms: platforms(daemon).iter().map(platform).collect(),
        gc_policy: policies(daemon),
        buildkit_version: Some(version()),
        cdi_devices: Vec::new(),
    }
}

/// Those that the operator named, or else the machine's own.
fn platforms(daemon: &Daemon) -> Vec<Platform> {
    let named = &daemon.settings.platforms;
    if named.is_empty() { vec![Platform::host()] } else { named.clone() }
}

/// The one worker as BuildKit's frontends read it (`BUILDKIT_WORKERS`).
pub fn json(daemon: &Daemon) -> String {
    let WorkerRecord { id, labels, .. } = worker(daemon);
    serde_json::json!([{ "id": id, "labels": labels, "platforms": platforms(daemon) }]).to_string()
}

/// The collector's rules; none when it does not run by itself.
fn policies(daemon: &Daemon) -> Vec<GcPolicy> {
    let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let rule = |rule: &store::lifecycle::Rule| GcPolicy {
        all: rule.all,
        keep_duration: bytes(rule.keep_duration.saturating_mul(1_000_000)),
        filters: Vec::new(),
        reserved_space: bytes(rule.reserved_space),
        max_used_space: bytes(rule.max_used_space),
        min_free_space: bytes(rule.min_free_space),
    };
    let Some(worker) = &daemon.settings.collector else { return Vec::new() };
    // It was read when the daemon started; a disk that can't be measured has no shares.
    let disk = Disk::of(daemon.engine.store.root()).unwrap_or_default();
    worker.policy(disk).map(|policy| policy.rules.iter().map(rule).collect()).unwrap_or_default()
}
