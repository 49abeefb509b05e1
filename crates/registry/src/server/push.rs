//! Pushing blobs, at once or in chunks, and manifests (distribution-spec, "Push").
//! Bytes are digested and written while they arrive; a blob is there when the answer says so, and never in part.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Bytes;
use tokio::sync::OwnedMutexGuard;
use tokio::task::{JoinHandle, spawn_blocking};

use super::answer::{Answer, With, empty};
use super::arriving::Arriving;
use super::contents::Manifest;
use super::digest::{Algorithm, ContentDigest};
use super::document::{self, LARGEST};
use super::guard::{self, Caller};
use super::name::{Repository, Tag, Target, parse_digest};
use super::refusal::Refusal;
use super::service::Ask;
use super::uploads::Upload;
use super::users::Action;
use super::{Registry, format, join, mirror};

/// Bytes that are gathered before they are written.
const BATCH: usize = 512 << 10;

/// How long a client may send nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// How long a request waits for another that writes to the same upload.
const TURN: Duration = Duration::from_secs(10);

/// `POST`: starts an upload, or takes a whole blob, or mounts one.
pub async fn start(registry: &Arc<Registry>, ask: Ask, name: &Repository, caller: &Caller) -> Result<Answer, Refusal> {
    mirror::refuse_push(registry, name)?;
    if let Some(digest) = ask.query.get("mount") {
        let digest = parse_digest(digest)?;
        if mount(registry, &ask, caller, name, &digest).await? {
            return Ok(kept(name, &digest));
        }
    }
    let digest = ask.query.get("digest").map(parse_digest).transpose()?;
    let algorithm = match (&digest, ask.query.get("digest-algorithm")) {
        (Some(digest), _) => digest.algorithm(),
        (None, Some(word)) => Algorithm::parse(word)
            .ok_or_else(|| Refusal::digest_invalid(format!("`{word}` is not supported: sha256 and sha512 are")))?,
        (None, None) => Algorithm::Sha256,
    };
    let upload = {
        let (registry, name) = (registry.clone(), name.clone());
        blocking(move || registry.uploads.start(&name, algorithm)).await?
    };
    match digest {
        None => Ok(accepted(&upload, StatusCode::ACCEPTED)),
        Some(digest) => {
            let turn = turn(&upload).await?;
            receive(&upload, turn, ask.body).await?;
            finish(registry, &upload, &digest).await
        }
    }
}

/// Gives the repository a blob that another one has or, when none is named, that any has or that lies beside the registry.
async fn mount(
    registry: &Arc<Registry>,
    ask: &Ask,
    caller: &Caller,
    name: &Repository,
    digest: &ContentDigest,
) -> Result<bool, Refusal> {
    if let Some(from) = ask.query.get("from") {
        let from = Repository::parse(from)?;
        // Whoever may not read the other repository learns nothing of it.
        let may = guard::may(registry, caller, &from, Action::Pull);
        return Ok(may && registry.contents.mount(name, digest, Some(&from)).await?);
    }
    // Whoever may read everything may have it from wherever it is.
    if !guard::is_open(caller) {
        return Ok(false);
    }
    if registry.contents.mount(name, digest, None).await? {
        return Ok(true);
    }
    let Some(digest256) = digest.sha256() else { return Ok(false) };
    let beside = {
        let registry = registry.clone();
        blocking(move || Ok(registry.neighbour.as_ref().and_then(|find| find(&digest256)))).await?
    };
    match beside {
        None => Ok(false),
        Some(file) => match registry.contents.adopt(name, digest, file).await {
            // It was removed meanwhile: then it is uploaded.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            adopted => Ok(adopted.map(|()| true)?),
        },
    }
}

/// `PATCH`: the next chunk.
pub async fn chunk(registry: &Arc<Registry>, ask: Ask, name: &Repository, id: &str) -> Result<Answer, Refusal> {
    let upload = find(registry, name, id).await?;
    let turn = turn(&upload).await?;
    take(&upload, turn, ask).await?;
    Ok(accepted(&upload, StatusCode::ACCEPTED))
}

/// `PUT`: perhaps the last chunk, and the end.
pub async fn close(registry: &Arc<Registry>, ask: Ask, name: &Repository, id: &str) -> Result<Answer, Refusal> {
    let upload = find(registry, name, id).await?;
    let missing = || Refusal::digest_invalid("closing an upload takes the digest of the whole blob: ?digest=");
    let digest = parse_digest(ask.query.get("digest").ok_or_else(missing)?)?;
    let turn = turn(&upload).await?;
    take(&upload, turn, ask).await?;
    finish(registry, &upload, &digest).await
}

