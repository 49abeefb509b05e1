//! Contexts that are not a directory of the client's: a git repository, a file or archive from the web, an upload of the
//! client's, the result of another target. Each is a graph, and its files are read by evaluating it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use graph::git::GitUrl;
use graph::wire::{self, op};
use graph::{Edge, Graph, GraphBuilder};
use oci::{ImageConfig, Platform};

use crate::Error;
use crate::build::Build;
use crate::session::Filter;
use crate::sources::git::Pinned;

/// Name of a file from the web inside its tree.
const NAME: &str = "context";

/// Where the main context and the Dockerfile are; `None` is with the client.
#[derive(Default)]
pub struct Remote {
    /// The main context.
    pub context: Option<Arc<Graph>>,
    /// The Dockerfile's tree, and its name there if that is fixed.
    pub dockerfile: Option<(Arc<Graph>, Option<String>)>,
}

impl Remote {
    /// Reads the attribute `context` and the inputs `context` and `dockerfile`.
    pub async fn of(
        build: &Build,
        attributes: &BTreeMap<String, String>,
        inputs: &BTreeMap<String, Arc<Graph>>,
    ) -> Result<Remote, Error> {
        let mut remote = Remote::default();
        let value = |name: &str| attributes.get(name).map(String::as_str).filter(|v| !v.is_empty());
        match value("context") {
            None => {}
            Some(url) => match GitUrl::read(url).map_err(|e| Error::Request(e.to_string()))? {
                Some(address) => {
                    let graph = Arc::new(git(build, url, &address, attributes).await?);
                    remote.dockerfile = Some((graph.clone(), None));
                    remote.context = Some(graph);
                }
                None if url.starts_with("http://") || url.starts_with("https://") => remote = web(build, url).await?,
                None => {}
            },
        }
        let keys = (value("contextkey").unwrap_or("context"), value("dockerfilekey").unwrap_or("dockerfile"));
        if let Some(graph) = inputs.get(keys.0) {
            remote.context = Some(graph.clone());
        }
        if let Some(graph) = inputs.get(keys.1) {
            remote.dockerfile = Some((graph.clone(), None));
        } else if value("dockerfilekey").is_some() && value("contextkey").is_none() {
            // The Dockerfile is the client's although the context is not.
            remote.dockerfile = None;
        }
        if let (Some(folder), Some(graph)) = (value("contextsubdir"), &remote.context) {
            remote.context = Some(Arc::new(below(graph, folder)?));
        }
        Ok(remote)
    }
}

fn invalid(error: graph::Error) -> Error {
    Error::Failed(error.to_string())
}

/// One source as a graph.
pub fn source(identifier: String, attrs: BTreeMap<String, String>, name: &str) -> Result<Graph, Error> {
    let op = wire::Op {
        op: Some(op::Op::Source(wire::SourceOp { identifier, attrs })),
        constraints: Some(wire::WorkerConstraints::default()),
        ..wire::Op::default()
    };
    let mut builder = GraphBuilder::default();
    let vertex = builder.add(op, named(name)).map_err(invalid)?;
    Ok(builder.finish(Some(Edge { vertex, output: 0 }), None))
}

/// How files of a client's directory are got, as BuildKit's clients say it.
pub fn local(session: &str, directory: &str, wanted: &Filter, name: &str) -> Result<wire::Definition, Error> {
    let list = serde_json::to_string(&wanted.follow).map_err(|e| Error::Failed(e.to_string()))?;
    let attrs = BTreeMap::from([
        ("local.differ".to_owned(), "none".to_owned()),
        ("local.followpaths".to_owned(), list),
        ("local.session".to_owned(), session.to_owned()),
        ("local.sharedkeyhint".to_owned(), directory.to_owned()),
    ]);
    Ok(source(format!("local://{directory}"), attrs, name)?.encode())
}

fn named(name: &str) -> wire::OpMetadata {
    let description = BTreeMap::from([("llb.customname".to_owned(), name.to_owned())]);
    wire::OpMetadata { description, ..wire::OpMetadata::default() }
}

/// One commit for the whole build: the Dockerfile and the context are read one after the other, and a branch may move
/// between.
async fn git(build: &Build, url: &str, git: &GitUrl, attributes: &BTreeMap<String, String>) -> Result<Graph, Error> {
    let name = format!("[internal] load git source {url}");
    let mut attrs = git.attributes();
    if attributes.get("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR").is_some_and(|v| v == "1" || v == "true") {
        attrs.insert("git.keepgitdir".to_owned(), "true".to_owned());
    }
    if attributes.get("build-arg:SOURCE_DATE_EPOCH").is_some_and(|v| !v.is_empty()) {
        attrs.insert("git.mtime".to_owned(), "commit".to_owned());
    }
    let moving = source(git.identifier(), attrs.clone(), &name)?;
    let Some(vertex) = moving.vertices().next() else { return Ok(moving) };
    let found = Pinned::identify(&build.work(vertex.digest)?, vertex).await?;
    let (object, reference) = found.object();
    attrs.insert("git.checksum".to_owned(), object.to_owned());
    attrs.insert("git.fetchbycommit".to_owned(), "true".to_owned());
    let pinned = GitUrl { reference: reference.to_owned(), ..git.clone() };
    source(pinned.identifier(), attrs, &name)
}

