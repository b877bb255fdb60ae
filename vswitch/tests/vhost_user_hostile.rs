//! Peers that break the rules harm their own port only, and only until they are gone.

#[path = "vhost_user_common/mod.rs"]
mod common;

use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use common::{Guest, MODERN, Port, eventually, octets, send_raw, words};
use introspection::Instant;
use vhost::VhostBackend;
use vswitch::counters::DropReason;
use vswitch::frame::Burst;
use vswitch::port::{Backend, Refusal};
use vswitch::ring::mock::GUEST_BASE;

const NOW: Instant = Instant(0);

/// Connects, lets the peer misbehave, and waits for the port to have counted it; then the port serves the next one.
fn misbehave(kind: &str, peer: impl FnOnce(&mut UnixStream)) {
    let port = Port::new(1);
    let mut stream = UnixStream::connect(&port.path).unwrap();
    peer(&mut stream);
    port.wait_refusal(kind);
    assert!(port.backend.status().last_error.is_some());
    drop(stream);
    port.assert_serves();
}

#[test]
fn garbage() {
    misbehave("message_flags", |peer| peer.write_all(&[0xa5; 4096]).unwrap());
    misbehave("message_unknown", |peer| send_raw(peer, 9999, 1, &[], &[]));
    misbehave("message_unknown", |peer| send_raw(peer, 28, 1, &[], &[]));
    misbehave("message_length", |peer| send_raw(peer, 2, 1, &[0; 7], &[]));
    misbehave("message_length", |peer| send_raw(peer, 1, 1, &[0; 8], &[]));
    misbehave("message_too_large", |peer| {
        let header: Vec<u8> = [5u32, 1, u32::MAX]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        peer.write_all(&header).unwrap();
    });
}

#[test]
fn a_message_that_breaks_off() {
    let port = Port::new(1);
    for len in [1, 11, 12, 19] {
        let mut peer = UnixStream::connect(&port.path).unwrap();
        let mut message: Vec<u8> = [2u32, 1, 8].iter().flat_map(|word| word.to_ne_bytes()).collect();
        message.extend([0; 8]);
        peer.write_all(&message[..len]).unwrap();
    }
    eventually(|| port.refusals("message_cut") == 4, "the fourth cut message");
    port.assert_serves();
}

#[test]
fn a_silent_peer_does_not_keep_the_port_from_closing() {
    let port = Port::new(1);
    let mut peer = UnixStream::connect(&port.path).unwrap();
    peer.write_all(&[1, 0, 0]).unwrap();
    eventually(|| port.backend.status().connections == 1, "the connection");
    port.backend.close();
    assert!(!port.path.exists());
}

#[test]
fn values_that_cannot_be() {
    misbehave("features", |peer| send_raw(peer, 2, 1, &words(&[1 << 33]), &[]));
    misbehave("protocol_features", |peer| {
        send_raw(peer, 16, 1, &words(&[1 << 8]), &[]);
    });
    misbehave("queue_index", |peer| send_raw(peer, 10, 1, &words(&[2]), &[]));
    misbehave("queue_index", |peer| {
        send_raw(peer, 11, 1, &words(&[u64::from(u32::MAX)]), &[]);
    });
    misbehave("queue_base", |peer| {
        send_raw(peer, 10, 1, &words(&[0x1_0000 << 32]), &[]);
    });
    misbehave("ring_size", |peer| {
        send_raw(peer, 8, 1, &words(&[0x1_0000 << 32]), &[]);
    });
    misbehave("ring_size", |peer| send_raw(peer, 8, 1, &words(&[0]), &[]));
    misbehave("message_value", |peer| {
        send_raw(peer, 18, 1, &words(&[2 << 32]), &[]);
    });
}

