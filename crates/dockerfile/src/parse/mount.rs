//! The value of `RUN --mount=…`, after its variables are expanded.

use crate::diagnostic::nearest;

/// Kinds of mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MountKind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// Who may use a volume at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CacheSharing {
    #[default]
    Shared,
    Private,
    Locked,
}

/// A mount as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Its kind.
    pub kind: MountKind,
    /// Stage, image or context that a bind or a volume's first content comes from.
    pub from: Option<String>,
    /// Path in `from`.
    pub source: String,
    /// Where it appears.
    pub target: String,
    /// Whether the process may not write to it.
    pub readonly: bool,
    /// Volume, secret or agent id.
    pub id: String,
    /// A missing secret or agent is an error.
    pub required: bool,
    /// Environment variable that gets a secret.
    pub env: Option<String>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Volume sharing.
    pub sharing: CacheSharing,
    /// Bytes of a tmpfs.
    pub size: i64,
}

const KEYS: [&str; 16] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "readwrite",
    "id",
    "sharing",
    "required",
    "mode",
    "uid",
    "gid",
    "size",
    "env",
    "src",
    "dst",
];

/// The tree that a mount's `from` names, as written.
pub fn mount_from(text: &str) -> Option<String> {
    let fields = fields(text).ok()?;
    fields.into_iter().find(|(key, _)| key == "from").and_then(|(_, value)| value)
}

/// Reads a mount's `key=value` list; `expand` is given every value but `from`'s.
pub fn mount(text: &str, expand: &dyn Fn(&str) -> Result<String, String>) -> Result<Mount, String> {
    let mut mount = Mount::default();
    let mut readonly = None;
    let mut fields: Vec<(String, Option<String>)> = fields(text)?;
    for (_, value) in fields.iter_mut().filter(|(key, _)| key != "from") {
        if let Some(value) = value {
            *value = expand(value)?;
        }
    }
    if let Some((_, Some(kind))) = fields.iter().find(|(k, _)| k == "type") {
        mount.kind = kind_of(kind)?;
    }
    for (key, value) in &fields {
        match (key.as_str(), value.as_deref()) {
            ("readonly" | "ro", value) => readonly = Some(boolean(key, value)?),
            ("readwrite" | "rw", value) => readonly = Some(!boolean(key, value)?),
            ("required", value) => mount.required = boolean(key, value)?,
            (_, None) => return Err(format!("invalid field '{key}' must be a key=value pair")),
            ("type", Some(_)) => {}
            ("from", Some(v)) if v.contains('$') => {
                return Err("'from' doesn't support variable expansion, define alias stage instead".into());
            }
            ("from", Some(v)) => mount.from = Some(v.to_owned()),
            ("source" | "src", Some(v)) => mount.source = v.to_owned(),
            ("target" | "dst" | "destination", Some(v)) => mount.target = v.to_owned(),
            ("id", Some(v)) => mount.id = v.to_owned(),
            ("env", Some(v)) => mount.env = Some(v.to_owned()),
            ("mode", Some(v)) => mount.mode = Some(octal(v)?),
            ("uid", Some(v)) => mount.uid = Some(number(key, v)?),
            ("gid", Some(v)) => mount.gid = Some(number(key, v)?),
            ("size", Some(v)) => mount.size = size(v)?,
            ("sharing", Some(v)) => mount.sharing = sharing(v)?,
            (other, _) => {
                let near = nearest(other, KEYS).map(|n| format!(": did you mean {n}?")).unwrap_or_default();
                return Err(format!("unexpected key '{other}' in '{text}'{near}"));
            }
        }
    }
    check(&mount, text)?;
    let default = matches!(mount.kind, MountKind::Bind | MountKind::Secret | MountKind::Ssh);
    mount.readonly = readonly.unwrap_or(default);
    Ok(mount)
}

fn check(mount: &Mount, text: &str) -> Result<(), String> {
    let needs_target = matches!(mount.kind, MountKind::Bind | MountKind::Cache | MountKind::Tmpfs);
    if needs_target && mount.target.is_empty() {
        return Err(format!("mount '{text}' needs a target"));
    }
    if mount.env.is_some() && mount.kind != MountKind::Secret {
        return Err("`env` is only for type=secret".into());
    }
    if mount.size != 0 && mount.kind != MountKind::Tmpfs {
        return Err("`size` is only for type=tmpfs".into());
    }
    if mount.required && !matches!(mount.kind, MountKind::Secret | MountKind::Ssh) {
        return Err("`required` is only for type=secret and type=ssh".into());
    }
    if mount.from.is_some() && !matches!(mount.kind, MountKind::Bind | MountKind::Cache) {
        return Err("`from` is only for type=bind and type=cache".into());
    }
    Ok(())
}

/// One CSV record of `key=value` and bare keys; keys are lower-cased.
fn fields(text: &str) -> Result<Vec<(String, Option<String>)>, String> {
    let mut fields: Vec<String> = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => {
                if let Some(field) = fields.last_mut() {
                    field.push(c);
                }
            }
        }
    }
    if quoted {
        return Err(format!("a quote is not closed in '{text}'"));
    }
    let pair = |f: String| match f.split_once('=') {
        Some((k, v)) => (k.trim().to_ascii_lowercase(), Some(v.to_owned())),
        None => (f.trim().to_ascii_lowercase(), None),
    };
    Ok(fields.into_iter().map(pair).collect())
}

fn kind_of(text: &str) -> Result<MountKind, String> {
    const KINDS: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
    Ok(match text {
        "bind" => MountKind::Bind,
        "cache" => MountKind::Cache,
        "tmpfs" => MountKind::Tmpfs,
        "secret" => MountKind::Secret,
        "ssh" => MountKind::Ssh,
        other => {
            let near = nearest(other, KINDS).map(|n| format!(": did you mean {n}?")).unwrap_or_default();
            return Err(format!("unsupported mount type \"{other}\"{near} (expected {})", KINDS.join(", ")));
        }
    })
}

fn sharing(text: &str) -> Result<CacheSharing, String> {
    Ok(match text {
        "shared" => CacheSharing::Shared,
        "private" => CacheSharing::Private,
        "locked" => CacheSharing::Locked,
        other => return Err(format!("unsupported sharing value \"{other}\": expected shared, private or locked")),
    })
}

fn boolean(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value.unwrap_or("true") {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(format!("invalid value for {key}: {other}")),
    }
}

fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8).map_err(|_| format!("invalid value {text} for mode: expected octal digits"))
}

fn number(key: &str, text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("invalid value {text} for {key}: expected a number"))
}

fn size(text: &str) -> Result<i64, String> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match lower[digits.len()..].trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(format!("invalid size {text}")),
    };
    let number: i64 = digits.parse().map_err(|_| format!("invalid size {text}"))?;
    number.checked_shl(shift).filter(|n| *n >= 0).ok_or_else(|| format!("invalid size {text}"))
}