async fn web(build: &Build, url: &str) -> Result<Remote, Error> {
    let attrs = BTreeMap::from([("http.filename".to_owned(), NAME.to_owned())]);
    let file = Arc::new(source(url.to_owned(), attrs, "[internal] load remote build context")?);
    let bytes = read(build, &file, NAME).await?;
    if !is_archive(&bytes) {
        // The file is the Dockerfile itself.
        return Ok(Remote { context: Some(file.clone()), dockerfile: Some((file, Some(NAME.to_owned()))) });
    }
    let copy = wire::FileActionCopy {
        src: format!("/{NAME}"),
        dest: "/".to_owned(),
        mode: -1,
        timestamp: -1,
        attempt_unpack_docker_compatibility: true,
        ..Default::default()
    };
    let unpacked = Arc::new(copied(&file, copy, "[internal] unpack remote build context")?);
    Ok(Remote { context: Some(unpacked.clone()), dockerfile: Some((unpacked, None)) })
}

/// The part of a tree below a folder.
fn below(graph: &Graph, folder: &str) -> Result<Graph, Error> {
    let copy = wire::FileActionCopy {
        src: format!("/{}", graph::pattern::clean(folder).trim_start_matches('/')),
        dest: "/".to_owned(),
        mode: -1,
        timestamp: -1,
        dir_copy_contents: true,
        ..Default::default()
    };
    copied(graph, copy, &format!("[internal] take {folder} of the build context"))
}

/// A copy out of a graph's result into an empty tree.
fn copied(graph: &Graph, copy: wire::FileActionCopy, name: &str) -> Result<Graph, Error> {
    let mut builder = GraphBuilder::default();
    let head = builder.graft(graph).map_err(invalid)?;
    let inputs = head.iter().map(|e| wire::Input { digest: e.vertex.to_string(), index: i64::from(e.output) });
    let action = wire::FileAction {
        input: -1,
        secondary_input: 0,
        output: 0,
        action: Some(wire::file_action::Action::Copy(copy)),
    };
    let op = wire::Op {
        inputs: inputs.collect(),
        op: Some(op::Op::File(wire::FileOp { actions: vec![action] })),
        constraints: Some(wire::WorkerConstraints::default()),
        ..wire::Op::default()
    };
    let vertex = builder.add(op, named(name)).map_err(invalid)?;
    Ok(builder.finish(Some(Edge { vertex, output: 0 }), None))
}

/// Whether bytes begin an archive: a tar, plain or compressed.
fn is_archive(bytes: &[u8]) -> bool {
    let magics: [&[u8]; 4] =
        [&[0x1f, 0x8b, 0x08], &[0x28, 0xb5, 0x2f, 0xfd], b"BZh", &[0xfd, b'7', b'z', b'X', b'Z', 0]];
    magics.iter().any(|magic| bytes.starts_with(magic)) || bytes.get(257..262) == Some(b"ustar")
}

/// The Dockerfile in a graph's result.
pub async fn read(build: &Build, graph: &Arc<Graph>, name: &str) -> Result<Vec<u8>, Error> {
    let missing = || Error::Request(format!("failed to read dockerfile: open {name}: no such file or directory"));
    find(build, graph, name).await?.ok_or_else(missing)
}

/// A file of a graph's result, if it is there.
pub async fn find(build: &Build, graph: &Arc<Graph>, name: &str) -> Result<Option<Vec<u8>>, Error> {
    let held = build.evaluate(graph).await?;
    let view = build.view(&held).await?;
    let path = view.resolve(&Path::new("/").join(graph::pattern::clean(name)))?;
    let Some(node) = view.lookup(&path)?.filter(|node| node.kind == store::view::Kind::File) else { return Ok(None) };
    let bytes = std::fs::read(&node.source);
    let bytes = bytes.map_err(|source| crate::session::Error::Read { path: node.source.clone(), source })?;
    Ok(Some(bytes))
}

/// The image configuration in an `input-metadata:NAME` attribute: JSON of names to base64.
pub fn config(text: &str, platform: &Platform) -> Result<Option<ImageConfig>, Error> {
    let bad = |reason: String| Error::Request(format!("an input's metadata can't be read: {reason}"));
    let map: BTreeMap<String, String> = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    let exact = map.get(&format!("containerimage.config/{platform}"));
    let Some(encoded) = exact.or_else(|| map.get("containerimage.config")) else { return Ok(None) };
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).map_err(|e| bad(e.to_string()))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|e| bad(e.to_string()))
}
