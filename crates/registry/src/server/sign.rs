//! Which server uses a part of a bucket: an object says it, and is written again every few seconds. One that stays as it is
//! belongs to a server that died. A server that finds it changed, or could not renew it for long, changes nothing any more.
//! It asks for conditional writes (`If-Match`, `If-None-Match`): a bucket that does not know them can't be used.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bucket::Place;
use super::disk::OpenError;
use super::{format, random};
use crate::Error;
use crate::s3::{Only, Written};

/// It is renewed so often.
const RENEW: Duration = Duration::from_secs(4);
/// After so long without renewing it no change begins.
const HOLDS: Duration = Duration::from_secs(12);
/// After so long without renewing it every change has ended.
const ENDS: Duration = Duration::from_secs(18);
/// One that stayed as it is for so long belongs to nobody.
const DEAD: Duration = Duration::from_secs(20);

/// Our sign.
pub struct Sign {
    held: Arc<Held>,
    renewing: tokio::task::JoinHandle<()>,
}

struct Held {
    place: Arc<Place>,
    /// Its key.
    key: String,
    /// Who we are; no two servers are called the same.
    owner: String,
    /// When it was ours last; `None` once it is somebody else's.
    since: Mutex<Option<Instant>>,
}

impl Drop for Sign {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl Sign {
    /// Puts our sign there once nobody else's is alive.
    pub async fn take(place: Arc<Place>, command: &str) -> Result<Sign, OpenError> {
        let failed = |source| OpenError::Io { root: place.root(), source };
        let id: [u8; 8] = random().map_err(failed)?;
        let command = command.replace('\n', " ");
        let owner = format!("process {} (`{command}`) {:016x}", std::process::id(), u64::from_le_bytes(id));
        let key = format!("{}{}", place.prefix, format::LOCK);
        let held = Held { place: place.clone(), key, owner, since: Mutex::new(None) };
        match held.take().await {
            Ok(None) => {}
            Ok(Some(owner)) => return Err(OpenError::Locked { root: place.root(), owner }),
            Err(error) => return Err(failed(io::Error::other(error))),
        }
        let held = Arc::new(held);
        let renewing = tokio::spawn(renew(held.clone()));
        Ok(Sign { held, renewing })
    }

    /// For how long a change that begins now may go on; an error when none may begin.
    pub fn ours(&self) -> io::Result<Duration> {
        match *self.held.since() {
            Some(since) if since.elapsed() < HOLDS => Ok(ENDS.saturating_sub(since.elapsed())),
            Some(_) => Err(io::Error::other("the bucket did not answer for long: nothing is changed until it does")),
            None => {
                Err(io::Error::other("another server has taken the bucket over: this one changes nothing any more"))
            }
        }
    }

    /// Takes the sign down.
    pub async fn remove(&self) {
        self.renewing.abort();
        if self.held.since().take().is_some() {
            // One that stays is one that the next server waits for.
            let _ = self.held.place.bucket.remove(&self.held.key).await;
        }
    }
}

impl Held {
    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the sign is ours, or gives whose it is.
    async fn take(&self) -> Result<Option<String>, Error> {
        let bucket = &self.place.bucket;
        let mut known: Option<(String, Instant)> = None;
        loop {
            let begun = Instant::now();
            let only = match (bucket.read(&self.key).await?, &known) {
                (None, _) => Only::IfAbsent,
                (Some((_, tag)), None) => {
                    known = Some((tag, begun));
                    continue;
                }
                (Some((text, tag)), Some((before, _))) if *before != tag => {
                    let owner = String::from_utf8_lossy(&text);
                    return Ok(Some(owner.lines().next().unwrap_or_default().to_owned()));
                }
                (Some((_, tag)), Some((_, since))) if since.elapsed() >= DEAD => Only::IfSame(tag),
                (Some(_), Some(_)) => {
                    tokio::time::sleep(RENEW / 4).await;
                    continue;
                }
            };
            let written = bucket.write(&self.key, format!("{}\n0", self.owner), &only).await?;
            // It is read again, as a write whose answer was lost is sent twice and overtakes itself.
            if written != Written::Overtaken || self.is_ours().await?.is_some() {
                *self.since() = Some(begun);
                return Ok(None);
            }
            // Somebody was faster: whether they live is seen in the next rounds.
            known = None;
        }
    }

    /// The tag of the sign, if it is ours.
    async fn is_ours(&self) -> Result<Option<String>, Error> {
        let found = self.place.bucket.read(&self.key).await?;
        Ok(found.filter(|(text, _)| text.starts_with(self.owner.as_bytes())).map(|(_, tag)| tag))
    }
}

/// Writes the sign again and again, until it is somebody else's.
async fn renew(held: Arc<Held>) {
    for number in 1_u64.. {
        tokio::time::sleep(RENEW).await;
        let begun = Instant::now();
        // What fails is tried again; meanwhile nothing is changed once it has been too long.
        let Ok(found) = held.is_ours().await else { continue };
        let Some(tag) = found else {
            *held.since() = None;
            return;
        };
        let text = format!("{}\n{number}", held.owner);
        if let Ok(Written::Yes(_)) = held.place.bucket.write(&held.key, text, &Only::IfSame(tag)).await {
            *held.since() = Some(begun);
        }
    }
}
