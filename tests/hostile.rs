//! Peers of one port that break the rules, while two bystanders on other ports talk to each other: the bystanders lose
//! nothing, the switch counts what it refused, and the attacked port serves the next peer.

mod support;

use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;

use support::frames::{self, Random};
use support::peer::{PATIENCE, Peer, RX, TX, send_raw, words};
use support::scene::{ATTACKER, ATTACKERS_ENDPOINT, PORT, Scene};
use vswitch::ring::mock::{GUEST_BASE, Shape};

/// Descriptor flags (virtio 1.2, 2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Somebody who says something wrong on the attacked port's socket.
fn says(scene: &mut Scene, kind: &str, words: impl FnOnce(&mut UnixStream)) {
    scene.refuses(kind, |scene| {
        let mut peer = UnixStream::connect(&scene.socket).expect("the socket takes a connection");
        words(&mut peer);
    });
}

/// A driver that goes wrong after it had attached.
fn drives(scene: &mut Scene, kind: &str, attack: impl FnOnce(&mut Peer)) {
    scene.refuses(kind, |scene| {
        let before = scene.refusals(kind);
        let mut peer = Peer::attach(&scene.socket, ATTACKER);
        attack(&mut peer);
        peer.tx.ring();
        scene.wait(kind, |scene| scene.refusals(kind) > before);
    });
}

#[test]
fn peers_that_talk_nonsense() {
    let mut scene = Scene::start();
    says(&mut scene, "message_flags", |peer| {
        let _ = peer.write_all(&Random::new(1).octets(1 << 16));
    });
    says(&mut scene, "message_too_large", |peer| {
        let header: Vec<u8> = [5, 1, u32::MAX].into_iter().flat_map(u32::to_ne_bytes).collect();
        peer.write_all(&header).expect("a header");
    });
    for len in [1, 11, 12, 19] {
        says(&mut scene, "message_cut", |peer| {
            let mut message: Vec<u8> = [2u32, 1, 8].into_iter().flat_map(u32::to_ne_bytes).collect();
            message.extend([0; 8]);
            peer.write_all(&message[..len]).expect("a part of a message");
        });
    }
    let null = std::fs::File::open("/dev/null").expect("/dev/null");
    let fd = null.as_raw_fd();
    let mut sends = |kind, code, body: &[u8], files: &[i32]| {
        says(&mut scene, kind, |peer| {
            send_raw(peer, code, 1, body, files).expect("a message");
        });
    };
    sends("message_unknown", 9999, &[], &[]);
    sends("message_length", 2, &[0; 7], &[]);
    sends("message_files", 5, &[0; 8], &[fd; 8]);
    sends("features", 2, &words(&[u64::MAX]), &[]);
    sends("queue_index", 10, &words(&[u64::from(u32::MAX)]), &[]);
    sends("ring_size", 8, &words(&[3 << 32]), &[]);
    sends("doorbell", 12, &words(&[0]), &[fd]);
    sends("memory_table", 5, &words(&[1, 0, 1 << 40, 0, 0]), &[fd]);
    sends("memory_table", 5, &words(&[0]), &[]);
    scene.finish();
}

#[test]
fn peers_that_say_nothing_and_crowds_of_them() {
    let mut scene = Scene::start();
    let mut silent = UnixStream::connect(&scene.socket).expect("a connection");
    silent.write_all(&[1, 0]).expect("the start of a message");
    scene.wait("the connection", |scene| scene.peer()["connections"] == 1);
    scene.flows();
    // It keeps its place until it goes, or until the port does.
    scene.daemon.cli(&["port", "rm", PORT]);
    let socket = scene.daemon.vhost_port(PORT);
    assert_eq!(socket, scene.socket);
    drop(silent);
    scene.recovers();
    let before = scene.peer()["connections"].as_u64().expect("a count");
    let crowd: Vec<_> = (0..100)
        .map(|_| UnixStream::connect(&scene.socket).expect("a connection"))
        .collect();
    scene.flows();
    drop(crowd);
    for _ in 0..300 {
        let mut peer = UnixStream::connect(&scene.socket).expect("a connection");
        let _ = peer.write_all(&[0xff; 12]);
    }
    scene.wait("the crowd's end", |scene| {
        scene.peer()["connections"].as_u64() >= Some(before + 400) && scene.refusals("message_flags") == 300
    });
    scene.finish();
}

