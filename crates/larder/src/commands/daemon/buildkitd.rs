//! larder under buildkitd's name: buildkitd's own flags over its configuration file. Each flag means a key of the file and is
//! judged as that key is: it acts, is left out with a warning, or is refused.

use std::path::{Path, PathBuf};

use ::daemon::config::{Config, Space, Verdict, Worker, judge};
use clap::Parser;

use super::{Options, TlsFlags};
use crate::commands::{Failure, data_folder, run_folder};

/// build daemon
#[derive(Parser, Debug)]
#[command(name = "buildkitd", version = ::daemon::VERSION, disable_version_flag = true)]
struct Buildkitd {
    /// print the version
    #[arg(long, short = 'v', action = clap::ArgAction::Version)]
    version: (),
    /// set all the default options to be compatible with rootless containers
    #[arg(long)]
    rootless: bool,
    /// path to config file [default: /etc/buildkit/buildkitd.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// enable debug output in logs
    #[arg(long)]
    debug: bool,
    /// enable trace output in logs
    #[arg(long, hide = true)]
    trace: bool,
    /// path to state directory
    #[arg(long, value_name = "FOLDER", env = "LARDER_ROOT", hide_env = true)]
    root: Option<PathBuf>,
    /// listening address (socket or tcp)
    #[arg(long, value_name = "ADDRESS")]
    addr: Vec<String>,
    /// log formatter: json or text
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// set the log level
    #[arg(long, value_name = "LEVEL", env = "BUILDKITD_LOG_LEVEL")]
    log_level: Option<String>,
    /// group (name or gid) which will own all Unix socket listening addresses
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// debugging address (eg. 0.0.0.0:6060)
    #[arg(long, value_name = "ADDRESS", env = "BUILDKITD_DEBUGADDR")]
    debugaddr: Option<String>,
    #[command(flatten)]
    tls: TlsFlags,
    /// allows insecure entitlements e.g. network.host, security.insecure, device
    #[arg(long, value_name = "NAME")]
    allow_insecure_entitlement: Vec<String>,
    /// enable proxy network enforcement for all builds
    #[arg(long)]
    proxy_network: bool,
    /// OTEL collector trace socket path
    #[arg(long, value_name = "FILE")]
    otel_socket_path: Option<String>,
    /// disables support of the Container Device Interface (CDI)
    #[arg(long)]
    cdi_disabled: bool,
    /// list of directories to scan for CDI spec files
    #[arg(long, value_name = "FOLDER")]
    cdi_spec_dir: Vec<String>,
    /// enable saving cache debug info
    #[arg(long)]
    save_cache_debug: bool,
    /// use the host PID namespace and procfs
    #[arg(long)]
    oci_worker_no_process_sandbox: bool,
    #[command(flatten)]
    oci: Oci,
    #[command(flatten)]
    containerd: Containerd,
}

