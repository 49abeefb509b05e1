//! LLB as bytes: protobuf mirrors of BuildKit's package `pb` (solver/pb/ops.proto; field numbers as published there).
//! Field names are that schema's in snake case, enums stay `i32` so that an unknown value survives a round trip.
//! This module never computes identity: a vertex is named by the digest of the bytes it came in (`crate::vertex`).

use std::collections::BTreeMap;

/// One operation of the graph with its inputs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Op {
    /// Edges this operation reads; mounts and actions refer to them by position.
    #[prost(message, repeated, tag = "1")]
    pub inputs: Vec<Input>,
    /// What the operation is. Absent on the last operation of a definition, which only names the result.
    #[prost(oneof = "op::Op", tags = "2, 3, 4, 5, 6, 7, 8")]
    pub op: Option<op::Op>,
    /// Platform it runs for; absent means the worker's own.
    #[prost(message, optional, tag = "10")]
    pub platform: Option<Platform>,
    /// Which workers may run it.
    #[prost(message, optional, tag = "11")]
    pub constraints: Option<WorkerConstraints>,
}

impl Op {
    /// The operation's bytes as Go's protobuf writes them: the kind comes after all other fields, whatever its number.
    /// Clients' digests are of these bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        use prost::Message;
        let frame = Op { op: None, ..self.clone() };
        let kind = Op { op: self.op.clone(), ..Op::default() };
        let mut bytes = frame.encode_to_vec();
        bytes.extend(kind.encode_to_vec());
        bytes
    }
}

/// The kinds of operation.
pub mod op {
    /// Exactly one kind an operation.
    #[derive(Clone, PartialEq, prost::Oneof)]
    #[allow(missing_docs, clippy::large_enum_variant)] // prost's shape; one a vertex, never moved about
    pub enum Op {
        #[prost(message, tag = "2")]
        Exec(super::ExecOp),
        #[prost(message, tag = "3")]
        Source(super::SourceOp),
        #[prost(message, tag = "4")]
        File(super::FileOp),
        #[prost(message, tag = "5")]
        Build(super::BuildOp),
        #[prost(message, tag = "6")]
        Merge(super::MergeOp),
        #[prost(message, tag = "7")]
        Diff(super::DiffOp),
        #[prost(message, tag = "8")]
        Passthrough(super::PassthroughOp),
    }
}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* [$($attr:tt)*] $field:ident : $ty:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, prost::Message)]
            #[allow(missing_docs)]
            pub struct $name {
                $($(#[$fdoc])* #[prost($($attr)*)] pub $field: $ty,)*
            }
        )*
    };
}

