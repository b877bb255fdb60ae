//! Fragments of a few datagrams in any order, cut, overlapped, repeated and late: no receiver reads what a rule forbids, whichever copies it
//! keeps and whatever it misses, and memory is bounded.
#![no_main]

use introspection::flow::{DatagramCounts, Datagrams};
use introspection::{Caps, Direction, FlowKey, Instant, RuleAction};
use libfuzzer_sys::fuzz_target;
use packets::{Piece, Receiver, UDP, UDP_HEADER};
use scene::{Fate, Scene};

#[path = "../../introspection/tests/evasion/packets.rs"]
#[allow(dead_code)]
mod packets;
#[path = "../../introspection/tests/evasion/scene.rs"]
#[allow(dead_code)]
mod scene;

/// Identifications, each of IPv4 and IPv6.
const IDS: u8 = 3;
const PROTOCOLS: [u8; 4] = [UDP, 6, 44, 60];

fuzz_target!(|script: &[u8]| {
    let mut script = script.iter().copied();
    let mut next = || script.next();
    let (Some(action), Some(copies)) = (next(), next()) else {
        return;
    };
    let action = [RuleAction::Drop, RuleAction::Reset, RuleAction::Alert][usize::from(action) % 3];
    let mut scene = Scene::with(action, Caps::default());
    let mut receivers: Vec<Receiver> = (0..2 * IDS).map(|_| Receiver::new(copies & 1 != 0)).collect();
    let mut datagrams = [4, 2].map(Datagrams::new);
    let (mut now, mut shown) = (0, 0);
    while let (Some(kind), Some(place), Some(size)) = (next(), next(), next()) {
        if kind >= 0xfc {
            now += u64::from(place);
            scene.wait(place.into());
            continue;
        }
        let (start, len) = (usize::from(place % 16) * 8, usize::from(size % 33));
        let mut octets: Vec<u8> = (0..len)
            .map_while(|_| Some(b"attck."[usize::from(next()?) % 6]))
            .collect();
        if start == 0 {
            octets.splice(0..octets.len().min(8), UDP_HEADER);
        }
        let slot = kind % (2 * IDS);
        let piece = Piece {
            v6: slot >= IDS,
            id: slot.into(),
            protocol: if place & 0xc0 == 0xc0 {
                PROTOCOLS[usize::from(size >> 6)]
            } else {
                UDP
            },
            start,
            more: place & 16 != 0,
            octets,
            vlan: None,
        };
        shown += 1;
        attribute(&mut datagrams, now, usize::from(copies), &piece.frame());
        let passed = scene.show_frame(Direction::Tx, &piece.frame()) == Fate::Passed;
        let is_fragment = piece.start > 0 || piece.more;
        if passed && is_fragment && piece.protocol == UDP && place & 32 == 0 {
            let read = receivers[usize::from(slot)].take(now, &piece).unwrap_or_default();
            let attacked = read.windows(6).any(|window| window == b"attack");
            assert!(!attacked || action == RuleAction::Alert);
        }
    }
    for datagrams in &datagrams {
        let DatagramCounts {
            fragments,
            tcp,
            udp,
            other,
            incomplete,
        } = datagrams.counts();
        assert!(fragments <= shown && tcp + udp + other + incomplete <= fragments);
    }
    let counters = scene.counters();
    assert!(counters.fragments <= shown && counters.reassembled <= counters.fragments);
});

/// Asks which datagrams are whole of fragments cut by a capture, and whose the fragments are.
fn attribute([whole, named]: &mut [Datagrams<bool>; 2], seconds: u64, snap: usize, frame: &[u8]) {
    let now = Instant(seconds * 1_000_000_000);
    let octets = &frame[..frame.len().min(snap.max(14))];
    let meta = offload::parse(octets, frame.len()).expect("an Ethernet header");
    if let Some(datagram) = whole.take(snap & 1 == 0, now, octets, &meta) {
        assert!(
            datagram
                .ip()
                .is_some_and(|ip| !ip.fragment && ip.end == datagram.frame_len)
        );
        let payload = datagram.ip().and_then(|ip| ip.transport.payload());
        assert!(payload.is_none_or(|payload| payload.len() <= datagram.frame_len as usize));
    }
    if let Some(datagram) = named.headers(snap & 1 == 0, now, octets, &meta) {
        let _ = FlowKey::of(&datagram, Direction::Tx);
    }
}