/// `GET`: how far an upload is.
pub async fn status(registry: &Arc<Registry>, name: &Repository, id: &str) -> Result<Answer, Refusal> {
    let upload = find(registry, name, id).await?;
    Ok(accepted(&upload, StatusCode::NO_CONTENT))
}

/// `DELETE`: gives an upload up.
pub async fn cancel(registry: &Arc<Registry>, name: &Repository, id: &str) -> Result<Answer, Refusal> {
    let upload = find(registry, name, id).await?;
    end(registry, &upload).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `PUT` of a manifest.
pub async fn manifest(
    registry: &Arc<Registry>,
    ask: Ask,
    name: &Repository,
    target: &Target,
) -> Result<Answer, Refusal> {
    mirror::refuse_push(registry, name)?;
    let stated = ask.header("content-type").map(|kind| document::bare(kind).to_owned());
    let mut tags = ask
        .query
        .all("tag")
        .map(|text| Tag::parse(text).ok_or(text))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|text| Refusal::manifest_invalid(format!("`{text}` is no tag")))?;
    let bytes = whole(ask.body).await?;
    let digest = match target {
        Target::Tag(tag) => {
            tags.insert(0, tag.clone());
            ContentDigest::of(Algorithm::Sha256, &bytes)
        }
        Target::Digest(digest) => {
            let found = ContentDigest::of(digest.algorithm(), &bytes);
            if found != *digest {
                return Err(Refusal::digest_invalid(format!("expected the bytes of {digest}, got {found}")));
            }
            found
        }
    };
    let media_type = match stated {
        Some(stated) => stated,
        None => media_type_of(&bytes)?,
    };
    let contents = &registry.contents;
    let _held = contents.hold(name, &tags).await;
    let manifest = Manifest { digest, media_type, bytes };
    let (digest, subject, superseded) = match (ask.query.get("join"), target) {
        (None, _) => {
            let digest = manifest.digest.clone();
            (digest, contents.put_manifest(name, manifest, &tags).await?, None)
        }
        (Some("cache"), Target::Tag(tag)) => {
            let (digest, superseded) = join::put(contents, name, tag, manifest, &tags).await?;
            (digest, None, superseded)
        }
        (Some(what), _) => return Err(Refusal::query_invalid(format!("join={what}: a cache is joined at a tag"))),
    };
    if let Some(superseded) = superseded {
        contents.storage.write(format::superseded(name, &superseded), Vec::new()).await?;
    }
    let mut answer = empty(StatusCode::CREATED)
        .with("location", &format!("/v2/{name}/manifests/{digest}"))
        .with("docker-content-digest", &digest.to_string());
    if let Some(subject) = subject {
        answer = answer.with("oci-subject", &subject.to_string());
    }
    if matches!(target, Target::Digest(_)) {
        for tag in tags {
            answer = answer.with("oci-tag", tag.as_str());
        }
    }
    Ok(answer)
}

/// What a manifest calls itself, for a client that did not say.
fn media_type_of(bytes: &[u8]) -> Result<String, Refusal> {
    let document: serde_json::Value = serde_json::from_slice(bytes)
        .map_err(|error| Refusal::manifest_invalid(format!("the manifest can't be read: {error}")))?;
    let stated = document["mediaType"].as_str().map(str::to_owned);
    stated.ok_or_else(|| Refusal::manifest_invalid("neither Content-Type nor `mediaType` says what it is"))
}

/// A body that is small enough to be in memory.
async fn whole(mut body: Arriving) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    while let Some(piece) = next(&mut body).await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > LARGEST {
            return Err(Refusal::manifest_too_large(format!("a manifest may have {LARGEST} bytes")));
        }
    }
    Ok(bytes)
}

async fn find(registry: &Arc<Registry>, name: &Repository, id: &str) -> Result<Arc<Upload>, Refusal> {
    let (registry, name, id) = (registry.clone(), name.clone(), id.to_owned());
    let unknown = Refusal::upload_unknown(format!("{name} has no upload {id}"));
    blocking(move || registry.uploads.find(&name, &id)).await?.ok_or(unknown)
}

/// Waits until no other request writes to the upload.
async fn turn(upload: &Upload) -> Result<OwnedMutexGuard<()>, Refusal> {
    let turn = tokio::time::timeout(TURN, upload.turn.clone().lock_owned()).await;
    turn.map_err(|_| Refusal::out_of_order("another request writes to this upload"))
}

