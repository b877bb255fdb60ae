//! Large sends: to who takes them and to who does not, with and without a filter that reads them.

use std::sync::atomic::Ordering;

use introspection::RuleAction;
use offload::{TcpFlags, VnetHeader};

use super::filters::{rule, set};
use super::{Bench, access, tcp};
use crate::control::VlanMode;
use crate::frame::{Burst, HEADER_COPY, Segment};
use crate::port::Capabilities;

/// The sequence number of the first octet.
const SEQ: u32 = 100;
/// Where the payload begins.
const HEADERS: usize = 54;
const SIZE: u16 = 1000;
/// Where the TCP header's flags are.
const FLAGS: usize = 47;

const VNET: VnetHeader = VnetHeader {
    flags: 1,
    gso_type: VnetHeader::GSO_TCPV4,
    hdr_len: HEADERS as u16,
    gso_size: SIZE,
    csum_start: 34,
    csum_offset: 16,
    num_buffers: 0,
};

/// Puts a frame into a burst that leaves all but its headers where it is; gives back where that is.
pub(super) fn lend(burst: &mut Burst, vnet: VnetHeader, frame: Vec<u8>) -> Vec<u8> {
    let mut header = [0; HEADER_COPY];
    let len = frame.len().min(HEADER_COPY);
    let (first, rest) = frame.split_at(len);
    header[..len].copy_from_slice(first);
    let rest = Segment {
        ptr: rest.as_ptr(),
        len: rest.len() as u32,
    };
    burst.push_shared(vnet, header, len, rest);
    frame
}

fn payload() -> Vec<u8> {
    (0..10_500_u32).map(|n| (n % 251) as u8).collect()
}

/// A pushed large send to all, as a driver leaves it: the checksum field has the pseudo-header's sum.
fn large() -> Vec<u8> {
    let payload = payload();
    let mut large = tcp(1, 0xff, SEQ, &payload);
    large[0..6].fill(0xff);
    large[FLAGS] |= TcpFlags::PSH;
    let len = payload.len() as u32 + 20;
    let pseudo = offload::checksum::pseudo_header([192, 0, 2, 1].into(), [192, 0, 2, 0xff].into(), 6, len);
    large[50..52].copy_from_slice(&(!offload::checksum::fold(pseudo)).to_be_bytes());
    large
}

/// A sender, a receiver that takes nothing but plain frames, and an able one.
fn bench() -> Bench {
    let plain = (VlanMode::Access(0), Capabilities::default());
    Bench::new(1, &[access(0), plain, access(0)])
}

/// That the able receiver got the large send as it was, and the other one its segments.
fn check(bench: &Bench) {
    let whole = bench.guests[2].got.lock().drain(..).collect::<Vec<_>>();
    let [(vnet, frame)] = whole.as_slice() else {
        panic!("an able receiver gets the frame in one: {whole:?}");
    };
    assert_eq!(*frame, large(), "with every octet");
    assert_eq!(*vnet, VNET);

    let segments = bench.guests[1].got.lock().drain(..).collect::<Vec<_>>();
    assert_eq!(segments.len(), 11);
    let (payload, mut joined) = (payload(), Vec::new());
    for (vnet, segment) in &segments {
        assert_eq!(*vnet, VnetHeader::default(), "nothing is left to be done");
        let meta = offload::parse(segment, segment.len()).expect("a frame");
        assert!(offload::checksum::verify_transport(segment, &meta));
        assert_eq!(
            offload::checksum::internet(&segment[14..34]),
            0,
            "the IP header's"
        );
        let tcp = meta.tcp().expect("TCP");
        assert_eq!(tcp.seq, SEQ + joined.len() as u32);
        assert_eq!(
            tcp.payload_len,
            (payload.len() - joined.len()).min(SIZE.into()) as u32
        );
        joined.extend_from_slice(&segment[HEADERS..]);
        let last = joined.len() == payload.len();
        assert_eq!(tcp.flags.any(TcpFlags::PSH), last, "the last one is pushed");
        assert!(tcp.flags.any(TcpFlags::ACK));
    }
    assert_eq!(joined, payload);
    assert_eq!(bench.port(1).counters.snapshot().segmented, 1);
}

#[test]
fn does_in_software_what_the_receiver_cannot() {
    let mut bench = bench();
    bench.send_with(0, VNET, &large());
    bench.run();
    check(&bench);
}

/// What a filter reads is first copied out of the sender's memory; the receivers here take nothing that was not. One filter at the
/// sender, and one at each receiver.
#[test]
fn rules_that_match_nothing_leave_large_sends_as_they_are() {
    for filtered in [&[0][..], &[1, 2]] {
        let mut bench = bench();
        bench.guests[0].lends.store(true, Ordering::Relaxed);
        for port in filtered {
            set(&bench, *port, &rule("attack", RuleAction::Drop, None)).expect("good");
        }
        bench.send_with(0, VNET, &large());
        bench.run();
        check(&bench);
        for port in filtered {
            let counters = bench.port(*port).probe.filter().counters;
            assert_eq!((counters.frames, counters.matches), (1, 0));
            assert_eq!(counters.inspected_octets, payload().len() as u64);
            assert!(bench.drops(*port).is_empty());
        }
    }
}

#[test]
fn a_large_send_that_a_rule_drops_reaches_nobody() {
    let mut bench = bench();
    bench.guests[0].lends.store(true, Ordering::Relaxed);
    set(&bench, 0, &rule(r"\xf6\xf7\xf8", RuleAction::Drop, None)).expect("good");
    bench.send_with(0, VNET, &large());
    bench.run();
    assert!(bench.got(1).is_empty());
    assert!(bench.got(2).is_empty());
}
