//! A membership filter (Bloom) of a cache's keys: what is not in it is surely not in the cache, so that a sure miss costs
//! no round trip. Made by a registry, asked by whoever reads the cache. Pure.
//!
//! Bytes: `LRBF`, version (1 byte), probes (1 byte), 2 zero bytes, then the bits, lowest bit of the first byte first.
//! Keys are digests, so their bytes are as good as hashes: with a, b the first two 8 bytes (little endian) of a key, probe
//! i is at (a + i * (b | 1)) modulo the number of bits.

use oci::Digest;

/// Media type of a filter.
pub const MEDIA_TYPE: &str = "application/vnd.larder.cache.filter.v1";

const MAGIC: &[u8; 8] = b"LRBF\x01\x07\0\0";
const PROBES: u64 = 7;
/// Ten bits a key and seven probes: one of 120 keys that are not there seems to be.
const BITS_PER_KEY: usize = 10;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(Vec<u8>);

impl Filter {
    /// The filter of these keys.
    pub fn of(keys: &[Digest]) -> Filter {
        let mut filter = Filter(vec![0; (keys.len() * BITS_PER_KEY).div_ceil(8).max(8)]);
        for key in keys {
            for bit in filter.probes(key) {
                filter.0[bit / 8] |= 1 << (bit % 8);
            }
        }
        filter
    }

    /// Whether a key may be there. `false` is certain.
    pub fn may_have(&self, key: &Digest) -> bool {
        self.probes(key).into_iter().all(|bit| self.0[bit / 8] & 1 << (bit % 8) != 0)
    }

    fn probes(&self, key: &Digest) -> [usize; PROBES as usize] {
        let eight = |from: usize| {
            let bytes = &key.bytes()[from..from + 8];
            bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let (a, b, bits) = (eight(0), eight(8) | 1, self.0.len() as u64 * 8);
        std::array::from_fn(|i| (a.wrapping_add(b.wrapping_mul(i as u64)) % bits) as usize)
    }

    /// As it travels.
    pub fn to_bytes(&self) -> Vec<u8> {
        [MAGIC.as_slice(), &self.0].concat()
    }

    /// Reads [`Filter::to_bytes`]; `None` for anything else, such as a later version.
    pub fn from_bytes(bytes: &[u8]) -> Option<Filter> {
        let bits = bytes.strip_prefix(MAGIC.as_slice())?;
        (!bits.is_empty()).then(|| Filter(bits.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_never_denied_and_what_is_not_mostly_is() {
        let key = |i: u32| Digest::of(&i.to_le_bytes());
        for count in [0_u32, 1, 7, 5000] {
            let keys: Vec<_> = (0..count).map(key).collect();
            let filter = Filter::from_bytes(&Filter::of(&keys).to_bytes()).unwrap();
            assert!(keys.iter().all(|key| filter.may_have(key)));
            let wrong = (1_000_000..1_010_000).filter(|i| filter.may_have(&key(*i))).count();
            assert!(wrong < 150, "{wrong} of 10000 with {count} keys");
        }
        assert_eq!(Filter::from_bytes(b"LRBF\x02\x07\0\0x"), None);
        assert_eq!(Filter::from_bytes(b""), None);
    }
}
