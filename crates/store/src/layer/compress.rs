//! Compression on all cores: blocks of the stream are compressed side by side and written in order. The bytes do not
//! depend on the number of cores. It never buffers more than a few blocks.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, RecvError, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use libdeflater::{CompressionLvl, Compressor};
use oci::{Digest, Hasher};

use super::Compression;
use super::members::{Key, Made};
use super::pool::{Buffer, Pool};
use crate::Store;

/// Bytes of a block: large enough that a gzip member each costs next to nothing.
pub(super) const BLOCK: usize = 1 << 20;

/// Digest and length of the uncompressed stream.
pub struct Plain {
    pub digest: Digest,
    pub size: u64,
}

/// What is written to be compressed.
pub trait Sink: Write {
    /// What follows begins a block: the same bytes behind it give the same blocks, whatever was before.
    fn begin_block(&mut self) -> io::Result<()>;

    /// Writes what `from` gives until it ends. Gives how much that was, in bytes.
    fn take(&mut self, from: &mut dyn Read) -> io::Result<u64>;
}

/// Passes what `produce` writes through the compression into `out`, and hashes the plain bytes beside it where that is
/// wanted. Blocks that were compressed before for `store` are taken from there; gives what others can be taken from.
pub fn stream<W: Write + Send>(
    store: &Store,
    compression: Compression,
    hash: bool,
    out: W,
    produce: impl FnOnce(&mut dyn Sink) -> io::Result<()>,
) -> io::Result<(W, Option<Plain>, Vec<Made>)> {
    std::thread::scope(|scope| {
        let mut split = Split::start(scope, store, compression, hash, out);
        let produced = produce(&mut split);
        let ended = split.finish();
        match (produced, ended) {
            // Who writes sees only that nobody takes blocks any more; why is what the packer says.
            (Err(gone), Err(why)) if gone.kind() == io::ErrorKind::BrokenPipe => Err(why),
            (produced, ended) => produced.and(ended),
        }
    })
}

type Block = std::sync::Arc<Buffer>;

/// The plain end: gives each block to the hasher and to the compressors.
struct Split<'s, W> {
    /// Always of a block's length.
    block: Buffer,
    /// How much of it is filled.
    filled: usize,
    blocks: Pool,
    hash: Option<SyncSender<Block>>,
    pack: Option<SyncSender<Block>>,
    hasher: Option<ScopedJoinHandle<'s, Plain>>,
    packer: ScopedJoinHandle<'s, io::Result<(W, Vec<Made>)>>,
}

impl<'s, W: Write + Send + 's> Split<'s, W> {
    fn start<'e>(
        scope: &'s Scope<'s, 'e>,
        store: &'e Store,
        compression: Compression,
        hash: bool,
        out: W,
    ) -> Split<'s, W> {
        let (pack, to_pack) = sync_channel::<Block>(4);
        let (hash, hasher) = if hash {
            let (hash, to_hash) = sync_channel::<Block>(4);
            (Some(hash), Some(scope.spawn(move || hashed(&to_hash))))
        } else {
            (None, None)
        };
        let packer = scope.spawn(move || match compression {
            Compression::None => Ok((plain(&to_pack, out)?, Vec::new())),
            Compression::Gzip(level) => gzip(scope, store, &to_pack, out, level),
            Compression::Zstd(level) => Ok((zstd(&to_pack, out, level)?, Vec::new())),
        });
        let blocks = Pool::default();
        Split { block: empty(&blocks), filled: 0, blocks, hash, pack: Some(pack), hasher, packer }
    }

    fn send(&mut self) -> io::Result<()> {
        let mut block = std::mem::replace(&mut self.block, empty(&self.blocks));
        block.truncate(std::mem::take(&mut self.filled));
        let block = Block::new(block);
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        if let Some(hash) = &self.hash {
            hash.send(block.clone()).map_err(|_| gone())?;
        }
        self.pack.as_ref().ok_or_else(gone)?.send(block).map_err(|_| gone())
    }

    /// So many bytes more of the block are filled.
    fn fill(&mut self, count: usize) -> io::Result<()> {
        self.filled += count;
        if self.filled == BLOCK { self.send() } else { Ok(()) }
    }

    fn finish(mut self) -> io::Result<(W, Option<Plain>, Vec<Made>)> {
        // When the packer is gone, its own error says why.
        let sent = self.begin_block();
        (self.hash, self.pack) = (None, None);
        let lost = |_| ended_early();
        let (out, made) = self.packer.join().map_err(lost)??;
        let plain = self.hasher.map(ScopedJoinHandle::join).transpose().map_err(lost)?;
        sent.map(|()| (out, plain, made))
    }
}