/// Takes a request's body as the next bytes, if it is their turn.
async fn take(upload: &Arc<Upload>, turn: OwnedMutexGuard<()>, ask: Ask) -> Result<(), Refusal> {
    let size = upload.size();
    let mut expected = None;
    if let Some(text) = ask.header("content-range") {
        let range = text.split_once('-').and_then(|(first, last)| Some((digits(first)?, digits(last)?)));
        let wrong = || Refusal::upload_invalid(format!("Content-Range `{text}` is not FIRST-LAST"));
        let (first, last) = range.filter(|(first, last)| first <= last).ok_or_else(wrong)?;
        if first != size {
            let refusal = Refusal::out_of_order(format!("the chunk begins at {first}, expected {size}"));
            return Err(refusal.with("location", location(upload)).with("range", range_of(size)));
        }
        expected = Some(last + 1 - first);
        if ask.length().is_some_and(|length| Some(length) != expected) {
            return Err(Refusal::size_invalid(format!("Content-Range `{text}` is not as long as Content-Length")));
        }
    }
    receive(upload, turn, ask.body).await?;
    let received = upload.size() - size;
    match expected {
        Some(expected) if expected != received => {
            Err(Refusal::size_invalid(format!("Content-Range promised {expected} bytes, {received} came")))
        }
        _ => Ok(()),
    }
}

fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Writes a body at the end of an upload. What came before a connection broke stays, so that the client can go on there.
async fn receive(upload: &Arc<Upload>, turn: OwnedMutexGuard<()>, mut body: Arriving) -> Result<(), Refusal> {
    // The turn goes with each write: if this request is given up, the next waits until its last write has ended.
    let turn = Arc::new(turn);
    let mut writing: Option<JoinHandle<std::io::Result<()>>> = None;
    loop {
        let (pieces, end) = gather(&mut body).await;
        if let Some(writing) = writing.take() {
            joined(writing.await)?;
        }
        if !pieces.is_empty() {
            let (upload, turn) = (upload.clone(), turn.clone());
            let write = move || {
                let written = upload.append(&pieces);
                drop(turn);
                written
            };
            writing = Some(spawn_blocking(write));
        }
        if let Some(end) = end {
            if let Some(writing) = writing {
                joined(writing.await)?;
            }
            return end;
        }
    }
}

/// The next bytes of a body, and how it ended if it did.
async fn gather(body: &mut Arriving) -> (Vec<Bytes>, Option<Result<(), Refusal>>) {
    let (mut pieces, mut size) = (Vec::new(), 0);
    while size < BATCH {
        match next(body).await {
            Ok(Some(piece)) => {
                size += piece.len();
                pieces.push(piece);
            }
            Ok(None) => return (pieces, Some(Ok(()))),
            Err(refusal) => return (pieces, Some(Err(refusal))),
        }
    }
    (pieces, None)
}

async fn next(body: &mut Arriving) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame = tokio::time::timeout(SILENCE, body.frame()).await;
        let frame = frame.map_err(|_| Refusal::upload_invalid(format!("nothing came for {SILENCE:?}")))?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(Refusal::upload_invalid(format!("the connection broke: {error}"))),
            Some(Ok(frame)) => {
                if let Ok(piece) = frame.into_data() {
                    return Ok(Some(piece));
                }
            }
        }
    }
}

/// Makes an upload a blob of its repository.
async fn finish(registry: &Arc<Registry>, upload: &Arc<Upload>, digest: &ContentDigest) -> Result<Answer, Refusal> {
    let finished = {
        let (upload, digest) = (upload.clone(), digest.clone());
        spawn_blocking(move || upload.finish(&digest)).await
    };
    match finished.map_err(|error| Refusal::failed(error.to_string()))? {
        Ok(file) => registry.contents.keep_blob(&upload.repository, digest, file).await?,
        Err(found) => {
            let found = found?;
            end(registry, upload).await?;
            return Err(Refusal::digest_invalid(format!("expected the bytes of {digest}, got {found}")));
        }
    }
    end(registry, upload).await?;
    Ok(kept(&upload.repository, digest))
}

async fn end(registry: &Arc<Registry>, upload: &Arc<Upload>) -> Result<(), Refusal> {
    let (registry, upload) = (registry.clone(), upload.clone());
    Ok(blocking(move || registry.uploads.end(&upload)).await?)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    joined(spawn_blocking(work).await)
}

fn joined<T>(ended: Result<std::io::Result<T>, tokio::task::JoinError>) -> std::io::Result<T> {
    ended.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

fn location(upload: &Upload) -> String {
    format!("/v2/{}/blobs/uploads/{}", upload.repository, upload.id)
}

fn range_of(size: u64) -> String {
    format!("0-{}", size.saturating_sub(1))
}

fn accepted(upload: &Upload, status: StatusCode) -> Answer {
    empty(status)
        .with("location", &location(upload))
        .with("range", &range_of(upload.size()))
        .with("docker-upload-uuid", &upload.id)
}

fn kept(name: &Repository, digest: &ContentDigest) -> Answer {
    empty(StatusCode::CREATED)
        .with("location", &format!("/v2/{name}/blobs/{digest}"))
        .with("docker-content-digest", &digest.to_string())
}
