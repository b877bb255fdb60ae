//! A real vhost-user front end on a port: frames, doorbells, restarts.

#[path = "vhost_user_common/mod.rs"]
mod common;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use common::{Guest, MODERN, Port, eventually, octets, region, send_raw, words};
use introspection::Instant;
use vhost::vhost_user::VhostUserFrontend;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vswitch::counters::DropReason;
use vswitch::frame::Burst;
use vswitch::port::vhost_user::VhostUserPort;
use vswitch::port::{Backend, Refusal};
use vswitch::ring::mock::{MockGuest, MockQueue};

const NOW: Instant = Instant(0);

/// Carries one burst from one port to another, as a worker does.
fn carry(from: &Port, to: &Port) -> usize {
    let mut burst = Burst::default();
    from.backend.take(0, NOW, &mut burst);
    let frames: Vec<_> = (0..burst.frames().len())
        .map(|index| burst.outgoing(index, 0).unwrap())
        .collect();
    let delivery = to.backend.deliver(&frames);
    assert_eq!(delivery.refusal, None);
    from.backend.complete(0, &burst);
    to.backend.notify();
    delivery.accepted
}

#[test]
fn frames_pass_from_guest_to_guest_both_ways() {
    let (left, right) = (Port::new(1), Port::new(1));
    let mut a = Guest::attach(&left.path, 1, MODERN);
    let mut b = Guest::attach(&right.path, 1, MODERN);
    assert!(left.backend.status().up && right.backend.status().up);
    assert_eq!(left.waker.watched.lock().len(), 2);
    assert!(left.waker.wakes.load(Ordering::Relaxed) > 0);
    a.post(0, 40);
    b.post(0, 40);
    for round in 0..100u8 {
        let large = octets(14 + usize::from(round) * 300, round);
        a.transmit(0, &octets(60, round));
        a.transmit(0, &large);
        assert_eq!(carry(&left, &right), 2);
        assert_eq!(b.received(0).unwrap(), octets(60, round));
        assert_eq!(b.received(0).unwrap(), large);
        b.transmit(0, &octets(1514, round));
        assert_eq!(carry(&right, &left), 1);
        assert_eq!(a.received(0).unwrap(), octets(1514, round));
        let spent = 1 + (large.len() + 12).div_ceil(2048);
        b.post(0, spent);
        a.post(0, 1);
    }
    assert!(b.rx[0].call.read().unwrap() > 0, "the receiver was interrupted");
    assert!(left.backend.status().refusals.is_empty());
}