#[test]
fn files_that_are_not_what_they_should_be() {
    let null = std::fs::File::open("/dev/null").unwrap();
    let fd = null.as_raw_fd();
    misbehave("doorbell", |peer| send_raw(peer, 12, 1, &words(&[0]), &[fd]));
    misbehave("doorbell", |peer| {
        send_raw(peer, 13, 1, &words(&[0]), &[peer.as_raw_fd()]);
    });
    misbehave("message_files", |peer| send_raw(peer, 12, 1, &words(&[0]), &[]));
    misbehave("message_files", |peer| send_raw(peer, 1, 1, &[], &[fd]));
    misbehave("message_files", |peer| send_raw(peer, 5, 1, &[0; 8], &[fd; 40]));
}

#[test]
fn memory_for_chains_in_hand_that_cannot_be() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(0x1000).unwrap();
    let fd = file.as_raw_fd();
    let body = |size, offset, queues: u16, entries: u16| {
        words(&[size, offset, u64::from(entries) << 16 | u64::from(queues)])
    };
    for asked in [(0, 1), (3, 1), (1, 0), (1, 0x8001)] {
        misbehave("inflight", |peer| {
            send_raw(peer, 31, 1, &body(0, 0, asked.0, asked.1), &[]);
        });
    }
    for (size, offset, queues, entries) in [
        (0x1000, 0, 2, 64),
        (0x1000, 4, 1, 64),
        (0x1000, 8, 1, 64),
        (u64::MAX, 0, 1, 64),
        (0, 0, 1, 64),
        (0x1000, u64::MAX - 7, 1, 64),
    ] {
        misbehave("inflight", |peer| {
            send_raw(peer, 32, 1, &body(size, offset, queues, entries), &[fd]);
        });
    }
    misbehave("message_files", |peer| {
        send_raw(peer, 32, 1, &body(0x1000, 0, 1, 64), &[]);
    });
    misbehave("backend_channel", |peer| send_raw(peer, 21, 1, &[], &[fd]));
    misbehave("message_value", |peer| send_raw(peer, 39, 1, &words(&[256]), &[]));
}

#[test]
fn memory_that_is_not_there() {
    let table = |region: [u64; 4]| {
        let body = words(&[1, region[0], region[1], region[2], region[3]]);
        move |peer: &mut UnixStream, fd: RawFd| send_raw(peer, 5, 1, &body, &[fd])
    };
    let file = tempfile::tempfile().unwrap();
    file.set_len(0x2000).unwrap();
    let fd = file.as_raw_fd();
    for region in [
        [0, 0x3000, 0, 0],
        [0, 0x1000, 0, 0x1001],
        [0, 0, 0, 0],
        [u64::MAX - 5, 0x1000, 0, 0],
        [0, u64::MAX, 0, 0],
    ] {
        misbehave("memory_table", |peer| table(region)(peer, fd));
    }
    let mut two = words(&[2, 0, 0x1000, 0, 0]);
    two.extend(words(&[0xfff, 0x1000, 0x10_0000, 0]));
    misbehave("memory_table", |peer| send_raw(peer, 5, 1, &two, &[fd, fd]));
    misbehave("memory_table", |peer| send_raw(peer, 5, 1, &words(&[0]), &[]));
}

#[test]
fn rings_outside_of_memory() {
    let port = Port::new(1);
    let mut guest = Guest::connect(&port.path, 1, MODERN);
    guest.share_memory();
    let good = guest.tx[0].driver.setup();
    for (kind, descriptors) in [
        ("ring_outside_memory", 0),
        ("ring_misaligned", good.addresses.descriptors + 1),
    ] {
        let mut setup = good;
        setup.addresses.descriptors = descriptors;
        guest.start_ring(1, &setup).unwrap_err();
        assert_eq!(port.refusals(kind), 1);
    }
    guest.start_ring(1, &good).unwrap();
    drop(guest);
    port.assert_serves();
}

