//! A client's directory on this disk: kept between builds, so that a sync brings only what changed (fsutil's receiver).
//! A match by size and time is never trusted for a file that may have changed since it was read (git's racy entries).

mod content;
mod place;
pub mod pump;
pub mod receive;

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use builder::session::{Directory, Error, Filter, MIRRORS};
use oci::Digest;
use proto::files::Packet;
use proto::filesync::file_sync_client::FileSyncClient;
use store::{Sharing, Store, Volume, VolumeRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::{Request, Status};

use super::{Client, MESSAGE};
use receive::{Mirror, Received, Receiver};

/// A file system's clock may be behind the machine's by so much: nanoseconds.
const CLOCK_STEP: i64 = 20_000_000;

/// Brings a mirror of the client's directory up to date. It stays as it is until the directory's guard is dropped: a
/// build that syncs the same directory meanwhile gets a mirror of its own.
pub async fn sync(store: &Store, client: &Arc<Client>, name: &str, wanted: &Filter) -> Result<Directory, Error> {
    let volume = take(store, client, name, &wanted.hint).await?;
    let began = now();
    let note = volume.path().join("synced");
    let mut mirror = read(&note);
    let root = volume.path().join("tree");
    // Clients without a key share one mirror, and know nothing of each other's files.
    if client.shared_key.is_empty() || client.verify {
        mirror.synced = i64::MIN;
    }
    // What a transfer that fails leaves is no longer known to be plain.
    write(&note, Mirror { plain: false, ..mirror })?;
    let Received { transferred, plain, known } = transfer(client, name, wanted, &root, mirror).await?;
    write(&note, Mirror { synced: began - CLOCK_STEP, plain })?;
    let identity = root.to_string_lossy().into_owned();
    let guard: Option<Arc<dyn Send + Sync>> = Some(Arc::new(std::sync::Mutex::new(volume)));
    Ok(Directory { root, identity, mirror: Some(known), transferred, guard })
}

/// What is known of a mirror: the time, and `plain` if it is. Of a new one: nothing is in it.
fn read(note: &Path) -> Mirror {
    let text = std::fs::read_to_string(note).unwrap_or_else(|_| format!("{} plain", i64::MIN));
    let (time, rest) = text.split_once(' ').unwrap_or((&text, ""));
    Mirror { synced: time.parse().unwrap_or(i64::MIN), plain: rest == "plain" }
}

fn write(note: &Path, mirror: Mirror) -> Result<(), Error> {
    let text = format!("{}{}", mirror.synced, if mirror.plain { " plain" } else { "" });
    std::fs::write(note, text).map_err(|source| Error::Write { path: note.to_owned(), source })
}

async fn take(store: &Store, client: &Client, name: &str, hint: &str) -> Result<Volume, Error> {
    let key = &client.shared_key;
    let id = format!("{MIRRORS}{name}:{hint}:{}", Digest::of(key.as_bytes()).hex());
    let (store, about) = (store.clone(), format!("local source for {name}"));
    let taken = tokio::task::spawn_blocking(move || {
        let request = VolumeRequest { name: &id, seed: None, sharing: Sharing::Private, description: &about };
        let mut volume = store.volumes().take(&request, &mut || std::ops::ControlFlow::Continue(()))?;
        volume.filled()?;
        Ok::<_, store::Error>(volume)
    });
    let taken = taken.await.map_err(|_| Error::Gone { what: format!("the directory {name}") })?;
    taken.map_err(|e| Error::Other(e.to_string()))
}

async fn transfer(
    client: &Client,
    name: &str,
    wanted: &Filter,
    root: &Path,
    mirror: Mirror,
) -> Result<Received, Error> {
    let (ask, asked) = mpsc::unbounded_channel::<Packet>();
    let mut request = Request::new(UnboundedReceiverStream::new(asked));
    let metadata = request.metadata_mut();
    append(metadata, "dir-name", &[name.to_owned()]);
    append(metadata, "include-patterns", &wanted.include);
    append(metadata, "exclude-patterns", &wanted.exclude);
    append(metadata, "followpaths", &wanted.follow);
    let mut service = FileSyncClient::new(client.channel()).max_decoding_message_size(MESSAGE);
    let refused = |status: Status| match status.code() {
        tonic::Code::NotFound => Error::NoDirectory { name: name.to_owned() },
        _ => Error::Other(format!("can't sync the client's directory {name}: {}", status.message())),
    };
    let mut incoming = service.diff_copy(request).await.map_err(refused)?.into_inner();
    let (pump, mut packets) = pump::pump();
    let root = root.to_owned();
    let writing = tokio::task::spawn_blocking(move || {
        let mut receiver = Receiver::new(&root, mirror, ask)?;
        while let Some(some) = packets.next() {
            some.into_iter().try_for_each(|packet| receiver.take(packet))?;
        }
        receiver.finish()
    });
    let passed = pump.run(&mut incoming).await.map_err(refused);
    let written = writing.await.map_err(|_| Error::Gone { what: format!("the directory {name}") })?;
    passed?;
    written.map_err(|e| e.of(name))
}

/// Values as the client reads them: escaped when one of them is not plain ASCII.
fn append(metadata: &mut MetadataMap, key: &'static str, values: &[String]) {
    let plain = values.iter().all(|v| v.bytes().all(|b| (0x20..0x7f).contains(&b)));
    for value in values {
        let text = if plain { value.clone() } else { escaped(value) };
        if let Ok(value) = MetadataValue::try_from(text) {
            metadata.append(key, value);
        }
    }
    let flag = MetadataKey::from_bytes(format!("{key}-encoded").as_bytes());
    if let (false, Ok(flag)) = (plain, flag) {
        metadata.insert(flag, MetadataValue::from_static("1"));
    }
}

/// URL query escaping.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, b| {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(b)),
            b' ' => out.push('+'),
            b => out.push_str(&format!("%{b:02X}")),
        }
        out
    })
}

/// Nanoseconds since 1970.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}
