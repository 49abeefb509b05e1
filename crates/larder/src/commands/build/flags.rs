//! `larder build`: what was typed. The flags are those of `docker buildx build`, with the same meaning.
//! Nothing is looked up here: `request` turns this into what is meant.

use std::path::PathBuf;

/// Build an image from a Dockerfile
#[derive(clap::Args, Debug, Default)]
#[command(after_help = EXAMPLES, args_override_self = true)]
pub struct Flags {
    /// Directory, git URL, http(s) URL of a tar, or `-` for a tar (or Dockerfile) on standard input
    #[arg(value_name = "PATH|URL|-")]
    pub context: String,

    #[command(flatten)]
    pub at: crate::commands::place::At,
    /// Name of the Dockerfile, relative to the working directory; `-` reads it from standard input [default: PATH/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<String>,
    /// Name for the result (`name:tag`); may be given several times
    #[arg(short, long, value_name = "NAME")]
    pub tag: Vec<String>,
    /// Stage to build [default: the last]
    #[arg(long, value_name = "STAGE", default_value = "", hide_default_value = true)]
    pub target: String,
    /// Value of a build argument; `NAME` alone takes it from the environment
    #[arg(long, value_name = "NAME=VALUE")]
    pub build_arg: Vec<String>,
    /// Another context (`name=path`, `name=docker-image://ref`, `name=oci-layout://path`, `name=https://…`)
    #[arg(long, value_name = "NAME=VALUE")]
    pub build_context: Vec<String>,
    /// Platform to build for (`linux/amd64,linux/arm64`); may be given several times
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    pub platform: Vec<String>,

    /// Where the result goes: `type=image|registry|oci|docker|tar|local|cacheonly[,dest=PATH][,…]`, or a directory, or `-`
    #[arg(short, long, value_name = "OUTPUT")]
    pub output: Vec<String>,
    /// Short for `--output=type=registry`
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set, value_name = "BOOL")]
    pub push: bool,
    /// Short for `--output=type=docker`: hands the image to the Docker engine of this machine
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set, value_name = "BOOL")]
    pub load: bool,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Write the result's metadata to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// Annotation for the image (`[TYPE:]KEY=VALUE`)
    #[arg(long, value_name = "ANNOTATION")]
    pub annotation: Vec<String>,
    /// Label for the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,

    /// Run every step again
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set, value_name = "BOOL")]
    pub no_cache: bool,
    /// Run these stages' steps again
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// Ask the registry for base images even if they are here
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set, value_name = "BOOL")]
    pub pull: bool,
    /// Read a cache from elsewhere
    #[arg(long, value_name = "CACHE")]
    pub cache_from: Vec<String>,
    /// Write the cache to somewhere else
    #[arg(long, value_name = "CACHE")]
    pub cache_to: Vec<String>,
    /// Fail, with the causes, when a step had to run (of the named stages, or of any)
    #[arg(long, value_name = "STAGE", value_delimiter = ',', num_args = 0.., require_equals = true)]
    pub fail_on_miss: Option<Vec<String>>,

    /// Secret for `RUN --mount=type=secret` (`id=NAME[,src=FILE|,env=VARIABLE]`)
    #[arg(long, value_name = "SECRET")]
    pub secret: Vec<String>,
    /// SSH agent or keys for `RUN --mount=type=ssh` (`default|ID[=SOCKET|KEY[,KEY]]`)
    #[arg(long, value_name = "SSH")]
    pub ssh: Vec<String>,
    /// Allow more than a step usually may (`network.host`, `security.insecure`)
    #[arg(long, value_name = "ENTITLEMENT", value_parser = entitlement)]
    pub allow: Vec<String>,
    /// Line for the steps' /etc/hosts (`host:ip` or `host=ip`)
    #[arg(long, value_name = "HOST:IP")]
    pub add_host: Vec<String>,
    /// Network of the steps that ask for none of their own (`default`, `none`, `host`)
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub network: String,
    /// Size of /dev/shm in the steps (`64m`)
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<String>,
    /// Resource limit of the steps (`nofile=1024:2048`)
    #[arg(long, value_name = "ULIMIT")]
    pub ulimit: Vec<String>,
    /// Parent cgroup of the steps
    #[arg(long, value_name = "CGROUP", default_value = "", hide_default_value = true)]
    pub cgroup_parent: String,

    /// Progress: `auto`, `plain`, `tty`, `rawjson`, `none`, or `quiet` for `-q`
    #[arg(long, value_name = "KIND", default_value = "auto", env = "BUILDKIT_PROGRESS")]
    pub progress: String,
    /// Print only the image's id: the digest of its configuration
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set, value_name = "BOOL")]
    pub quiet: bool,
    /// Instead of building: `check`, `outline`, `targets` or another question that the frontend knows; `,format=json`
    #[arg(long, alias = "print", value_name = "METHOD", default_value = "build", hide_default_value = true)]
    pub call: String,
    /// Short for `--call=check`
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true, value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set, value_name = "BOOL")]
    pub check: bool,
    /// Attestation to add
    #[arg(long, value_name = "ATTESTATION")]
    pub attest: Vec<String>,
    /// Short for `--attest=type=provenance`
    #[arg(long, value_name = "VALUE", num_args = 0..=1, default_missing_value = "true")]
    pub provenance: Option<String>,
    /// Short for `--attest=type=sbom`
    #[arg(long, value_name = "VALUE", num_args = 0..=1, default_missing_value = "true")]
    pub sbom: Option<String>,
    /// Accepted for buildx's sake: larder is its own builder
    #[arg(long, value_name = "NAME", hide = true)]
    pub builder: Option<String>,
    #[command(flatten)]
    pub old: Old,
}

