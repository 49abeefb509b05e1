//! Files from the web as sources: named by the digest of their content, and fetched whenever a build asks for them, unless
//! the server says that what is here is what it has. Nothing is unpacked here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use graph::{Kind, Vertex};
use oci::Digest;
use rustix::fs::Timespec;
use serde::{Deserialize, Serialize};
use solver::key::{self, Asking};
use store::canvas::{Attributes, Canvas, set_owner_and_mode, set_time};
use store::{Resource, Sharing, SnapshotId, Volume, VolumeRequest};

use crate::ops::Doing;
use crate::{Error, Work, blocking, ops, sources};

/// Names of volumes that remember files begin with this: no cache mount gets one of them.
pub const VOLUMES: &str = "larder.http/";

/// What stands for the client in a URL: BuildKit's name for it.
const UPLOAD: &str = "http://buildkit-session";

/// A file whose content is known and kept as a blob.
pub struct Pinned {
    url: String,
    name: String,
    perm: u32,
    owner: (u32, u32),
    asking: Asking,
    digest: Digest,
    /// Seconds since 1970.
    last_modified: Option<i64>,
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
        let (perm, owner) = (number("http.perm", 8, 0o600)?, (number("http.uid", 10, 0)?, number("http.gid", 10, 0)?));
        if let Some((name, value)) = op.attrs.iter().find(|(name, _)| name.starts_with("http.sig.")) {
            return Err(bad(name, value, "signatures of files are not checked here").into());
        }
        let asking = asking(&op.attrs);
        let named = op.attrs.get("http.filename").filter(|name| !name.is_empty());
        let name = |disposition: &str| named.map_or_else(|| name_of(&url, disposition), |name| safe(name));
        let expected = match op.attrs.get("http.checksum") {
            Some(text) => Some(Digest::parse(text).map_err(|e| bad("http.checksum", text, &e.to_string()))?),
            None => None,
        };
        let store = &work.engine.store;
        if let Some(digest) = expected {
            let held = store.leases().hold(Resource::Blob(digest))?;
            if store.blobs().has(&digest)? {
                let name = name("");
                return Ok(Pinned { url, name, perm, owner, asking, digest, last_modified: None, _held: held });
            }
        }
        if let Some(path) = url.strip_prefix(UPLOAD) {
            let mut writer = store.blobs().writer()?;
            work.session.upload(path, &mut writer).await?;
            let digest = writer.commit(expected)?.digest;
            let held = store.leases().hold(Resource::Blob(digest))?;
            let name = name("");
            return Ok(Pinned { url, name, perm, owner, asking, digest, last_modified: None, _held: held });
        }
        let fetch = || fetched(work, &url, &asking, expected);
        let got = match work.seen.files.ask(asked(&url, &asking), fetch).await? {
            // Asked for without a checksum before: the server may have another by now.
            other if expected.is_some_and(|expected| expected != other.known.digest) => fetch().await?,
            got => got,
        };
        // With a checksum the content alone names the file, whether anybody was asked or not.
        let name = name(if expected.is_none() { &got.known.disposition } else { "" });
        let last_modified = seconds(&got.known.last_modified).filter(|_| expected.is_none());
        Ok(Pinned { url, name, perm, owner, asking, digest: got.known.digest, last_modified, _held: got.held })
    }

    /// Cache digests of the source.
    pub fn keys(&self) -> Vec<Digest> {
        let time = self.last_modified.and_then(|seconds| u64::try_from(seconds).ok());
        let time = time.map(|seconds| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds)));
        let time = time.unwrap_or_default();
        vec![key::http_key(&self.name, self.perm, self.owner, &self.digest, &time, &self.asking)]
    }

    /// Where it is, for people. What a client sends comes from its standard input, and the name it has on the way is new
    /// each time.
    pub fn shown(&self) -> &str {
        if self.url.starts_with(UPLOAD) { "standard input" } else { &self.url }
    }

    /// Digest of its bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The file's name in its tree.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When it was changed as the server says, in seconds since 1970. With a checksum nobody is asked.
    pub fn last_modified(&self) -> Option<i64> {
        self.last_modified
    }

    /// A tree with the one file.
    pub async fn snapshot(&self, work: &Work) -> Result<SnapshotId, Error> {
        let (store, digest, url) = (work.engine.store.clone(), self.digest, self.url.clone());
        let path = Path::new("/").join(&self.name);
        let (perm, owner) = (self.perm, self.owner);
        let time = Timespec { tv_sec: self.last_modified.unwrap_or(0), tv_nsec: 0 };
        blocking("put a downloaded file into a tree", move || {
            let mut draft = store.snapshots().begin(None)?;
            draft.describe(store::Kind::Regular, &url);
            let mut canvas = Canvas::new(&draft)?;
            let place = canvas.make_room(&path)?;
            let mut file = std::fs::File::create_new(&place).doing("make", &path)?;
            std::io::copy(&mut store.blobs().open(&digest)?, &mut file).doing("write", &path)?;
            let attributes = Attributes::made(perm, Some(owner), Some(time));
            set_owner_and_mode(&place, &attributes).doing("set owner and mode of", &path)?;
            set_time(&place, attributes.time).doing("set the time of", &path)?;
            canvas.finish()?;
            Ok::<_, ops::Error>(draft.commit()?)
        })
        .await
    }
}