#[test]
fn memory_that_is_truncated_while_rings_are_live() {
    let mut scene = Scene::start();
    for round in 0..8 {
        let frames = 8 * round;
        scene.refuses("memory_lost", |scene| {
            let mut peer = Peer::attach(&scene.socket, ATTACKER);
            let to = peer.resolve(ATTACKERS_ENDPOINT);
            let large = vec![0x5a; 9000];
            for _ in 0..frames {
                peer.tx.driver.send(
                    &[&[0; 12], &to.mac[..], &peer.host.mac, &large].concat(),
                    Shape::Indirect(8),
                );
            }
            peer.tx.ring();
            peer.memory
                .file()
                .set_len(0)
                .expect("a file in memory can be cut");
            peer.tx.ring();
            let before = scene.refusals("memory_lost");
            scene.wait("the loss", |scene| {
                // Whether the switch looked before or after the cut, a frame makes it look again.
                peer.tx.ring();
                scene.refusals("memory_lost") > before || scene.peer()["up"] == false
            });
        });
    }
    scene.finish();
}

#[test]
fn rings_and_descriptors_that_cannot_be() {
    let mut scene = Scene::start();
    for (kind, shift) in [("ring_outside_memory", 1 << 40), ("ring_misaligned", 1)] {
        scene.refuses(kind, |scene| {
            let mut peer = Peer::connect(&scene.socket, ATTACKER);
            peer.share_memory();
            for index in [RX, TX] {
                let mut setup = peer.tx.driver.setup();
                setup.addresses.descriptors += shift;
                peer.start_ring(index, &setup)
                    .expect_err("the port refuses the ring");
            }
        });
    }
    let start = GUEST_BASE;
    for (kind, address, len, flags, next) in [
        ("ring_buffer_address", 64, 100, 0, 0),
        ("ring_buffer_address", u64::MAX - 10, u32::MAX, 0, 0),
        ("ring_chain_too_long", start, 100, NEXT, 0),
        ("ring_descriptor_index", start, 100, NEXT, 9999),
        ("ring_write_only", start, 100, WRITE, 0),
        ("ring_indirect_address", 64, 160, INDIRECT, 0),
        ("ring_indirect_length", start, 17, INDIRECT, 0),
        ("ring_indirect_nested", start, 160, INDIRECT | NEXT, 0),
    ] {
        drives(&mut scene, kind, |peer| {
            peer.tx.driver.write_descriptor(0, address, len, flags, next);
            peer.tx.driver.offer(0);
        });
    }
    drives(&mut scene, "ring_descriptor_index", |peer| {
        peer.tx.driver.offer(u16::MAX);
    });
    drives(&mut scene, "ring_avail_index", |peer| {
        let (_, available, _) = peer.tx.driver.parts();
        peer.memory.store(available + 2, 40_000);
    });
    scene.finish();
}

#[test]
fn receive_buffers_that_cannot_be() {
    let mut scene = Scene::start();
    for (kind, address, len, flags) in [
        ("ring_buffer_address", GUEST_BASE - 1, 2048, WRITE),
        ("ring_read_only", GUEST_BASE, 2048, 0),
        ("ring_empty_buffer", GUEST_BASE, 0, WRITE),
        ("ring_chain_too_long", GUEST_BASE, 1, WRITE | NEXT),
    ] {
        scene.refuses(kind, |scene| {
            let mut peer = Peer::attach(&scene.socket, ATTACKER);
            for index in 0..256 {
                peer.rx.driver.write_descriptor(index, address, len, flags, 0);
            }
            // The answer needs a buffer.
            peer.send(&frames::arp_request(peer.host, ATTACKERS_ENDPOINT));
            scene.wait(kind, |scene| scene.refusals(kind) > 0);
        });
    }
    let dropped = scene.daemon.port_stats(PORT)["rx_dropped"]["ring_fault"].as_u64();
    assert_eq!(dropped, Some(4), "each frame that was to go there is counted");
    scene.finish();
}

