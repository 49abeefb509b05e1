//! `buildctl debug dump-llb`: a graph as text, one operation a line, or as a picture for Graphviz.
//! Reads bytes and prints; asks nobody.

use std::io::Read;

use graph::wire::{self, Definition, Op, file_action::Action, op, user_opt::User};
use oci::Digest;
use prost::Message;
use serde_json::{Value, json};

use crate::commands::Failure;

#[derive(clap::Args, Debug)]
pub struct Flags {
    /// File with the graph; - or nothing is standard input
    #[arg(value_name = "llbfile")]
    file: Option<String>,
    /// Output dot format
    #[arg(long)]
    dot: bool,
}

/// Prints a graph.
pub fn dump(flags: &Flags) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    match flags.file.as_deref() {
        None | Some("-") => drop(std::io::stdin().read_to_end(&mut bytes)?),
        Some(path) => bytes = std::fs::read(path).map_err(|e| Failure::failed(format!("can't read {path}: {e}")))?,
    }
    let definition =
        Definition::decode(bytes.as_slice()).map_err(|e| Failure::failed(format!("failed to parse input: {e}")))?;
    let mut ops = Vec::new();
    for bytes in &definition.def {
        let op = Op::decode(bytes.as_slice()).map_err(|e| Failure::failed(format!("failed to parse op: {e}")))?;
        ops.push((Digest::of(bytes).to_string(), op));
    }
    if flags.dot {
        picture(&ops).iter().for_each(|line| println!("{line}"));
        return Ok(());
    }
    for (digest, op) in &ops {
        let metadata = definition.metadata.get(digest).map_or(Value::Null, metadata);
        println!("{}", json!({ "Op": operation(op), "Digest": digest, "OpMetadata": metadata }));
    }
    Ok(())
}

fn picture(ops: &[(String, Op)]) -> Vec<String> {
    let mut lines = vec!["digraph {".to_owned()];
    for (digest, op) in ops {
        let (name, shape) = looks(digest, op);
        lines.push(format!("  {digest:?} [label={name:?} shape={shape:?}];"));
    }
    for (digest, op) in ops {
        for (number, input) in op.inputs.iter().enumerate() {
            let mounts = match &op.op {
                Some(op::Op::Exec(exec)) => exec.mounts.as_slice(),
                _ => &[],
            };
            let is_it = |m: &&wire::Mount| usize::try_from(m.input) == Ok(number) && m.dest != "/";
            let label = mounts.iter().rfind(is_it).map_or("", |m| m.dest.as_str());
            lines.push(format!("  {:?} -> {digest:?} [label={label:?}];", input.digest));
        }
    }
    lines.push("}".to_owned());
    lines
}

fn looks(digest: &str, op: &Op) -> (String, &'static str) {
    match &op.op {
        Some(op::Op::Source(source)) => (source.identifier.clone(), "ellipse"),
        Some(op::Op::Exec(exec)) => {
            (exec.meta.iter().flat_map(|m| &m.args).cloned().collect::<Vec<_>>().join(" "), "box")
        }
        Some(op::Op::Build(_)) => ("build".to_owned(), "box3d"),
        Some(op::Op::Merge(_)) => ("merge".to_owned(), "invtriangle"),
        Some(op::Op::Diff(_)) => ("diff".to_owned(), "doublecircle"),
        Some(op::Op::File(file)) => {
            let name = |action: &wire::FileAction| match &action.action {
                Some(Action::Copy(copy)) => format!("copy{{src={}, dest={}}}", copy.src, copy.dest),
                Some(Action::MkFile(file)) => format!("mkfile{{path={}}}", file.path),
                Some(Action::MkDir(folder)) => format!("mkdir{{path={}}}", folder.path),
                Some(Action::Rm(rm)) => format!("rm{{path={}}}", rm.path),
                Some(Action::Symlink(link)) => format!("symlink{{oldpath={}, newpath={}}}", link.oldpath, link.newpath),
                None => String::new(),
            };
            (file.actions.iter().map(name).collect::<Vec<_>>().join(","), "note")
        }
        Some(op::Op::Passthrough(_)) | None => (digest.to_owned(), "plaintext"),
    }
}

