//! The time and the boot of this machine, and ids that no two things of one store share.
//! Times are milliseconds since 1970 in UTC everywhere in this crate.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Doing, Result};

/// Now, in milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The id of this boot of the kernel: what one boot wrote to the page cache is there until the next.
pub(crate) fn boot() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(std::fs::read_to_string(path).doing("read the boot id", path)?.trim().to_owned())
}

/// A new id: time first, so that ids sort by age, then chance.
pub(crate) fn id() -> u64 {
    // RandomState draws its keys from the system once per thread and steps them: no two calls agree.
    let chance = RandomState::new().hash_one((std::process::id(), std::thread::current().id()));
    (now() << 22) | (chance & 0x3f_ffff)
}

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// An id as 13 letters and digits (5 bits each, without i, l, o, u).
pub(crate) fn id_text(id: u64) -> String {
    (0..13).rev().map(|place| DIGITS[(id >> (place * 5)) as usize & 31] as char).collect()
}

/// Reads [`id_text`].
pub(crate) fn parse_id(text: &str) -> Option<u64> {
    if text.len() != 13 {
        return None;
    }
    let mut id: u64 = 0;
    for byte in text.bytes() {
        let digit = DIGITS.iter().position(|d| *d == byte)? as u64;
        id = id.checked_mul(32)?.checked_add(digit)?;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_text_and_back() {
        for id in [0, 1, u64::MAX, id()] {
            assert_eq!(parse_id(&id_text(id)), Some(id));
        }
        assert_eq!(parse_id("zzzzzzzzzzzzz"), None);
        assert_eq!(parse_id("short"), None);
    }

    #[test]
    fn ids_differ() {
        let ids: std::collections::HashSet<u64> = (0..1000).map(|_| id()).collect();
        assert!(ids.len() > 995, "{}", ids.len());
    }
}