messages! {
    /// The platform of an operation (OCI image-spec `Platform`).
    Platform {
        [string, tag = "1"] architecture: String,
        [string, tag = "2"] os: String,
        [string, tag = "3"] variant: String,
        [string, tag = "4"] os_version: String,
        [string, repeated, tag = "5"] os_features: Vec<String>,
    }
    /// An input edge: digest of the producing operation's bytes, and which of its outputs.
    Input {
        [string, tag = "1"] digest: String,
        [int64, tag = "2"] index: i64,
    }
    /// Runs a process.
    ExecOp {
        [message, optional, tag = "1"] meta: Option<Meta>,
        [message, repeated, tag = "2"] mounts: Vec<Mount>,
        /// See [`NetMode`].
        [int32, tag = "3"] network: i32,
        /// See [`SecurityMode`].
        [int32, tag = "4"] security: i32,
        [message, repeated, tag = "5"] secretenv: Vec<SecretEnv>,
        [message, repeated, tag = "6"] cdi_devices: Vec<CdiDevice>,
    }
    /// The process of an [`ExecOp`].
    Meta {
        [string, repeated, tag = "1"] args: Vec<String>,
        [string, repeated, tag = "2"] env: Vec<String>,
        [string, tag = "3"] cwd: String,
        [string, tag = "4"] user: String,
        [message, optional, tag = "5"] proxy_env: Option<ProxyEnv>,
        [message, repeated, tag = "6"] extra_hosts: Vec<HostIp>,
        [string, tag = "7"] hostname: String,
        [message, repeated, tag = "9"] ulimit: Vec<Ulimit>,
        [string, tag = "10"] cgroup_parent: String,
        [bool, tag = "11"] remove_mount_stubs_recursive: bool,
        [int32, repeated, tag = "12"] valid_exit_codes: Vec<i32>,
    }
    /// A line for /etc/hosts.
    HostIp {
        [string, tag = "1"] host: String,
        [string, tag = "2"] ip: String,
    }
    /// A resource limit by its ulimit name.
    Ulimit {
        [string, tag = "1"] name: String,
        [int64, tag = "2"] soft: i64,
        [int64, tag = "3"] hard: i64,
    }
    /// A secret given as an environment variable.
    SecretEnv {
        [string, tag = "1"] id: String,
        [string, tag = "2"] name: String,
        [bool, tag = "3"] optional: bool,
    }
    /// A device by its CDI name.
    CdiDevice {
        [string, tag = "1"] name: String,
        [bool, tag = "2"] optional: bool,
    }
    /// A mount of an [`ExecOp`]; `input` -1 is an empty tree, `output` -1 is thrown away.
    Mount {
        [int64, tag = "1"] input: i64,
        [string, tag = "2"] selector: String,
        [string, tag = "3"] dest: String,
        [int64, tag = "4"] output: i64,
        [bool, tag = "5"] readonly: bool,
        /// See [`MountType`].
        [int32, tag = "6"] mount_type: i32,
        [message, optional, tag = "19"] tmpfs_opt: Option<TmpfsOpt>,
        [message, optional, tag = "20"] cache_opt: Option<CacheOpt>,
        [message, optional, tag = "21"] secret_opt: Option<SecretOpt>,
        [message, optional, tag = "22"] ssh_opt: Option<SshOpt>,
        [string, tag = "23"] result_id: String,
        /// See [`MountContentCache`].
        [int32, tag = "24"] content_cache: i32,
    }
    /// Size in bytes, 0 for the kernel's default.
    TmpfsOpt { [int64, tag = "1"] size: i64 }
    /// Which volume a cache mount uses, and who may use it at once.
    CacheOpt {
        [string, tag = "1"] id: String,
        /// See [`CacheSharing`].
        [int32, tag = "2"] sharing: i32,
    }
    /// A secret as a file.
    SecretOpt {
        [string, tag = "1"] id: String,
        [uint32, tag = "2"] uid: u32,
        [uint32, tag = "3"] gid: u32,
        [uint32, tag = "4"] mode: u32,
        [bool, tag = "5"] optional: bool,
    }
    /// A forwarded SSH agent's socket.
    SshOpt {
        [string, tag = "1"] id: String,
        [uint32, tag = "2"] uid: u32,
        [uint32, tag = "3"] gid: u32,
        [uint32, tag = "4"] mode: u32,
        [bool, tag = "5"] optional: bool,
    }
    /// Something from outside the build, by identifier (`docker-image://…`, `local://…`).
    SourceOp {
        [string, tag = "1"] identifier: String,
        [btree_map = "string, string", tag = "2"] attrs: BTreeMap<String, String>,
    }
    /// A build defined by the result of another operation.
    BuildOp {
        [int64, tag = "1"] builder: i64,
        [btree_map = "string, message", tag = "2"] inputs: BTreeMap<String, BuildInput>,
        [message, optional, tag = "3"] def: Option<Definition>,
        [btree_map = "string, string", tag = "4"] attrs: BTreeMap<String, String>,
    }
    /// An input of a [`BuildOp`].
    BuildInput { [int64, tag = "1"] input: i64 }
    /// What is known of an operation beside its identity; never part of its digest.
    OpMetadata {
        [bool, tag = "1"] ignore_cache: bool,
        [btree_map = "string, string", tag = "2"] description: BTreeMap<String, String>,
        [message, optional, tag = "4"] export_cache: Option<ExportCache>,
        [btree_map = "string, bool", tag = "5"] caps: BTreeMap<String, bool>,
        [message, optional, tag = "6"] progress_group: Option<ProgressGroup>,
        [message, optional, tag = "7"] linux_resources: Option<LinuxResources>,
    }
    /// Where in which file each operation came from.
    Source {
        [btree_map = "string, message", tag = "1"] locations: BTreeMap<String, Locations>,
        [message, repeated, tag = "2"] infos: Vec<SourceInfo>,
    }
    /// All places of one operation.
    Locations { [message, repeated, tag = "1"] locations: Vec<Location> }
    /// A source file as the client gave it.
    SourceInfo {
        [string, tag = "1"] filename: String,
        [bytes = "vec", tag = "2"] data: Vec<u8>,
        [message, optional, tag = "3"] definition: Option<Definition>,
        [string, tag = "4"] language: String,
    }
    /// Ranges in one source file.
    Location {
        [int32, tag = "1"] source_index: i32,
        [message, repeated, tag = "2"] ranges: Vec<Range>,
    }
    /// From `start` to `end`.
    Range {
        [message, optional, tag = "1"] start: Option<Position>,
        [message, optional, tag = "2"] end: Option<Position>,
    }
    /// Line from 1, character from 0.
    Position {
        [int32, tag = "1"] line: i32,
        [int32, tag = "2"] character: i32,
    }
    /// Whether a cache export keeps this operation.
    ExportCache { [bool, tag = "1"] value: bool }
    /// Operations that progress shows as one row.
    ProgressGroup {
        [string, tag = "1"] id: String,
        [string, tag = "2"] name: String,
        [bool, tag = "3"] weak: bool,
    }
    /// Limits in bytes, microseconds and cpuset lists.
    LinuxResources {
        [int64, tag = "1"] memory: i64,
        [int64, tag = "2"] memory_swap: i64,
        [uint64, tag = "3"] cpu_shares: u64,
        [uint64, tag = "4"] cpu_period: u64,
        [int64, tag = "5"] cpu_quota: i64,
        [string, tag = "6"] cpuset_cpus: String,
        [string, tag = "7"] cpuset_mems: String,
    }
    /// Proxy settings: known to the process, never part of a key.
    ProxyEnv {
        [string, tag = "1"] http_proxy: String,
        [string, tag = "2"] https_proxy: String,
        [string, tag = "3"] ftp_proxy: String,
        [string, tag = "4"] no_proxy: String,
        [string, tag = "5"] all_proxy: String,
    }
    /// Filters over worker labels.
    WorkerConstraints { [string, repeated, tag = "1"] filter: Vec<String> }
    /// A whole graph: operations as bytes, in topological order, the last naming the result.
    Definition {
        [bytes = "vec", repeated, tag = "1"] def: Vec<Vec<u8>>,
        [btree_map = "string, message", tag = "2"] metadata: BTreeMap<String, OpMetadata>,
        [message, optional, tag = "3"] source: Option<Source>,
    }
    /// File actions done in order.
    FileOp { [message, repeated, tag = "2"] actions: Vec<FileAction> }
    /// One action; an input not below the number of the operation's inputs means the output of the action (index - inputs).
    FileAction {
        [int64, tag = "1"] input: i64,
        [int64, tag = "2"] secondary_input: i64,
        [int64, tag = "3"] output: i64,
        [oneof = "file_action::Action", tags = "4, 5, 6, 7, 8"] action: Option<file_action::Action>,
    }
    /// Copies from the secondary input. `mode` -1 and `timestamp` -1 (nanoseconds) keep the source's.
    FileActionCopy {
        [string, tag = "1"] src: String,
        [string, tag = "2"] dest: String,
        [message, optional, tag = "3"] owner: Option<ChownOpt>,
        [int32, tag = "4"] mode: i32,
        [bool, tag = "5"] follow_symlink: bool,
        [bool, tag = "6"] dir_copy_contents: bool,
        [bool, tag = "7"] attempt_unpack_docker_compatibility: bool,
        [bool, tag = "8"] create_dest_path: bool,
        [bool, tag = "9"] allow_wildcard: bool,
        [bool, tag = "10"] allow_empty_wildcard: bool,
        [int64, tag = "11"] timestamp: i64,
        [string, repeated, tag = "12"] include_patterns: Vec<String>,
        [string, repeated, tag = "13"] exclude_patterns: Vec<String>,
        [bool, tag = "14"] always_replace_existing_dest_paths: bool,
        [string, tag = "15"] mode_str: String,
        [string, repeated, tag = "16"] required_paths: Vec<String>,
    }
    /// Writes a file.
    FileActionMkFile {
        [string, tag = "1"] path: String,
        [int32, tag = "2"] mode: i32,
        [bytes = "vec", tag = "3"] data: Vec<u8>,
        [message, optional, tag = "4"] owner: Option<ChownOpt>,
        [int64, tag = "5"] timestamp: i64,
    }
    /// Makes a symbolic link.
    FileActionSymlink {
        [string, tag = "1"] oldpath: String,
        [string, tag = "2"] newpath: String,
        [message, optional, tag = "3"] owner: Option<ChownOpt>,
        [int64, tag = "4"] timestamp: i64,
    }
    /// Makes a directory.
    FileActionMkDir {
        [string, tag = "1"] path: String,
        [int32, tag = "2"] mode: i32,
        [bool, tag = "3"] make_parents: bool,
        [message, optional, tag = "4"] owner: Option<ChownOpt>,
        [int64, tag = "5"] timestamp: i64,
    }
    /// Removes a path.
    FileActionRm {
        [string, tag = "1"] path: String,
        [bool, tag = "2"] allow_not_found: bool,
        [bool, tag = "3"] allow_wildcard: bool,
    }
    /// Owner of what an action writes.
    ChownOpt {
        [message, optional, tag = "1"] user: Option<UserOpt>,
        [message, optional, tag = "2"] group: Option<UserOpt>,
    }
    /// A user or group.
    UserOpt { [oneof = "user_opt::User", tags = "1, 2"] user: Option<user_opt::User> }
    /// A name, looked up in /etc/passwd or /etc/group of `input`.
    NamedUserOpt {
        [string, tag = "1"] name: String,
        [int64, tag = "2"] input: i64,
    }
    /// An input of a [`MergeOp`].
    MergeInput { [int64, tag = "1"] input: i64 }
    /// Stacks its inputs in order.
    MergeOp { [message, repeated, tag = "1"] inputs: Vec<MergeInput> }
    /// Lower side of a [`DiffOp`].
    LowerDiffInput { [int64, tag = "1"] input: i64 }
    /// Upper side of a [`DiffOp`].
    UpperDiffInput { [int64, tag = "1"] input: i64 }
    /// What `upper` has over `lower`.
    DiffOp {
        [message, optional, tag = "1"] lower: Option<LowerDiffInput>,
        [message, optional, tag = "2"] upper: Option<UpperDiffInput>,
    }
    /// Hands inputs through as outputs.
    PassthroughOp {
        [string, tag = "1"] id: String,
        [int64, repeated, tag = "2"] outputs: Vec<i64>,
    }
}