/// What `--allow` names; a misspelt one would only show at the step that needs it.
fn entitlement(text: &str) -> Result<String, String> {
    match text {
        "network.host" | "security.insecure" => Ok(text.to_owned()),
        "device" => Err("larder gives steps no devices of the machine".to_owned()),
        other => Err(format!("unknown entitlement {other}: expected network.host or security.insecure")),
    }
}

impl Flags {
    /// Whether only the image's id is printed.
    pub fn is_quiet(&self) -> bool {
        self.quiet || self.progress == "quiet"
    }
}

/// Flags of docker's older builder. Buildx takes them without meaning anything by them, and so do we: scripts have them.
#[derive(clap::Args, Debug, Default)]
pub struct Old {
    #[arg(long, hide = true)]
    compress: bool,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    rm: Option<Option<String>>,
    #[arg(long, hide = true)]
    force_rm: bool,
    #[arg(long, short = 'D', hide = true)]
    debug: bool,
    #[arg(long, hide = true)]
    squash: bool,
    #[arg(long, hide = true)]
    isolation: Option<String>,
    #[arg(long, hide = true)]
    security_opt: Vec<String>,
    #[arg(long, short, hide = true)]
    memory: Option<String>,
    #[arg(long, hide = true)]
    memory_swap: Option<String>,
    #[arg(long, short, hide = true)]
    cpu_shares: Option<String>,
    #[arg(long, hide = true)]
    cpu_period: Option<String>,
    #[arg(long, hide = true)]
    cpu_quota: Option<String>,
    #[arg(long, hide = true)]
    cpuset_cpus: Option<String>,
    #[arg(long, hide = true)]
    cpuset_mems: Option<String>,
}

impl Old {
    /// What was asked for and is not done.
    pub fn warnings(&self) -> Vec<String> {
        let limits = [
            ("--memory", &self.memory),
            ("--memory-swap", &self.memory_swap),
            ("--cpu-shares", &self.cpu_shares),
            ("--cpu-period", &self.cpu_period),
            ("--cpu-quota", &self.cpu_quota),
            ("--cpuset-cpus", &self.cpuset_cpus),
            ("--cpuset-mems", &self.cpuset_mems),
        ];
        let limits = limits.into_iter().filter(|(_, value)| value.is_some());
        let limits =
            limits.map(|(name, _)| format!("{name} is not built: put the steps under a limit with --cgroup-parent"));
        let others = [
            (self.squash, "--squash has no effect: copy what is wanted into a last stage of its own"),
            (self.isolation.is_some(), "--isolation has no effect: steps have namespaces of their own"),
            (!self.security_opt.is_empty(), "--security-opt has no effect: a step asks for RUN --security=insecure"),
        ];
        let others = others.into_iter().filter(|(given, _)| *given).map(|(_, text)| text.to_owned());
        limits.chain(others).collect()
    }
}

const EXAMPLES: &str = "\
Examples:
  larder build -t app .                                  build the Dockerfile here into larder's store
  larder build -t app --target test --build-arg V=1.2 .  one stage, with an argument
  larder build -o type=oci,dest=app.tar .                an OCI archive
  larder build --push -t localhost:5000/app .            straight into a registry
  larder build --fail-on-miss=deps .                     fail when a step of stage `deps` had to run
  larder explain                                         why the last build's steps ran

Exit codes:
  0  built
  1  a step, a source or an output failed
  2  the command line or the Dockerfile is wrong
  3  --fail-on-miss: something had to run
  130  interrupted";

#[cfg(test)]
mod tests {
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: super::Flags,
    }

    #[test]
    fn as_gos_flags_are_given() {
        let line =
            ["x", "--progress", "plain", "--progress=none", "--push=true", "--pull=false", "-t", "a", "-t", "b", "."];
        let flags = Line::try_parse_from(line).unwrap().flags;
        assert_eq!((flags.progress.as_str(), flags.push, flags.pull), ("none", true, false));
        assert_eq!((flags.tag.len(), flags.context.as_str()), (2, "."));
        assert!(Line::try_parse_from(["x", "--push=perhaps", "."]).is_err());
    }
}
