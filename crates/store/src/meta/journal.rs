//! The journal: frames appended by `write(2)`, each with its length and a checksum of its bytes.
//! A frame that was written survives the death of the process, as the kernel has it. Across a boot only frames that the
//! file `synced` covers count; a torn or foreign end is cut off. It never waits for a disk.
//!
//! File: `LRDJ`, version (u32 LE), number (u64 LE), then frames: length (u32 LE), checksum (first 8 bytes of blake3),
//! kind (1 byte), payload. Length and checksum are of kind and payload. Kind 0: the id of the boot that writes from here on.
//! Kind 1: a batch, each row as key length (u32), value length + 1 or 0 for a removal (u32), key, value.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Recovered, Value};
use crate::error::{Doing, Error, Result};
use crate::format;

const MAGIC: &[u8; 4] = b"LRDJ";
const HEADER: usize = 16;
const FRAME: usize = 12;
const BOOT: u8 = 0;
const BATCH: u8 = 1;

/// A place in the sequence of all writes: the number of a journal, and how many of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SyncPoint {
    /// The journal.
    pub journal: u64,
    /// Bytes of it.
    pub offset: u64,
}

impl std::fmt::Display for SyncPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.journal, self.offset)
    }
}

/// Reads a [`SyncPoint`]'s text; `None` for any other text.
pub(crate) fn parse_point(text: &str) -> Option<SyncPoint> {
    let (journal, offset) = text.trim().split_once(' ')?;
    Some(SyncPoint { journal: journal.parse().ok()?, offset: offset.parse().ok()? })
}

/// How far the writes of the store at `root` are safe from power loss, if any are.
pub(crate) fn synced(root: &Path) -> Result<Option<SyncPoint>> {
    let path = root.join(format::SYNCED);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(parse_point(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing("read", &path),
    }
}

/// Brings the file system of `root` to disk and then notes that everything before `point` is there. Needs no lock: it is
/// enough that `point` was taken before. Slow: as slow as everything dirty on that file system.
pub(crate) fn mark_synced(root: &Path, point: SyncPoint) -> Result<()> {
    sync_file_system(root)?;
    if synced(root)?.is_some_and(|earlier| earlier >= point) {
        return Ok(());
    }
    let path = root.join(format::SYNCED);
    let new = root.join(format!("{}.{}", format::SYNCED, std::process::id()));
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(point.to_string().as_bytes())?;
        file.sync_data()?;
        std::fs::rename(&new, &path)
    };
    write().doing("write", &path)
}

/// syncfs of the file system that holds `root`.
pub(super) fn sync_file_system(root: &Path) -> Result<()> {
    let folder = File::open(root).doing("open", root)?;
    rustix::fs::syncfs(&folder).doing("bring to disk", root)
}

/// The journal that takes the writes.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    number: u64,
    len: u64,
    boot: String,
}

impl Journal {
    /// Replays the journals of `root` that are newer than `applied` into `each`, cuts off what does not count, removes
    /// what is applied, and opens the newest for writing. Says how many bytes the others have, and what did not count.
    pub(super) fn open(
        root: &Path,
        boot: &str,
        applied: u64,
        mut each: impl FnMut(Vec<u8>, Value),
    ) -> Result<(Journal, u64, Recovered)> {
        let synced = synced(root)?;
        let mut numbers = numbers(root)?;
        let fresh = numbers.partition_point(|number| *number <= applied);
        for number in numbers.drain(..fresh) {
            remove(root, number)?;
        }
        let (mut older, mut dropped) = (0, 0);
        let mut last = None;
        while last.is_none() && !numbers.is_empty() {
            let number = numbers.remove(0);
            let safe = match synced {
                Some(point) if point.journal == number => point.offset,
                Some(point) if point.journal > number => u64::MAX,
                _ => 0,
            };
            let path = path(root, number);
            let bytes = std::fs::read(&path).doing("read", &path)?;
            let (good, ours) = replay(&path, &bytes, boot, safe, &mut each)?;
            dropped += bytes.len() as u64 - good;
            // What follows a cut was written after what is lost, so it does not count either.
            if good < bytes.len() as u64 || numbers.is_empty() {
                last = Some((number, good, ours));
            } else {
                older += good;
            }
        }
        for later in numbers {
            dropped += std::fs::metadata(path(root, later)).map_or(0, |data| data.len());
            remove(root, later)?;
        }
        let (journal, new_boot) = match last {
            Some((number, good, ours)) if good >= HEADER as u64 => {
                (Journal::resume(root, boot, number, good, ours)?, !ours)
            }
            // Not even a header was there: nothing says which boot wrote last.
            Some((number, ..)) => (Journal::create(root, boot, number)?, true),
            None => (Journal::create(root, boot, applied + 1)?, false),
        };
        Ok((journal, older, Recovered { dropped, new_boot }))
    }

