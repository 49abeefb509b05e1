//! Operations as JSON for `mode=max`, with the names and the omissions of BuildKit's own encoding (Go's `encoding/json` of
//! package `pb`), and where they stand in the Dockerfile. Values that look like secrets and credentials are hidden.

use std::collections::BTreeMap;

use base64::Engine;
use graph::wire::{self, file_action::Action, op, user_opt::User};
use graph::{Edge, Graph};
use oci::{Descriptor, Digest};
use serde_json::{Map, Value, json};

use super::predicate::Operations;
use super::redact;

/// The operations of a graph, each after those that it reads, and the place of each.
pub struct Steps {
    order: Vec<Digest>,
    index: BTreeMap<Digest, usize>,
}

impl Steps {
    /// Of a graph with a head.
    pub fn of(graph: &Graph) -> Steps {
        let mut steps = Steps { order: Vec::new(), index: BTreeMap::new() };
        // Depth first, without recursion: a graph may be deep.
        let mut open: Vec<(Digest, bool)> = graph.head.iter().map(|head| (head.vertex, false)).collect();
        while let Some((digest, ready)) = open.pop() {
            if steps.index.contains_key(&digest) {
                continue;
            }
            if ready {
                steps.index.insert(digest, steps.order.len());
                steps.order.push(digest);
                continue;
            }
            open.push((digest, true));
            let inputs = graph.get(&digest).map(|v| v.inputs.as_slice()).unwrap_or_default();
            open.extend(inputs.iter().rev().map(|edge| (edge.vertex, false)));
        }
        steps
    }

    fn id(&self, digest: &Digest) -> Option<String> {
        self.index.get(digest).map(|i| format!("step{i}"))
    }

    fn edge(&self, edge: &Edge) -> String {
        format!("{}:{}", self.id(&edge.vertex).unwrap_or_default(), edge.output)
    }

    /// All of them as BuildKit lists them, and last the one that names the result.
    pub fn operations(&self, graph: &Graph) -> Operations {
        let Some(head) = graph.head else { return Operations::default() };
        let mut steps = Vec::new();
        for vertex in self.order.iter().filter_map(|digest| graph.get(digest)) {
            let inputs: Vec<String> = vertex.inputs.iter().map(|edge| self.edge(edge)).collect();
            steps.push(step(steps.len(), &vertex.op, &inputs));
        }
        let mut ids: BTreeMap<String, String> =
            self.order.iter().filter_map(|digest| Some((digest.to_string(), self.id(digest)?))).collect();
        let last = wire::Op {
            inputs: vec![wire::Input { digest: head.vertex.to_string(), index: i64::from(head.output) }],
            ..wire::Op::default()
        };
        ids.insert(Digest::of(&last.to_bytes()).to_string(), format!("step{}", steps.len()));
        steps.push(step(steps.len(), &wire::Op::default(), &[self.edge(&head)]));
        Operations { steps, ids }
    }

    /// The client's files, and where each step stands in them.
    pub fn source(&self, graph: &Graph) -> Option<Value> {
        let source = graph.source.as_ref().filter(|source| !source.infos.is_empty())?;
        let mut locations = Map::new();
        for (digest, places) in &source.locations {
            let Some(id) = Digest::parse(digest).ok().and_then(|digest| self.id(&digest)) else { continue };
            locations.insert(id, json!({ "locations": places.locations.iter().map(location).collect::<Vec<_>>() }));
        }
        let infos: Vec<Value> = source.infos.iter().map(info).collect();
        Some(json!({ "locations": locations, "infos": infos }))
    }

