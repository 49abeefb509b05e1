//! Bytes of others at every door: arbitrary ones, and those that were right before something was changed in them. None may end
//! the process; what comes in may not take more memory than it is worth.

mod targets;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;

use targets::{ALL, Target};

/// Changes at some places: a byte, a piece taken away, doubled, or made of another.
fn mutated() -> impl Strategy<Value = Vec<(Index, u8, Index)>> {
    proptest::collection::vec((any::<Index>(), any::<u8>(), any::<Index>()), 0..12)
}

fn mutate(mut bytes: Vec<u8>, changes: &[(Index, u8, Index)]) -> Vec<u8> {
    for (at, value, length) in changes {
        if bytes.is_empty() {
            break;
        }
        let at = at.index(bytes.len());
        let end = (at + length.index(16)).min(bytes.len());
        match value % 4 {
            0 => bytes[at] ^= value | 1,
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes[at] = [0, 0xff, 0x7f, b'/', b'.', b'"', b'\\', b'0'][usize::from(value >> 2) % 8],
        }
    }
    bytes
}

/// Fewer where each takes a store of its own.
fn cases(target: &Target) -> u32 {
    if matches!(target.name, "tar" | "packets") { 64 } else { 512 }
}

#[test]
fn nothing_that_comes_in_ends_the_process() {
    for target in &ALL {
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases(target)) };
        let mut runner = TestRunner::new(config);
        let seeds = (target.seeds)();
        seeds.iter().for_each(|seed| (target.run)(seed));
        let arbitrary = proptest::collection::vec(any::<u8>(), 0..600);
        let chosen = (any::<Index>(), mutated());
        let done = runner.run(&(arbitrary, chosen), |(bytes, (seed, changes))| {
            (target.run)(&bytes);
            (target.run)(&mutate(seeds[seed.index(seeds.len())].clone(), &changes));
            Ok(())
        });
        done.unwrap_or_else(|error| panic!("{}: {error}", target.name));
    }
}
