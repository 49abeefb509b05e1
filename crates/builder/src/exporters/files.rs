//! `type=tar` and `type=local`: the result's files, without an image around them, and attestations as files beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use oci::Hasher;
use store::layer::Owners;
use store::view::{Kind, View};

use super::{Error, Export, Written, assemble::part};
use crate::attestations::Attestation;
use crate::attestations::statement::Subject;
use crate::session::Sink;
use crate::{Live, blocking};

/// One result: the folder that it goes into (empty is the output itself), its files, files beside them, and the time of
/// them all, if they have one.
struct Tree {
    folder: String,
    view: View,
    beside: Vec<(String, Vec<u8>)>,
    epoch: Option<i64>,
    platform: String,
}

/// Exports.
pub(super) async fn export(export: &Export<'_>) -> Result<Written, crate::Error> {
    let sink = export.work.session.output(export.index, &BTreeMap::new()).await?;
    let several = export.results.len() > 1;
    let split = match export.request.attributes.get("platform-split").map(String::as_str) {
        None => several,
        Some("true" | "1" | "") => true,
        Some("false" | "0") => false,
        Some(other) => {
            let (kind, name) = (export.request.kind.clone(), "platform-split".to_owned());
            let reason = "expected true or false".to_owned();
            return Err(Error::BadAttribute { kind, name, value: other.to_owned(), reason }.into());
        }
    };
    let prefix = export.request.attributes.get("attestation-prefix").cloned().unwrap_or_default();
    let mut trees = Vec::new();
    for built in export.results {
        let platform = built.platform.to_string().replace('/', "_");
        let view = match &built.result.live {
            Live::Local(tree) => tree.scanned.view(),
            live => match live.snapshot(&export.work).await? {
                Some(id) => View::of_layers(export.work.engine.store.snapshots().layers(id)?),
                None => View::empty(),
            },
        };
        let said: Vec<Attestation> = built.attestations.iter().filter(|a| !a.inline_only).cloned().collect();
        let suffix = (several && !split).then(|| platform.clone());
        let folder = if split { platform } else { String::new() };
        let name = built.platform.to_string();
        trees.push((folder, view, said, prefix.clone(), suffix, export.epoch(built)?, name));
    }
    blocking("wrote the files", move || {
        let mut made = Vec::new();
        for (folder, view, said, prefix, suffix, epoch, platform) in trees {
            let beside = beside(&view, &said, &prefix, suffix.as_deref(), epoch.is_none())?;
            made.push(Tree { folder, view, beside, epoch, platform });
        }
        if several && !split {
            let mut taken = BTreeMap::new();
            made.iter().try_for_each(|tree| alone(tree, Path::new("/"), &mut taken))?;
        }
        match sink {
            Sink::Directory(folder) => {
                let owners = folder.owners();
                made.iter().try_for_each(|tree| write_directory(tree, folder.path(), owners))?;
                folder.finish().map_err(|source| Error::Write { what: "the files".to_owned(), source })
            }
            Sink::Stream(mut out) => {
                write_tar(&made, &mut out)?;
                out.finish().map_err(|source| Error::Write { what: "the tar".to_owned(), source })
            }
            Sink::Content(_) => {
                Err(Error::Missing { kind: "tar".to_owned(), what: "a place for files, not for blobs" })
            }
        }
    })
    .await?;
    part(export, "sending files");
    Ok(Written::default())
}

/// Refuses a file that two results have, where both go into one folder.
fn alone<'a>(tree: &'a Tree, at: &Path, taken: &mut BTreeMap<PathBuf, &'a str>) -> Result<(), Error> {
    for node in tree.view.list(at)? {
        let path = at.join(&node.name);
        if node.kind == Kind::Dir {
            alone(tree, &path, taken)?;
        } else if let Some(first) = taken.insert(path.clone(), &tree.platform) {
            let file = path.strip_prefix("/").unwrap_or(&path).to_owned();
            return Err(Error::Overwrite { file, first: first.to_owned(), second: tree.platform.clone() });
        }
    }
    Ok(())
}

/// Statements as files: `PREFIX NAME`, with the platform before the ending where several results share a folder.
fn beside(
    view: &View,
    said: &[Attestation],
    prefix: &str,
    suffix: Option<&str>,
    timed: bool,
) -> Result<Vec<(String, Vec<u8>)>, Error> {
    if said.is_empty() {
        return Ok(Vec::new());
    }
    let mut subjects = Vec::new();
    digests(view, Path::new("/"), &mut subjects)?;
    let (mut names, mut files) = (BTreeSet::new(), Vec::new());
    for attestation in said {
        let mut name = format!("{prefix}{}", attestation.file);
        if let Some(suffix) = suffix {
            let (stem, ending) = name.rsplit_once('.').map_or((name.as_str(), None), |(s, e)| (s, Some(e)));
            name = ending.map_or_else(|| format!("{stem}.{suffix}"), |ending| format!("{stem}.{suffix}.{ending}"));
        }
        let taken = view.lookup(&Path::new("/").join(&name))?.is_some();
        if name.contains('/') || taken || !names.insert(name.clone()) {
            let reason = "a file of that name is there already; give them another name with attestation-prefix";
            return Err(Error::Attestations { kind: format!("the file {name}"), reason });
        }
        let statement = attestation.statement(&subjects, &[], timed);
        let text = serde_json::to_vec_pretty(&statement);
        files.push((name, text.map_err(|e| Error::Write { what: "a statement".to_owned(), source: e.into() })?));
    }
    Ok(files)
}

/// Every regular file with its digest: what the statements are about.
fn digests(view: &View, at: &Path, found: &mut Vec<Subject>) -> Result<(), Error> {
    for node in view.list(at)? {
        let path = at.join(&node.name);
        match node.kind {
            Kind::Dir => digests(view, &path, found)?,
            Kind::File => {
                let failed = |source| Error::Write { what: format!("a statement about {}", path.display()), source };
                let mut hasher = Hashing(Hasher::new());
                let mut file = std::fs::File::open(&node.source).map_err(failed)?;
                std::io::copy(&mut file, &mut hasher).map_err(failed)?;
                let name = path.to_string_lossy().trim_start_matches('/').to_owned();
                let digest = BTreeMap::from([("sha256".to_owned(), hasher.0.finish().hex())]);
                found.push(Subject { name, digest });
            }
            _ => {}
        }
    }
    Ok(())
}

struct Hashing(Hasher);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn write_directory(tree: &Tree, folder: &Path, owners: Owners) -> Result<(), Error> {
    let folder = folder.join(&tree.folder);
    store::layer::write_dir(&tree.view, &folder, owners, tree.epoch)?;
    for (name, bytes) in &tree.beside {
        store::layer::write_file(&folder.join(name), bytes, tree.epoch)?;
    }
    Ok(())
}

fn write_tar(trees: &[Tree], out: &mut dyn Write) -> Result<(), Error> {
    let mut tar = store::layer::TarWriter::new(out);
    for tree in trees {
        tar.tree(&tree.folder, &tree.view, tree.epoch)?;
        for (name, bytes) in &tree.beside {
            let path = if tree.folder.is_empty() { name.clone() } else { format!("{}/{name}", tree.folder) };
            tar.file(&path, bytes, tree.epoch)?;
        }
    }
    Ok(tar.finish()?)
}
