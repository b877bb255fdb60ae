//! What a guest's control commands do to the frames that it gets, with a front end that passes them on.

#[path = "vhost_user_common/mod.rs"]
mod common;

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use common::{CONTROL, Guest, MODERN, Port, eventually, send_raw};
use etherparse::PacketBuilder;
use offload::rss::{HashReport, HashTypes, Hasher, Toeplitz};
use vhost::vhost_user::VhostUserFrontend;
use vswitch::Switch;
use vswitch::control::{PortConfig, PortKind, SwitchConfig, VlanMode};
use vswitch::counters::CounterSnapshot;
use vswitch::port::Backend;
use vswitch::ring::feature;

/// The control queue with receive modes, VLANs, more receive modes and MAC address.
const CONTROLLED: u64 = 0xf << 17 | 1 << 23;
const GUEST_OFFLOADS: u64 = 1 << 2;
const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const HOST_TSO4: u64 = 1 << 11;
const MQ: u64 = 1 << 22;
const RSS: u64 = 1 << 60;

const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const RECEIVER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 3];
const GROUP: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const BROADCAST: [u8; 6] = [0xff; 6];

/// A switch with a port of one queue pair, whose guest sends, and one of four.
struct Scene {
    switch: Switch,
    paths: [PathBuf; 2],
    _directory: tempfile::TempDir,
}

impl Scene {
    fn new(vlan: &VlanMode) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let switch = Switch::start(&SwitchConfig::default()).unwrap();
        let paths = ["a", "b"].map(|name| directory.path().join(name));
        for (path, queues) in paths.iter().zip([1, 4]) {
            let name = path.file_name().unwrap().to_str().unwrap();
            let config = PortConfig {
                queues,
                vlan: vlan.clone(),
                ..PortConfig::new(name, PortKind::VhostUser(path.clone()))
            };
            switch.add_port(config).unwrap();
        }
        Self {
            switch,
            paths,
            _directory: directory,
        }
    }

    fn guests(&self, features: u64) -> [Guest; 2] {
        let sender = Guest::attach(&self.paths[0], 1, MODERN | CSUM | HOST_TSO4);
        let receiver = Guest::attach_controlled(&self.paths[1], 4, MODERN | features);
        [sender, receiver]
    }

    fn counters(&self) -> CounterSnapshot {
        let stats = self.switch.stats();
        let port = stats.ports.into_iter().find(|port| port.name == "b");
        port.expect("the port's statistics").counters
    }

    /// Waits until the receiver's port has dealt with this many frames.
    fn wait(&self, frames: u64) {
        let dealt = || {
            let counters = self.counters();
            counters.rx_frames + counters.filtered + counters.backlogged
        };
        eventually(|| dealt() == frames, &format!("{frames} frames"));
    }

    fn refusals(&self, port: &str) -> Vec<(String, u64)> {
        let ports = self.switch.ports();
        let port = ports.iter().find(|info| info.name == port).expect("the port");
        port.peer.refusals.clone().into_iter().collect()
    }
}

/// TCP or UDP over IPv4 of a flow to the receiver.
fn packet(dst: [u8; 6], flow: u16, tcp: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(SENDER, dst).ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64);
    let mut octets = Vec::new();
    if tcp {
        builder
            .tcp(1000 + flow, 80, 1, 1000)
            .write(&mut octets, b"payload")
    } else {
        builder.udp(1000 + flow, 80).write(&mut octets, b"payload")
    }
    .unwrap();
    octets
}

fn send(guest: &mut Guest, frame: &[u8]) {
    guest.transmit(0, frame);
    // The worker may sleep.
    guest.tx[0].kick.write(1).unwrap();
}

/// What has arrived on each queue pair.
fn arrived(guest: &mut Guest) -> [Vec<Vec<u8>>; 4] {
    [0, 1, 2, 3].map(|pair| std::iter::from_fn(|| guest.received(pair)).collect())
}

fn rss(types: HashTypes, table: &[u16], unclassified: u16) -> Vec<u8> {
    let mut command = vec![4, 1];
    command.extend(types.0.to_le_bytes());
    for half in [&[table.len() as u16 - 1, unclassified], table, &[4]].concat() {
        command.extend(half.to_le_bytes());
    }
    command.push(40);
    command.extend(Toeplitz::DEFAULT_KEY);
    command
}

fn hash(frame: &[u8]) -> (u32, HashReport) {
    let meta = offload::parse(frame, frame.len()).unwrap();
    Hasher::new(&Toeplitz::DEFAULT_KEY, HashTypes::ALL).hash(&meta, frame)
}