/// Declares the flags that both of buildkitd's workers have, and those of one alone. larder's one worker takes both.
macro_rules! worker_flags {
    ($name:ident, $worker:literal, { $($shared:literal $field:ident),* $(,)? }, { $($own:literal $own_field:ident $path:literal),* $(,)? }) => {
        #[derive(clap::Args, Debug)]
        struct $name {
            /// enable this worker (true/false/auto): larder has one, whatever its name
            #[arg(id = concat!($worker, "-enabled"), long = concat!($worker, "-worker"), value_name = "BOOL", num_args = 0..=1,
                default_missing_value = "true", require_equals = true, value_parser = ["true", "false", "auto"])]
            enabled: Option<String>,
            /// user-specific annotation labels (com.example.foo=bar)
            #[arg(id = concat!($worker, "-labels"), long = concat!($worker, "-worker-labels"), value_name = "NAME=VALUE")]
            labels: Vec<String>,
            /// Enable automatic garbage collection on worker
            #[arg(id = concat!($worker, "-gc"), long = concat!($worker, "-worker-gc"), num_args = 0..=1,
                default_missing_value = "true", require_equals = true)]
            gc: Option<bool>,
            /// Amount of storage GC keep locally, in MB: Reserved, or Reserved,Free or Reserved,Free,Maximum
            #[arg(id = concat!($worker, "-keep"), long = concat!($worker, "-worker-gc-keepstorage"), value_name = "MB")]
            keep: Option<String>,
            /// limit the number of parallel build steps that can run at the same time
            #[arg(id = concat!($worker, "-parallelism"), long = concat!($worker, "-max-parallelism"), value_name = "NUMBER")]
            parallelism: Option<usize>,
            /// enable rootless mode
            #[arg(id = concat!($worker, "-rootless"), long = concat!($worker, "-worker-rootless"))]
            rootless: bool,
            /// apply SELinux labels
            #[arg(id = concat!($worker, "-selinux"), long = concat!($worker, "-worker-selinux"))]
            selinux: bool,
            $(
                #[arg(id = concat!($worker, "-", $shared), long = concat!($worker, $shared), value_name = "VALUE")]
                $field: Option<String>,
            )*
            $(
                #[arg(id = concat!($worker, "-", $own), long = $own, value_name = "VALUE")]
                $own_field: Option<String>,
            )*
        }

        impl $name {
            /// Flags that mean a key which does nothing here, or can't be kept: flag, key and value.
            fn judged(&self) -> Vec<(String, String, String)> {
                let worker = $worker;
                let flag = |name: &str| format!("--{worker}{name}");
                let key = |name: &str| format!("worker/{worker}/{name}");
                let mut all = Vec::new();
                let keys = [("-worker-rootless", "rootless", self.rootless), ("-worker-selinux", "selinux", self.selinux)];
                for (name, path, is_set) in keys {
                    all.extend(is_set.then(|| (flag(name), key(path), "true".to_owned())));
                }
                $(all.extend(self.$field.clone().map(|v| (flag($shared), key(shared_key($shared)), v)));)*
                $(all.extend(self.$own_field.clone().map(|v| (format!("--{}", $own), key($path), v)));)*
                all
            }

            /// What acts.
            fn apply(&self, worker: &mut Worker) -> Result<(), Failure> {
                for text in self.labels.iter().flat_map(|labels| labels.split(',')) {
                    let wrong = || Failure::usage(format!("--{}-worker-labels {text}: expected NAME=VALUE", $worker));
                    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
                    worker.labels.insert(name.to_owned(), value.to_owned());
                }
                worker.gc = self.gc.or(worker.gc);
                worker.max_parallelism = self.parallelism.unwrap_or(worker.max_parallelism);
                match &self.keep {
                    Some(text) => keep(text, worker).map_err(|e| Failure::usage(format!("--{}-worker-gc-keepstorage: {e}", $worker))),
                    None => Ok(()),
                }
            }
        }
    };
}

/// The key of a flag that both workers have.
fn shared_key(flag: &str) -> &'static str {
    match flag {
        "-worker-snapshotter" => "snapshotter",
        "-worker-net" => "networkMode",
        "-worker-apparmor-profile" => "apparmor-profile",
        "-cni-config-path" => "cniConfigPath",
        "-cni-binary-dir" => "cniBinaryPath",
        _ => "cniPoolSize",
    }
}

worker_flags!(Oci, "oci", {
    "-worker-snapshotter" snapshotter,
    "-worker-net" net,
    "-worker-apparmor-profile" apparmor_profile,
    "-cni-config-path" cni_config_path,
    "-cni-binary-dir" cni_binary_dir,
    "-cni-pool-size" cni_pool_size,
}, {
    "oci-worker-binary" binary "binary",
    "oci-worker-proxy-snapshotter-path" proxy_snapshotter_path "proxySnapshotterPath",
    "oci-worker-platform" platforms "platforms",
});

worker_flags!(Containerd, "containerd", {
    "-worker-snapshotter" snapshotter,
    "-worker-net" net,
    "-worker-apparmor-profile" apparmor_profile,
    "-cni-config-path" cni_config_path,
    "-cni-binary-dir" cni_binary_dir,
    "-cni-pool-size" cni_pool_size,
}, {
    "containerd-worker-addr" address "address",
    "containerd-worker-namespace" namespace "namespace",
});