/// An operation as BuildKit's JSON has it: fields that are empty are left out.
fn operation(op: &Op) -> Value {
    let input = |i: &wire::Input| full(json!({ "digest": i.digest, "index": i.index }));
    let kind = op.op.as_ref().map(|kind| match kind {
        op::Op::Exec(exec) => json!({ "exec": self::exec(exec) }),
        op::Op::Source(source) => json!({ "source": full(json!({ "identifier": source.identifier, "attrs": source.attrs })) }),
        op::Op::File(file) => json!({ "file": { "actions": file.actions.iter().map(action).collect::<Vec<_>>() } }),
        op::Op::Build(build) => json!({ "build": full(json!({ "builder": build.builder, "attrs": build.attrs })) }),
        op::Op::Merge(merge) => {
            json!({ "merge": { "inputs": merge.inputs.iter().map(|i| full(json!({ "input": i.input }))).collect::<Vec<_>>() } })
        }
        op::Op::Diff(diff) => json!({ "diff": {
            "lower": diff.lower.as_ref().map(|i| full(json!({ "input": i.input }))),
            "upper": diff.upper.as_ref().map(|i| full(json!({ "input": i.input }))),
        } }),
        op::Op::Passthrough(pass) => json!({ "passthrough": full(json!({ "id": pass.id, "outputs": pass.outputs })) }),
    });
    let platform =
        |p: &wire::Platform| full(json!({ "Architecture": p.architecture, "OS": p.os, "Variant": p.variant }));
    full(json!({
        "inputs": op.inputs.iter().map(input).collect::<Vec<_>>(),
        "Op": kind,
        "platform": op.platform.as_ref().map(platform),
        "constraints": op.constraints.as_ref().map(|c| full(json!({ "filter": c.filter }))),
    }))
}

fn exec(exec: &wire::ExecOp) -> Value {
    let meta = |m: &wire::Meta| {
        full(json!({
            "args": m.args,
            "env": m.env,
            "cwd": m.cwd,
            "user": m.user,
            "extraHosts": m.extra_hosts.iter().map(|h| json!({ "Host": h.host, "IP": h.ip })).collect::<Vec<_>>(),
            "hostname": m.hostname,
            "cgroupParent": m.cgroup_parent,
            "removeMountStubsRecursive": m.remove_mount_stubs_recursive,
            "validExitCodes": m.valid_exit_codes,
        }))
    };
    let mount = |m: &wire::Mount| {
        full(json!({
            "input": m.input,
            "selector": m.selector,
            "dest": m.dest,
            "output": m.output,
            "readonly": m.readonly,
            "mountType": m.mount_type,
            "cacheOpt": m.cache_opt.as_ref().map(|c| full(json!({ "ID": c.id, "sharing": c.sharing }))),
            "secretOpt": m.secret_opt.as_ref().map(|s| full(json!({ "ID": s.id, "mode": s.mode, "optional": s.optional }))),
            "SSHOpt": m.ssh_opt.as_ref().map(|s| full(json!({ "ID": s.id, "mode": s.mode, "optional": s.optional }))),
        }))
    };
    full(json!({
        "meta": exec.meta.as_ref().map(meta),
        "mounts": exec.mounts.iter().map(mount).collect::<Vec<_>>(),
        "network": exec.network,
        "security": exec.security,
    }))
}