#[test]
fn the_worker_sleeps_and_is_rung_awake() {
    let port = Port::new(1);
    let mut guest = Guest::attach(&port.path, 1, MODERN);
    assert!(!port.backend.arm(0, false));
    assert!(guest.transmit(0, &octets(60, 0)), "the guest rings an armed port");
    port.backend.woken(0);
    assert!(guest.tx[0].kick.read().is_err(), "the doorbell was cleared");
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

#[test]
fn a_peer_that_goes_wakes_the_worker() {
    let port = Port::new(1);
    let guest = Guest::attach(&port.path, 1, MODERN);
    guest.frontend.get_features().unwrap();
    let wakes = || port.waker.wakes.load(Ordering::Relaxed);
    let before = wakes();
    drop(guest);
    // Else what it was too slow to take would wait for the next peer, which may not take its form.
    eventually(|| wakes() > before && !port.backend.status().up, "a wake-up");
}

#[test]
fn a_receiver_without_buffers_refuses_and_keeps_its_place() {
    let port = Port::new(1);
    let mut guest = Guest::attach(&port.path, 1, MODERN);
    (0..3).for_each(|n| assert!(guest.transmit(0, &octets(100, n)) || n > 0));
    let mut burst = Burst::default();
    port.backend.take(0, NOW, &mut burst);
    let frames: Vec<_> = (0..3).map(|index| burst.outgoing(index, 0).unwrap()).collect();
    guest.post(0, 2);
    let delivery = port.backend.deliver(&frames);
    assert_eq!((delivery.accepted, delivery.refusal), (2, Some(Refusal::Full)));
    guest.post(0, 1);
    assert_eq!(port.backend.deliver(&frames[2..]).accepted, 1);
    port.backend.complete(0, &burst);
    for n in 0..3 {
        assert_eq!(guest.received(0).unwrap(), octets(100, n));
    }
}

#[test]
fn flows_spread_over_queue_pairs_and_stay_on_theirs() {
    let port = Port::new(2);
    let mut guest = Guest::attach(&port.path, 2, MODERN | 1 << 22);
    guest.transmit(0, &octets(60, 0));
    guest.transmit(1, &octets(60, 1));
    let mut burst = Burst::default();
    port.backend.take(1, NOW, &mut burst);
    port.backend.complete(1, &burst);
    let queues: Vec<u16> = burst.frames().iter().map(|frame| frame.queue).collect();
    assert_eq!(queues, [1], "each queue is served on its own");
    burst.clear();
    port.backend.take(0, NOW, &mut burst);
    assert_eq!(burst.frames().len(), 1);
    guest.post(0, 8);
    guest.post(1, 8);
    let frames: Vec<_> = [1u32, 2, u32::MAX, 3]
        .iter()
        .map(|hash| burst.outgoing(0, *hash).unwrap())
        .collect();
    assert_eq!(port.backend.deliver(&frames).accepted, 4);
    port.backend.complete(0, &burst);
    assert_eq!(std::iter::from_fn(|| guest.received(0)).count(), 3);
    assert_eq!(std::iter::from_fn(|| guest.received(1)).count(), 1);
    guest.frontend.set_vring_enable(2, false).unwrap();
    assert_eq!(
        port.backend.deliver(&frames).accepted,
        4,
        "all of them on the pair that is left"
    );
    assert_eq!(std::iter::from_fn(|| guest.received(0)).count(), 4);
}

#[test]
fn a_disabled_ring_gives_frames_back_unseen() {
    let port = Port::new(1);
    let mut guest = Guest::attach(&port.path, 1, MODERN);
    for index in 0..2 {
        guest.frontend.set_vring_enable(index, false).unwrap();
    }
    assert!(!port.backend.status().up);
    guest.transmit(0, &octets(60, 0));
    let mut burst = Burst::default();
    port.backend.take(0, NOW, &mut burst);
    assert!(burst.frames().is_empty());
    assert!(guest.tx[0].driver.used().is_some());
    guest.post(0, 1);
    guest.frontend.set_vring_enable(1, true).unwrap();
    guest.transmit(0, &octets(60, 0));
    port.backend.take(0, NOW, &mut burst);
    let delivery = port.backend.deliver(&[burst.outgoing(0, 0).unwrap()]);
    assert_eq!(delivery.refusal, Some(Refusal::Drop(DropReason::PortDown)));
    port.backend.complete(0, &burst);
}

#[test]
fn a_stopped_ring_says_where_it_stands_and_goes_on_there() {
    let port = Port::new(1);
    let mut guest = Guest::attach(&port.path, 1, MODERN);
    for n in 0..5 {
        guest.transmit(0, &octets(60, n));
    }
    let mut burst = Burst::default();
    port.backend.take(0, NOW, &mut burst);
    port.backend.complete(0, &burst);
    burst.clear();
    assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 5);
    assert_eq!(
        port.waker.watched.lock().len(),
        1,
        "the stopped ring's doorbell is not watched"
    );
    guest.transmit(0, &octets(60, 5));
    port.backend.take(0, NOW, &mut burst);
    assert!(burst.frames().is_empty());
    let mut setup = guest.tx[0].driver.setup();
    setup.base = 5;
    guest.start_ring(1, &setup).unwrap();
    port.backend.take(0, NOW, &mut burst);
    assert_eq!(burst.outgoing(0, 0).unwrap().head, octets(60, 5));
    port.backend.complete(0, &burst);
}

#[test]
fn frames_in_hand_when_a_ring_stops_are_sent_again() {
    let port = Port::new(1);
    let mut guest = Guest::attach(&port.path, 1, MODERN);
    guest.transmit(0, &octets(1000, 1));
    guest.transmit(0, &octets(1000, 2));
    let mut burst = Burst::default();
    port.backend.take(0, NOW, &mut burst);
    // The worker never completes: after a moment the ring stops without it.
    assert_eq!(guest.frontend.get_vring_base(1).unwrap(), 0);
    drop(guest);
    eventually(|| !port.backend.status().up, "the end of the peer");
    eventually(|| port.waker.watched.lock().is_empty(), "the end of the watch");
    // Its memory is still there for the frames in hand.
    let frame = burst.outgoing(1, 0).unwrap();
    let mut other = Guest::attach(&port.path, 1, MODERN);
    other.post(0, 2);
    assert_eq!(port.backend.deliver(&[frame]).accepted, 1);
    assert_eq!(other.received(0).unwrap(), octets(1000, 2));
    port.backend.complete(0, &burst);
}

