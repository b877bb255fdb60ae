//! Rings against the mock driver: what arrives, what is refused, who is told.

mod differential;
mod hostile;
mod hostile_packed;
mod in_order;
mod inflight;
mod random;
mod schedules;
mod wakeups;

use offload::VnetHeader;

use super::mock::{MockGuest, MockQueue, Shape};
use super::{RefusedFrames, Ring, feature};
use crate::counters::DropReason;
use crate::frame::{BURST, Burst, MAX_FRAME, Outgoing};
use crate::port::Refusal;

const MODERN: u64 = feature::VERSION_1 | feature::MRG_RXBUF | feature::INDIRECT_DESC;
const PACKED: u64 = MODERN | feature::RING_PACKED;

/// One queue with both of its sides.
struct Side {
    driver: MockQueue,
    ring: Ring,
}

impl Side {
    fn new(size: u16, buffer: u64, features: u64, start: u16) -> Self {
        let bytes = u64::from(size) * (buffer + 1024) + 0x1_0000;
        let guest = MockGuest::new(bytes.next_multiple_of(4096));
        let driver = MockQueue::new(&guest, size, buffer, features, start);
        let ring = Ring::new(guest.memory(), &driver.setup()).unwrap();
        Self { driver, ring }
    }

    /// Delivers one frame.
    fn receive(&mut self, frame: &Outgoing<'_>) -> Result<(), Refusal> {
        let delivery = self.ring.deliver(std::slice::from_ref(frame));
        delivery.refusal.map_or(Ok(()), Err)
    }

    fn ring_write(&self, guest: u64, octets: &[u8]) {
        self.driver.guest().write(guest, octets);
    }
}

/// A frame of `len` octets that differs from others, behind a header.
fn framed(header_len: usize, vnet: VnetHeader, len: usize, seed: u8) -> Vec<u8> {
    let mut octets = vnet.to_bytes()[..header_len].to_vec();
    octets.extend((0..len).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed)));
    octets
}

/// A burst's frame, as a worker would hand it on.
fn outgoing(burst: &Burst, index: usize) -> Outgoing<'_> {
    burst.outgoing(index, 0).expect("a frame")
}

/// Carries one burst from one side to the other; returns what was accepted.
fn carry(from: &mut Side, to: &mut Side) -> Vec<Result<(), Refusal>> {
    let mut burst = Burst::default();
    from.ring.take(0, &mut burst);
    let frames: Vec<_> = (0..burst.frames.len())
        .map(|index| outgoing(&burst, index))
        .collect();
    let mut results = Vec::new();
    while results.len() < frames.len() {
        let delivery = to.ring.deliver(&frames[results.len()..]);
        results.extend((0..delivery.accepted).map(|_| Ok(())));
        results.extend(delivery.refusal.map(Err));
    }
    from.ring.complete();
    results
}

#[test]
fn frames_of_all_shapes_arrive_intact() {
    for features in [MODERN, PACKED] {
        for shape in [
            Shape::Chain(1),
            Shape::Chain(2),
            Shape::Chain(19),
            Shape::Indirect(1),
            Shape::Indirect(18),
        ] {
            for len in [14, 60, 191, 192, 193, 1514, 9014, MAX_FRAME] {
                let mut from = Side::new(64, 0x1_1000, features | feature::CSUM, 0);
                let mut to = Side::new(64, 0x1_1000, features, 0);
                let vnet = VnetHeader {
                    flags: 1,
                    csum_start: 34,
                    csum_offset: 16,
                    ..VnetHeader::default()
                };
                let sent = framed(12, vnet, len, 7);
                assert!(from.driver.send(&sent, shape));
                assert!(to.driver.post(0x1_1000, shape));
                assert_eq!(carry(&mut from, &mut to), [Ok(())], "{shape:?}, {len} octets");
                let got = to.driver.receive(12).unwrap();
                assert_eq!(&got[..10], &sent[..10]);
                assert_eq!(got[12..], sent[12..]);
                assert_eq!(from.driver.used().map(|(_, len)| len), Some(0));
                assert_eq!(from.driver.free(), 64);
            }
        }
    }
}

