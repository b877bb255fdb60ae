//! Segmentation, judged by etherparse and smoltcp.

mod common;

use common::{Kind, Spec, specs};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use offload::{Segmenter, parse};
use proptest::prelude::*;
use smoltcp::wire;

const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// Cuts a frame; the transport checksum in it is spoilt first, since a sender leaves it partial.
fn cut(spec: &Spec, size: u16) -> (usize, Vec<Vec<u8>>) {
    let mut frame = spec.write();
    let meta = parse(&frame, frame.len()).expect("whole frame");
    let field =
        usize::from(meta.ip().expect("IP").transport_offset) + if spec.kind == Kind::Tcp { 16 } else { 6 };
    frame[field] ^= 0x55;
    let mut segmenter = Segmenter::new(&frame, &meta, spec.gso(size)).expect("can be cut");
    let expected = segmenter.segments();
    let mut segments = Vec::new();
    while let Some(len) = segmenter.next_len() {
        let mut out = vec![0xee; len];
        assert_eq!(segmenter.next_into(&mut out), Some(len));
        assert!(len <= segmenter.max_segment_len());
        segments.push(out);
    }
    assert_eq!(segments.len(), expected);
    (segmenter.max_segment_len(), segments)
}

/// Checks one segment's checksums and lengths with both crates and returns its payload and its sequence number and flags.
fn judge(segment: &[u8], first_id: u16, index: usize) -> (Vec<u8>, Option<(u32, u8)>) {
    let sliced = SlicedPacket::from_ethernet(segment).expect("etherparse reads it");
    let (net, transport) = (sliced.net.expect("IP"), sliced.transport.expect("a transport"));
    if let NetSlice::Ipv4(ip) = &net {
        let header = ip.header().to_header();
        assert_eq!(header.calc_header_checksum(), header.header_checksum);
        assert_eq!(header.identification, first_id.wrapping_add(index as u16));
    }
    let meta = parse(segment, segment.len()).expect("whole frame");
    let ip = meta.ip().expect("IP");
    assert_eq!(ip.end as usize, segment.len());
    let octets = &segment[usize::from(ip.transport_offset)..];
    let (src, dst) = (ip.src.into(), ip.dst.into());
    match transport {
        TransportSlice::Tcp(tcp) => {
            let checksum = match &net {
                NetSlice::Ipv4(ip) => tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()),
                NetSlice::Ipv6(ip) => tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()),
                NetSlice::Arp(_) => panic!("not ARP"),
            };
            assert_eq!(checksum, Ok(tcp.checksum()));
            assert!(
                wire::TcpPacket::new_checked(octets)
                    .expect("smoltcp reads it")
                    .verify_checksum(&src, &dst)
            );
            (
                tcp.payload().to_vec(),
                Some((tcp.sequence_number(), tcp.slice()[13])),
            )
        }
        TransportSlice::Udp(udp) => {
            let packet = wire::UdpPacket::new_checked(octets).expect("smoltcp reads it");
            assert!(packet.checksum() != 0 && packet.verify_checksum(&src, &dst));
            assert_eq!(usize::from(udp.length()), octets.len());
            (udp.payload().to_vec(), None)
        }
        other => panic!("{other:?} was not written"),
    }
}

fn check(spec: &Spec, size: u16) {
    let (longest, segments) = cut(spec, size);
    let last = segments.len() - 1;
    let mut payload = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        assert!(segment.len() <= longest);
        let (part, tcp) = judge(segment, spec.id, index);
        assert_eq!(
            part.len(),
            usize::from(size).min(spec.payload.len() - payload.len())
        );
        if let Some((seq, flags)) = tcp {
            assert_eq!(seq, spec.seq.wrapping_add(payload.len() as u32));
            let mut cleared = 0;
            if index > 0 {
                cleared |= CWR;
            }
            if index < last {
                cleared |= FIN_PSH;
            }
            assert_eq!(flags, spec.flags & !cleared);
        }
        payload.extend(part);
    }
    assert_eq!(payload, spec.payload);
}

fn cuttable(payload: usize) -> impl Strategy<Value = Spec> {
    specs(payload).prop_filter("not ICMP", |spec| spec.kind != Kind::Icmp)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn segments_are_the_frame(spec in cuttable(5000), size in 5..3000_u16) {
        check(&spec, size);
    }

    #[test]
    fn large_frames(spec in cuttable(1), len in 30_000..65_000_usize, size in 500..9000_u16) {
        let payload = (0..len).map(|n| (n % 253) as u8).collect();
        check(&Spec { payload, ..spec }, size);
    }
}
