//! Files from the web as sources: fetched whenever a build asks for them, named by the digest of their content.
//! Nothing is unpacked here, and no server's word is taken for what a file is.

use std::path::Path;

use graph::{Kind, Vertex};
use oci::Digest;
use solver::key;
use store::canvas::{Attributes, Canvas, set_owner_and_mode, set_time};
use store::{Resource, SnapshotId};

use crate::ops::Doing;
use crate::{Error, Work, blocking, ops, sources};

/// What stands for the client in a URL: BuildKit's name for it.
const UPLOAD: &str = "http://buildkit-session";

/// A file whose content is known and kept as a blob.
pub struct Pinned {
    url: String,
    name: String,
    perm: u32,
    uid: u32,
    gid: u32,
    digest: Digest,
    last_modified: String,
    _held: store::Lease,
}

impl Pinned {
    /// Asks the server, and fetches the file. With a checksum that is here already, nobody is asked.
    pub async fn identify(work: &Work, vertex: &Vertex) -> Result<Pinned, Error> {
        let Some(Kind::Source(op)) = vertex.kind() else {
            return Err(sources::Error::UnknownScheme { identifier: vertex.name() }.into());
        };
        let url = op.identifier.clone();
        let bad = |name: &str, value: &str, reason: &str| sources::Error::BadAttribute {
            identifier: url.clone(),
            name: name.to_owned(),
            value: value.to_owned(),
            reason: reason.to_owned(),
        };
        let number = |name: &str, radix: u32, default: u32| match op.attrs.get(name) {
            None => Ok(default),
            Some(text) => u32::from_str_radix(text.trim_start_matches("0o"), radix)
                .map_err(|_| bad(name, text, "expected a number")),
        };
        let (perm, uid, gid) = (number("http.perm", 8, 0o600)?, number("http.uid", 10, 0)?, number("http.gid", 10, 0)?);
        let path = url.split(['?', '#']).next().unwrap_or(&url);
        let name = op.attrs.get("http.filename").map(String::as_str).or(path.rsplit('/').next());
        let name = name.filter(|n| !n.is_empty() && !n.contains('/')).unwrap_or("download").to_owned();
        let expected = match op.attrs.get("http.checksum") {
            Some(text) => Some(Digest::parse(text).map_err(|e| bad("http.checksum", text, &e.to_string()))?),
            None => None,
        };
        let store = &work.engine.store;
        if let Some(digest) = expected {
            let held = store.leases().hold(Resource::Blob(digest))?;
            if store.blobs().has(&digest)? {
                let last_modified = String::new();
                return Ok(Pinned { url, name, perm, uid, gid, digest, last_modified, _held: held });
            }
        }
        let mut writer = store.blobs().writer()?;
        if let Some(path) = url.strip_prefix(UPLOAD) {
            work.session.upload(path, &mut writer).await?;
            let digest = writer.commit(expected)?.digest;
            let held = store.leases().hold(Resource::Blob(digest))?;
            return Ok(Pinned { url, name, perm, uid, gid, digest, last_modified: String::new(), _held: held });
        }
        let got = work.engine.registry.download(&url, &mut writer).await.map_err(sources::Error::from)?;
        let held = store.leases().hold(Resource::Blob(got.digest))?;
        let blob = writer.commit(expected)?;
        // With a checksum the content alone names the file.
        let last_modified = if expected.is_some() { String::new() } else { got.last_modified };
        Ok(Pinned { url, name, perm, uid, gid, digest: blob.digest, last_modified, _held: held })
    }

    /// Cache digests of the source.
    pub fn keys(&self) -> Vec<Digest> {
        vec![key::http_key(&self.name, self.perm, self.uid, self.gid, &self.digest, &self.last_modified)]
    }

    /// Digest of its bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// A tree with the one file.
    pub async fn snapshot(&self, work: &Work) -> Result<SnapshotId, Error> {
        let (store, digest, url) = (work.engine.store.clone(), self.digest, self.url.clone());
        let path = Path::new("/").join(&self.name);
        let (perm, owner) = (self.perm, (self.uid, self.gid));
        blocking("put a downloaded file into a tree", move || {
            let mut draft = store.snapshots().begin(None)?;
            draft.describe(store::Kind::Regular, &url);
            let mut canvas = Canvas::new(&draft)?;
            let place = canvas.make_room(&path)?;
            let mut file = std::fs::File::create_new(&place).doing("make", &path)?;
            std::io::copy(&mut store.blobs().open(&digest)?, &mut file).doing("write", &path)?;
            let attributes = Attributes::made(perm, Some(owner), None);
            set_owner_and_mode(&place, &attributes).doing("set owner and mode of", &path)?;
            set_time(&place, attributes.time).doing("set the time of", &path)?;
            canvas.finish()?;
            Ok::<_, ops::Error>(draft.commit()?)
        })
        .await
    }
}