#[test]
fn a_driver_asks_for_what_it_agreed_on_only() {
    let vnet = VnetHeader {
        flags: 1,
        gso_type: 1,
        csum_start: 34,
        ..VnetHeader::default()
    };
    let bits = (0..64).map(|bit| 1 << bit & feature::REQUESTS);
    let agreements = bits.filter(|bit| *bit != 0).chain([0]);
    for agreed in agreements {
        for (features, header_len) in [
            (MODERN, 12),
            (PACKED, 12),
            (MODERN | feature::HASH_REPORT, 20),
            (0, 10),
        ] {
            for shape in [Shape::Chain(1), Shape::Chain(10), Shape::Indirect(2)] {
                let mut side = Side::new(16, 4096, features | agreed | feature::INDIRECT_DESC, 0);
                let mut sent = framed(header_len.min(12), vnet, 0, 0);
                sent.resize(header_len, 0);
                sent.extend(framed(0, vnet, 60, 5));
                assert!(side.driver.send(&sent, shape));
                let mut burst = Burst::default();
                assert_eq!(side.ring.take(0, &mut burst), 1);
                let frame = outgoing(&burst, 0);
                let expected = if agreed == 0 { VnetHeader::default() } else { vnet };
                assert_eq!(frame.vnet, expected, "{features:x} {agreed:x} {shape:?}");
                assert_eq!(frame.head, &sent[header_len..]);
            }
        }
    }
}

#[test]
fn a_large_frame_spreads_over_merged_buffers() {
    for features in [MODERN, PACKED] {
        let mut from = Side::new(32, 0x1_1000, features, 0);
        let mut to = Side::new(64, 2048, features, 0);
        let sent = framed(12, VnetHeader::default(), 65_000, 3);
        for _ in 0..31 {
            assert!(to.driver.post(2048, Shape::Chain(1)));
        }
        assert!(from.driver.send(&sent, Shape::Chain(17)));
        let mut burst = Burst::default();
        assert_eq!(from.ring.take(0, &mut burst), 1);
        // 31 buffers hold 63488 octets: too few by one, and none of them is consumed.
        assert_eq!(to.receive(&outgoing(&burst, 0)), Err(Refusal::Full));
        assert_eq!(to.driver.used(), None);
        assert!(!to.ring.enable_room_notifications(), "nothing was added since");
        assert!(to.driver.post(2048, Shape::Chain(1)));
        assert!(to.ring.enable_room_notifications(), "a buffer was added since");
        assert_eq!(to.receive(&outgoing(&burst, 0)), Ok(()));
        from.ring.complete();
        let got = to.driver.receive(12).unwrap();
        assert_eq!(u16::from_le_bytes([got[10], got[11]]), 32);
        assert_eq!(got[12..], sent[12..]);
        assert_eq!(to.driver.free(), 64);
    }
}

/// Buffers that nobody missed are no room that somebody waits for; what is added to them is heard of all the same, because
/// another worker may have used them up by then.
#[test]
fn a_queue_that_nobody_waits_for_has_no_news() {
    for features in [
        MODERN,
        MODERN & !feature::EVENT_IDX,
        PACKED,
        PACKED & !feature::EVENT_IDX,
    ] {
        let mut from = Side::new(16, 2048, features, 0);
        let mut to = Side::new(16, 2048, features, 0);
        (0..4).for_each(|_| assert!(to.driver.post(2048, Shape::Chain(1))));
        to.driver.must_kick();
        assert!(!to.ring.enable_room_notifications(), "{features:#x}");
        assert!(to.driver.post(2048, Shape::Chain(1)));
        assert!(to.driver.must_kick(), "{features:#x}");
        // Whoever delivers beside the one who asked uses them up, and is out of room.
        assert!(!to.ring.enable_room_notifications());
        (0..6).for_each(|_| {
            let frame = framed(12, VnetHeader::default(), 60, 1);
            assert!(from.driver.send(&frame, Shape::Chain(1)));
        });
        let results = carry(&mut from, &mut to);
        assert_eq!(results[4..], [Ok(()), Err(Refusal::Full)]);
        assert!(to.driver.post(2048, Shape::Chain(1)));
        assert!(to.driver.must_kick(), "{features:#x}");
        assert!(to.ring.enable_room_notifications(), "there is room since");
        assert!(!to.ring.enable_room_notifications(), "which was told");
    }
}

