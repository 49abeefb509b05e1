//! Members of gzip streams that were made before in this process: where they are, by what they hold. The same large file in
//! a second layer, as after a `COPY --from`, is not compressed again. It holds no bytes, and what it finds is unpacked and
//! compared before it is used.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use libdeflater::Decompressor;
use oci::Digest;

use crate::Store;

/// Members remembered before old ones are forgotten: those of some gigabytes.
const MANY: usize = 8192;

/// What a member holds, as far as that can be said shortly, and at which level it was made.
pub(crate) type Key = (i32, u32);

/// A member in a stream: what it holds, where it begins, how long it is.
pub(crate) struct Made {
    pub key: Key,
    pub at: u64,
    pub length: usize,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Members(Mutex<HashMap<Key, (Digest, u64, usize)>>);

impl Members {
    /// A member that unpacks to `block`, if there is one.
    pub fn find(&self, store: &Store, key: Key, block: &[u8]) -> Option<Vec<u8>> {
        let (blob, at, length) = *self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key)?;
        let file = store.blobs().open(&blob).ok()?;
        let mut member = vec![0; length];
        file.read_exact_at(&mut member, at).ok()?;
        let mut unpacked = vec![0; block.len()];
        let count = Decompressor::new().gzip_decompress(&member, &mut unpacked).ok()?;
        (unpacked[..count] == *block).then_some(member)
    }

    /// Remembers the members of a blob.
    pub fn keep(&self, blob: Digest, made: Vec<Made>) {
        let mut members = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if members.len() + made.len() > MANY {
            members.clear();
        }
        members.extend(made.into_iter().map(|made| (made.key, (blob, made.at, made.length))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libdeflater::{CompressionLvl, Compressor};

    #[test]
    fn a_member_is_found_by_what_it_holds_and_never_where_its_blob_was_damaged() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), crate::Options::default()).unwrap();
        let block = b"what is in a block ".repeat(1000);
        let mut member = vec![0; 4096];
        let length = Compressor::new(CompressionLvl::default()).gzip_compress(&block, &mut member).unwrap();
        member.truncate(length);
        let blob = store.blobs().put(&[b"before".as_slice(), &member, b"after"].concat()).unwrap().digest;
        let key = (5, libdeflater::crc32(&block));
        let members = &store.0.members;
        assert_eq!(members.find(&store, key, &block), None);
        members.keep(blob, vec![Made { key, at: 6, length }]);
        assert_eq!(members.find(&store, key, &block).as_ref(), Some(&member));
        assert_eq!(members.find(&store, (6, key.1), &block), None);
        // Others with the same checksum are not the same.
        assert_eq!(members.find(&store, key, &block[1..]), None);
        let path = store.blobs().path(&blob);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[6 + length / 2] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(members.find(&store, key, &block), None);
    }
}
