//! Graphs and caches that a real BuildKit made, read from beside the checkout; see their own README.
//! The graphs are protobuf JSON: this module turns them into LLB operations, field by field, refusing what it doesn't know.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use graph::wire::{self, file_action::Action, op::Op, user_opt::User};
use serde_json::{Map, Value};

/// One case.
pub struct Case {
    /// Its name.
    pub name: String,
    /// Its folder: `Dockerfile`, `context/`, `llb.json`, `cache/`.
    pub folder: PathBuf,
    /// Build arguments.
    pub build_args: BTreeMap<String, String>,
    /// File modes that a checkout does not keep, by path in the context.
    pub modes: BTreeMap<String, u32>,
}

/// Where the vectors lie, if they are there.
pub fn folder() -> Option<PathBuf> {
    let folder = crate::root().join("../shared/vectors");
    if folder.join("cases.json").exists() {
        return Some(folder);
    }
    eprintln!("SKIPPED: BuildKit's vectors are not beside this checkout ({})", folder.display());
    None
}

/// Digest of the image `base` of the vectors.
pub fn base() -> String {
    let all = json(&folder().expect("the vectors").join("cases.json"));
    all["base"]["digest"].as_str().expect("a digest").to_owned()
}

/// All cases; none where the vectors are missing.
pub fn cases() -> Vec<Case> {
    let Some(folder) = folder() else { return Vec::new() };
    let all: Value = json(&folder.join("cases.json"));
    let cases = all["cases"].as_object().expect("cases.json has cases");
    cases
        .iter()
        .map(|(name, case)| Case {
            name: name.clone(),
            folder: folder.join(name),
            build_args: strings(&case["build_args"]),
            modes: modes(case),
        })
        .collect()
}

fn modes(case: &Value) -> BTreeMap<String, u32> {
    let Some(modes) = case.get("modes").and_then(Value::as_object) else { return BTreeMap::new() };
    let octal = |v: &Value| match v {
        Value::String(s) => u32::from_str_radix(s.trim_start_matches("0o"), 8).expect("an octal mode"),
        v => u32::try_from(v.as_u64().expect("a mode")).expect("a mode"),
    };
    modes.iter().map(|(path, mode)| (path.clone(), octal(mode))).collect()
}

impl Case {
    /// The Dockerfile's bytes.
    pub fn dockerfile(&self) -> Vec<u8> {
        std::fs::read(self.folder.join("Dockerfile")).expect("a case has a Dockerfile")
    }

    /// `llb.json`: operations by digest, and the rest of the definition.
    pub fn graph(&self) -> BTreeMap<String, wire::Op> {
        let llb: Value = json(&self.folder.join("llb.json"));
        let def = llb["def"].as_object().expect("a definition");
        def.iter().map(|(digest, op)| (digest.clone(), operation(op))).collect()
    }

    /// `llb.json` as it is.
    pub fn llb(&self) -> Value {
        json(&self.folder.join("llb.json"))
    }

    /// The cache config (`records`, `layers`) that BuildKit exported.
    pub fn cache_config(&self) -> Value {
        serde_json::from_slice(&self.cache_blobs().0).expect("a config")
    }

    /// The exported cache as it was written: its config, its manifest.
    pub fn cache_blobs(&self) -> (Vec<u8>, Vec<u8>) {
        let blob = |digest: &Value| {
            let name = digest.as_str().expect("a digest").trim_start_matches("sha256:");
            std::fs::read(self.folder.join("cache/blobs/sha256").join(name)).expect("a blob of the cache")
        };
        let index: Value = json(&self.folder.join("cache/index.json"));
        let manifest = blob(&index["manifests"][0]["digest"]);
        let document: Value = serde_json::from_slice(&manifest).expect("a manifest");
        (blob(&document["config"]["digest"]), manifest)
    }
}

fn json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn strings(value: &Value) -> BTreeMap<String, String> {
    let object = value.as_object().cloned().unwrap_or_default();
    object.into_iter().map(|(k, v)| (k, v.as_str().expect("a string").to_owned())).collect()
}

/// Reads fields of one message and complains of those that nobody asked for.
struct Fields(Map<String, Value>);

