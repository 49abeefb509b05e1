//! The key of a process: BuildKit's ExecOp as Go JSON, less what must not matter (selectors, proxies, volume ids).

use graph::wire::{ExecOp, Meta, Mount, MountType, Platform as WirePlatform};
use oci::{Digest, Platform};

use super::json::Object;
use super::{CacheMap, InputKey, Selection, dedupe};

pub fn cache_map(
    op: &ExecOp,
    platform: Option<&WirePlatform>,
    inputs: usize,
    host: &Platform,
) -> Result<CacheMap, String> {
    let meta = op.meta.as_ref().ok_or("a process without arguments")?;
    let mounts: &[Mount] = if plain_root(&op.mounts) { &[] } else { &op.mounts };
    let exec = Object::new()
        .raw("meta", &meta_json(meta))
        .list("mounts", mounts, mount_json)
        .number("network", op.network.into())
        .number("security", op.security.into())
        .list("secretenv", &op.secretenv, |s| {
            Object::new().text("ID", &s.id).text("name", &s.name).flag("optional", s.optional).end()
        })
        .list("cdiDevices", &op.cdi_devices, |d| Object::new().text("name", &d.name).flag("optional", d.optional).end())
        .end();
    let object = Object::new().always("Type", "buildkit.exec.v0").raw("Exec", &exec);
    let object = match platform {
        Some(p) => platform_json(object, &p.os, &p.architecture, &p.variant, &p.os_version, &p.os_features),
        None => platform_json(object, &host.os, &host.architecture, &host.variant, &host.os_version, &host.os_features),
    };
    let digest = Digest::of(object.end().as_bytes());
    Ok(CacheMap { digest, inputs: mount_inputs(op, inputs)? })
}

fn platform_json(object: Object, os: &str, arch: &str, variant: &str, version: &str, features: &[String]) -> Object {
    object
        .always("OS", os)
        .always("Arch", arch)
        .text("Variant", variant)
        .text("OSVersion", version)
        .texts("OSFeatures", features)
}

/// The one plain writable root mount, which BuildKit leaves out of the key for old caches' sake.
fn plain_root(mounts: &[Mount]) -> bool {
    let [m] = mounts else { return false };
    m.dest == "/"
        && !m.readonly
        && m.mount_type == MountType::Bind as i32
        && m.cache_opt.is_none()
        && m.ssh_opt.is_none()
        && m.secret_opt.is_none()
        && m.result_id.is_empty()
}

fn meta_json(meta: &Meta) -> String {
    Object::new()
        .texts("args", &meta.args)
        .texts("env", &meta.env)
        .text("cwd", &meta.cwd)
        .text("user", &meta.user)
        // Addresses are left out: they may differ between runs of the same build.
        .list("extraHosts", &meta.extra_hosts, |h| Object::new().text("Host", &h.host).end())
        .text("hostname", &meta.hostname)
        .list("ulimit", &meta.ulimit, |u| {
            Object::new().text("Name", &u.name).number("Soft", u.soft).number("Hard", u.hard).end()
        })
        .text("cgroupParent", &meta.cgroup_parent)
        .flag("removeMountStubsRecursive", meta.remove_mount_stubs_recursive)
        .list("validExitCodes", &meta.valid_exit_codes, i32::to_string)
        .end()
}

fn mount_json(m: &Mount) -> String {
    Object::new()
        .number("input", m.input)
        .text("dest", &m.dest)
        .number("output", m.output)
        .flag("readonly", m.readonly)
        .number("mountType", m.mount_type.into())
        .message("TmpfsOpt", m.tmpfs_opt.as_ref(), |t| Object::new().number("size", t.size).end())
        .message("cacheOpt", m.cache_opt.as_ref(), |c| {
            if volume_counts(m) {
                Object::new().text("ID", &c.id).number("sharing", c.sharing.into()).end()
            } else {
                Object::new().end()
            }
        })
        .message("secretOpt", m.secret_opt.as_ref(), |s| file_json(&s.id, s.uid, s.gid, s.mode, s.optional))
        .message("SSHOpt", m.ssh_opt.as_ref(), |s| file_json(&s.id, s.uid, s.gid, s.mode, s.optional))
        .text("resultID", &m.result_id)
        .number("contentCache", m.content_cache.into())
        .end()
}

fn file_json(id: &str, uid: u32, gid: u32, mode: u32, optional: bool) -> String {
    Object::new()
        .text("ID", id)
        .number("uid", uid.into())
        .number("gid", gid.into())
        .number("mode", mode.into())
        .flag("optional", optional)
        .end()
}

/// Only a shared volume named after its own target (with or without a namespace) stays in the key.
fn volume_counts(m: &Mount) -> bool {
    let Some(cache) = &m.cache_opt else { return false };
    let named_after_target = cache.id == m.dest || cache.id.split_once('/').is_some_and(|(_, rest)| rest == m.dest);
    named_after_target && cache.sharing == 0
}

fn mount_inputs(op: &ExecOp, inputs: usize) -> Result<Vec<InputKey>, String> {
    let mut paths: Vec<Vec<String>> = vec![Vec::new(); inputs];
    let mut content = vec![false; inputs];
    for m in &op.mounts {
        let kind = MountType::try_from(m.mount_type).map_err(|_| format!("mount type {} is unknown", m.mount_type))?;
        if m.input == -1 || matches!(kind, MountType::Secret | MountType::Ssh | MountType::Tmpfs) {
            continue;
        }
        let input = usize::try_from(m.input).ok().filter(|i| *i < inputs);
        let input = input.ok_or_else(|| format!("mount {} reads input {}, of {inputs}", m.dest, m.input))?;
        let path = clean(&m.selector);
        let safe = m.output == -1 || m.readonly || path == "/";
        content[input] = match m.content_cache {
            0 => safe && m.dest != "/",
            1 if safe => true,
            1 => return Err(format!("mount {} can't be cached by content: it is writable", m.dest)),
            _ => false,
        };
        paths[input].push(path);
    }
    let entry = |(paths, content): (Vec<String>, bool)| InputKey {
        selector: (!paths.is_empty()).then(|| Digest::of(paths.join("\0").as_bytes())),
        content: content.then(|| selections(&paths)),
    };
    Ok(paths.into_iter().zip(content).map(entry).collect())
}

fn selections(paths: &[String]) -> Vec<Selection> {
    let paths = dedupe(paths);
    if paths.iter().any(|p| p == "/") {
        return Vec::new();
    }
    paths.into_iter().map(|path| Selection { path, follow_links: true, ..Selection::default() }).collect()
}

/// Go's `path.Join("/", selector)`.
fn clean(selector: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in selector.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
