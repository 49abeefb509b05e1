//! Where a build's files come from: the main context, the Dockerfile, named contexts. What is with the user is offered by
//! the session; what is elsewhere is named to the frontend.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use graph::git::GitUrl;

use super::flags::Flags;
use crate::client::content::Folder;
use crate::client::{LocalSession, STANDARD_INPUT};

type Result<T> = std::result::Result<T, String>;
type Attributes = BTreeMap<String, String>;

/// The main context and the Dockerfile: what the session offers of them, and the frontend's attributes.
pub fn main(flags: &Flags, session: &mut LocalSession, attributes: &mut Attributes) -> Result<()> {
    let context = flags.context.as_str();
    let remote = if context == "-" {
        if flags.file.as_deref() == Some("-") {
            return Err("standard input can't be both the context and the Dockerfile".to_owned());
        }
        session.standard_input = Some(standard_input("the context")?);
        Some(format!("http://buildkit-session{STANDARD_INPUT}"))
    } else if is_web(context) || GitUrl::parse(context).is_some() {
        Some(context.to_owned())
    } else {
        let folder = absolute(context)?;
        if !folder.is_dir() {
            return Err(format!("the context {context} is no directory"));
        }
        session.directories.insert("context".to_owned(), folder);
        None
    };
    let file = match flags.file.as_deref() {
        Some("-") => Some(kept(session, &standard_input("the Dockerfile")?)?),
        Some(url) if is_web(url) => Some(kept(session, &download(url)?)?),
        // Of a context elsewhere it is a path inside.
        Some(path) if remote.is_some() && !Path::new(path).is_absolute() => None,
        Some(path) => Some(absolute(path)?),
        None if remote.is_some() => None,
        None => Some(absolute(context)?.join("Dockerfile")),
    };
    let name = match &file {
        Some(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        None => flags.file.clone().unwrap_or_else(|| "Dockerfile".to_owned()),
    };
    attributes.insert("filename".to_owned(), name);
    if let Some(path) = &file {
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        session.directories.insert("dockerfile".to_owned(), folder);
    }
    if let Some(url) = remote {
        if file.is_some() {
            attributes.insert("dockerfilekey".to_owned(), "dockerfile".to_owned());
        }
        session.project = Some(url.clone());
        attributes.insert("context".to_owned(), url);
    }
    Ok(())
}

/// The Dockerfile as the user named it.
pub fn dockerfile(flags: &Flags) -> String {
    match flags.file.as_deref() {
        Some("-") => "stdin".to_owned(),
        Some(file) => file.to_owned(),
        None if flags.context == "." => "Dockerfile".to_owned(),
        None => format!("{}/Dockerfile", flags.context.trim_end_matches('/')),
    }
}

/// `--build-context`.
pub fn named(flags: &Flags, session: &mut LocalSession, attributes: &mut Attributes) -> Result<()> {
    for text in &flags.build_context {
        let wrong = || format!("--build-context {text}: expected NAME=VALUE");
        let (name, value) = text.split_once('=').ok_or_else(wrong)?;
        let found = if let Some(layout) = value.strip_prefix("oci-layout://") {
            let (folder, digest) = in_layout(layout).map_err(|e| format!("--build-context {text}: {e}"))?;
            let key = layout_key(name);
            session.content.insert(format!("oci:{key}"), folder);
            format!("oci-layout://{key}@{digest}")
        } else if value.contains("://") || GitUrl::parse(value).is_some() {
            value.to_owned()
        } else {
            let folder = absolute(value)?;
            if !folder.is_dir() {
                return Err(format!("--build-context {text}: {value} is no directory"));
            }
            // The main context and the Dockerfile's folder have these names.
            let key = if matches!(name, "context" | "dockerfile") { format!("_{name}") } else { name.to_owned() };
            session.directories.insert(key.clone(), folder);
            format!("local:{key}")
        };
        attributes.insert(format!("context:{name}"), found);
    }
    Ok(())
}

/// The name of a layout within its session. It stands where a registry's host would, so the colon of `debian:bookworm` may
/// not be in it.
fn layout_key(name: &str) -> String {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if is_plain {
        format!("layout-{name}")
    } else {
        format!("layout-{}", &oci::Digest::of(name.as_bytes()).hex()[..16])
    }
}

/// An image of a layout: `FOLDER[:TAG][@DIGEST]`.
fn in_layout(text: &str) -> Result<(Folder, String)> {
    let (image, digest) = match text.split_once('@') {
        Some((image, digest)) => (image, Some(digest.to_owned())),
        None => (text, None),
    };
    let tag = image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
    let (path, tag) = tag.map_or((image, None), |(path, tag)| (path, Some(tag)));
    let folder = Folder::new(&absolute(path)?);
    let digest = match digest {
        Some(digest) => digest,
        None => folder.named(tag).map_err(|e| e.to_string())?.to_string(),
    };
    Ok((folder, digest))
}

fn is_web(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

fn absolute(path: &str) -> Result<PathBuf> {
    std::fs::canonicalize(path).map_err(|e| format!("can't find {path}: {e}"))
}

fn standard_input(what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().read_to_end(&mut bytes);
    read.map_err(|e| format!("can't read {what} from standard input: {e}"))?;
    Ok(bytes)
}

/// A Dockerfile that is no file here lies in a folder of its own for the build.
fn kept(session: &mut LocalSession, bytes: &[u8]) -> Result<PathBuf> {
    let failed = |e: std::io::Error| format!("can't keep the Dockerfile for the build: {e}");
    let folder = tempfile::Builder::new().prefix("larder-dockerfile-").tempdir().map_err(failed)?;
    let path = folder.path().join("Dockerfile");
    std::fs::write(&path, bytes).map_err(failed)?;
    session.kept = Some(folder);
    Ok(path)
}

fn download(url: &str) -> Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    let client = registry::Client::new();
    runtime.block_on(client.download(url, &[], &mut bytes)).map_err(|e| e.to_string())?;
    Ok(bytes)
}