impl Fields {
    fn of(value: &Value) -> Fields {
        Fields(value.as_object().cloned().unwrap_or_default())
    }
    fn text(&mut self, key: &str) -> String {
        self.0.remove(key).map(|v| v.as_str().expect("text").to_owned()).unwrap_or_default()
    }
    fn int(&mut self, key: &str) -> i64 {
        match self.0.remove(key) {
            None => 0,
            Some(Value::String(s)) => s.parse().expect("a number"),
            Some(v) => v.as_i64().expect("a number"),
        }
    }
    fn flag(&mut self, key: &str) -> bool {
        self.0.remove(key).is_some_and(|v| v.as_bool().expect("a flag"))
    }
    fn named(&mut self, key: &str, names: &[&str]) -> i32 {
        match self.0.remove(key) {
            None => 0,
            Some(Value::String(s)) => names.iter().position(|n| *n == s).unwrap_or_else(|| panic!("{key}: {s}")) as i32,
            Some(v) => v.as_i64().expect("a number") as i32,
        }
    }
    fn texts(&mut self, key: &str) -> Vec<String> {
        self.list(key, |v| v.as_str().expect("text").to_owned())
    }
    fn list<T>(&mut self, key: &str, read: impl Fn(&Value) -> T) -> Vec<T> {
        self.0.remove(key).map(|v| v.as_array().expect("a list").iter().map(read).collect()).unwrap_or_default()
    }
    fn message<T>(&mut self, key: &str, read: impl Fn(&Value) -> T) -> Option<T> {
        self.0.remove(key).map(|v| read(&v))
    }
    fn bytes(&mut self, key: &str) -> Vec<u8> {
        base64::engine::general_purpose::STANDARD.decode(self.text(key)).expect("base64")
    }
    fn end<T>(self, value: T) -> T {
        assert!(self.0.is_empty(), "unread fields: {:?}", self.0);
        value
    }
}

/// One operation of protobuf JSON.
pub fn operation(value: &Value) -> wire::Op {
    let mut f = Fields::of(value);
    let inputs = f.list("inputs", |v| {
        let mut f = Fields::of(v);
        let input = wire::Input { digest: f.text("digest"), index: f.int("index") };
        f.end(input)
    });
    let op = (f.message("exec", exec).map(Op::Exec))
        .or_else(|| f.message("source", source).map(Op::Source))
        .or_else(|| f.message("file", file).map(Op::File))
        .or_else(|| f.message("merge", merge).map(Op::Merge))
        .or_else(|| f.message("diff", |_| panic!("no vector has a diff")));
    let platform = f.message("platform", |v| {
        let mut f = Fields::of(v);
        let platform = wire::Platform {
            architecture: f.text("Architecture"),
            os: f.text("OS"),
            variant: f.text("Variant"),
            os_version: f.text("OSVersion"),
            os_features: f.texts("OSFeatures"),
        };
        f.end(platform)
    });
    let constraints = f.message("constraints", |v| {
        let mut f = Fields::of(v);
        let constraints = wire::WorkerConstraints { filter: f.texts("filter") };
        f.end(constraints)
    });
    f.end(wire::Op { inputs, op, platform, constraints })
}

fn source(value: &Value) -> wire::SourceOp {
    let mut f = Fields::of(value);
    let source =
        wire::SourceOp { identifier: f.text("identifier"), attrs: f.message("attrs", strings).unwrap_or_default() };
    f.end(source)
}

fn merge(value: &Value) -> wire::MergeOp {
    let mut f = Fields::of(value);
    let inputs = f.list("inputs", |v| wire::MergeInput { input: Fields::of(v).int("input") });
    f.end(wire::MergeOp { inputs })
}

fn exec(value: &Value) -> wire::ExecOp {
    let mut f = Fields::of(value);
    let exec = wire::ExecOp {
        meta: f.message("meta", meta),
        mounts: f.list("mounts", mount),
        network: f.named("network", &["UNSET", "HOST", "NONE"]),
        security: f.named("security", &["SANDBOX", "INSECURE"]),
        secretenv: f.list("secretenv", |v| {
            let mut f = Fields::of(v);
            let env = wire::SecretEnv { id: f.text("ID"), name: f.text("name"), optional: f.flag("optional") };
            f.end(env)
        }),
        cdi_devices: Vec::new(),
    };
    f.end(exec)
}

fn meta(value: &Value) -> wire::Meta {
    let mut f = Fields::of(value);
    let meta = wire::Meta {
        args: f.texts("args"),
        env: f.texts("env"),
        cwd: f.text("cwd"),
        user: f.text("user"),
        hostname: f.text("hostname"),
        cgroup_parent: f.text("cgroupParent"),
        remove_mount_stubs_recursive: f.flag("removeMountStubsRecursive"),
        ..wire::Meta::default()
    };
    f.end(meta)
}