/// The actions of a [`FileAction`].
pub mod file_action {
    /// Exactly one an action.
    #[derive(Clone, PartialEq, prost::Oneof)]
    #[allow(missing_docs, clippy::large_enum_variant)] // prost's shape
    pub enum Action {
        #[prost(message, tag = "4")]
        Copy(super::FileActionCopy),
        #[prost(message, tag = "5")]
        MkFile(super::FileActionMkFile),
        #[prost(message, tag = "6")]
        MkDir(super::FileActionMkDir),
        #[prost(message, tag = "7")]
        Rm(super::FileActionRm),
        #[prost(message, tag = "8")]
        Symlink(super::FileActionSymlink),
    }
}

/// How a [`UserOpt`] names its user.
pub mod user_opt {
    /// By name or number.
    #[derive(Clone, PartialEq, prost::Oneof)]
    #[allow(missing_docs)]
    pub enum User {
        #[prost(message, tag = "1")]
        ByName(super::NamedUserOpt),
        #[prost(uint32, tag = "2")]
        ById(u32),
    }
}

macro_rules! enums {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident = $n:literal),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
            #[repr(i32)]
            #[allow(missing_docs)]
            pub enum $name { $($variant = $n),* }
        )*
    };
}

enums! {
    /// Network of an [`ExecOp`].
    NetMode { Unset = 0, Host = 1, None = 2 }
    /// Confinement of an [`ExecOp`].
    SecurityMode { Sandbox = 0, Insecure = 1 }
    /// Kind of a [`Mount`].
    MountType { Bind = 0, Secret = 1, Ssh = 2, Cache = 3, Tmpfs = 4 }
    /// Whether a mount's content decides a key.
    MountContentCache { Default = 0, On = 1, Off = 2 }
    /// Who may use a volume at the same time.
    CacheSharing { Shared = 0, Private = 1, Locked = 2 }
}