    /// Which layers each step's result has, as far down from the head as each step adds one layer to the one below it.
    pub fn layers(&self, graph: &Graph, layers: &[Descriptor]) -> BTreeMap<String, Vec<Vec<Descriptor>>> {
        let mut found = BTreeMap::new();
        let (mut edge, mut count) = (graph.head, layers.len());
        while let Some(at) = edge {
            if count == 0 {
                break;
            }
            found.insert(self.edge(&at), vec![layers[..count].to_vec()]);
            let Some(vertex) = graph.get(&at.vertex) else { break };
            let below = match &vertex.op.op {
                Some(op::Op::Exec(exec)) => exec.mounts.iter().find(|m| m.dest == "/").map(|m| m.input),
                Some(op::Op::File(file)) => file.actions.first().map(|a| a.input),
                _ => None,
            };
            edge = below.and_then(|i| usize::try_from(i).ok()).and_then(|i| vertex.inputs.get(i).copied());
            count -= 1;
        }
        found
    }
}

fn step(number: usize, op: &wire::Op, inputs: &[String]) -> Value {
    let mut object = Map::new();
    object.insert("id".to_owned(), format!("step{number}").into());
    object.insert("op".to_owned(), operation(op));
    put(&mut object, "inputs", inputs.into());
    Value::Object(object)
}

/// Leaves out what is zero or empty.
fn put(object: &mut Map<String, Value>, name: &str, value: Value) {
    let empty = match &value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    };
    if !empty {
        object.insert(name.to_owned(), value);
    }
}

fn fields<const N: usize>(list: [(&str, Value); N]) -> Value {
    let mut object = Map::new();
    for (name, value) in list {
        put(&mut object, name, value);
    }
    Value::Object(object)
}

/// A message that is there, even if nothing is set in it.
fn some<T>(message: Option<&T>, encode: impl Fn(&T) -> Value) -> Option<Value> {
    message.map(encode)
}

fn with(mut object: Value, name: &str, value: Option<Value>) -> Value {
    if let (Value::Object(map), Some(value)) = (&mut object, value) {
        map.insert(name.to_owned(), value);
    }
    object
}

fn operation(op: &wire::Op) -> Value {
    let kind = match &op.op {
        Some(op::Op::Exec(exec)) => json!({ "exec": process(exec) }),
        Some(op::Op::Source(source)) => json!({ "source": origin(source) }),
        Some(op::Op::File(file)) => {
            json!({ "file": { "actions": file.actions.iter().map(action).collect::<Vec<_>>() } })
        }
        Some(op::Op::Merge(merge)) => {
            let inputs: Vec<_> = merge.inputs.iter().map(|i| fields([("input", i.input.into())])).collect();
            json!({ "merge": fields([("inputs", inputs.into())]) })
        }
        Some(op::Op::Diff(diff)) => {
            let lower = some(diff.lower.as_ref(), |l| fields([("input", l.input.into())]));
            let upper = some(diff.upper.as_ref(), |u| fields([("input", u.input.into())]));
            json!({ "diff": with(with(json!({}), "lower", lower), "upper", upper) })
        }
        Some(op::Op::Build(build)) => json!({ "build": fields([("builder", build.builder.into())]) }),
        Some(op::Op::Passthrough(pass)) => {
            json!({ "passthrough": fields([("id", pass.id.clone().into()), ("outputs", pass.outputs.clone().into())]) })
        }
        None => json!({}),
    };
    let platform = some(op.platform.as_ref(), |p| {
        fields([
            ("Architecture", p.architecture.clone().into()),
            ("OS", p.os.clone().into()),
            ("Variant", p.variant.clone().into()),
            ("OSVersion", p.os_version.clone().into()),
            ("OSFeatures", p.os_features.clone().into()),
        ])
    });
    let constraints = some(op.constraints.as_ref(), |c| fields([("filter", c.filter.clone().into())]));
    with(with(json!({ "Op": kind }), "platform", platform), "constraints", constraints)
}

fn origin(source: &wire::SourceOp) -> Value {
    let mut attrs = Map::new();
    for (name, value) in &source.attrs {
        // What names one client's session is different in every build.
        if matches!(name.as_str(), "local.session" | "local.unique" | "oci.session") {
            continue;
        }
        let value = if name.starts_with("http.header.") { "xxxxx".to_owned() } else { redact(value) };
        attrs.insert(name.clone(), value.into());
    }
    fields([("identifier", redact(&source.identifier).into()), ("attrs", attrs.into())])
}