#[test]
fn memory_is_replaced_under_running_rings() {
    let port = Port::new(1);
    let mut guest = Guest::attach(&port.path, 1, MODERN);
    guest.transmit(0, &octets(2000, 1));
    let mut burst = Burst::default();
    port.backend.take(0, NOW, &mut burst);
    let more = MockGuest::new(0x1000);
    let second = VhostUserMemoryRegionInfo {
        guest_phys_addr: 0x9000_0000,
        userspace_addr: 0x7f00_0000_0000,
        ..region(&more)
    };
    guest.frontend.set_mem_table(&[guest.region(), second]).unwrap();
    guest.post(0, 3);
    assert_eq!(port.backend.deliver(&[burst.outgoing(0, 0).unwrap()]).accepted, 1);
    port.backend.complete(0, &burst);
    burst.clear();
    assert_eq!(guest.received(0).unwrap(), octets(2000, 1));
    assert!(guest.tx[0].driver.used().is_some(), "completed in the new memory");
    guest.frontend.remove_mem_region(&second).unwrap();
    assert_eq!(guest.frontend.get_max_mem_slots().unwrap(), 32);
    guest.frontend.add_mem_region(&second).unwrap();
    guest.transmit(0, &octets(60, 2));
    port.backend.take(0, NOW, &mut burst);
    assert_eq!(burst.frames().len(), 1);
    port.backend.complete(0, &burst);
    // Memory without the rings in it stops them.
    guest.frontend.set_mem_table(&[second]).unwrap_err();
    assert!(!port.backend.status().up);
    assert_eq!(port.refusals("ring_outside_memory"), 1);
    drop(guest);
    port.assert_serves();
}

#[test]
fn a_peer_finds_a_restarted_port_and_goes_on() {
    let port = Port::new(1);
    let mut guest = Guest::attach(&port.path, 1, MODERN);
    guest.transmit(0, &octets(60, 0));
    let mut burst = Burst::default();
    port.backend.take(0, NOW, &mut burst);
    port.backend.complete(0, &burst);
    burst.clear();
    let path = port.path.clone();
    port.backend.close();
    assert!(!path.exists());
    guest.frontend.get_features().unwrap_err();
    // The guest goes on as if nothing had happened; its VMM connects anew and says where the ring stands.
    guest.transmit(0, &octets(60, 1));
    let again = VhostUserPort::listen(&path, 1, 1500).unwrap();
    let mut vmm = Guest::connect(&path, 1, MODERN);
    std::mem::swap(&mut vmm.memory, &mut guest.memory);
    std::mem::swap(&mut vmm.tx, &mut guest.tx);
    std::mem::swap(&mut vmm.rx, &mut guest.rx);
    vmm.share_memory();
    let mut setup = vmm.tx[0].driver.setup();
    setup.base = 1;
    vmm.start_ring(1, &setup).unwrap();
    vmm.frontend.set_vring_enable(1, true).unwrap();
    again.take(0, NOW, &mut burst);
    assert_eq!(burst.frames().len(), 1);
    assert_eq!(burst.outgoing(0, 0).unwrap().head, octets(60, 1));
    again.complete(0, &burst);
    again.close();
}

#[test]
fn a_second_peer_waits_for_the_first_to_go() {
    let port = Port::new(1);
    let first = Guest::attach(&port.path, 1, MODERN);
    let mut second = UnixStream::connect(&port.path).unwrap();
    send_raw(&second, 1, 1, &[], &[]);
    second.set_nonblocking(true).unwrap();
    assert!(first.frontend.get_features().is_ok());
    assert!(second.read(&mut [0; 20]).is_err(), "not served yet");
    assert_eq!(port.backend.status().connections, 1);
    drop(first);
    second.set_nonblocking(false).unwrap();
    second.read_exact(&mut [0; 20]).unwrap();
    assert_eq!(port.backend.status().connections, 2);
}