/// Hash and type in a header of 20 octets.
fn reported(header: &[u8]) -> (u32, u8) {
    assert_eq!((header.len(), &header[17..]), (20, &[0; 3][..]));
    (u32::from_le_bytes(header[12..16].try_into().unwrap()), header[16])
}

/// Every frame arrives on the queue that the guest's table says, behind a header with its hash: sent at once or kept until
/// there was room.
#[test]
fn a_guest_gets_frames_where_it_said_and_their_hashes() {
    let scene = Scene::new(&VlanMode::Access(0));
    let [mut a, mut b] = scene.guests(CONTROLLED | MQ | RSS | feature::HASH_REPORT);
    let table: Vec<u16> = (0..16).map(|entry| [3, 1, 2][entry % 3]).collect();
    assert!(b.control(&rss(HashTypes::ALL, &table, 0)));
    let mut expected: [Vec<Vec<u8>>; 4] = Default::default();
    let mut arp = packet(RECEIVER, 0, false);
    arp[12..14].copy_from_slice(&[0x88, 0xb5]);
    let frames = (0..40)
        .map(|flow| packet(RECEIVER, flow, flow % 2 == 0))
        .chain([arp]);
    for (sent, frame) in frames.enumerate() {
        if sent == 20 {
            // Those before wait for room, those behind find it.
            scene.wait(20);
            (0..4).for_each(|pair| b.post(pair, 41));
            (0..4).for_each(|pair| b.rx[pair].kick.write(1).unwrap());
        }
        send(&mut a, &frame);
        let pair = match hash(&frame) {
            (_, HashReport::None) => 0,
            (hash, _) => table[hash as usize % 16],
        };
        expected[usize::from(pair)].push(frame);
    }
    eventually(|| scene.counters().rx_frames == 41, "all frames");
    for (pair, expected) in expected.iter().enumerate() {
        assert!(!expected.is_empty());
        for frame in expected {
            let (header, received) = b.received_with_header(pair).expect("a frame");
            let (value, report) = hash(frame);
            assert_eq!(reported(&header), (value, report as u8));
            assert_eq!(&received, frame, "in order");
        }
        assert!(b.received(pair).is_none());
    }
    assert!(scene.counters().rx_dropped.is_empty());
    // The header is as long when the guest sends.
    a.post(0, 1);
    a.rx[0].kick.write(1).unwrap();
    let mut back = packet(SENDER, 0, true);
    back[6..12].copy_from_slice(&RECEIVER);
    send(&mut b, &back);
    eventually(
        || scene.switch.stats().ports[0].counters.rx_frames == 1,
        "a frame back",
    );
    assert_eq!(a.received(0), Some(back));
}

/// A table that names a queue which does not run sends its frames elsewhere; queue pairs end what RSS began.
#[test]
fn queues_that_do_not_run_get_nothing() {
    let scene = Scene::new(&VlanMode::Access(0));
    let [mut a, mut b] = scene.guests(CONTROLLED | MQ | RSS);
    (0..4).for_each(|pair| b.post(pair, 60));
    assert!(b.control(&rss(HashTypes::ALL, &[3], 3)));
    b.frontend.set_vring_enable(6, false).unwrap();
    let mut send_all = |frames: u64| {
        (0..16).for_each(|flow| send(&mut a, &packet(RECEIVER, flow, true)));
        scene.wait(frames);
    };
    send_all(16);
    let spread = arrived(&mut b).map(|frames| frames.len());
    assert_eq!((spread.iter().sum::<usize>(), spread[3]), (16, 0), "{spread:?}");
    b.frontend.set_vring_enable(6, true).unwrap();
    send_all(32);
    assert_eq!(arrived(&mut b).map(|frames| frames.len()), [0, 0, 0, 16]);
    assert!(b.control(&[4, 0, 4, 0]));
    send_all(48);
    let spread = arrived(&mut b).map(|frames| frames.len());
    assert!(spread[3] < 16, "spread as the switch likes: {spread:?}");
}

/// While frames wait for room in one queue and others have some, the worker sleeps; it hears of a table that sends the frames
/// elsewhere, and of room.
#[test]
fn a_worker_sleeps_while_one_of_several_queues_is_full() {
    for packed in [0, feature::RING_PACKED] {
        let scene = Scene::new(&VlanMode::Access(0));
        let waiting = |frames| eventually(|| scene.counters().backlogged == frames, "frames that wait");
        let [mut a, mut b] = scene.guests(CONTROLLED | MQ | RSS | packed);
        for pair in [0, 2, 3] {
            b.post(pair, 60);
        }
        assert!(b.control(&rss(HashTypes::ALL, &[1], 1)));
        (0..16).for_each(|flow| send(&mut a, &packet(RECEIVER, flow, true)));
        waiting(16);
        sleeps(&scene);
        assert_eq!(arrived(&mut b).map(|frames| frames.len()), [0; 4]);
        assert!(b.control(&rss(HashTypes::ALL, &[3], 3)));
        eventually(|| scene.counters().rx_frames == 16, "frames by another queue");
        assert_eq!(arrived(&mut b).map(|frames| frames.len()), [0, 0, 0, 16]);
        assert!(b.control(&rss(HashTypes::ALL, &[1], 1)));
        (0..16).for_each(|flow| send(&mut a, &packet(RECEIVER, flow, true)));
        waiting(32);
        sleeps(&scene);
        b.post(1, 16);
        b.rx[1].kick.write(1).unwrap();
        eventually(
            || scene.counters().rx_frames == 32,
            "frames by the queue with room",
        );
        assert_eq!(arrived(&mut b).map(|frames| frames.len()), [0, 16, 0, 0]);
    }
}