fn action(action: &wire::FileAction) -> Value {
    let kind = action.action.as_ref().map(|kind| match kind {
        Action::Copy(c) => json!({ "copy": full(json!({
            "src": c.src,
            "dest": c.dest,
            "owner": c.owner.as_ref().map(owner),
            "mode": c.mode,
            "followSymlink": c.follow_symlink,
            "dirCopyContents": c.dir_copy_contents,
            "attemptUnpackDockerCompatibility": c.attempt_unpack_docker_compatibility,
            "createDestPath": c.create_dest_path,
            "allowWildcard": c.allow_wildcard,
            "allowEmptyWildcard": c.allow_empty_wildcard,
            "timestamp": c.timestamp,
            "include_patterns": c.include_patterns,
            "exclude_patterns": c.exclude_patterns,
        })) }),
        Action::MkFile(f) => {
            let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &f.data);
            let owner = f.owner.as_ref().map(owner);
            json!({ "mkfile": full(json!({ "path": f.path, "mode": f.mode, "data": data, "owner": owner, "timestamp": f.timestamp })) })
        }
        Action::MkDir(d) => {
            let owner = d.owner.as_ref().map(owner);
            json!({ "mkdir": full(json!({ "path": d.path, "mode": d.mode, "makeParents": d.make_parents, "owner": owner, "timestamp": d.timestamp })) })
        }
        Action::Rm(r) => {
            json!({ "rm": full(json!({ "path": r.path, "allowNotFound": r.allow_not_found, "allowWildcard": r.allow_wildcard })) })
        }
        Action::Symlink(s) => {
            json!({ "symlink": full(json!({ "oldpath": s.oldpath, "newpath": s.newpath, "owner": s.owner.as_ref().map(owner), "timestamp": s.timestamp })) })
        }
    });
    full(
        json!({ "input": action.input, "secondaryInput": action.secondary_input, "output": action.output, "Action": kind }),
    )
}

fn owner(owner: &wire::ChownOpt) -> Value {
    let user = |user: &wire::UserOpt| {
        let user = user.user.as_ref().map(|user| match user {
            User::ByName(named) => json!({ "byName": full(json!({ "name": named.name, "input": named.input })) }),
            User::ById(id) => json!({ "byId": id }),
        });
        full(json!({ "User": user }))
    };
    full(json!({ "user": owner.user.as_ref().map(user), "group": owner.group.as_ref().map(user) }))
}

fn metadata(metadata: &wire::OpMetadata) -> Value {
    full(json!({
        "ignore_cache": metadata.ignore_cache,
        "description": metadata.description,
        "export_cache": metadata.export_cache.as_ref().map(|e| full(json!({ "Value": e.value }))),
        "caps": metadata.caps,
        "progress_group": metadata.progress_group.as_ref().map(|g| full(json!({ "id": g.id, "name": g.name, "weak": g.weak }))),
    }))
}

/// Without what is empty, as Go leaves it out.
fn full(value: Value) -> Value {
    super::rows::without_empty(value)
}

/// Operations of a definition that are never taken from a cache.
pub fn uncached(definition: &mut proto::pb::Definition) {
    for bytes in &definition.def {
        definition.metadata.entry(Digest::of(bytes).to_string()).or_default().ignore_cache = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_names_what_operations_do() {
        let source = wire::SourceOp { identifier: "docker-image://base".into(), ..Default::default() };
        let source = Op { op: Some(op::Op::Source(source)), ..Op::default() };
        let meta = wire::Meta { args: vec!["sh".into(), "-c".into(), "echo \"x\"".into()], ..Default::default() };
        let mount = wire::Mount { input: 0, dest: "/tools".into(), ..Default::default() };
        let exec = wire::ExecOp { meta: Some(meta), mounts: vec![mount], ..Default::default() };
        let inputs = vec![wire::Input { digest: "sha256:a".into(), index: 0 }];
        let exec = Op { inputs, op: Some(op::Op::Exec(exec)), ..Op::default() };
        let ops = [("sha256:a".to_owned(), source), ("sha256:b".to_owned(), exec)];
        insta::assert_snapshot!(picture(&ops).join("\n"), @r#"
        digraph {
          "sha256:a" [label="docker-image://base" shape="ellipse"];
          "sha256:b" [label="sh -c echo \"x\"" shape="box"];
          "sha256:a" -> "sha256:b" [label="/tools"];
        }
        "#);
        insta::assert_snapshot!(operation(&ops[1].1), @r#"{"inputs":[{"digest":"sha256:a"}],"Op":{"exec":{"meta":{"args":["sh","-c","echo \"x\""]},"mounts":[{"dest":"/tools"}]}}}"#);
    }
}