impl<'s, W: Write + Send + 's> Write for Split<'s, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = &mut self.block[self.filled..];
        let count = bytes.len().min(room.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.fill(count)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'s, W: Write + Send + 's> Sink for Split<'s, W> {
    fn begin_block(&mut self) -> io::Result<()> {
        if self.filled == 0 { Ok(()) } else { self.send() }
    }

    fn take(&mut self, from: &mut dyn Read) -> io::Result<u64> {
        let mut taken = 0;
        loop {
            match from.read(&mut self.block[self.filled..]) {
                Ok(0) => return Ok(taken),
                Ok(count) => {
                    taken += count as u64;
                    self.fill(count)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn empty(blocks: &Pool) -> Buffer {
    let mut block = blocks.take();
    block.resize(BLOCK, 0);
    block
}

fn ended_early() -> io::Error {
    io::Error::other("a thread that compressed ended early")
}

fn hashed(blocks: &Receiver<Block>) -> Plain {
    let (mut hasher, mut size) = (Hasher::new(), 0);
    for block in blocks {
        hasher.update(block.as_slice());
        size += block.len() as u64;
    }
    Plain { digest: hasher.finish(), size }
}

fn plain<W: Write>(blocks: &Receiver<Block>, mut out: W) -> io::Result<W> {
    for block in blocks {
        out.write_all(&block)?;
    }
    Ok(out)
}

/// One gzip member a block (RFC 1952, 2.2: a file is a series of members).
fn gzip<'s, 'e, W: Write>(
    scope: &'s Scope<'s, 'e>,
    store: &'e Store,
    blocks: &Receiver<Block>,
    mut out: W,
    level: u32,
) -> io::Result<(W, Vec<Made>)> {
    let level = i32::try_from(level).unwrap_or(6).clamp(0, 12);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut workers: Vec<Worker> = Vec::new();
    let (mut begun, mut ended, mut at, mut made) = (0, 0, 0, Vec::new());
    let mut write = |worker: &Worker| -> io::Result<()> {
        let (key, member) = worker.done.recv().map_err(|RecvError| ended_early())??;
        out.write_all(&member)?;
        made.extend(key.map(|key| Made { key, at, length: member.len() }));
        at += member.len() as u64;
        Ok(())
    };
    // Blocks go to the workers in turn, and come back in turn.
    for block in blocks {
        if begun - ended == threads * AHEAD {
            write(&workers[ended % threads])?;
            ended += 1;
        }
        if begun < threads {
            workers.push(Worker::start(scope, store, level));
        }
        workers[begun % threads].todo.send(block).map_err(|_| ended_early())?;
        begun += 1;
    }
    while ended < begun {
        write(&workers[ended % threads])?;
        ended += 1;
    }
    if begun == 0 {
        out.write_all(&member(&mut compressor(level)?, &[], Pool::default().take())?)?;
    }
    Ok((out, made))
}

/// Blocks that a worker has before it or behind it.
const AHEAD: usize = 2;

/// A thread that compresses.
struct Worker {
    todo: SyncSender<Block>,
    done: Receiver<io::Result<(Option<Key>, Buffer)>>,
}

impl Worker {
    fn start<'s, 'e>(scope: &'s Scope<'s, 'e>, store: &'e Store, level: i32) -> Worker {
        let (todo, blocks) = sync_channel::<Block>(AHEAD);
        let (ready, done) = sync_channel(AHEAD);
        scope.spawn(move || {
            let (mut compressor, members) = (compressor(level), Pool::default());
            for block in blocks {
                let made = match &mut compressor {
                    Ok(compressor) => found_or_made(store, compressor, level, &block, members.take()),
                    Err(error) => Err(io::Error::other(error.to_string())),
                };
                // Nobody wants it where writing failed.
                if ready.send(made).is_err() {
                    break;
                }
            }
        });
        Worker { todo, done }
    }
}

/// A block's member, and what it can be found by if it may come again: the end of a stream or file does not.
fn found_or_made(
    store: &Store,
    compressor: &mut Compressor,
    level: i32,
    block: &[u8],
    mut made: Buffer,
) -> io::Result<(Option<Key>, Buffer)> {
    if block.len() < BLOCK {
        return Ok((None, member(compressor, block, made)?));
    }
    let key = (level, libdeflater::crc32(block));
    match store.0.members.find(store, key, block) {
        Some(found) => *made = found,
        None => made = member(compressor, block, made)?,
    }
    Ok((Some(key), made))
}

fn compressor(level: i32) -> io::Result<Compressor> {
    let level = CompressionLvl::new(level).map_err(|e| io::Error::other(format!("{e:?}")))?;
    Ok(Compressor::new(level))
}

fn member(compressor: &mut Compressor, block: &[u8], mut made: Buffer) -> io::Result<Buffer> {
    made.resize(compressor.gzip_compress_bound(block.len()), 0);
    let length = compressor.gzip_compress(block, &mut made).map_err(io::Error::other)?;
    made.truncate(length);
    Ok(made)
}

fn zstd<W: Write>(blocks: &Receiver<Block>, out: W, level: i32) -> io::Result<W> {
    let mut encoder = zstd::Encoder::new(out, level)?;
    // With workers the bytes are the same for any number of them, and others than without.
    encoder.multithread(std::thread::available_parallelism().map_or(1, |n| n.get() as u32))?;
    for block in blocks {
        encoder.write_all(&block)?;
    }
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk without room.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_what_is_told() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), crate::Options::default()).unwrap();
        for compression in [Compression::None, Compression::Gzip(1), Compression::Zstd(1)] {
            let made = stream(&store, compression, true, Full, |out| {
                // More than what waits between the threads, so that the writer finds the packer gone.
                (0..64).try_for_each(|_| out.write_all(&vec![7; BLOCK]))
            });
            assert_eq!(made.err().map(|e| e.kind()), Some(io::ErrorKind::StorageFull), "{compression:?}");
        }
    }
}
