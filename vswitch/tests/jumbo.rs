//! Jumbo frames: full-size packets between guests with MTUs of 9216 and 65535 octets, and large sends cut for the smaller one.

#[path = "vhost_user_common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{Guest, MODERN, eventually};
use offload::VnetHeader;
use vswitch::Switch;
use vswitch::control::{PortConfig, PortKind, SwitchConfig, WorkerConfig};
use vswitch::counters::DropReason;
use vswitch::frame::MAX_FRAME;
use vswitch::ring::feature;
use vswitch::ring::mock::Shape;

const CSUM: u64 = 1 | 1 << 1;
const TSO4: u64 = 1 << 7 | 1 << 11;
const MTUS: [u16; 3] = [9216, 65_535, 65_535];
const HEADERS: usize = 14 + 20 + 20;

struct Scene {
    switch: Switch,
    guests: Vec<Guest>,
    _directory: tempfile::TempDir,
}

impl Scene {
    /// Three guests that the switch has heard of.
    fn new(features: [u64; 3]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let workers = vec![WorkerConfig::default()];
        let switch = Switch::start(&SwitchConfig { workers }).unwrap();
        let guests = MTUS
            .iter()
            .zip(features)
            .enumerate()
            .map(|(index, (mtu, features))| {
                let path = directory.path().join(index.to_string());
                let port = PortConfig::new(index.to_string(), PortKind::VhostUser(path.clone()));
                switch.add_port(PortConfig { mtu: *mtu, ..port }).unwrap();
                let mut guest = Guest::attach(&path, 1, features);
                guest.post(0, 64);
                guest
            });
        let guests = guests.collect();
        let mut scene = Self {
            switch,
            guests,
            _directory: directory,
        };
        eventually(
            || scene.switch.ports().iter().all(|port| port.peer.up),
            "the guests",
        );
        for from in 0..3 {
            scene.send(from, VnetHeader::default(), &packet(from, 9, 17, 60));
            (0..3)
                .filter(|to| *to != from)
                .for_each(|to| drop(scene.receive(to)));
        }
        scene
    }

    fn send(&mut self, from: usize, vnet: VnetHeader, frame: &[u8]) {
        let ring = &mut self.guests[from].tx[0];
        while ring.driver.used().is_some() {}
        assert!(
            ring.driver
                .send(&[&vnet.to_bytes()[..], frame].concat(), Shape::Chain(17))
        );
        if ring.driver.must_kick() {
            ring.kick.write(1).unwrap();
        }
    }

    /// The next frame that a guest gets, with its header.
    fn receive(&mut self, to: usize) -> (VnetHeader, Vec<u8>) {
        let start = Instant::now();
        loop {
            let ring = &mut self.guests[to].rx[0];
            if let Some(octets) = ring.driver.receive(12) {
                while ring.driver.free() > 0 {
                    assert!(ring.driver.post(2048, Shape::Chain(1)));
                }
                let (header, frame) = octets.split_first_chunk().unwrap();
                return (VnetHeader::from_bytes(header), frame.to_vec());
            }
            assert!(
                start.elapsed() < Duration::from_secs(20),
                "nothing came to guest {to}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Frames that were too large for a guest.
    fn oversize(&self, port: usize) -> u64 {
        let stats = self.switch.stats();
        let port = stats.ports.iter().find(|info| info.name == port.to_string());
        port.unwrap()
            .counters
            .rx_dropped
            .get(&DropReason::Oversize)
            .copied()
            .unwrap_or(0)
    }
}

/// An IPv4 packet of `len` octets, behind an Ethernet header.
fn packet(from: usize, to: usize, protocol: u8, len: usize) -> Vec<u8> {
    let mut octets = vec![2, 0, 0, 0, 0, to as u8, 2, 0, 0, 0, 0, from as u8, 8, 0];
    octets.extend([0x45, 0]);
    octets.extend((len as u16).to_be_bytes());
    octets.extend([
        0,
        0,
        0x40,
        0,
        64,
        protocol,
        0,
        0,
        192,
        0,
        2,
        from as u8 + 1,
        192,
        0,
        2,
        to as u8 + 1,
    ]);
    octets.extend([0x30, 0x39, 0, 7]);
    if protocol == 17 {
        octets.extend((len as u16 - 20).to_be_bytes());
        octets.extend([0, 0]);
    } else {
        octets.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    }
    let start = octets.len();
    octets.extend((start..14 + len).map(|at| (at * 7 + at / 251) as u8));
    octets
}

/// The header of a large TCP send whose segments have `segment` octets of payload.
fn large(segment: u16) -> VnetHeader {
    VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: 1,
        hdr_len: HEADERS as u16,
        gso_size: segment,
        csum_start: 34,
        csum_offset: 16,
        ..VnetHeader::default()
    }
}

#[test]
fn full_size_packets_pass_between_different_mtus() {
    for packed in [0, feature::RING_PACKED] {
        let mut scene = Scene::new([MODERN | packed, MODERN, MODERN | packed]);
        for (from, to, len) in [(0, 1, 9216), (1, 0, 9216), (1, 2, 65_535), (2, 1, 65_535)] {
            let sent = packet(from, to, 17, len);
            assert!(sent.len() <= MAX_FRAME);
            scene.send(from, VnetHeader::default(), &sent);
            assert!(scene.receive(to).1 == sent, "{len} octets from {from} to {to}");
        }
        for (len, dropped) in [(9217, 1), (65_535, 2)] {
            scene.send(1, VnetHeader::default(), &packet(1, 0, 17, len));
            eventually(|| scene.oversize(0) == dropped, "the drop");
        }
        scene.send(1, VnetHeader::default(), &packet(1, 0, 17, 9216));
        assert_eq!(scene.receive(0).1.len(), 14 + 9216, "and the next one passes");
    }
}

#[test]
fn a_large_send_passes_whole_or_in_segments_of_9216_octets() {
    let all = MODERN | CSUM | TSO4;
    let sent = packet(1, 0, 6, 65_535);
    let segment = 9216 - 40;
    let mut scene = Scene::new([all, all, all]);
    scene.send(1, large(segment), &sent);
    let (vnet, got) = scene.receive(0);
    assert_eq!((vnet.gso_type, vnet.gso_size), (1, segment));
    assert!(got[HEADERS..] == sent[HEADERS..]);

    let mut scene = Scene::new([MODERN, all, all]);
    scene.send(1, large(segment), &sent);
    let mut payload: Vec<u8> = Vec::new();
    while payload.len() < sent.len() - HEADERS {
        let (vnet, got) = scene.receive(0);
        assert_eq!((vnet.gso_type, vnet.flags), (0, 0), "complete");
        assert!(got.len() <= 14 + 9216);
        payload.extend(&got[HEADERS..]);
    }
    assert!(payload == sent[HEADERS..]);
    // Segments that are too long for the receiver are refused as one.
    scene.send(1, large(segment + 1), &sent);
    eventually(|| scene.oversize(0) == 1, "the drop");
}
