//! `type=tar` and `type=local`: the result's files, without an image around them.

use std::collections::BTreeMap;
use std::path::Path;

use store::layer::Owners;
use store::view::View;

use super::{Error, Export, assemble::part};
use crate::session::Sink;
use crate::{Live, blocking};

/// Exports.
pub(super) async fn export(export: &Export<'_>) -> Result<BTreeMap<String, String>, crate::Error> {
    let sink = export.work.session.output(export.index, &BTreeMap::new()).await?;
    let split = export.results.len() > 1;
    let mut views = Vec::new();
    for built in export.results {
        let name = split.then(|| built.platform.to_string().replace('/', "_"));
        let view = match &built.result.live {
            Live::Local(tree) => tree.scanned.view(),
            live => match live.snapshot(&export.work).await? {
                Some(id) => View::of_layers(export.work.engine.store.snapshots().layers(id)?),
                None => View::empty(),
            },
        };
        views.push((name, view));
    }
    let clamp = export.epoch;
    blocking("wrote the files", move || match sink {
        Sink::Directory(folder) => {
            write_directories(&views, folder.path(), folder.owners())?;
            folder.finish().map_err(|source| Error::Write { what: "the files".to_owned(), source })
        }
        Sink::Stream(mut out) => {
            let [(_, view)] = views.as_slice() else {
                let what = "one platform: a tar of several is not built yet; use type=local";
                return Err(Error::Missing { kind: "tar".to_owned(), what });
            };
            store::layer::write_tar(view, &mut out, clamp)?;
            out.finish().map_err(|source| Error::Write { what: "the tar".to_owned(), source })
        }
        Sink::Content(_) => Err(Error::Missing { kind: "tar".to_owned(), what: "a place for files, not for blobs" }),
    })
    .await?;
    part(export, "sending files");
    Ok(BTreeMap::new())
}

fn write_directories(views: &[(Option<String>, View)], folder: &Path, owners: Owners) -> Result<(), Error> {
    for (name, view) in views {
        let folder = name.as_ref().map_or_else(|| folder.to_owned(), |name| folder.join(name));
        store::layer::write_dir(view, &folder, owners)?;
    }
    Ok(())
}
