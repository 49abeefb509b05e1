//! Leases against a plain count, with removals between them.

use oci::Digest;
use proptest::prelude::*;
use store::{Error, Lease, Resource};

use crate::new;

#[derive(Clone, Debug)]
enum Act {
    Hold(u8),
    Clone(prop::sample::Index),
    Drop(prop::sample::Index),
    Remove(u8),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (0u8..4).prop_map(Act::Hold),
        1 => any::<prop::sample::Index>().prop_map(Act::Clone),
        3 => any::<prop::sample::Index>().prop_map(Act::Drop),
        3 => (0u8..4).prop_map(Act::Remove),
    ];
    prop::collection::vec(act, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_is_held_stays_and_nothing_else_does(acts in acts()) {
        let (_root, store) = new();
        let blobs: Vec<Digest> = (0u8..4).map(|n| store.blobs().put(&[n; 10]).unwrap().digest).collect();
        let mut there = [true; 4];
        let mut held: Vec<(u8, Lease)> = Vec::new();
        for act in acts {
            match act {
                Act::Hold(n) => held.push((n, store.leases().hold(Resource::Blob(blobs[usize::from(n)])).unwrap())),
                Act::Clone(at) if !held.is_empty() => {
                    let (n, lease) = &held[at.index(held.len())];
                    held.push((*n, lease.clone()));
                }
                Act::Drop(at) if !held.is_empty() => drop(held.remove(at.index(held.len()))),
                Act::Remove(n) => {
                    let removed = store.blobs().remove(&blobs[usize::from(n)]);
                    if held.iter().any(|(other, _)| *other == n) {
                        prop_assert!(matches!(removed, Err(Error::InUse { .. })), "it is held");
                    } else {
                        removed.unwrap();
                        there[usize::from(n)] = false;
                    }
                }
                Act::Clone(_) | Act::Drop(_) => {}
            }
            for (n, blob) in blobs.iter().enumerate() {
                prop_assert_eq!(store.blobs().verify(blob).is_ok(), there[n]);
                let counted = held.iter().any(|(other, _)| usize::from(*other) == n);
                prop_assert_eq!(store.leases().is_held(&Resource::Blob(*blob)), counted);
            }
        }
    }
}
