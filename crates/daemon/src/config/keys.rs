//! Every key of buildkitd.toml, and larder's own: what acts, what means nothing here, and what would be a promise that
//! larder can't keep. So nothing in a file is silently passed over.

use toml::{Table, Value};

/// What a key does.
enum Does {
    /// What it says.
    Acts,
    /// Nothing, unless its value is one of these anyway: said as a warning.
    Nothing(&'static [&'static str], &'static str),
    /// Something that others rely on and larder does not have: with any other value the daemon does not start.
    Refused(&'static [&'static str], &'static str),
}

use Does::{Acts, Nothing, Refused};

const OFF: &[&str] = &["", "false", "0"];
const LOG: &str = "the daemon writes no log beside its warnings";
const NETWORK: &str = "steps share the machine's network or have none";
const CONTAINERD: &str = "larder needs no containerd";

/// Keys by path: `*` is any name, `[]` an element of a list.
const KEYS: &[(&str, Does)] = &[
    ("debug", Nothing(OFF, LOG)),
    ("trace", Nothing(OFF, LOG)),
    ("root", Acts),
    ("insecure-entitlements", Acts),
    ("proxyNetwork", Refused(OFF, "there is no proxy network: steps would reach what it is to keep from them")),
    ("provenanceEnvDir", Acts),
    ("log/format", Nothing(&["", "text"], LOG)),
    ("log/level", Nothing(&["", "info", "warn", "error"], LOG)),
    ("grpc/address", Acts),
    ("grpc/debugAddress", Nothing(OFF, "there is no debug server")),
    ("grpc/uid", Acts),
    ("grpc/gid", Acts),
    ("grpc/securityDescriptor", Nothing(OFF, "it is Windows'")),
    ("grpc/tls/cert", Acts),
    ("grpc/tls/key", Acts),
    ("grpc/tls/ca", Acts),
    ("otel/socketPath", Nothing(OFF, "no traces are collected from steps")),
    ("cdi/disabled", Nothing(&["true"], "there are no CDI devices")),
    ("cdi/specDirs", Nothing(OFF, "there are no CDI devices")),
    ("cdi/autoAllowed", Nothing(OFF, "there are no CDI devices")),
    ("worker/*/enabled", Acts),
    ("worker/*/labels/*", Acts),
    ("worker/*/platforms", Acts),
    ("worker/*/snapshotter", Nothing(&["", "auto", "overlayfs"], "layers are kept as overlays")),
    ("worker/*/rootless", Nothing(OFF, "larder is rootless when it is started without root")),
    ("worker/*/noProcessSandbox", Nothing(OFF, "steps keep a PID namespace of their own")),
    ("worker/*/gc", Acts),
    ("worker/*/gckeepstorage", Acts),
    ("worker/*/reservedSpace", Acts),
    ("worker/*/maxUsedSpace", Acts),
    ("worker/*/minFreeSpace", Acts),
    ("worker/*/gcpolicy/[]/all", Acts),
    ("worker/*/gcpolicy/[]/filters", Acts),
    ("worker/*/gcpolicy/[]/keepDuration", Acts),
    ("worker/*/gcpolicy/[]/keepBytes", Acts),
    ("worker/*/gcpolicy/[]/reservedSpace", Acts),
    ("worker/*/gcpolicy/[]/maxUsedSpace", Acts),
    ("worker/*/gcpolicy/[]/minFreeSpace", Acts),
    ("worker/*/networkMode", Refused(&["", "auto", "host"], NETWORK)),
    ("worker/*/cniConfigPath", Nothing(OFF, NETWORK)),
    ("worker/*/cniBinaryPath", Nothing(OFF, NETWORK)),
    ("worker/*/cniPoolSize", Nothing(OFF, NETWORK)),
    ("worker/*/bridgeName", Nothing(OFF, NETWORK)),
    ("worker/*/bridgeSubnet", Nothing(OFF, NETWORK)),
    ("worker/*/userRemapUnsupported", Refused(OFF, "steps' users are not remapped")),
    ("worker/*/binary", Nothing(OFF, "larder starts steps itself")),
    ("worker/*/proxySnapshotterPath", Nothing(OFF, "larder keeps its layers itself")),
    ("worker/*/defaultCgroupParent", Acts),
    ("worker/*/stargzSnapshotter/*", Nothing(OFF, "layers are fetched whole")),
    ("worker/*/apparmor-profile", Refused(OFF, "steps are not confined by AppArmor")),
    ("worker/*/selinux", Refused(OFF, "steps are not confined by SELinux")),
    ("worker/*/max-parallelism", Acts),
    ("worker/*/address", Nothing(OFF, CONTAINERD)),
    ("worker/*/namespace", Nothing(OFF, CONTAINERD)),
    ("worker/*/runtime/*", Nothing(OFF, CONTAINERD)),
    ("worker/*/runtime/options/*", Nothing(OFF, CONTAINERD)),
    ("registry/*/mirrors", Acts),
    ("registry/*/http", Acts),
    ("registry/*/insecure", Acts),
    ("registry/*/ca", Acts),
    ("registry/*/keypair/[]/key", Acts),
    ("registry/*/keypair/[]/cert", Acts),
    ("registry/*/tlsconfigdir", Acts),
    ("dns/nameservers", Acts),
    ("dns/options", Acts),
    ("dns/searchDomains", Acts),
    ("history/maxAge", Acts),
    ("history/maxEntries", Acts),
    ("frontend/dockerfile.v0/enabled", Acts),
    ("frontend/gateway.v0/enabled", Acts),
    ("frontend/gateway.v0/allowedRepositories", Acts),
    ("system/platformsCacheMaxAge", Nothing(OFF, "platforms are looked up when they are asked for")),
    ("system/maxRegistryConcurrency", Nothing(OFF, "the number of a registry's connections is not limited")),
    ("cache/gha/*", Nothing(OFF, "there is no GitHub cache")),
    ("cache/gha/*/*", Nothing(OFF, "there is no GitHub cache")),
    ("context/verify", Acts),
];

