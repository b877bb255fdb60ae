//! A port whose peer uses packed rings.

#[path = "vhost_user_common/mod.rs"]
mod common;

use common::{Guest, MODERN, Port, octets};
use introspection::Instant;
use vhost::VhostBackend;
use vswitch::frame::Burst;
use vswitch::port::{Backend, Refusal};
use vswitch::ring::feature;

const PACKED: u64 = MODERN | feature::RING_PACKED;
const NOW: Instant = Instant(0);

/// Carries one burst from one port to another; returns the frames that were accepted.
fn carry(from: &Port, to: &Port) -> usize {
    let mut burst = Burst::default();
    from.backend.take(0, NOW, &mut burst);
    let frames: Vec<_> = (0..burst.frames().len())
        .map(|index| burst.outgoing(index, 0).unwrap())
        .collect();
    let delivery = to.backend.deliver(&frames);
    from.backend.complete(0, &burst);
    to.backend.notify();
    delivery.accepted
}

#[test]
fn frames_pass_between_packed_and_split_rings() {
    let (a, b) = (Port::new(1), Port::new(1));
    for (features_a, features_b) in [
        (PACKED, MODERN),
        (PACKED | feature::IN_ORDER, PACKED),
        (MODERN | feature::IN_ORDER, PACKED & !feature::EVENT_IDX),
    ] {
        let mut left = Guest::attach(&a.path, 1, features_a);
        let mut right = Guest::attach(&b.path, 1, features_b);
        for round in 0..100 {
            let frame = octets(64 + 10 * usize::from(round), round);
            left.transmit(0, &frame);
            right.transmit(0, &frame);
            left.post(0, 1);
            right.post(0, 1);
            right.rx[0].driver.want_interrupts(true);
            assert_eq!((carry(&a, &b), carry(&b, &a)), (1, 1));
            assert_eq!(right.received(0).unwrap(), frame);
            assert_eq!(left.received(0).unwrap(), frame);
            assert!(right.rx[0].call.read().is_ok(), "the receiver is told");
        }
        for port in [&a, &b] {
            assert!(port.backend.status().refusals.is_empty());
        }
    }
}

#[test]
fn the_worker_sleeps_and_is_rung_awake() {
    for features in [PACKED, PACKED & !feature::EVENT_IDX] {
        let port = Port::new(1);
        let mut guest = Guest::attach(&port.path, 1, features);
        assert!(!port.backend.arm(0, false));
        assert!(guest.transmit(0, &octets(60, 0)), "the guest rings an armed port");
        port.backend.disarm(0);
        assert!(!guest.transmit(0, &octets(60, 1)), "and not one that polls");
        assert!(port.backend.arm(0, false), "there is work already");
        let mut burst = Burst::default();
        port.backend.take(0, NOW, &mut burst);
        let frame = burst.outgoing(1, 0).unwrap();
        assert_eq!(port.backend.deliver(&[frame]).refusal, Some(Refusal::Full));
        port.backend.complete(0, &burst);
        assert!(!port.backend.arm(0, true), "no work, no buffers");
        guest.post(0, 1);
        assert!(guest.rx[0].driver.must_kick(), "buffers were asked for");
        assert!(port.backend.arm(0, true), "there are buffers since");
        assert!(!port.backend.arm(0, true), "and nobody misses more");
    }
}

#[test]
fn a_stopped_ring_says_where_it_stands_and_goes_on_there() {
    let port = Port::new(1);
    let mut guest = Guest::attach(&port.path, 1, PACKED);
    let mut burst = Burst::default();
    let mut base = 0x8000;
    // 40 frames of two descriptors each go once round a ring of 64 places.
    for turn in 0..8 {
        for n in 0..5 {
            guest.transmit(0, &octets(60, 10 * turn + n));
        }
        port.backend.take(0, NOW, &mut burst);
        assert_eq!(burst.frames().len(), 5);
        port.backend.complete(0, &burst);
        burst.clear();
        base = if turn == 6 { 6 } else { base + 10 };
        let both = u32::from(base) << 16 | u32::from(base);
        assert_eq!(guest.frontend.get_vring_base(1).unwrap(), both);
        let mut setup = guest.tx[0].driver.setup();
        setup.base = base;
        guest.start_ring(1, &setup).unwrap();
    }
    guest.transmit(0, &octets(60, 200));
    port.backend.take(0, NOW, &mut burst);
    assert_eq!(burst.outgoing(0, 0).unwrap().head, octets(60, 200));
    port.backend.complete(0, &burst);
}

#[test]
fn frames_in_hand_when_a_ring_stops_are_sent_again() {
    let port = Port::new(1);
    let mut guest = Guest::attach(&port.path, 1, PACKED);
    guest.transmit(0, &octets(1000, 1));
    let mut burst = Burst::default();
    port.backend.take(0, NOW, &mut burst);
    assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 0x8000_8000);
    port.backend.complete(0, &burst);
    burst.clear();
    let setup = guest.tx[0].driver.setup();
    guest.start_ring(1, &setup).unwrap();
    port.backend.take(0, NOW, &mut burst);
    assert_eq!(burst.frames().len(), 1);
    port.backend.complete(0, &burst);
    assert!(guest.tx[0].driver.used().is_some());
    assert!(
        guest.tx[0].driver.used().is_none(),
        "its buffer is given back once"
    );
}

#[test]
fn a_position_outside_of_the_ring_is_refused() {
    let port = Port::new(1);
    let mut guest = Guest::connect(&port.path, 1, PACKED);
    guest.share_memory();
    let mut setup = guest.tx[0].driver.setup();
    setup.base = setup.size;
    guest.start_ring(1, &setup).unwrap_err();
    assert_eq!(port.refusals("ring_position"), 1);
    drop(guest);
    port.assert_serves();
}

/// Every frame of 256 flows passes over the receiver's 16 queue pairs, of which each flow keeps to one.
#[test]
fn sixteen_queue_pairs_carry_frames() {
    const MULTIQUEUE: u64 = 1 << 22;
    let port = Port::new(16);
    let mut guest = Guest::attach(&port.path, 16, PACKED | feature::IN_ORDER | MULTIQUEUE);
    (0..16).for_each(|pair| guest.post(pair, 60));
    let mut burst = Burst::default();
    let mut frames = 0;
    for flow in 0..=255_u8 {
        let pair = u16::from(flow) % 16;
        guest.transmit(pair.into(), &octets(60, flow));
        port.backend.take(pair, NOW, &mut burst);
        let frame = burst.outgoing(0, u32::from(flow) << 24).unwrap();
        assert_eq!(port.backend.deliver(&[frame, frame]).accepted, 2);
        port.backend.complete(pair, &burst);
        burst.clear();
        let receiver = usize::from(flow) / 16;
        for _ in 0..2 {
            assert_eq!(guest.received(receiver).unwrap(), octets(60, flow));
            frames += 1;
        }
    }
    assert_eq!(frames, 512);
    assert!(port.backend.status().refusals.is_empty());
}