/// A driver that writes anything anywhere into its ring, all the time.
#[test]
fn rings_that_are_scribbled_over() {
    let scene = Scene::start();
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let peer = Peer::attach(&scene.socket, ATTACKER);
        for _ in 0..200 {
            let (descriptors, available, used) = peer.tx.driver.parts();
            let (part, len) = [
                (descriptors, 64 * 16),
                (available, 6 + 2 * 64),
                (used, 6 + 8 * 64),
            ][random.below(3)];
            let at = random.below(len - 16);
            let octets = 1 + random.below(16);
            peer.memory.write(part + at as u64, &random.octets(octets));
            let (descriptors, available, _) = peer.rx.driver.parts();
            peer.memory
                .write(descriptors + random.below(256 * 16 - 8) as u64, &random.octets(8));
            peer.memory.store(available + 2, random.next() as u16);
            peer.tx.ring();
            peer.rx.ring();
        }
    }
    assert!(scene.all_refusals() > 0, "{}", scene.peer());
    scene.finish();
}

#[test]
fn a_flood_of_source_addresses() {
    const ADDRESSES: u32 = 20_000;
    let scene = Scene::start();
    let mut peer = Peer::attach(&scene.socket, ATTACKER);
    // To the attacker itself, whom the switch knows: nobody else is bothered.
    let me = peer.host.mac;
    peer.resolve(ATTACKERS_ENDPOINT);
    for number in 0..ADDRESSES {
        let [a, b, c, d] = number.to_be_bytes();
        peer.send(&frames::ethernet(me, [2, 1, a, b, c, d], 0x88b5, &[0; 46]));
    }
    let sent = |scene: &Scene| {
        scene.daemon.port_stats(PORT)["tx_frames"]
            .as_u64()
            .expect("a counter")
    };
    scene.wait("all frames", |scene| sent(scene) > u64::from(ADDRESSES));
    let learned = scene.daemon.cli(&["stats"])["learned"].as_u64().expect("a count");
    assert!(
        (100..=1024 + 10).contains(&learned),
        "{learned} addresses in the table"
    );
    drop(peer);
    scene.finish();
}

/// A virtio-net header: nonsense, near the truth, without any wish, or a right one for a datagram.
fn vnet(random: &mut Random, kind: usize) -> [u8; 12] {
    let mut vnet: [u8; 12] = random.octets(12).try_into().expect("12 octets");
    vnet[0] &= 3;
    match kind {
        0 => {}
        1 => {
            vnet[1] = [0, 1, 4, 5, 0x81, 0x84, 3, 0xff][random.below(8)];
            let values = [0, 14, 34, 50, 54, 100, 1500, u16::MAX].map(u16::to_le_bytes);
            for field in vnet[2..10].chunks_mut(2) {
                field.copy_from_slice(&values[random.below(8)]);
            }
        }
        2 => vnet = [0; 12],
        _ => {
            let size = 1 + random.below(1472);
            vnet = [
                1,
                [0, 5][random.below(2)],
                42,
                0,
                size as u8,
                (size >> 8) as u8,
                34,
                0,
                6,
                0,
                0,
                0,
            ];
        }
    }
    vnet
}