fn mount(value: &Value) -> wire::Mount {
    let mut f = Fields::of(value);
    let mount = wire::Mount {
        input: f.int("input"),
        selector: f.text("selector"),
        dest: f.text("dest"),
        output: f.int("output"),
        readonly: f.flag("readonly"),
        mount_type: f.named("mountType", &["BIND", "SECRET", "SSH", "CACHE", "TMPFS"]),
        tmpfs_opt: f.message("TmpfsOpt", |v| wire::TmpfsOpt { size: Fields::of(v).int("size") }),
        cache_opt: f.message("cacheOpt", |v| {
            let mut f = Fields::of(v);
            let opt =
                wire::CacheOpt { id: f.text("ID"), sharing: f.named("sharing", &["SHARED", "PRIVATE", "LOCKED"]) };
            f.end(opt)
        }),
        secret_opt: f.message("secretOpt", |v| {
            let mut f = Fields::of(v);
            let opt = wire::SecretOpt {
                id: f.text("ID"),
                uid: f.int("uid") as u32,
                gid: f.int("gid") as u32,
                mode: f.int("mode") as u32,
                optional: f.flag("optional"),
            };
            f.end(opt)
        }),
        ssh_opt: f.message("SSHOpt", |v| {
            let mut f = Fields::of(v);
            let opt = wire::SshOpt {
                id: f.text("ID"),
                uid: f.int("uid") as u32,
                gid: f.int("gid") as u32,
                mode: f.int("mode") as u32,
                optional: f.flag("optional"),
            };
            f.end(opt)
        }),
        result_id: f.text("resultID"),
        content_cache: f.named("contentCache", &["DEFAULT", "ON", "OFF"]),
    };
    f.end(mount)
}

fn file(value: &Value) -> wire::FileOp {
    let mut f = Fields::of(value);
    let actions = f.list("actions", |v| {
        let mut f = Fields::of(v);
        let action = wire::FileAction {
            input: f.int("input"),
            secondary_input: f.int("secondaryInput"),
            output: f.int("output"),
            action: (f.message("copy", copy).map(Action::Copy))
                .or_else(|| f.message("mkfile", mkfile).map(Action::MkFile))
                .or_else(|| f.message("mkdir", mkdir).map(Action::MkDir)),
        };
        f.end(action)
    });
    f.end(wire::FileOp { actions })
}

fn copy(value: &Value) -> wire::FileActionCopy {
    let mut f = Fields::of(value);
    let copy = wire::FileActionCopy {
        src: f.text("src"),
        dest: f.text("dest"),
        owner: f.message("owner", owner),
        mode: f.int("mode") as i32,
        follow_symlink: f.flag("followSymlink"),
        dir_copy_contents: f.flag("dirCopyContents"),
        attempt_unpack_docker_compatibility: f.flag("attemptUnpackDockerCompatibility"),
        create_dest_path: f.flag("createDestPath"),
        allow_wildcard: f.flag("allowWildcard"),
        allow_empty_wildcard: f.flag("allowEmptyWildcard"),
        timestamp: f.int("timestamp"),
        include_patterns: f.texts("includePatterns"),
        exclude_patterns: f.texts("excludePatterns"),
        always_replace_existing_dest_paths: f.flag("alwaysReplaceExistingDestPaths"),
        mode_str: f.text("modeStr"),
        required_paths: f.texts("requiredPaths"),
    };
    f.end(copy)
}

fn mkfile(value: &Value) -> wire::FileActionMkFile {
    let mut f = Fields::of(value);
    let file = wire::FileActionMkFile {
        path: f.text("path"),
        mode: f.int("mode") as i32,
        data: f.bytes("data"),
        owner: f.message("owner", owner),
        timestamp: f.int("timestamp"),
    };
    f.end(file)
}

fn mkdir(value: &Value) -> wire::FileActionMkDir {
    let mut f = Fields::of(value);
    let dir = wire::FileActionMkDir {
        path: f.text("path"),
        mode: f.int("mode") as i32,
        make_parents: f.flag("makeParents"),
        owner: f.message("owner", owner),
        timestamp: f.int("timestamp"),
    };
    f.end(dir)
}

fn owner(value: &Value) -> wire::ChownOpt {
    let mut f = Fields::of(value);
    let owner = wire::ChownOpt { user: f.message("user", user), group: f.message("group", user) };
    f.end(owner)
}

fn user(value: &Value) -> wire::UserOpt {
    let mut f = Fields::of(value);
    let by_name = f.message("byName", |v| {
        let mut f = Fields::of(v);
        let named = wire::NamedUserOpt { name: f.text("name"), input: f.int("input") };
        f.end(User::ByName(named))
    });
    let user = by_name.or_else(|| f.0.contains_key("byID").then(|| User::ById(f.int("byID") as u32)));
    f.end(wire::UserOpt { user })
}
