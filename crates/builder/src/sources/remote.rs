//! What is told of a source from elsewhere besides its files: which commit or file it is, and when that was made.
//! No clock is read, and nothing is built.

use std::collections::BTreeMap;

use graph::{Kind, Vertex};
use oci::Digest;

use super::git::Objects;
use super::{Source, http};
use crate::{Error, Work, blocking};

/// A source of git's or of the web's.
pub enum Remote {
    /// What a reference names.
    Commit {
        /// Its full name, or the commit itself.
        reference: String,
        /// A commit or an annotated tag.
        object: String,
        /// The commit of the tag.
        commit: Option<String>,
        /// The objects themselves, if they are wanted.
        kept: Option<Objects>,
    },
    /// A file.
    File {
        /// Of its content.
        digest: Digest,
        /// Its name in its tree.
        name: String,
        /// Seconds since 1970, as the server says.
        last_modified: Option<i64>,
    },
}

/// Looks at a source; `None` for one that is not of these. `objects`: those of a commit are wanted.
pub async fn look(work: &Work, vertex: &Vertex, objects: bool) -> Result<Option<Remote>, Error> {
    Ok(match Source::identify(work, vertex).await? {
        Source::Git(found) => {
            let kept = if objects { Some(found.objects(work).await?) } else { None };
            let (reference, object, commit) = found.found();
            let (reference, object, commit) = (reference.to_owned(), object.to_owned(), commit.map(str::to_owned));
            Some(Remote::Commit { reference, object, commit, kept })
        }
        Source::Http(file) => {
            let (digest, name, last_modified) = (file.digest(), file.name().to_owned(), file.last_modified());
            Some(Remote::File { digest, name, last_modified })
        }
        Source::Image(_) | Source::Local => None,
    })
}

/// When what it holds was made, in seconds since 1970: a commit's time, what a server says of a file, the newest file of
/// an archive. `None` where it has no time of its own, as a directory.
pub async fn time(work: &Work, vertex: &Vertex) -> Result<Option<i64>, Error> {
    match Source::identify(work, vertex).await? {
        Source::Git(found) => Ok(found.objects(work).await?.committed()),
        Source::Http(file) => match file.last_modified() {
            Some(time) => Ok(Some(time)),
            // A file that is to have a name of its own may be an archive.
            None if attributes(vertex).is_some_and(|attrs| attrs.contains_key("http.filename")) => {
                newest(work, &file).await
            }
            None => Ok(None),
        },
        Source::Image(_) | Source::Local => Ok(None),
    }
}

fn attributes(vertex: &Vertex) -> Option<&BTreeMap<String, String>> {
    match vertex.kind() {
        Some(Kind::Source(op)) => Some(&op.attrs),
        _ => None,
    }
}

async fn newest(work: &Work, file: &http::Pinned) -> Result<Option<i64>, Error> {
    let (store, digest) = (work.engine.store.clone(), file.digest());
    blocking("read the times in an archive", move || {
        let file = store.blobs().open(&digest)?;
        // What breaks off is no archive: the build will say so where it needs one.
        Ok::<_, store::Error>(store::layer::newest(&file).unwrap_or_default())
    })
    .await
}