/// `Reserved[,Free[,Maximum]]`, each megabytes or a part of the disk.
fn keep(text: &str, worker: &mut Worker) -> Result<(), String> {
    let space = |part: Option<&str>| match part.map(str::trim).filter(|part| !part.is_empty()) {
        None => Ok(None),
        Some(part) if part.ends_with('%') => Space::parse(part).map(Some),
        Some(part) => {
            let megabytes: u64 = part.parse().map_err(|_| format!("`{part}` is no number of megabytes"))?;
            Ok(Some(Space::Bytes(megabytes.saturating_mul(1_000_000))))
        }
    };
    let mut parts = text.split(',');
    worker.reserved_space = space(parts.next())?;
    worker.min_free_space = space(parts.next())?;
    worker.max_used_space = space(parts.next())?;
    Ok(())
}

/// Runs under buildkitd's name.
pub fn run() -> Result<(), Failure> {
    let given = Buildkitd::parse();
    let (data, run, settings) = given.folders();
    // buildkitd reads its default file when there is one.
    let usual = settings.join("buildkit/buildkitd.toml");
    let file = given.config.clone().or_else(|| usual.exists().then_some(usual));
    let mut config = file.as_deref().map_or(Ok(Config::default()), crate::commands::configuration::read)?;
    given.judge()?;
    given.apply(&mut config)?;
    let root = given.root.clone().or(config.root.clone()).unwrap_or_else(|| data.join("buildkit"));
    let options = Options { addresses: given.addr, tls: given.tls, no_gc: false, registry: None };
    super::start(&root, config, &options, &format!("unix://{}", run.join("buildkit/buildkitd.sock").display()))
}

impl Buildkitd {
    /// Where data, sockets and settings lie: the user's with `--rootless`, even for the root of a user namespace.
    fn folders(&self) -> (PathBuf, PathBuf, PathBuf) {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let is_root = rustix::process::geteuid().is_root();
        if is_root && !self.rootless {
            return (data_folder(), run_folder(), Path::new("/etc").to_owned());
        }
        let home = variable("HOME").unwrap_or_default();
        (
            variable("XDG_DATA_HOME").unwrap_or_else(|| home.join(".local/share")),
            variable("XDG_RUNTIME_DIR").unwrap_or_else(run_folder),
            variable("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")),
        )
    }

    /// Says what does nothing here; ends the start where that would break a promise.
    fn judge(&self) -> Result<(), Failure> {
        let on = |is_set: bool| is_set.then(|| "true".to_owned());
        let own = [
            ("--debug", "debug", on(self.debug)),
            ("--trace", "trace", on(self.trace)),
            ("--log-format", "log/format", self.log_format.clone()),
            ("--log-level", "log/level", self.log_level.clone()),
            ("--debugaddr", "grpc/debugAddress", self.debugaddr.clone()),
            ("--proxy-network", "proxyNetwork", on(self.proxy_network)),
            ("--otel-socket-path", "otel/socketPath", self.otel_socket_path.clone()),
            ("--cdi-disabled", "cdi/disabled", on(self.cdi_disabled)),
            ("--cdi-spec-dir", "cdi/specDirs", self.cdi_spec_dir.first().cloned()),
            ("--oci-worker-no-process-sandbox", "worker/oci/noProcessSandbox", on(self.oci_worker_no_process_sandbox)),
        ];
        let own = own.into_iter().filter_map(|(flag, key, value)| Some((flag.to_owned(), key.to_owned(), value?)));
        for (flag, key, value) in own.chain(self.oci.judged()).chain(self.containerd.judged()) {
            match judge(&key.split('/').collect::<Vec<_>>(), &value) {
                Verdict::Fine => {}
                Verdict::LeftOut(why) => eprintln!("warning: {flag} is left out: {why}"),
                Verdict::Refused(why) => return Err(Failure::usage(format!("{flag} {value} can't be kept: {why}"))),
            }
        }
        if self.save_cache_debug {
            eprintln!("warning: --save-cache-debug is left out: larder explain says why steps ran");
        }
        Ok(())
    }

    /// What acts, over the file.
    fn apply(&self, config: &mut Config) -> Result<(), Failure> {
        let is_off = |enabled: &Option<String>| enabled.as_deref() == Some("false");
        if is_off(&self.oci.enabled) && is_off(&self.containerd.enabled) {
            return Err(Failure::usage("no worker is left: larder is one, and serves as either"));
        }
        let mut worker = config.oci();
        self.containerd.apply(&mut worker)?;
        self.oci.apply(&mut worker)?;
        if let Some(platforms) = &self.oci.platforms {
            worker.platforms = platforms.split(',').map(str::to_owned).collect();
        }
        worker.enabled = None;
        config.worker = [("oci".to_owned(), worker)].into();
        config.insecure_entitlements.extend(self.allow_insecure_entitlement.iter().cloned());
        if let Some(group) = &self.group {
            config.grpc.gid = Some(gid(group)?);
        }
        Ok(())
    }
}