/// A file that is here.
#[derive(Clone)]
pub struct Got {
    known: Known,
    held: store::Lease,
}

/// The file, from the server unless what is here is what it has.
async fn fetched(work: &Work, url: &str, asking: &Asking, expected: Option<Digest>) -> Result<Got, Error> {
    let headers = headers(work, url, asking).await?;
    // One step at a time asks for a file: the others find what it brought.
    let memory = Memory::open(work, url, asking).await?;
    if let Some(got) = memory.still(work, url, &headers).await?
        && expected.is_none_or(|expected| expected == got.known.digest)
    {
        return Ok(got);
    }
    let store = &work.engine.store;
    let mut writer = store.blobs().writer()?;
    let got = work.engine.registry.download(url, &headers, &mut writer).await.map_err(sources::Error::from)?;
    let registry::Download { digest, last_modified, etag, disposition } = got;
    let held = store.leases().hold(Resource::Blob(digest))?;
    writer.commit(expected)?;
    let known = Known { digest, last_modified, etag, disposition };
    memory.note(&known)?;
    Ok(Got { known, held })
}

/// What a server said of a file that it gave.
#[derive(Clone, Serialize, Deserialize)]
struct Known {
    digest: Digest,
    last_modified: String,
    etag: String,
    #[serde(default)]
    disposition: String,
}

/// How the attributes want the file to be asked for. Headers that BuildKit does not know are not sent.
fn asking(attributes: &BTreeMap<String, String>) -> Asking {
    const KNOWN: [&str; 2] = ["Accept", "User-Agent"];
    let known = |wanted: &str| KNOWN.into_iter().find(|name| name.eq_ignore_ascii_case(wanted));
    let header = |(name, value): (&String, &String)| {
        Some((known(name.strip_prefix("http.header.")?)?.to_owned(), value.clone()))
    };
    let mut headers: Vec<(String, String)> = attributes.iter().filter_map(header).collect();
    headers.sort();
    Asking { secret: attributes.get("http.authheadersecret").cloned().unwrap_or_default(), headers }
}

/// The headers themselves. The client's secret for the host goes along where none is named: `HTTP_AUTH_HEADER_` or
/// `HTTP_AUTH_TOKEN_` and the host's name.
async fn headers(work: &Work, url: &str, asking: &Asking) -> Result<Vec<(String, String)>, Error> {
    let mut headers = asking.headers.clone();
    let text = |secret: Vec<u8>| String::from_utf8_lossy(&secret).into_owned();
    let mut login = None;
    if !asking.secret.is_empty() {
        let id = asking.secret.clone();
        let secret = work.session.secret(&id).await?.ok_or(ops::Error::NoSecret { id })?;
        login = Some(text(secret));
    } else if let Some(host) = registry::host_of(url) {
        if let Some(token) = work.session.secret(&format!("HTTP_AUTH_TOKEN_{host}")).await? {
            login = Some(format!("Bearer {}", text(token)));
        } else if let Some(header) = work.session.secret(&format!("HTTP_AUTH_HEADER_{host}")).await? {
            login = Some(text(header));
        }
    }
    headers.extend(login.map(|login| ("Authorization".to_owned(), login)));
    Ok(headers)
}

/// The name that a server gives to a file, or else the last part of its address.
fn name_of(url: &str, disposition: &str) -> String {
    let parameters = disposition.split(';').skip(1).filter_map(|part| part.trim().split_once('='));
    let given =
        parameters.filter(|(key, _)| key.eq_ignore_ascii_case("filename")).map(|(_, name)| name.trim_matches('"'));
    if let Some(name) = given.filter(|name| !name.is_empty() && !name.ends_with('/')).last() {
        return safe(name);
    }
    let path = url.split(['?', '#']).next().unwrap_or(url);
    safe(path.rsplit('/').next().unwrap_or_default())
}