#[test]
fn a_frame_that_can_never_fit_is_dropped() {
    for features in [MODERN, PACKED] {
        let mut from = Side::new(16, 0x1000, features, 0);
        let mut to = Side::new(16, 2048, features & !feature::MRG_RXBUF, 0);
        from.driver
            .send(&framed(12, VnetHeader::default(), 2037, 0), Shape::Chain(1));
        from.driver
            .send(&framed(12, VnetHeader::default(), 2036, 1), Shape::Chain(1));
        to.driver.post(2048, Shape::Chain(1));
        let results = carry(&mut from, &mut to);
        assert_eq!(results, [Err(Refusal::Drop(DropReason::BufferTooSmall)), Ok(())]);
        let got = to.driver.receive(12).unwrap();
        assert_eq!((got.len(), got[10]), (2048, 1));
        // The whole ring is posted and merged buffers still do not hold it.
        let mut small = Side::new(4, 64, features, 0);
        (0..4).for_each(|_| assert!(small.driver.post(64, Shape::Chain(1))));
        from.driver
            .send(&framed(12, VnetHeader::default(), 245, 0), Shape::Chain(1));
        assert_eq!(
            carry(&mut from, &mut small),
            [Err(Refusal::Drop(DropReason::BufferTooSmall))]
        );
    }
}

#[test]
fn a_legacy_driver_has_headers_of_10_octets() {
    let mut from = Side::new(16, 2048, feature::CSUM, 0);
    let mut to = Side::new(16, 2048, MODERN, 0);
    assert_eq!(from.ring.header_len(), 10);
    let vnet = VnetHeader {
        flags: 1,
        csum_start: 14,
        ..VnetHeader::default()
    };
    let sent = framed(10, vnet, 100, 9);
    from.driver.send(&sent, Shape::Chain(2));
    to.driver.post(1024, Shape::Chain(1));
    assert_eq!(carry(&mut from, &mut to), [Ok(())]);
    let got = to.driver.receive(12).unwrap();
    assert_eq!(got[..10], sent[..10]);
    assert_eq!(got[12..], sent[10..]);
}

#[test]
fn frames_of_impossible_length_are_given_back_in_order_and_counted() {
    for (features, expected) in [(MODERN, [0, 1, 2, 5, 6]), (PACKED, [0, 1, 2, 3, 4])] {
        let mut side = Side::new(16, 0x1_2000, features, 0);
        side.driver
            .send(&framed(12, VnetHeader::default(), 60, 0), Shape::Chain(1));
        side.driver
            .send(&framed(12, VnetHeader::default(), 13, 0), Shape::Chain(1));
        side.driver.send(
            &framed(12, VnetHeader::default(), MAX_FRAME + 1, 0),
            Shape::Chain(3),
        );
        side.driver.send(&[], Shape::Chain(1));
        side.driver
            .send(&framed(12, VnetHeader::default(), MAX_FRAME, 0), Shape::Chain(3));
        let mut burst = Burst::default();
        assert_eq!(side.ring.take(5, &mut burst), 2);
        assert_eq!(side.ring.fault(), None);
        assert_eq!(
            side.ring.take_refused(),
            RefusedFrames {
                too_short: 2,
                too_long: 1
            }
        );
        assert_eq!(burst.frames()[1].queue, 5);
        assert_eq!(side.ring.outstanding(), 5);
        assert_eq!(side.ring.complete(), 5);
        let heads: Vec<u16> = std::iter::from_fn(|| side.driver.used())
            .map(|(head, _)| head)
            .collect();
        assert_eq!(heads, expected);
    }
}