fn process(exec: &wire::ExecOp) -> Value {
    let secret = |s: &wire::SecretEnv| {
        fields([("ID", s.id.clone().into()), ("name", s.name.clone().into()), ("optional", s.optional.into())])
    };
    let device = |d: &wire::CdiDevice| fields([("name", d.name.clone().into()), ("optional", d.optional.into())]);
    let rest = fields([
        ("mounts", exec.mounts.iter().map(mount).collect::<Vec<_>>().into()),
        ("network", exec.network.into()),
        ("security", exec.security.into()),
        ("secretenv", exec.secretenv.iter().map(secret).collect::<Vec<_>>().into()),
        ("cdiDevices", exec.cdi_devices.iter().map(device).collect::<Vec<_>>().into()),
    ]);
    with(rest, "meta", some(exec.meta.as_ref(), meta))
}

fn meta(meta: &wire::Meta) -> Value {
    let env = meta.env.iter().map(|entry| match entry.split_once('=') {
        Some((name, value)) => format!("{name}={}", solver::shown(name, value)),
        None => entry.clone(),
    });
    let host = |h: &wire::HostIp| fields([("Host", h.host.clone().into()), ("IP", h.ip.clone().into())]);
    let limit =
        |u: &wire::Ulimit| fields([("Name", u.name.clone().into()), ("Soft", u.soft.into()), ("Hard", u.hard.into())]);
    // Settings of a proxy are the machine's, and may hold credentials: they are no part of what was built.
    fields([
        ("args", meta.args.clone().into()),
        ("env", env.collect::<Vec<_>>().into()),
        ("cwd", meta.cwd.clone().into()),
        ("user", meta.user.clone().into()),
        ("extraHosts", meta.extra_hosts.iter().map(host).collect::<Vec<_>>().into()),
        ("hostname", meta.hostname.clone().into()),
        ("ulimit", meta.ulimit.iter().map(limit).collect::<Vec<_>>().into()),
        ("cgroupParent", meta.cgroup_parent.clone().into()),
        ("removeMountStubsRecursive", meta.remove_mount_stubs_recursive.into()),
        ("validExitCodes", meta.valid_exit_codes.clone().into()),
    ])
}

fn mount(mount: &wire::Mount) -> Value {
    let file = |id: &str, uid: u32, gid: u32, mode: u32, optional: bool| {
        fields([
            ("ID", id.into()),
            ("uid", uid.into()),
            ("gid", gid.into()),
            ("mode", mode.into()),
            ("optional", optional.into()),
        ])
    };
    let mut value = fields([
        ("input", mount.input.into()),
        ("selector", mount.selector.clone().into()),
        ("dest", mount.dest.clone().into()),
        ("output", mount.output.into()),
        ("readonly", mount.readonly.into()),
        ("mountType", mount.mount_type.into()),
        ("resultID", mount.result_id.clone().into()),
        ("contentCache", mount.content_cache.into()),
    ]);
    for (name, option) in [
        ("TmpfsOpt", some(mount.tmpfs_opt.as_ref(), |t| fields([("size", t.size.into())]))),
        (
            "cacheOpt",
            some(mount.cache_opt.as_ref(), |c| fields([("ID", c.id.clone().into()), ("sharing", c.sharing.into())])),
        ),
        ("secretOpt", some(mount.secret_opt.as_ref(), |s| file(&s.id, s.uid, s.gid, s.mode, s.optional))),
        ("SSHOpt", some(mount.ssh_opt.as_ref(), |s| file(&s.id, s.uid, s.gid, s.mode, s.optional))),
    ] {
        value = with(value, name, option);
    }
    value
}

fn owner(owner: &wire::ChownOpt) -> Value {
    let user = |user: &wire::UserOpt| match &user.user {
        Some(User::ByName(named)) => {
            json!({ "User": { "byName": fields([("name", named.name.clone().into()), ("input", named.input.into())]) } })
        }
        Some(User::ById(id)) => json!({ "User": fields([("byId", (*id).into())]) }),
        None => json!({ "User": {} }),
    };
    with(with(json!({}), "user", some(owner.user.as_ref(), user)), "group", some(owner.group.as_ref(), user))
}

