//! Buffers that are used again: a new one of a megabyte costs the kernel a page fault for each 4 KiB of it, more than what
//! is done with its bytes. A pool holds as many as were ever in use at once, and is dropped with its stream.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// See the module.
#[derive(Clone, Default)]
pub struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer that goes back to its pool.
pub struct Buffer {
    bytes: Vec<u8>,
    pool: Pool,
}

impl Pool {
    /// A buffer with whatever it held when it was used last, or a new one.
    pub fn take(&self) -> Buffer {
        let used = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Buffer { bytes: used.unwrap_or_default(), pool: self.clone() }
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}
