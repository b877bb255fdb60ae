//! In-order use: what a driver that counts on it finds in its rings.

use offload::VnetHeader;

use super::{MODERN, PACKED, Side, carry, framed};
use crate::frame::Burst;
use crate::ring::feature;
use crate::ring::mock::Shape;

fn frame(seed: u8) -> Vec<u8> {
    framed(12, VnetHeader::default(), 60, seed)
}

/// DPDK's driver for packed rings frees buffers from the last one it saw up to the one that a used descriptor names, and
/// looks for the next used descriptor behind that one.
#[test]
fn a_transmitted_batch_is_used_by_its_last_chain_alone() {
    for features in [MODERN, PACKED] {
        let mut side = Side::new(16, 2048, features | feature::IN_ORDER, 0);
        for (seed, pieces) in [(0, 1), (1, 3), (2, 2)] {
            assert!(side.driver.send(&frame(seed), Shape::Chain(pieces)));
        }
        let (ring, _, used) = side.driver.parts();
        let before = side.driver.guest().read(ring, 16 * 6);
        side.ring.take(0, &mut Burst::default());
        assert_eq!(side.ring.complete(), 3);
        let guest = side.driver.guest();
        if features == MODERN {
            assert_eq!(guest.load(used + 2), 3, "the index counts all");
            assert_eq!(guest.load(used + 4), 4, "the first entry names the last head");
            assert_eq!(guest.read(used + 12, 16), [0; 16], "and no other is written");
        } else {
            let after = guest.read(ring, 16 * 6);
            assert_eq!(after[8..16], [0, 0, 0, 0, 2, 0, 0x80, 0x80]);
            assert_eq!(after[16..], before[16..]);
        }
        assert_eq!(std::iter::from_fn(|| side.driver.used()).count(), 3);
        assert_eq!(side.driver.free(), 16);
    }
}

#[test]
fn received_buffers_are_used_one_by_one_with_their_lengths() {
    for features in [MODERN, PACKED] {
        let features = features | feature::IN_ORDER;
        let mut from = Side::new(16, 2048, features, 7);
        let mut to = Side::new(16, 2048, features, 7);
        for seed in 0..3 {
            assert!(from.driver.send(&frame(seed), Shape::Chain(1)));
            assert!(to.driver.post(2048, Shape::Chain(1)));
        }
        assert_eq!(carry(&mut from, &mut to), [Ok(()); 3]);
        for seed in 0..3 {
            let got = to.driver.receive(12).unwrap();
            assert_eq!(got[12..], frame(seed)[12..]);
        }
    }
}

#[test]
fn frames_given_back_unread_are_batches_too() {
    for features in [MODERN, PACKED] {
        let mut side = Side::new(8, 2048, features | feature::IN_ORDER, 5);
        for _ in 0..3 {
            (0..4).for_each(|seed| assert!(side.driver.send(&frame(seed), Shape::Chain(2))));
            assert_eq!(side.ring.discard(32), 4);
            assert_eq!(std::iter::from_fn(|| side.driver.used()).count(), 4);
        }
        assert_eq!(side.ring.fault(), None);
    }
}