fn action(action: &wire::FileAction) -> Value {
    let (name, value, of) = match &action.action {
        Some(Action::Copy(c)) => ("copy", copy(c), c.owner.as_ref()),
        Some(Action::MkFile(m)) => {
            let data = base64::engine::general_purpose::STANDARD.encode(&m.data);
            let made = fields([
                ("path", m.path.clone().into()),
                ("mode", m.mode.into()),
                ("data", data.into()),
                ("timestamp", m.timestamp.into()),
            ]);
            ("mkfile", made, m.owner.as_ref())
        }
        Some(Action::MkDir(m)) => {
            let made = fields([
                ("path", m.path.clone().into()),
                ("mode", m.mode.into()),
                ("makeParents", m.make_parents.into()),
                ("timestamp", m.timestamp.into()),
            ]);
            ("mkdir", made, m.owner.as_ref())
        }
        Some(Action::Rm(r)) => {
            let made = fields([
                ("path", r.path.clone().into()),
                ("allowNotFound", r.allow_not_found.into()),
                ("allowWildcard", r.allow_wildcard.into()),
            ]);
            ("rm", made, None)
        }
        Some(Action::Symlink(s)) => {
            let made = fields([
                ("oldpath", s.oldpath.clone().into()),
                ("newpath", s.newpath.clone().into()),
                ("timestamp", s.timestamp.into()),
            ]);
            ("symlink", made, s.owner.as_ref())
        }
        None => ("", json!({}), None),
    };
    let value = with(value, "owner", some(of, owner));
    let kind = if name.is_empty() { json!({}) } else { json!({ name: value }) };
    json!({
        "input": action.input,
        "secondaryInput": action.secondary_input,
        "output": action.output,
        "Action": kind,
    })
}

fn copy(copy: &wire::FileActionCopy) -> Value {
    fields([
        ("src", copy.src.clone().into()),
        ("dest", copy.dest.clone().into()),
        ("mode", copy.mode.into()),
        ("followSymlink", copy.follow_symlink.into()),
        ("dirCopyContents", copy.dir_copy_contents.into()),
        ("attemptUnpackDockerCompatibility", copy.attempt_unpack_docker_compatibility.into()),
        ("createDestPath", copy.create_dest_path.into()),
        ("allowWildcard", copy.allow_wildcard.into()),
        ("allowEmptyWildcard", copy.allow_empty_wildcard.into()),
        ("timestamp", copy.timestamp.into()),
        ("include_patterns", copy.include_patterns.clone().into()),
        ("exclude_patterns", copy.exclude_patterns.clone().into()),
        ("alwaysReplaceExistingDestPaths", copy.always_replace_existing_dest_paths.into()),
        ("modeStr", copy.mode_str.clone().into()),
        ("required_paths", copy.required_paths.clone().into()),
    ])
}

fn location(location: &wire::Location) -> Value {
    let position = |p: &wire::Position| fields([("line", p.line.into()), ("character", p.character.into())]);
    let range = |r: &wire::Range| {
        with(with(json!({}), "start", some(r.start.as_ref(), position)), "end", some(r.end.as_ref(), position))
    };
    fields([
        ("sourceIndex", location.source_index.into()),
        ("ranges", location.ranges.iter().map(range).collect::<Vec<_>>().into()),
    ])
}

fn info(info: &wire::SourceInfo) -> Value {
    let data = base64::engine::general_purpose::STANDARD.encode(&info.data);
    let graph = info.definition.as_ref().and_then(|definition| Graph::decode(definition).ok());
    let operations = graph.map(|graph| Steps::of(&graph).operations(&graph)).unwrap_or_default();
    fields([
        ("filename", info.filename.clone().into()),
        ("language", info.language.clone().into()),
        ("data", data.into()),
        // Without digests: those of the client's directories name its session.
        ("llbDefinition", operations.steps.into()),
    ])
}