/// A group of this machine, by name or number.
fn gid(group: &str) -> Result<u32, Failure> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string("/etc/group")?;
    let fields = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields.filter(|fields| fields.first() == Some(&group)).find_map(|fields| fields.get(2)?.parse().ok());
    found.ok_or_else(|| Failure::usage(format!("--group {group}: there is no such group here")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn given(args: &[&str]) -> Buildkitd {
        Buildkitd::try_parse_from([&["buildkitd"], args].concat()).unwrap()
    }

    /// Those of buildkitd v0.32, in its own order.
    const FLAGS: &str = "rootless config debug root addr log-format log-level group debugaddr tlscert tlskey tlscacert \
        allow-insecure-entitlement proxy-network otel-socket-path cdi-disabled cdi-spec-dir save-cache-debug \
        containerd-worker containerd-worker-addr containerd-worker-labels containerd-worker-net containerd-cni-config-path \
        containerd-cni-binary-dir containerd-cni-pool-size containerd-worker-snapshotter containerd-worker-apparmor-profile \
        containerd-worker-selinux containerd-max-parallelism containerd-worker-rootless containerd-worker-gc \
        containerd-worker-gc-keepstorage oci-worker oci-worker-labels oci-worker-snapshotter \
        oci-worker-proxy-snapshotter-path oci-worker-platform oci-worker-net oci-cni-config-path oci-cni-binary-dir \
        oci-cni-pool-size oci-worker-binary oci-worker-apparmor-profile oci-worker-selinux oci-max-parallelism \
        oci-worker-rootless oci-worker-no-process-sandbox oci-worker-gc oci-worker-gc-keepstorage version";

    #[test]
    fn every_flag_of_buildkitd_is_taken() {
        let command = Buildkitd::command();
        for flag in FLAGS.split_whitespace() {
            assert!(command.get_arguments().any(|a| a.get_long() == Some(flag)), "--{flag}");
        }
    }

    #[test]
    fn flags_act_or_are_refused() {
        let args = ["--oci-worker-labels=a=b,c=d", "--oci-worker-gc=false", "--oci-max-parallelism=3", "--group=7"];
        let mut config = Config::default();
        given(&args).apply(&mut config).unwrap();
        let worker = config.oci();
        assert_eq!(
            (worker.labels.len(), worker.gc, worker.max_parallelism, config.grpc.gid),
            (2, Some(false), 3, Some(7))
        );
        let mut config = Config::default();
        given(&["--containerd-worker-gc-keepstorage", "1000,10%"]).apply(&mut config).unwrap();
        let worker = config.oci();
        let spaces = (worker.reserved_space, worker.min_free_space, worker.max_used_space);
        assert_eq!(spaces, (Some(Space::Bytes(1_000_000_000)), Some(Space::Percent(10)), None));
        for refused in [
            "--oci-worker-net=cni",
            "--proxy-network",
            "--oci-worker-selinux",
            "--containerd-worker-apparmor-profile=x",
        ] {
            assert!(given(&[refused]).judge().is_err(), "{refused}");
        }
        let taken = ["--oci-worker-net=host", "--debug", "--oci-worker-binary=crun", "--oci-worker-no-process-sandbox"];
        assert!(given(&taken).judge().is_ok());
        assert!(given(&["--oci-worker=false", "--containerd-worker=false"]).apply(&mut Config::default()).is_err());
    }
}