/// A name that is one, whatever a server or a client wrote.
fn safe(name: &str) -> String {
    let last = name.trim().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let odd = matches!(last, "" | "." | "..") || last.chars().any(char::is_control);
    if odd { "download".to_owned() } else { last.to_owned() }
}

/// A name for a question: who asks in another way may be given another file.
fn asked(url: &str, asking: &Asking) -> String {
    if *asking == Asking::default() { url.to_owned() } else { format!("{url} {asking:?}") }
}

/// What is remembered of an address, in a volume of the store, so that a file which did not change is not fetched again.
struct Memory {
    volume: Volume,
}

impl Memory {
    async fn open(work: &Work, url: &str, asking: &Asking) -> Result<Memory, Error> {
        let (store, cancel) = (work.engine.store.clone(), work.cancel.clone());
        let (name, description) =
            (format!("{VOLUMES}{}", Digest::of(asked(url, asking).as_bytes()).hex()), format!("http url {url}"));
        let volume = blocking("waited for a file from the web", move || {
            let request =
                VolumeRequest { name: &name, seed: None, sharing: Sharing::Locked, description: &description };
            let mut waiting = || match cancel.is_cancelled() {
                true => std::ops::ControlFlow::Break(()),
                false => std::ops::ControlFlow::Continue(()),
            };
            match store.volumes().take(&request, &mut waiting) {
                Err(_) if cancel.is_cancelled() => Err(ops::Error::Cancelled),
                taken => Ok(taken?),
            }
        });
        Ok(Memory { volume: volume.await? })
    }

    fn path(&self) -> PathBuf {
        self.volume.path().join("known.json")
    }

    /// What is here of the file, if the server says that it is the same.
    async fn still(&self, work: &Work, url: &str, headers: &registry::Headers) -> Result<Option<Got>, Error> {
        // What can't be read is forgotten.
        let read = std::fs::read(self.path()).ok().and_then(|json| serde_json::from_slice::<Known>(&json).ok());
        let Some(known) = read.filter(|known| !known.etag.is_empty()) else { return Ok(None) };
        let store = &work.engine.store;
        let held = store.leases().hold(Resource::Blob(known.digest))?;
        if !store.blobs().has(&known.digest)? {
            return Ok(None);
        }
        let same = work.engine.registry.is_unchanged(url, headers, &known.etag).await.map_err(sources::Error::from)?;
        Ok(same.then_some(Got { known, held }))
    }

    fn note(mut self, known: &Known) -> Result<(), Error> {
        let (path, json) = (self.path(), serde_json::to_vec(known).map_err(std::io::Error::other));
        json.and_then(|json| std::fs::write(&path, json)).doing("write", &path)?;
        if self.volume.fresh() {
            self.volume.filled()?;
        }
        Ok(())
    }
}

/// A time of HTTP (RFC 9110, 5.6.7) in seconds since 1970. Some servers end the old form with another name than GMT.
fn seconds(text: &str) -> Option<i64> {
    let text = match text.rsplit_once(' ') {
        Some((time, zone)) if text.contains('-') && zone.chars().all(|c| c.is_ascii_uppercase()) => {
            format!("{time} GMT")
        }
        _ => text.to_owned(),
    };
    let time = httpdate::parse_http_date(&text).ok()?;
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::{name_of, seconds};

    #[test]
    fn names_are_one_part_of_a_path() {
        for (url, disposition, name) in [
            ("http://h/a/b?c=d", "", "b"),
            ("http://h/", "", "download"),
            ("http://h/a", "attachment; filename=\"my img.jpg\"", "my img.jpg"),
            ("http://h/a", "attachment; filename=\"../../etc/passwd\"", "passwd"),
            ("http://h/a", "attachment; filename=\"..\"", "download"),
            ("http://h/a", "attachment; filename=b/", "a"),
            ("http://h/a", "inline", "a"),
        ] {
            assert_eq!(name_of(url, disposition), name, "{url} {disposition}");
        }
    }

    #[test]
    fn times_of_servers() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 UTC",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(seconds(text), Some(784_111_777), "{text}");
        }
        for text in ["", "yesterday", "1994-11-06T08:49:37Z"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
