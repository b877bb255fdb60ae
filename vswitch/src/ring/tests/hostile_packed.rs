//! Guests that break the rules of packed rings.

use offload::VnetHeader;
use proptest::prelude::*;

use super::{PACKED, Side, framed};
use crate::frame::{BURST, Burst, MAX_FRAME, Outgoing};
use crate::port::Refusal;
use crate::ring::mock::{GUEST_BASE, MockGuest, MockQueue, Shape, USER_BASE};
use crate::ring::{Ring, RingFault, RingSetup, feature};

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

fn any_frame() -> Outgoing<'static> {
    Outgoing {
        vnet: VnetHeader::default(),
        len: 60,
        flow_hash: 0,
        hash_report: offload::rss::HashReport::None,
        head: &[1; 60],
        tail: &[],
    }
}

/// The fault that descriptors from slot 0 on cause.
fn fault_of(receive: bool, features: u64, write: impl FnOnce(&Side)) -> RingFault {
    let mut side = Side::new(8, 4096, features, 0);
    write(&side);
    if receive {
        assert!(matches!(side.receive(&any_frame()), Err(Refusal::Drop(_))));
    } else {
        let mut burst = Burst::default();
        assert_eq!(side.ring.take(0, &mut burst), 0);
        assert!(burst.segments.is_empty());
        assert_eq!(side.ring.take(0, &mut burst), 0, "a stopped queue stays stopped");
    }
    assert!(!side.ring.enable_notifications());
    assert_eq!(side.ring.complete(), 0);
    side.ring.fault().unwrap()
}

#[test]
fn descriptors_that_break_the_rules_stop_the_queue() {
    let tx = |write: &dyn Fn(&Side)| fault_of(false, PACKED, |side| write(side));
    let rx = |write: &dyn Fn(&Side)| fault_of(true, PACKED, |side| write(side));
    let at = GUEST_BASE;
    let one =
        |address, len, flags| tx(&|side| side.driver.write_descriptor(0, address, len, flags | AVAIL, 0));
    assert_eq!(one(at, 60, 2), RingFault::WriteOnly);
    for (address, len) in [(0, 60), (at - 1, 60), (u64::MAX, 60), (at, u32::MAX)] {
        assert_eq!(one(address, len, 0), RingFault::Buffer { address, len });
    }
    assert_eq!(one(at, 17, 4), RingFault::IndirectLength(17));
    assert_eq!(one(at, 0, 4), RingFault::IndirectLength(0));
    assert_eq!(one(at, 16 * 257, 4), RingFault::IndirectLength(16 * 257));
    assert_eq!(one(at, 32, 5), RingFault::IndirectNested);
    assert_eq!(one(16, 32, 4), RingFault::IndirectAddress(16));
    let chained = |second: u16| {
        tx(&|side| {
            side.driver.write_descriptor(1, at, 60, second, 0);
            side.driver.write_descriptor(0, at, 60, 1 | AVAIL, 0);
        })
    };
    assert_eq!(chained(4), RingFault::IndirectNested);
    let endless = tx(&|side| {
        (0..8).for_each(|slot| side.driver.write_descriptor(slot, at, 60, 1 | AVAIL, 0));
    });
    assert_eq!(endless, RingFault::ChainTooLong(0), "a chain all round the ring");
    let unasked = fault_of(false, PACKED & !feature::INDIRECT_DESC, |side| {
        side.driver.write_descriptor(0, at, 32, 4 | AVAIL, 0);
    });
    assert_eq!(unasked, RingFault::IndirectUnexpected);
    let received = |len, flags| rx(&|side| side.driver.write_descriptor(0, at, len, flags | AVAIL, 0));
    assert_eq!(received(60, 0), RingFault::ReadOnly);
    assert_eq!(received(0, 2), RingFault::EmptyBuffer);
}

#[test]
fn an_indirect_table_inside_of_a_table_stops_the_queue() {
    let fault = fault_of(false, PACKED, |side| {
        let table = side.driver.buffer(7);
        let mut raw = GUEST_BASE.to_le_bytes().to_vec();
        raw.extend(60u32.to_le_bytes());
        raw.extend([0, 0, 4, 0]);
        side.ring_write(table, &raw);
        side.driver.write_descriptor(0, table, 16, 4 | AVAIL, 0);
    });
    assert_eq!(fault, RingFault::IndirectNested);
}

/// A driver that overwrites chains which are in our hands with chains of the next round.
#[test]
fn no_more_is_taken_than_the_ring_has() {
    let mut side = Side::new(8, 4096, PACKED, 0);
    let write = |side: &Side, flags| {
        (0..8).for_each(|slot| {
            side.driver
                .write_descriptor(slot, side.driver.buffer(slot), 100, flags, slot);
        });
    };
    write(&side, AVAIL);
    let mut burst = Burst::default();
    assert_eq!(side.ring.take(0, &mut burst), 8);
    write(&side, USED);
    assert_eq!(side.ring.take(0, &mut burst), 0, "all places are in hand");
    assert_eq!(side.ring.complete(), 8);
    burst.clear();
    assert_eq!(
        side.ring.take(0, &mut burst),
        0,
        "used descriptors are not available ones"
    );
    write(&side, USED);
    assert_eq!(side.ring.take(0, &mut burst), 8, "but these are");
    assert_eq!(side.ring.fault(), None);
}