/// Why a key or a flag does not do what it says.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing stands against it.
    Fine,
    /// It is left out, for this reason.
    LeftOut(String),
    /// It can't be left out, for this reason.
    Refused(String),
}

/// What becomes of a key of this path (segments between `/`) with this value.
pub fn judge(path: &[&str], value: &str) -> Verdict {
    let matches = |pattern: &str| {
        let mut segments = pattern.split('/');
        let same = path.iter().all(|segment| segments.next().is_some_and(|p| p == *segment || p == "*"));
        same && segments.next().is_none()
    };
    let is_worker =
        |path: &[&str]| path.first() != Some(&"worker") || matches!(path.get(1), Some(&"oci" | &"containerd"));
    match KEYS.iter().find(|(pattern, _)| is_worker(path) && matches(pattern)) {
        None => Verdict::LeftOut("larder does not know it".to_owned()),
        Some((_, Acts)) => Verdict::Fine,
        Some((_, Nothing(same, _) | Refused(same, _))) if same.contains(&value) => Verdict::Fine,
        Some((_, Nothing(_, why))) => Verdict::LeftOut((*why).to_owned()),
        Some((_, Refused(_, why))) => Verdict::Refused((*why).to_owned()),
    }
}

/// What of a file is left out, each with its reason; or else what can't be.
pub fn review(table: &Table) -> Result<Vec<String>, String> {
    let mut left_out = Vec::new();
    walk(table, &mut Vec::new(), &mut left_out)?;
    Ok(left_out)
}

fn walk<'a>(table: &'a Table, path: &mut Vec<&'a str>, left_out: &mut Vec<String>) -> Result<(), String> {
    for (key, value) in table {
        path.push(key);
        look(value, path, left_out)?;
        path.pop();
    }
    Ok(())
}

fn look<'a>(value: &'a Value, path: &mut Vec<&'a str>, left_out: &mut Vec<String>) -> Result<(), String> {
    match value {
        // A list of tables is several of one section.
        Value::Array(items) if items.first().is_some_and(Value::is_table) => {
            path.push("[]");
            items.iter().filter_map(Value::as_table).try_for_each(|table| walk(table, path, left_out))?;
            path.pop();
            Ok(())
        }
        Value::Table(table) => walk(table, path, left_out),
        value => {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Boolean(flag) => flag.to_string(),
                Value::Integer(number) => number.to_string(),
                Value::Array(items) if items.is_empty() => String::new(),
                other => format!("{other:?}"),
            };
            let name = || path.iter().filter(|p| **p != "[]").copied().collect::<Vec<_>>().join(".");
            match judge(path, &text) {
                Verdict::Fine => Ok(()),
                Verdict::LeftOut(why) => {
                    left_out.push(format!("{} is left out: {why}", name()));
                    Ok(())
                }
                Verdict::Refused(why) => Err(format!("{} = {text} can't be kept: {why}", name())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    fn review(text: &str) -> Result<Vec<String>, String> {
        super::review(&text.parse().unwrap())
    }

    #[test]
    fn what_does_nothing_is_named() {
        assert_eq!(review("debug = false\n[worker.oci]\nsnapshotter = \"auto\"\nselinux = false"), Ok(vec![]));
        let left_out = review("[worker.oci]\nbinary = \"crun\"\n[worker.oci.labels]\na = \"b\"\n[x]\ny = 1").unwrap();
        assert_eq!(
            left_out,
            ["worker.oci.binary is left out: larder starts steps itself", "x.y is left out: larder does not know it"]
        );
        assert_eq!(review("[worker.podman]\ngc = true").unwrap().len(), 1);
        assert_eq!(review("[[worker.oci.gcpolicy]]\nall = true\nkeepForever = true").unwrap().len(), 1);
        assert_eq!(
            review("[registry.\"docker.io\"]\nmirrors = [\"a\"]\n[registry.\"x:5000\".x]\ny = 1").unwrap().len(),
            1
        );
    }

    #[test]
    fn what_others_rely_on_is_refused() {
        for text in
            ["proxyNetwork = true", "[worker.oci]\nselinux = true", "[worker.containerd]\nnetworkMode = \"cni\""]
        {
            assert!(review(text).unwrap_err().contains("can't be kept"), "{text}");
        }
    }
}
