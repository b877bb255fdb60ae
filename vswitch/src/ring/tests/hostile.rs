//! Guests that break the rules.

use std::sync::Arc;

use offload::VnetHeader;

use super::{MODERN, Side, framed};
use crate::counters::DropReason;
use crate::frame::{Burst, Outgoing};
use crate::port::Refusal;
use crate::ring::mock::{GUEST_BASE, MockGuest, MockQueue, Shape, USER_BASE};
use crate::ring::{CHAIN_LIMIT, Ring, RingFault, RingSetup, feature};

/// Offers one chain that the closure writes, and returns the fault that it causes.
fn fault_of(access: u16, features: u64, write: impl FnOnce(&Side)) -> Option<RingFault> {
    let mut side = Side::new(8, 4096, features, 65_530);
    write(&side);
    side.driver.offer(0);
    if access == 0 {
        let mut burst = Burst::default();
        assert_eq!(side.ring.take(0, &mut burst), 0);
        assert!(burst.segments.is_empty());
        assert_eq!(side.ring.take(0, &mut burst), 0, "a stopped queue stays stopped");
    } else {
        let frame = Outgoing {
            vnet: VnetHeader::default(),
            len: 60,
            flow_hash: 0,
            hash_report: offload::rss::HashReport::None,
            head: &[1; 60],
            tail: &[],
        };
        assert_eq!(side.receive(&frame), Err(Refusal::Drop(DropReason::RingFault)));
    }
    assert_eq!(side.driver.used(), None);
    side.ring.fault()
}

#[test]
fn descriptors_that_break_the_rules_stop_the_queue() {
    let tx = |write: &dyn Fn(&Side)| fault_of(0, MODERN, |side| write(side)).unwrap();
    let at = GUEST_BASE;
    assert_eq!(
        tx(&|side| side.driver.write_descriptor(0, at, 60, 1, 8)),
        RingFault::DescriptorIndex(8)
    );
    assert_eq!(
        tx(&|side| side.driver.write_descriptor(0, at, 60, 1, 0)),
        RingFault::ChainTooLong(0)
    );
    assert_eq!(
        tx(&|side| side.driver.write_descriptor(0, at, 60, 2, 0)),
        RingFault::WriteOnly
    );
    let outside = |address, len| tx(&|side| side.driver.write_descriptor(0, address, len, 0, 0));
    for (address, len) in [(0, 60), (at - 1, 60), (u64::MAX, 60), (at, u32::MAX)] {
        assert_eq!(outside(address, len), RingFault::Buffer { address, len });
    }
    let table = |len, flags| tx(&|side| side.driver.write_descriptor(0, at + 0x2000, len, flags, 0));
    assert_eq!(table(17, 4), RingFault::IndirectLength(17));
    assert_eq!(table(0, 4), RingFault::IndirectLength(0));
    assert_eq!(table(16 * 257, 4), RingFault::IndirectLength(16 * 257));
    assert_eq!(table(32, 5), RingFault::IndirectNested);
    let lost = tx(&|side| side.driver.write_descriptor(0, 16, 32, 4, 0));
    assert_eq!(lost, RingFault::IndirectAddress(16));
    let rx = |write: &dyn Fn(&Side)| fault_of(2, MODERN, |side| write(side)).unwrap();
    assert_eq!(
        rx(&|side| side.driver.write_descriptor(0, at, 60, 0, 0)),
        RingFault::ReadOnly
    );
    assert_eq!(
        rx(&|side| side.driver.write_descriptor(0, at, 0, 2, 0)),
        RingFault::EmptyBuffer
    );
    let hollow = rx(&|side| {
        side.driver.write_descriptor(0, at, 0, 3, 1);
        side.driver.write_descriptor(1, at, 4096, 2, 0);
    });
    assert_eq!(hollow, RingFault::EmptyBuffer, "a piece that holds nothing");
    let unasked = fault_of(0, feature::VERSION_1, |side| {
        side.driver.write_descriptor(0, at, 32, 4, 0);
    });
    assert_eq!(unasked, Some(RingFault::IndirectUnexpected));
}

#[test]
fn indirect_tables_that_nest_loop_or_leave_stop_the_queue() {
    let with_table = |flags: u16, next: u16| {
        fault_of(0, MODERN, |side| {
            let table = side.driver.buffer(7);
            let mut raw = (GUEST_BASE + 64).to_le_bytes().to_vec();
            raw.extend(60u32.to_le_bytes());
            raw.extend(flags.to_le_bytes());
            raw.extend(next.to_le_bytes());
            raw.extend(raw.clone());
            side.ring_write(table, &raw);
            side.driver.write_descriptor(0, table, 32, 4, 0);
        })
    };
    assert_eq!(with_table(4, 0), Some(RingFault::IndirectNested));
    assert_eq!(with_table(1, 0), Some(RingFault::ChainTooLong(0)));
    assert_eq!(with_table(1, 2), Some(RingFault::DescriptorIndex(2)));
}