    /// Goes on after byte `len`. `ours`: this boot wrote what is before.
    fn resume(root: &Path, boot: &str, number: u64, len: u64, ours: bool) -> Result<Journal> {
        let path = path(root, number);
        let file = OpenOptions::new().read(true).write(true).open(&path).doing("open", &path)?;
        let mut journal = Journal { path, file, number, len, boot: boot.to_owned() };
        journal.cut()?;
        if !ours {
            journal.frame(BOOT, boot.as_bytes())?;
        }
        Ok(journal)
    }

    /// Makes journal `number`, empty.
    pub(super) fn create(root: &Path, boot: &str, number: u64) -> Result<Journal> {
        let path = path(root, number);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).doing("make", &path)?;
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&format::JOURNAL.to_le_bytes());
        header.extend_from_slice(&number.to_le_bytes());
        file.write_all(&header).doing("write", &path)?;
        let mut journal = Journal { path, file, number, len: HEADER as u64, boot: boot.to_owned() };
        journal.frame(BOOT, boot.as_bytes())?;
        Ok(journal)
    }

    /// The next journal, empty; this one takes no more writes.
    pub(super) fn next(&self, root: &Path) -> Result<Journal> {
        Journal::create(root, &self.boot, self.number + 1)
    }

    /// Writes one batch.
    pub(super) fn append(&mut self, rows: &[(Vec<u8>, Value)]) -> Result<()> {
        let size = rows.iter().map(|(k, v)| 8 + k.len() + v.as_ref().map_or(0, |v| v.len())).sum();
        let mut payload = Vec::with_capacity(size);
        for (key, value) in rows {
            let length = value.as_ref().map_or(0, |value| value.len() as u32 + 1);
            payload.extend_from_slice(&(key.len() as u32).to_le_bytes());
            payload.extend_from_slice(&length.to_le_bytes());
            payload.extend_from_slice(key);
            payload.extend_from_slice(value.as_deref().unwrap_or_default());
        }
        self.frame(BATCH, &payload)
    }

    /// Bytes written.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Its number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The place behind the newest write.
    pub(super) fn point(&self) -> SyncPoint {
        SyncPoint { journal: self.number, offset: self.len }
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        let mut frame = Vec::with_capacity(FRAME + 1 + payload.len());
        frame.extend_from_slice(&(payload.len() as u32 + 1).to_le_bytes());
        frame.extend_from_slice(&[0; 8]);
        frame.push(kind);
        frame.extend_from_slice(payload);
        let sum = checksum(&frame[FRAME..]);
        frame[4..FRAME].copy_from_slice(&sum);
        if let Err(error) = self.file.write_all(&frame) {
            // A full disk takes a part of a frame: without it the next write would follow a torn one, and be lost.
            self.cut()?;
            return Err(error).doing("write", &self.path);
        }
        self.len += frame.len() as u64;
        Ok(())
    }

    /// Cuts off what lies behind the last good frame.
    fn cut(&mut self) -> Result<()> {
        self.file.set_len(self.len).doing("cut", &self.path)?;
        self.file.seek(SeekFrom::Start(self.len)).doing("seek in", &self.path)?;
        Ok(())
    }
}