/// Waits until the switch's worker goes round no more.
fn sleeps(scene: &Scene) {
    let rounds = || -> u64 {
        scene
            .switch
            .stats()
            .workers
            .iter()
            .map(|worker| worker.rounds)
            .sum()
    };
    let still = || {
        let before = rounds();
        std::thread::sleep(std::time::Duration::from_millis(20));
        rounds() == before
    };
    eventually(still, "a worker that sleeps");
}

/// Frames for others are left out, and not as drops.
#[test]
fn a_guest_that_is_not_promiscuous_gets_its_own() {
    let scene = Scene::new(&VlanMode::Access(0));
    let [mut a, mut b] = scene.guests(CONTROLLED);
    (0..4).for_each(|pair| b.post(pair, 60));
    let mut sent = 0;
    let mut destinations = |b: &mut Guest| -> Vec<u8> {
        for dst in [RECEIVER, OTHER, GROUP, BROADCAST] {
            send(&mut a, &packet(dst, 0, false));
            sent += 1;
            scene.wait(sent);
        }
        arrived(b).concat().into_iter().map(|frame| frame[5]).collect()
    };
    assert!(b.control(&[&[1, 1][..], &RECEIVER].concat()));
    assert_eq!(destinations(&mut b), [2, 3, 1, 0xff], "nothing was asked for");
    assert!(b.control(&[0, 0, 0]));
    assert_eq!(destinations(&mut b), [2, 0xff]);
    let table = [&[1, 0, 1, 0, 0, 0][..], &OTHER, &[1, 0, 0, 0], &GROUP].concat();
    assert!(b.control(&table));
    assert_eq!(destinations(&mut b), [2, 3, 1, 0xff]);
    assert!(b.control(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    assert!(b.control(&[0, 1, 1]) && b.control(&[0, 5, 1]));
    assert_eq!(destinations(&mut b), [2, 1]);
    let counters = scene.counters();
    assert_eq!(counters.filtered, 2 + 2);
    assert!(counters.rx_dropped.is_empty());
    // What was asked for goes with who asked for it.
    drop(b);
    let b = || Guest::attach(&scene.paths[1], 4, MODERN);
    eventually(|| !scene.switch.ports()[1].peer.up, "the end of the first guest");
    let mut b = b();
    (0..4).for_each(|pair| b.post(pair, 60));
    assert_eq!(destinations(&mut b), [2, 3, 1, 0xff]);
}

#[test]
fn a_guest_gets_the_vlans_that_it_added() {
    let scene = Scene::new(&VlanMode::Trunk(vec![5, 6]));
    let [mut a, mut b] = scene.guests(CONTROLLED);
    (0..4).for_each(|pair| b.post(pair, 60));
    let mut sent = 0;
    let mut vlans = |b: &mut Guest| -> Vec<u8> {
        for vlan in [5, 6] {
            let mut frame = packet(RECEIVER, 0, false);
            frame.splice(12..12, [0x81, 0, 0, vlan]);
            send(&mut a, &frame);
            sent += 1;
            scene.wait(sent);
        }
        arrived(b).concat().into_iter().map(|frame| frame[15]).collect()
    };
    assert!(b.control(&[0, 0, 0]));
    assert_eq!(vlans(&mut b), []);
    assert!(b.control(&[2, 0, 6, 0]));
    assert_eq!(vlans(&mut b), [6]);
    assert!(b.control(&[2, 0, 5, 0]) && b.control(&[2, 1, 6, 0]));
    assert_eq!(vlans(&mut b), [5]);
    assert!(b.control(&[0, 0, 1]));
    assert_eq!(vlans(&mut b), [5, 6], "all there are");
}

/// What a guest switches off is done for it from the next frame on.
#[test]
fn offloads_change_at_once() {
    let scene = Scene::new(&VlanMode::Access(0));
    let [mut a, mut b] = scene.guests(CONTROLLED | GUEST_OFFLOADS | GUEST_CSUM | GUEST_TSO4);
    (0..4).for_each(|pair| b.post(pair, 60));
    let mut large = packet(RECEIVER, 0, true);
    large.resize(54 + 3000, 7);
    large[16..18].copy_from_slice(&3040_u16.to_be_bytes());
    let mut header = vec![1, 1, 54, 0, 0xe8, 3, 34, 0, 16, 0, 0, 0];
    header.extend(&large);
    let mut arrive = |b: &mut Guest, offloads: u64, frames: u64| -> Vec<usize> {
        let command = [&[5, 0][..], &offloads.to_le_bytes()].concat();
        assert!(b.control(&command));
        while a.tx[0].driver.used().is_some() {}
        assert!(a.tx[0].driver.send(&header, vswitch::ring::mock::Shape::Chain(2)));
        a.tx[0].kick.write(1).unwrap();
        scene.wait(frames);
        arrived(b)
            .concat()
            .into_iter()
            .map(|frame| frame.len() - 54)
            .collect()
    };
    assert_eq!(arrive(&mut b, GUEST_CSUM | GUEST_TSO4, 1), [3000]);
    assert_eq!(arrive(&mut b, GUEST_CSUM, 4), [1000; 3]);
    assert!(!scene.switch.ports()[1].capabilities.tso4);
    assert_eq!(arrive(&mut b, 0, 7), [1000; 3]);
    assert_eq!(arrive(&mut b, GUEST_CSUM | GUEST_TSO4, 8), [3000]);
    assert!(!b.control(&[&[5, 0][..], &(GUEST_TSO4 | 1 << 8).to_le_bytes()].concat()));
    assert!(scene.switch.ports()[1].capabilities.tso4, "as before");
    assert_eq!(scene.refusals("b"), [("control_offloads".to_owned(), 1)]);
}

/// Commands that are none are refused and counted; nobody else notices, and nothing of what was in force changes.
#[test]
fn commands_that_are_none_are_counted() {
    let scene = Scene::new(&VlanMode::Access(0));
    let [mut a, mut b] = scene.guests(CONTROLLED | MQ | RSS);
    (0..4).for_each(|pair| b.post(pair, 60));
    assert!(b.control(&rss(HashTypes::ALL, &[2], 2)));
    let mut cut = rss(HashTypes::ALL, &[0], 0);
    cut.pop();
    let refused: [(&str, Vec<u8>); 11] = [
        ("control_length", vec![]),
        ("control_length", vec![0, 0]),
        ("control_length", cut),
        ("control_unknown", vec![9, 9, 9]),
        ("control_unknown", vec![0xff; 4096]),
        ("control_feature", vec![4, 2, 0]),
        ("control_queue", rss(HashTypes::ALL, &[0, 4], 0)),
        ("control_queue", rss(HashTypes::ALL, &[0], 4)),
        ("control_table", rss(HashTypes::ALL, &[0; 3], 0)),
        ("control_table", rss(HashTypes::ALL, &[0; 256], 0)),
        ("control_hash_types", rss(HashTypes(0x8000), &[0], 0)),
    ];
    let count = |kind: &str| {
        let refusals = scene.refusals("b");
        refusals
            .iter()
            .find(|(known, _)| known == kind)
            .map_or(0, |(_, count)| *count)
    };
    for (kind, command) in &refused {
        let before = count(kind);
        assert!(!b.control(command), "{command:?}");
        let after = count(kind);
        assert_eq!(after, before + 1, "{kind}: {command:?}");
    }
    let total: u64 = scene.refusals("b").iter().map(|(_, n)| n).sum();
    assert_eq!((total, scene.refusals("a")), (11, vec![]));
    for flow in 0..16 {
        send(&mut a, &packet(RECEIVER, flow, true));
    }
    scene.wait(16);
    assert_eq!(
        std::iter::from_fn(|| b.received(2)).count(),
        16,
        "steered as before"
    );
    assert_eq!(scene.switch.ports()[1].peer.connections, 1);
}

/// Peers that did not agree to pass commands on may not, and are not offered what needs them.
#[test]
fn commands_need_an_agreement() {
    let port = Port::new(2);
    let peer = UnixStream::connect(&port.path).unwrap();
    send_raw(&peer, CONTROL, 1, &[0, 0, 1], &[]);
    port.wait_refusal("message_unknown");
    drop(peer);
    let peer = UnixStream::connect(&port.path).unwrap();
    send_raw(&peer, 2, 1, &(RSS | 1 << 32).to_ne_bytes(), &[]);
    port.wait_refusal("features");
    drop(peer);
    assert!(port.backend.receive_policy().is_none());
    port.assert_serves();
}
