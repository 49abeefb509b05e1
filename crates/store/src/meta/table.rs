//! Typed tables: how a key becomes bytes that sort, and a value bytes with a version.
//! Keys of fixed width come first in a tuple, so that a tuple's first part is a prefix that can be scanned.

use std::marker::PhantomData;
use std::path::Path;

use oci::Digest;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::{SnapshotId, format};

/// One table: the byte that leads its keys, its name for messages, and the version of its values.
pub(crate) struct Table<K, V> {
    pub(super) id: u8,
    name: &'static str,
    version: u8,
    kinds: PhantomData<fn() -> (K, V)>,
}

impl<K: Key, V> Table<K, V> {
    pub(crate) const fn new(id: u8, name: &'static str, version: u8) -> Table<K, V> {
        Table { id, name, version, kinds: PhantomData }
    }

    /// The key's bytes in the one tree of rows.
    pub(super) fn key(&self, key: &K) -> Vec<u8> {
        let mut bytes = vec![self.id];
        key.encode(&mut bytes);
        bytes
    }
}

impl<K: Key, V: Serialize> Table<K, V> {
    /// A value's bytes.
    pub(super) fn value(&self, value: &V) -> Result<Vec<u8>> {
        postcard::to_extend(value, vec![self.version]).map_err(|error| self.damaged(&error.to_string()))
    }
}

impl<K: Key, V: DeserializeOwned> Table<K, V> {
    /// Reads a value.
    pub(super) fn read_value(&self, bytes: &[u8]) -> Result<V> {
        match bytes.split_first() {
            Some((version, rest)) if *version == self.version => {
                postcard::from_bytes(rest).map_err(|error| self.damaged(&error.to_string()))
            }
            Some((version, _)) => {
                Err(self.damaged(&format!("a value of version {version}, expected {}", self.version)))
            }
            None => Err(self.damaged("an empty value")),
        }
    }

    /// Reads a key.
    pub(super) fn read_key(&self, bytes: &[u8]) -> Result<K> {
        let mut rest = bytes.get(1..).unwrap_or_default();
        K::decode(&mut rest).filter(|_| rest.is_empty()).ok_or_else(|| self.damaged("a key of another shape"))
    }
}

impl<K, V> Table<K, V> {
    fn damaged(&self, what: &str) -> Error {
        let path = Path::new(format::META).to_owned();
        Error::Damaged { path, what: format!("table `{}`: {what}", self.name) }
    }
}

/// What can be a key: its bytes sort as it does.
pub(crate) trait Key: Sized {
    /// Appends the bytes.
    fn encode(&self, bytes: &mut Vec<u8>);
    /// Takes its bytes from the front; `None` when they are not there.
    fn decode(bytes: &mut &[u8]) -> Option<Self>;
}

impl Key for Digest {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(Digest::bytes(self));
    }
    fn decode(bytes: &mut &[u8]) -> Option<Digest> {
        bytes.split_off(..32)?.try_into().ok().map(Digest::from_bytes)
    }
}

impl Key for u64 {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.to_be_bytes());
    }
    fn decode(bytes: &mut &[u8]) -> Option<u64> {
        bytes.split_off(..8)?.try_into().ok().map(u64::from_be_bytes)
    }
}

impl Key for u32 {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.to_be_bytes());
    }
    fn decode(bytes: &mut &[u8]) -> Option<u32> {
        bytes.split_off(..4)?.try_into().ok().map(u32::from_be_bytes)
    }
}

impl Key for SnapshotId {
    fn encode(&self, bytes: &mut Vec<u8>) {
        self.number().encode(bytes);
    }
    fn decode(bytes: &mut &[u8]) -> Option<SnapshotId> {
        u64::decode(bytes).map(SnapshotId::from_number)
    }
}

// The two of no fixed width take the rest of the key, so they can only come last.
impl Key for String {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.as_bytes());
    }
    fn decode(bytes: &mut &[u8]) -> Option<String> {
        String::from_utf8(std::mem::take(bytes).to_vec()).ok()
    }
}

impl Key for Vec<u8> {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Vec<u8>> {
        Some(std::mem::take(bytes).to_vec())
    }
}

impl<A: Key, B: Key> Key for (A, B) {
    fn encode(&self, bytes: &mut Vec<u8>) {
        self.0.encode(bytes);
        self.1.encode(bytes);
    }
    fn decode(bytes: &mut &[u8]) -> Option<(A, B)> {
        Some((A::decode(bytes)?, B::decode(bytes)?))
    }
}