#[test]
fn the_driver_is_told_when_it_asked() {
    for features in [
        MODERN,
        MODERN | feature::EVENT_IDX,
        PACKED,
        PACKED | feature::EVENT_IDX,
    ] {
        let mut side = Side::new(16, 2048, features, 65_535);
        let send = |side: &mut Side| {
            side.driver.send(&[0; 100], Shape::Chain(1));
            let mut burst = Burst::default();
            assert_eq!(side.ring.take(0, &mut burst), 1);
            side.ring.complete();
            side.ring.needs_notification()
        };
        assert!(send(&mut side));
        assert!(!side.ring.needs_notification(), "once is enough");
        side.driver.want_interrupts(false);
        assert!(!send(&mut side));
        while side.driver.used().is_some() {}
        side.driver.want_interrupts(true);
        assert!(send(&mut side));
        if features & feature::EVENT_IDX != 0 {
            assert!(!send(&mut side), "the event index was passed already");
        }
    }
}

#[test]
fn an_empty_ring_notifies_a_legacy_driver_that_asked_for_it() {
    let mut side = Side::new(16, 2048, feature::NOTIFY_ON_EMPTY, 0);
    side.driver.want_interrupts(false);
    side.driver.send(&[0; 100], Shape::Chain(1));
    side.ring.take(0, &mut Burst::default());
    side.ring.complete();
    assert!(side.ring.needs_notification());
}

#[test]
fn the_device_is_told_when_it_asked() {
    for features in [
        MODERN,
        MODERN | feature::EVENT_IDX,
        PACKED,
        PACKED | feature::EVENT_IDX,
    ] {
        let mut side = Side::new(16, 2048, features, 65_535);
        assert!(!side.ring.enable_notifications());
        side.driver.send(&[0; 100], Shape::Chain(1));
        assert!(side.driver.must_kick());
        assert!(side.ring.enable_notifications(), "it came before we asked again");
        side.ring.disable_notifications();
        side.ring.take(0, &mut Burst::default());
        side.ring.complete();
        side.driver.send(&[0; 100], Shape::Chain(1));
        assert!(!side.driver.must_kick());
        assert!(side.ring.enable_notifications());
    }
}

#[test]
fn a_disabled_queue_is_emptied_unread() {
    for features in [MODERN, PACKED] {
        let mut side = Side::new(16, 2048, features, 0);
        (0..5).for_each(|_| assert!(side.driver.send(&[0; 100], Shape::Chain(1))));
        assert_eq!(side.ring.discard(3), 3);
        assert_eq!(side.ring.discard(BURST), 2);
        assert_eq!(std::iter::from_fn(|| side.driver.used()).count(), 5);
    }
}

#[test]
fn a_burst_ends_at_its_limit() {
    for (features, middle, end) in [(MODERN, 16, 24), (PACKED, 0x8010, 0x8018)] {
        let mut side = Side::new(64, 256, features, 65_520);
        (0..40).for_each(|_| assert!(side.driver.send(&[0; 100], Shape::Chain(1))));
        let mut burst = Burst::default();
        assert_eq!(side.ring.take(0, &mut burst), BURST);
        assert_eq!(burst.room(), 0);
        side.ring.complete();
        burst.clear();
        assert_eq!(side.ring.take(0, &mut burst), 8);
        assert_eq!(side.ring.base(), middle, "what is in hand counts as not consumed");
        side.ring.complete();
        assert_eq!(side.ring.base(), end);
    }
}
