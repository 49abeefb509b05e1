//! Compression on all cores: blocks of the stream are compressed side by side and written in order. The bytes do not
//! depend on the number of cores. It never buffers more than a few blocks.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{JoinHandle, Scope, ScopedJoinHandle};

use oci::{Digest, Hasher};

use super::Compression;

/// Bytes of a block: large enough that a gzip member each costs next to nothing.
const BLOCK: usize = 1 << 20;

/// Digest and length of the uncompressed stream.
pub struct Plain {
    pub digest: Digest,
    pub size: u64,
}

/// Passes what `produce` writes through the compression into `out`, and hashes the plain bytes beside it.
pub fn stream<W: Write + Send>(
    compression: Compression,
    out: W,
    produce: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<(W, Plain)> {
    std::thread::scope(|scope| {
        let mut split = Split::start(scope, compression, out);
        let produced = produce(&mut split);
        let ended = split.finish();
        produced?;
        ended
    })
}

type Block = std::sync::Arc<Vec<u8>>;

/// The plain end: gives each block to the hasher and to the compressors.
struct Split<'s, W> {
    block: Vec<u8>,
    hash: Option<SyncSender<Block>>,
    pack: Option<SyncSender<Block>>,
    hasher: ScopedJoinHandle<'s, Plain>,
    packer: ScopedJoinHandle<'s, io::Result<W>>,
}

impl<'s, W: Write + Send + 's> Split<'s, W> {
    fn start<'e>(scope: &'s Scope<'s, 'e>, compression: Compression, out: W) -> Split<'s, W> {
        let (hash, to_hash) = sync_channel::<Block>(4);
        let (pack, to_pack) = sync_channel::<Block>(4);
        let hasher = scope.spawn(move || hashed(&to_hash));
        let packer = scope.spawn(move || match compression {
            Compression::None => plain(&to_pack, out),
            Compression::Gzip(level) => gzip(&to_pack, out, level),
            Compression::Zstd(level) => zstd(&to_pack, out, level),
        });
        Split { block: Vec::with_capacity(BLOCK), hash: Some(hash), pack: Some(pack), hasher, packer }
    }

    fn send(&mut self) -> io::Result<()> {
        let block = Block::new(std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK)));
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        self.hash.as_ref().ok_or_else(gone)?.send(block.clone()).map_err(|_| gone())?;
        self.pack.as_ref().ok_or_else(gone)?.send(block).map_err(|_| gone())
    }

    fn finish(mut self) -> io::Result<(W, Plain)> {
        // When the packer is gone, its own error says why.
        let sent = if self.block.is_empty() { Ok(()) } else { self.send() };
        (self.hash, self.pack) = (None, None);
        let lost = |_| io::Error::other("a thread that compressed ended early");
        let out = self.packer.join().map_err(lost)??;
        let plain = self.hasher.join().map_err(lost)?;
        sent.map(|()| (out, plain))
    }
}

impl<'s, W: Write + Send + 's> Write for Split<'s, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = BLOCK - self.block.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.block.extend_from_slice(taken);
        if self.block.len() == BLOCK {
            self.send()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
fn gzip<W: Write>(blocks: &Receiver<Block>, mut out: W, level: u32) -> io::Result<W> {
    let level = i32::try_from(level).unwrap_or(6).clamp(0, 12);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut running: std::collections::VecDeque<JoinHandle<io::Result<Vec<u8>>>> = Default::default();
    let mut empty = true;
    for block in blocks {
        empty = false;
        if running.len() > threads
            && let Some(first) = running.pop_front()
        {
            out.write_all(&done(first)?)?;
        }
        running.push_back(std::thread::spawn(move || member(&block, level)));
    }
    for last in running {
        out.write_all(&done(last)?)?;
    }
    if empty {
        out.write_all(&member(&[], level)?)?;
    }
    Ok(out)
}

fn done(thread: JoinHandle<io::Result<Vec<u8>>>) -> io::Result<Vec<u8>> {
    thread.join().map_err(|_| io::Error::other("a thread that compressed ended early"))?
}

fn member(block: &[u8], level: i32) -> io::Result<Vec<u8>> {
    let level = libdeflater::CompressionLvl::new(level).map_err(|e| io::Error::other(format!("{e:?}")))?;
    let mut compressor = libdeflater::Compressor::new(level);
    let mut made = vec![0; compressor.gzip_compress_bound(block.len())];
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
