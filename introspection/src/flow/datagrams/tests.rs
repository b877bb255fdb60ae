use proptest::prelude::*;

use super::*;
use crate::{Direction, FlowKey};

/// A fragment of a datagram of `protocol` between 192.0.2.1 and 192.0.2.2, or 2001:db8::1 and ::2, with these of its octets.
fn fragment(v6: bool, protocol: u8, id: u16, datagram: &[u8], part: core::ops::Range<usize>) -> Vec<u8> {
    let more = part.end < datagram.len();
    let octets = &datagram[part.clone()];
    let mut frame = vec![2; 12];
    let place = part.start as u16;
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((octets.len() as u16 + 8).to_be_bytes());
        frame.extend([44, 64]);
        for host in [1, 2] {
            frame.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
        }
        frame.extend([protocol, 0]);
        frame.extend((place | u16::from(more)).to_be_bytes());
        frame.extend(u32::from(id).to_be_bytes());
    } else {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((octets.len() as u16 + 20).to_be_bytes());
        frame.extend(id.to_be_bytes());
        frame.extend(((place / 8) | (u16::from(more) << 13)).to_be_bytes());
        frame.extend([64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    }
    frame.extend(octets);
    frame
}

fn tcp(seq: u32, payload: usize) -> Vec<u8> {
    let mut datagram = vec![0x0f, 0xa0, 0, 80];
    datagram.extend(seq.to_be_bytes());
    datagram.extend([0, 0, 0, 9, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    datagram.resize(20 + payload, b'x');
    datagram
}

fn udp(payload: usize) -> Vec<u8> {
    let len = (8 + payload) as u16;
    let mut datagram = vec![0x0f, 0xa0, 0, 53];
    datagram.extend(len.to_be_bytes());
    datagram.resize(usize::from(len), 0);
    datagram
}

/// Shows a frame cut to so many octets.
fn show(datagrams: &mut Datagrams<u8>, at: u64, frame: &[u8], snap: usize) -> Option<FrameMeta> {
    let octets = &frame[..frame.len().min(snap)];
    let meta = offload::parse(octets, frame.len()).expect("Ethernet");
    datagrams.take(0, Instant(at), octets, &meta)
}

#[test]
fn a_segment_in_three_fragments_is_its_flows_whatever_the_order() {
    for v6 in [false, true] {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
            let mut datagrams = Datagrams::new(8);
            let segment = tcp(1_000, 3_000);
            let parts = [0..1_480, 1_480..2_960, 2_960..3_020];
            let mut whole = None;
            for (count, place) in order.into_iter().enumerate() {
                let frame = fragment(v6, 6, 7, &segment, parts[place].clone());
                whole = show(&mut datagrams, 0, &frame, 96);
                assert_eq!(whole.is_some(), count == 2, "{order:?}");
            }
            let meta = whole.expect("all of it");
            let seen = meta.tcp().expect("TCP");
            assert_eq!((seen.seq, seen.payload_len), (1_000, 3_000));
            let flow = FlowKey::of(&meta, Direction::Tx).expect("a flow");
            assert_eq!((flow.local.port, flow.remote.port), (4_000, 80));
            let expected = DatagramCounts {
                fragments: 3,
                tcp: 1,
                ..DatagramCounts::default()
            };
            assert_eq!(datagrams.counts(), expected);
        }
    }
}

#[test]
fn each_fragment_is_known_by_the_first_one() {
    let mut datagrams: Datagrams<()> = Datagrams::new(8);
    let whole = udp(4_000);
    let mut flows = Vec::new();
    for part in [1_480..2_960, 0..1_480, 2_960..4_008] {
        let frame = fragment(false, 17, 9, &whole, part);
        let meta = offload::parse(&frame, frame.len()).expect("Ethernet");
        let known = datagrams.headers((), Instant(0), &frame, &meta);
        flows.push(known.and_then(|meta| FlowKey::of(&meta, Direction::Tx)));
    }
    assert_eq!(flows[0], None, "nobody knows yet");
    assert!(flows[1].is_some_and(|flow| flow.remote.port == 53 && flow.protocol == 17));
    assert_eq!(flows[2], flows[1]);
    assert_eq!(datagrams.counts().incomplete, 0);
}

#[test]
fn a_lost_fragment_is_made_up_for_by_none_of_another_datagram() {
    let mut datagrams = Datagrams::new(8);
    let (one, two) = (tcp(1, 2_000), tcp(2_001, 2_000));
    assert!(show(&mut datagrams, 0, &fragment(false, 6, 7, &one, 0..1_480), 96).is_none());
    // The second one was lost, and the identification comes again.
    assert!(show(&mut datagrams, 9, &fragment(false, 6, 7, &two, 0..1_480), 96).is_none());
    let whole = show(&mut datagrams, 9, &fragment(false, 6, 7, &two, 1_480..2_020), 96);
    assert_eq!(whole.and_then(|meta| Some(meta.tcp()?.seq)), Some(2_001));
    let counts = datagrams.counts();
    assert_eq!((counts.tcp, counts.incomplete), (1, 1));
}

#[test]
fn what_stays_a_part_is_forgotten() {
    let mut datagrams = Datagrams::new(8);
    let segment = tcp(1, 2_000);
    for id in 0..100 {
        show(&mut datagrams, 0, &fragment(false, 6, id, &segment, 0..1_480), 96);
    }
    assert_eq!((datagrams.entries.len(), datagrams.order.len()), (8, 8));
    let late = PATIENCE.as_nanos() as u64 + 1;
    show(
        &mut datagrams,
        late,
        &fragment(false, 6, 500, &segment, 0..1_480),
        96,
    );
    assert_eq!((datagrams.entries.len(), datagrams.order.len()), (1, 1));
    assert_eq!(datagrams.counts().incomplete, 101);
}

#[test]
fn what_no_datagram_is_made_of_is_counted_and_no_more() {
    let mut datagrams = Datagrams::new(8);
    let segment = tcp(1, 60_000);
    let mut beyond = fragment(false, 6, 1, &segment, 8..1_488);
    beyond[20..22].copy_from_slice(&0x1fff_u16.to_be_bytes());
    assert!(show(&mut datagrams, 0, &beyond, 96).is_none());
    assert!(show(&mut datagrams, 0, &fragment(false, 6, 2, &segment, 0..1_001), 96).is_none());
    assert!(show(&mut datagrams, 0, &fragment(true, 6, 3, &segment, 8..9), 96).is_none());
    assert!(datagrams.entries.is_empty());
    assert_eq!(datagrams.counts().fragments, 3);
}

proptest! {
    /// Cut anywhere and shown in any order, repeated too, with others among them.
    #[test]
    fn any_cuts_make_the_segment(
        payload in 0usize..40_000, cuts in proptest::collection::vec(1usize..5_000, 1..40), seed: u64, v6: bool,
    ) {
        let segment = tcp(77, payload);
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut * 8).filter(|cut| *cut < segment.len()).collect();
        places.extend([0, segment.len()]);
        places.sort_unstable();
        places.dedup();
        let mut parts: Vec<_> = places.windows(2).map(|pair| pair[0]..pair[1]).collect();
        // A TCP header that is cut itself is no TCP header to anybody.
        prop_assume!(parts.len() > 1 && parts[0].len() >= 20);
        let mut random = seed | 1;
        for index in (1..parts.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            parts.swap(index, (random >> 33) as usize % (index + 1));
        }
        let mut datagrams = Datagrams::new(8);
        let mut found = Vec::new();
        for (count, part) in parts.iter().enumerate() {
            for id in [1, 2] {
                found.extend(show(&mut datagrams, 0, &fragment(v6, 6, id, &segment, part.clone()), 96));
            }
            prop_assert_eq!(found.len(), if count + 1 == parts.len() { 2 } else { 0 });
        }
        for meta in found {
            prop_assert_eq!(meta.tcp().map(|tcp| (tcp.seq, tcp.payload_len)), Some((77, payload as u32)));
        }
        prop_assert!(datagrams.entries.is_empty() && datagrams.order.is_empty());
    }

    #[test]
    fn nothing_breaks_it(frames in proptest::collection::vec((any::<bool>(), 0u16..4, 0u16..0x4000, 0usize..200, any::<u8>()), 0..200)) {
        let mut datagrams = Datagrams::new(4);
        for (v6, id, place, len, twist) in frames {
            let mut frame = fragment(v6, 6, id, &vec![twist; len + 1], 0..len);
            let at = if v6 { 56 } else { 20 };
            frame[at..at + 2].copy_from_slice(&place.to_be_bytes());
            show(&mut datagrams, u64::from(twist) << 33, &frame, 64);
            prop_assert!(datagrams.entries.len() <= 4);
            prop_assert_eq!(datagrams.entries.len(), datagrams.order.len());
            prop_assert!(datagrams.entries.values().all(|entry| entry.known.len() <= STRETCHES));
        }
    }
}