#[test]
fn frames_and_offload_requests_of_all_kinds() {
    const FRAMES: u64 = 4000;
    let mut scene = Scene::start();
    let mut peer = Peer::attach(&scene.socket, ATTACKER);
    let to = peer.resolve(ATTACKERS_ENDPOINT);
    let mut random = Random::new(7);
    let payload = random.octets(65_000);
    for round in 0..FRAMES {
        let vnet = vnet(&mut random, round as usize % 4);
        let len = [1, 20, 100, 1460, 9000, 65_000][random.below(6)];
        let mut frame = frames::datagram((peer.host, 9), (to, 9), &payload[..len]);
        // Any protocol, any lengths, any source.
        for _ in 0..random.below(4) {
            let at = 6 + random.below(frame.len().min(60) - 6);
            frame[at] = random.next() as u8;
        }
        if random.below(4) == 0 {
            let limit = [64, frame.len()][random.below(2)];
            frame.truncate(1 + random.below(limit));
        }
        peer.send_with(&vnet, &frame);
        while peer.receive().is_some() {}
    }
    let stats = |scene: &Scene| scene.daemon.port_stats(PORT);
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
    let seen = |scene: &Scene| number(&stats(scene)["tx_frames"]) + scene.refusals("frame_too_short");
    // The question for the endpoint's address came before.
    scene.wait("all frames", |scene| seen(scene) == FRAMES + 1);
    let dropped = &stats(&scene)["tx_dropped"];
    for reason in ["bad_offload", "bad_source"] {
        assert!(number(&dropped[reason]) > 0, "{reason}: {dropped}");
    }
    assert!(scene.refusals("frame_too_short") > 0);
    let endpoint = scene.daemon.port_stats("e1");
    for counter in ["rx_frames", "segmented"] {
        assert!(number(&endpoint[counter]) > 100, "{counter}: {endpoint}");
    }
    scene.alive();
    drop(peer);
    scene.finish();
}

#[test]
fn a_receiver_that_never_takes_anything() {
    const FRAMES: u64 = 12_000;
    let mut scene = Scene::start();
    let mut sender = Peer::attach(&scene.daemon.vhost_port("sender"), 20);
    let mut receiver = Peer::attach(&scene.socket, ATTACKER);
    receiver.resolve(ATTACKERS_ENDPOINT);
    let to = receiver.host.mac;
    for number in 0..FRAMES {
        let payload = [&number.to_be_bytes()[..], &[0; 1000]].concat();
        sender.send(&frames::ethernet(to, sender.host.mac, 0x88b5, &payload));
    }
    scene.wait("all frames", |scene| {
        scene.daemon.port_stats("sender")["tx_frames"] == FRAMES
    });
    scene.alive();
    scene.flows();
    let stats = scene.daemon.port_stats(PORT);
    let number = |value: &serde_json::Value| value.as_u64().expect("a counter");
    let (kept, dropped) = (
        number(&stats["backlog"]),
        number(&stats["rx_dropped"]["receiver_full"]),
    );
    assert!((1000..=8192).contains(&kept), "{kept} frames are kept");
    // The first ones are in its buffers.
    assert_eq!(
        kept + dropped + number(&stats["rx_frames"]),
        FRAMES + 1,
        "each frame is somewhere: {stats}"
    );
    // It comes to its senses, and gets what was kept, in order.
    let mut next = 0;
    while next < FRAMES - dropped {
        let frame = receiver.receive_within(PATIENCE).expect("what was kept");
        if frame[12..14] == [0x88, 0xb5] {
            assert_eq!(frame[14..22], next.to_be_bytes(), "in order");
            next += 1;
        }
    }
    drop((sender, receiver));
    scene.finish();
}

/// Large sends that ask to be cut into more pieces than anybody may ask for are their sender's fault; nearly as many are cut.
#[test]
fn large_sends_in_tiny_pieces() {
    const FRAMES: u64 = 30;
    let mut scene = Scene::start();
    let mut peer = Peer::attach(&scene.socket, ATTACKER);
    let to = peer.resolve(ATTACKERS_ENDPOINT);
    let frame = frames::datagram((peer.host, 9), (to, 9), &Random::new(11).octets(65_000));
    for size in [1, 32] {
        for _ in 0..FRAMES {
            peer.send_with(&[1, 5, 42, 0, size, 0, 34, 0, 6, 0, 0, 0], &frame);
            while peer.receive().is_some() {}
        }
    }
    let endpoint = |scene: &Scene| scene.daemon.port_stats("e1");
    scene.wait("all frames", |scene| endpoint(scene)["segmented"] == FRAMES);
    let stats = endpoint(&scene);
    assert_eq!(
        stats["rx_dropped"]["bad_offload"],
        serde_json::Value::Null,
        "{stats}"
    );
    let sender = scene.daemon.port_stats(PORT);
    assert_eq!(sender["tx_dropped"]["bad_offload"], FRAMES, "{sender}");
    scene.alive();
    drop(peer);
    scene.finish();
}