#[test]
fn a_chain_does_not_reach_into_what_is_in_hand() {
    let mut side = Side::new(8, 4096, PACKED, 0);
    let at = side.driver.buffer(0);
    side.driver.write_descriptor(0, at, 100, AVAIL, 0);
    let mut burst = Burst::default();
    assert_eq!(side.ring.take(0, &mut burst), 1);
    (1..8).for_each(|slot| side.driver.write_descriptor(slot, at, 100, AVAIL | 1, 0));
    assert_eq!(side.ring.take(0, &mut burst), 0);
    assert_eq!(side.ring.fault(), Some(RingFault::ChainTooLong(1)));
    assert_eq!(side.ring.complete(), 1, "what was taken before can be given back");
}

#[test]
fn a_ring_must_be_in_memory_aligned_and_of_a_fair_size() {
    let guest = MockGuest::new(0x10_0000);
    let good = MockQueue::new(&guest, 256, 256, PACKED, 0).setup();
    let with = |change: &dyn Fn(&mut RingSetup)| {
        let mut setup = good;
        change(&mut setup);
        Ring::new(guest.memory(), &setup)
    };
    let refused = |change: &dyn Fn(&mut RingSetup)| with(change).map(|_| ()).unwrap_err();
    assert_eq!(refused(&|setup| setup.size = 0), RingFault::Size(0));
    assert_eq!(refused(&|setup| setup.size = 32_769), RingFault::Size(32_769));
    assert_eq!(refused(&|setup| setup.base = 256), RingFault::Position(256));
    assert!(with(&|setup| setup.size = 100).is_ok(), "any size will do");
    let misaligned = |fault| matches!(fault, RingFault::Misaligned { .. });
    assert!(misaligned(refused(&|setup| setup.addresses.descriptors += 8)));
    assert!(misaligned(refused(&|setup| setup.addresses.available += 2)));
    assert!(misaligned(refused(&|setup| setup.addresses.used += 1)));
    let outside = |fault| matches!(fault, RingFault::Outside { .. });
    let end = USER_BASE + 0x10_0000;
    assert!(outside(refused(&|setup| setup.addresses.descriptors = end - 16)));
    assert!(outside(refused(&|setup| setup.addresses.available = end)));
    assert!(outside(refused(&|setup| setup.addresses.used = u64::MAX - 3)));
}

/// Goes through the positions of small rings, over both wraps, with bursts and chains of all lengths.
#[test]
fn positions_hold_in_every_state_around_the_wraps() {
    for size in [1u16, 2, 3, 5, 8] {
        for start in (0..size).flat_map(|slot| [slot, slot | 1 << 15]) {
            for count in 1..=size {
                go_round(size, start, count);
            }
        }
    }
}

fn go_round(size: u16, start: u16, count: u16) {
    let mut side = Side::new(size, 256, PACKED, start);
    for turn in 0..4 * size {
        let shape = Shape::Chain(usize::from(turn % 3 + 1).min(size.into()));
        let frame = framed(12, VnetHeader::default(), 60, turn as u8);
        let sent = (0..count).take_while(|_| side.driver.send(&frame, shape)).count();
        let mut burst = Burst::default();
        assert_eq!(
            side.ring.take(0, &mut burst),
            sent,
            "{size} places from {start:#x}"
        );
        assert_eq!(side.ring.complete(), sent);
        assert_eq!(std::iter::from_fn(|| side.driver.used()).count(), sent);
        assert_eq!(side.driver.free(), usize::from(size));
    }
    assert_eq!(side.ring.fault(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_ring_contents_are_survived(
        octets in prop::collection::vec(any::<u8>(), 16 * 8 + 4),
        receive: bool,
        features: u64,
        start: u16,
    ) {
        let mut side = Side::new(8, 512, features | feature::RING_PACKED, start);
        let (ring, event, _) = side.driver.parts();
        side.ring_write(ring, &octets[..128]);
        side.ring_write(event, &octets[128..]);
        for _ in 0..4 {
            if receive {
                for _ in 0..10 {
                    let _ = side.receive(&any_frame());
                }
            } else {
                let mut burst = Burst::default();
                side.ring.take(0, &mut burst);
                let total: u32 = burst.segments.iter().map(|segment| segment.len).sum();
                prop_assert!(total as usize <= BURST * (MAX_FRAME + 12));
                side.ring.complete();
                side.ring.discard(BURST);
            }
            side.ring.needs_notification();
            side.ring.enable_notifications();
        }
    }
}