#[test]
fn an_index_that_jumps_stops_the_queue() {
    let mut side = Side::new(8, 4096, MODERN, 10);
    let (_, available, _) = side.driver.parts();
    side.driver.guest().store(available + 2, 19);
    assert_eq!(side.ring.take(0, &mut Burst::default()), 0);
    assert_eq!(
        side.ring.fault(),
        Some(RingFault::AvailIndex { next: 10, index: 19 })
    );
    assert!(!side.ring.enable_notifications());
    assert_eq!(side.ring.discard(32), 0);
}

#[test]
fn a_fault_leaves_earlier_frames_good() {
    let mut side = Side::new(8, 4096, MODERN, 0);
    side.driver
        .send(&framed(12, VnetHeader::default(), 60, 0), Shape::Chain(1));
    side.driver.write_descriptor(5, 0, 60, 0, 0);
    side.driver.offer(5);
    let mut burst = Burst::default();
    assert_eq!(side.ring.take(0, &mut burst), 1);
    assert!(side.ring.fault().is_some());
    assert_eq!(side.ring.complete(), 1);
    assert_eq!(side.driver.used(), Some((0, 0)));
}

#[test]
fn a_ring_must_be_in_memory_aligned_and_of_a_fair_size() {
    let guest = MockGuest::new(0x10_0000);
    let good = MockQueue::new(&guest, 256, 256, MODERN, 0).setup();
    let refuse = |change: &dyn Fn(&mut RingSetup)| {
        let mut setup = good;
        change(&mut setup);
        Ring::new(guest.memory(), &setup).unwrap_err()
    };
    assert!(matches!(refuse(&|setup| setup.size = 0), RingFault::Size(0)));
    assert!(matches!(refuse(&|setup| setup.size = 48), RingFault::Size(48)));
    assert!(matches!(
        refuse(&|setup| setup.addresses.descriptors += 8),
        RingFault::Misaligned { .. }
    ));
    assert!(matches!(
        refuse(&|setup| setup.addresses.available += 1),
        RingFault::Misaligned { .. }
    ));
    assert!(matches!(
        refuse(&|setup| setup.addresses.used += 2),
        RingFault::Misaligned { .. }
    ));
    assert!(matches!(
        refuse(&|setup| setup.addresses.used = 0),
        RingFault::Outside {
            part: "used ring",
            ..
        }
    ));
    let end = USER_BASE + 0x10_0000;
    assert!(matches!(
        refuse(&|setup| setup.addresses.descriptors = end - 16),
        RingFault::Outside { .. }
    ));
    assert!(matches!(
        refuse(&|setup| setup.addresses.available = u64::MAX - 1),
        RingFault::Outside { .. }
    ));
}

#[test]
fn a_chain_as_long_as_allowed_passes_and_one_longer_stops() {
    for (pieces, good) in [(CHAIN_LIMIT, true), (CHAIN_LIMIT + 1, false)] {
        let mut side = Side::new(2048, 2048, MODERN, 0);
        assert!(side.driver.send(&[1; 2048], Shape::Chain(pieces.into())));
        assert_eq!(side.ring.take(0, &mut Burst::default()), usize::from(good));
        assert_eq!(side.ring.fault().is_none(), good);
    }
}

#[test]
fn a_frame_is_not_spread_over_more_buffers_than_the_limit() {
    let mut side = Side::new(2048, 64, MODERN, 0);
    let octets = vec![5; 16_000];
    let frame = |len: usize| Outgoing {
        vnet: VnetHeader::default(),
        len: len as u32,
        flow_hash: 0,
        hash_report: offload::rss::HashReport::None,
        head: &octets[..len],
        tail: &[],
    };
    for _ in 0..1300 {
        assert!(side.driver.post(13, Shape::Chain(1)));
    }
    let most = usize::from(CHAIN_LIMIT) * 13 - 12;
    assert_eq!(
        side.receive(&frame(most + 1)),
        Err(Refusal::Drop(DropReason::BufferTooSmall))
    );
    assert_eq!(side.receive(&frame(most)), Ok(()));
}

#[test]
fn memory_that_is_taken_away_reads_as_zero_and_shows() {
    let mut side = Side::new(8, 4096, MODERN, 0);
    side.driver.send(&[9; 2000], Shape::Chain(1));
    let guest = Arc::clone(side.driver.guest());
    guest.file().set_len(0).unwrap();
    let mut burst = Burst::default();
    assert_eq!(side.ring.take(0, &mut burst), 0);
    assert!(side.ring.memory().is_lost());
    assert_eq!(side.ring.complete(), 0);
}