#[test]
fn memory_that_is_truncated_in_use() {
    let port = Port::new(1);
    let mut guest = Guest::attach(&port.path, 1, MODERN);
    guest.transmit(0, &octets(5000, 1));
    let mut burst = Burst::default();
    port.backend.take(0, NOW, &mut burst);
    assert_eq!(burst.frames().len(), 1);
    guest.memory.file().set_len(0).unwrap();
    // What the burst still points at reads as zero; the guest's rings are gone.
    let other = Port::new(1);
    let mut receiver = Guest::attach(&other.path, 1, MODERN);
    receiver.post(0, 4);
    assert_eq!(
        other.backend.deliver(&[burst.outgoing(0, 0).unwrap()]).accepted,
        1
    );
    let got = receiver.received(0).unwrap();
    assert_eq!(got[..192], octets(5000, 1)[..192]);
    assert!(got[192..].iter().all(|octet| *octet == 0));
    port.backend.complete(0, &burst);
    burst.clear();
    port.backend.take(0, NOW, &mut burst);
    port.wait_refusal("memory_lost");
    eventually(|| !port.backend.status().up, "the end of the peer");
    drop(guest);
    port.assert_serves();
    assert!(other.backend.status().up);
}

#[test]
fn descriptors_that_loop_or_point_outside() {
    for (kind, address, flags) in [
        ("ring_chain_too_long", GUEST_BASE, 1),
        ("ring_buffer_address", 64, 0),
    ] {
        let port = Port::new(1);
        let mut guest = Guest::attach(&port.path, 1, MODERN);
        let err = vmm_sys_util::eventfd::EventFd::new(vmm_sys_util::eventfd::EFD_NONBLOCK).unwrap();
        guest.frontend.set_vring_err(1, &err).unwrap();
        guest.tx[0].driver.write_descriptor(0, address, 100, flags, 0);
        guest.tx[0].driver.offer(0);
        let mut burst = Burst::default();
        port.backend.take(0, NOW, &mut burst);
        assert!(burst.frames().is_empty());
        assert_eq!(port.refusals(kind), 1);
        assert_eq!(err.read().unwrap(), 1, "the peer is told");
        assert!(!port.backend.status().up);
        assert_eq!(
            port.waker.watched.lock().len(),
            1,
            "a guest that goes on ringing is not heard"
        );
        guest.tx[0].driver.offer(0);
        port.backend.take(0, NOW, &mut burst);
        assert_eq!(port.refusals(kind), 1, "a stopped ring is not looked at again");
        // The other ring still works, and the guest may set the bad one up anew.
        guest.frontend.get_vring_base(1).unwrap();
        drop(guest);
        port.assert_serves();
    }
}

#[test]
fn receive_buffers_outside_of_memory() {
    let (port, other) = (Port::new(1), Port::new(1));
    let mut guest = Guest::attach(&port.path, 1, MODERN);
    let mut sender = Guest::attach(&other.path, 1, MODERN);
    sender.transmit(0, &octets(60, 1));
    let mut burst = Burst::default();
    other.backend.take(0, NOW, &mut burst);
    guest.rx[0].driver.write_descriptor(0, GUEST_BASE - 1, 2048, 2, 0);
    guest.rx[0].driver.offer(0);
    let delivery = port.backend.deliver(&[burst.outgoing(0, 0).unwrap()]);
    assert_eq!(
        (delivery.accepted, delivery.refusal),
        (0, Some(Refusal::Drop(DropReason::RingFault)))
    );
    let delivery = port.backend.deliver(&[burst.outgoing(0, 0).unwrap()]);
    assert_eq!(delivery.refusal, Some(Refusal::Drop(DropReason::PortDown)));
    other.backend.complete(0, &burst);
    assert_eq!(port.refusals("ring_buffer_address"), 1);
    drop(guest);
    port.assert_serves();
}

#[test]
fn a_flood_of_connections_is_counted_and_survived() {
    let port = Port::new(1);
    for _ in 0..200 {
        let mut peer = UnixStream::connect(&port.path).unwrap();
        let _ = peer.write_all(&[0xff; 12]);
    }
    eventually(|| port.backend.status().connections == 200, "all connections");
    eventually(|| port.refusals("message_flags") == 200, "all refusals");
    port.assert_serves();
}
