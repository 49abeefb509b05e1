//! A part of a file on its way into a connection, piece by piece. What the kernel has in memory is read at once, where the
//! connection is served; only what comes from a disk is read by a thread that may wait. It reads no more than is asked for.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use hyper::body::Bytes;
use rustix::io::{Errno, ReadWriteFlags};
use tokio::task::{JoinHandle, spawn_blocking};

/// Bytes of one piece: few calls, and the memory is still in the processor's cache when it is written.
pub(crate) const PIECE: u64 = 256 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pieces {
    file: Arc<File>,
    at: u64,
    end: u64,
    /// Memory of pieces that have gone out.
    free: Free,
    /// The piece that a thread waits for.
    waiting: Option<JoinHandle<io::Result<Piece>>>,
}

type Free = Arc<Mutex<Vec<Vec<u8>>>>;

impl Pieces {
    /// `length` bytes from `start`.
    pub(crate) fn new(file: File, start: u64, length: u64) -> Pieces {
        Pieces { file: Arc::new(file), at: start, end: start + length, free: Free::default(), waiting: None }
    }

    /// Bytes that are still to come.
    pub(crate) fn left(&self) -> u64 {
        self.end - self.at
    }

    fn read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Piece>> {
        if self.waiting.is_none() {
            let length = usize::try_from(PIECE.min(self.left())).unwrap_or(0);
            let mut piece = Piece::new(&self.free, length);
            match at_once(&self.file, &mut piece, self.at) {
                Ok(true) => return Poll::Ready(Ok(piece)),
                Ok(false) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            let (file, at) = (self.file.clone(), self.at);
            let waited = move || file.read_exact_at(&mut piece.memory[..length], at).map(|()| piece);
            self.waiting = Some(spawn_blocking(waited));
        }
        let Some(waiting) = &mut self.waiting else { return Poll::Pending };
        let read = ready!(Pin::new(waiting).poll(context));
        self.waiting = None;
        Poll::Ready(read.unwrap_or_else(|error| Err(io::Error::other(error))))
    }
}

/// Reads a piece if all of it is in the kernel's memory.
fn at_once(file: &File, piece: &mut Piece, at: u64) -> io::Result<bool> {
    let length = piece.length;
    let mut slices = [IoSliceMut::new(&mut piece.memory[..length])];
    match rustix::io::preadv2(file, &mut slices, at, ReadWriteFlags::NOWAIT) {
        Ok(count) => Ok(count == length),
        // Not there, or a file system that can't say.
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl Stream for Pieces {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left() == 0 {
            return Poll::Ready(None);
        }
        let read = ready!(self.read(context));
        Poll::Ready(Some(read.map(|piece| {
            self.at += piece.length as u64;
            Bytes::from_owner(piece)
        })))
    }
}

/// Memory with a piece in it, which goes back when the piece has gone out.
#[derive(Debug)]
struct Piece {
    memory: Vec<u8>,
    length: usize,
    home: Free,
}

impl Piece {
    fn new(home: &Free, length: usize) -> Piece {
        let mut memory = home.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        if memory.len() < length {
            memory.resize(length, 0);
        }
        Piece { memory, length, home: home.clone() }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.home.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn pieces_are_the_part_of_the_file_in_order_while_others_are_still_held() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..PIECE * 3 + 7).map(|i| (i % 251) as u8).collect();
        file.write_all(&bytes).unwrap();
        let (start, length) = (5, PIECE * 3 - 1);
        let pieces = Pieces::new(file, start, length);
        assert_eq!(pieces.left(), length);
        let pieces: Vec<Bytes> = pieces.map(Result::unwrap).collect().await;
        assert_eq!(pieces.concat(), bytes[start as usize..(start + length) as usize]);
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"short").unwrap();
        let mut pieces = Pieces::new(file, 0, 9);
        let error = pieces.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