/// Removes journal `number`.
pub(super) fn remove(root: &Path, number: u64) -> Result<()> {
    let path = path(root, number);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).doing("remove", &path),
        _ => Ok(()),
    }
}

/// Removes every journal up to and with `number`.
pub(super) fn remove_up_to(root: &Path, number: u64) -> Result<()> {
    numbers(root)?.into_iter().take_while(|old| *old <= number).try_for_each(|old| remove(root, old))
}

fn path(root: &Path, number: u64) -> PathBuf {
    root.join(format!("{}{number}", format::JOURNAL_PREFIX))
}

/// Numbers of the journals in `root`, rising.
fn numbers(root: &Path) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(root).doing("list", root)? {
        let name = entry.doing("list", root)?.file_name();
        let number: Option<u64> =
            name.to_str().and_then(|name| name.strip_prefix(format::JOURNAL_PREFIX)?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Hands the rows that count to `each`. Returns how many bytes of the file count, and whether this boot wrote the last of
/// them.
fn replay(
    path: &Path,
    bytes: &[u8],
    boot: &str,
    safe: u64,
    each: &mut impl FnMut(Vec<u8>, Value),
) -> Result<(u64, bool)> {
    let Some((header, _)) = bytes.split_at_checked(HEADER) else { return Ok((0, false)) };
    let damaged = |what: String| Error::Damaged { path: path.to_owned(), what };
    if !header.starts_with(MAGIC) {
        return Err(damaged("it does not begin as a journal".to_owned()));
    }
    if header[4..8] != format::JOURNAL.to_le_bytes() {
        let found = header[4..8].iter().rev().fold(0, |n, b| n << 8 | u32::from(*b)).to_string();
        return Err(Error::Version { path: path.to_owned(), found, expected: format::JOURNAL });
    }
    let mut good = HEADER as u64;
    let mut frames = Frames { bytes, at: HEADER };
    let mut ours = false;
    while let Some(frame) = frames.next() {
        let by_us = if frame.kind == BOOT { frame.payload == boot.as_bytes() } else { ours };
        if !by_us && frames.at as u64 > safe {
            break;
        }
        ours = by_us;
        if frame.kind == BATCH {
            rows(frame.payload, each).ok_or_else(|| damaged(format!("a batch of another shape at byte {good}")))?;
        }
        good = frames.at as u64;
    }
    Ok((good, ours))
}

fn rows(mut payload: &[u8], each: &mut impl FnMut(Vec<u8>, Value)) -> Option<()> {
    while !payload.is_empty() {
        let key = take_length(&mut payload)?;
        let value = take_length(&mut payload)?;
        let key = payload.split_off(..key)?.to_vec();
        let value = match value.checked_sub(1) {
            Some(length) => Some(payload.split_off(..length)?.into()),
            None => None,
        };
        each(key, value);
    }
    Some(())
}

fn take_length(bytes: &mut &[u8]) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.split_off(..4)?.try_into().ok()?) as usize)
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    let mut sum = [0; 8];
    sum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    sum
}

struct Frame<'a> {
    kind: u8,
    payload: &'a [u8],
}

/// Good frames from `at` on; ends at the first that is not.
struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;
    fn next(&mut self) -> Option<Frame<'a>> {
        let mut rest = self.bytes.get(self.at..)?;
        let length = take_length(&mut rest)?;
        let sum = rest.split_off(..8)?;
        let body = rest.get(..length)?;
        let (kind, payload) = body.split_first()?;
        if checksum(body) != *sum {
            return None;
        }
        self.at += FRAME + length;
        Some(Frame { kind: *kind, payload })
    }
}