/// The order of QEMU, which enables rings before it agrees on features, and without a doorbell.
#[test]
fn rings_may_be_enabled_first_and_polled() {
    let port = Port::new(1);
    let mut peer = UnixStream::connect(&port.path).unwrap();
    let guest = MockGuest::new(0x20_0000);
    let mut tx = MockQueue::new(&guest, 64, 2048, MODERN, 0);
    let (setup, spec) = (tx.setup(), guest.region());
    let file = std::os::fd::AsRawFd::as_raw_fd(guest.file());
    let index = 1u64;
    send_raw(&peer, 18, 1, &words(&[1 << 32 | index]), &[]);
    send_raw(&peer, 2, 1, &words(&[MODERN | common::PROTOCOL_FEATURES]), &[]);
    send_raw(
        &peer,
        5,
        1,
        &words(&[1, spec.guest, spec.size, spec.user, spec.offset]),
        &[file],
    );
    send_raw(&peer, 8, 1, &words(&[64 << 32 | index]), &[]);
    let addresses = setup.addresses;
    send_raw(
        &peer,
        9,
        1,
        &words(&[
            index,
            addresses.descriptors,
            addresses.used,
            addresses.available,
            0,
        ]),
        &[],
    );
    send_raw(&peer, 10, 1, &words(&[index]), &[]);
    send_raw(&peer, 12, 1, &words(&[0x100 | index]), &[]);
    send_raw(&peer, 17, 1, &[], &[]);
    let mut reply = [0; 20];
    peer.read_exact(&mut reply).unwrap();
    assert_eq!(reply[12..], words(&[2])[..]);
    assert!(
        port.backend.arm(0, false),
        "a ring without a doorbell has to be polled"
    );
    assert!(tx.send(&[0; 100], vswitch::ring::mock::Shape::Chain(1)));
    let mut burst = Burst::default();
    port.backend.take(0, NOW, &mut burst);
    assert_eq!(burst.frames().len(), 1);
    port.backend.complete(0, &burst);
}

#[test]
fn an_mtu_above_the_ports_is_refused_to_the_peers_face() {
    let port = Port::new(1);
    let mut peer = UnixStream::connect(&port.path).unwrap();
    let mut ask = |code: u32, flags: u32, body: &[u64]| {
        send_raw(&peer, code, flags, &words(body), &[]);
        let mut reply = [0; 20];
        peer.read_exact(&mut reply).unwrap();
        u64::from_ne_bytes(reply[12..].try_into().unwrap())
    };
    let protocol = ask(15, 1, &[]);
    assert_eq!(ask(16, 9, &[protocol]), 0);
    assert_eq!(ask(20, 9, &[1500]), 0);
    assert_eq!(ask(20, 9, &[1501]), 1);
    assert_eq!(ask(20, 9, &[67]), 1);
    assert_eq!(port.refusals("mtu"), 2);
    assert_eq!(
        port.backend.status().last_error.unwrap(),
        "an MTU of 67: the port has 1500"
    );
}

#[test]
fn doorbells_are_replaced_while_frames_flow() {
    let port = Port::new(1);
    let mut guest = Guest::attach(&port.path, 1, MODERN & !vswitch::ring::feature::EVENT_IDX);
    guest.post(0, 2);
    guest.transmit(0, &octets(60, 0));
    guest.transmit(0, &octets(60, 1));
    let mut burst = Burst::default();
    port.backend.take(0, NOW, &mut burst);
    assert_eq!(port.backend.deliver(&[burst.outgoing(0, 0).unwrap()]).accepted, 1);
    port.backend.notify();
    assert_eq!(guest.rx[0].call.read().unwrap(), 1);
    let other = EventFd::new(EFD_NONBLOCK).unwrap();
    guest.frontend.set_vring_call(0, &other).unwrap();
    assert_eq!(port.backend.deliver(&[burst.outgoing(1, 0).unwrap()]).accepted, 1);
    port.backend.notify();
    assert_eq!(other.read().unwrap(), 1);
    assert!(guest.rx[0].call.read().is_err());
    guest.frontend.set_vring_kick(1, &other).unwrap();
    assert_eq!(
        port.waker.watched.lock().len(),
        2,
        "the new doorbell is watched, the old one is not"
    );
    port.backend.complete(0, &burst);
}
