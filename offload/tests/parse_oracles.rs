//! `parse`, the views and the checksums against etherparse and smoltcp.

mod common;

use common::{Kind, Spec, specs};
use etherparse::checksum::Sum16BitWords;
use etherparse::{LaxSlicedPacket, NetSlice, SlicedPacket, TransportSlice};
use offload::{FrameMeta, Network, TcpMeta, Transport, checksum, parse};
use proptest::prelude::*;
use smoltcp::wire;

/// Where `part` lies in `whole`.
fn offset_of(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

fn check_against_etherparse(frame: &[u8], meta: &FrameMeta) {
    let sliced = SlicedPacket::from_ethernet(frame).expect("etherparse reads what it wrote");
    let vlan = sliced.vlan_ids().first().map(|id| id.value());
    assert_eq!(meta.vlan.map(offload::VlanTag::id), vlan);
    let ip = meta.ip().expect("an IP packet");
    let (src, dst, payload) = match sliced.net.expect("an IP packet") {
        NetSlice::Ipv4(net) => {
            let header = net.header();
            assert!(matches!(meta.network, Network::Ipv4(_)));
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                net.payload().clone(),
            )
        }
        NetSlice::Ipv6(net) => {
            let header = net.header();
            assert!(matches!(meta.network, Network::Ipv6(_)));
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                net.payload().clone(),
            )
        }
        NetSlice::Arp(_) => panic!("no ARP was written"),
    };
    assert_eq!((ip.src, ip.dst, ip.protocol), (src, dst, payload.ip_number.0));
    assert_eq!(ip.fragment, payload.fragmented);
    assert_eq!(
        usize::from(ip.transport_offset),
        offset_of(frame, payload.payload)
    );
    assert_eq!(
        ip.end as usize,
        offset_of(frame, payload.payload) + payload.payload.len()
    );
    check_transport(frame, ip.transport, &sliced.transport.expect("a transport"));
}

fn check_transport(frame: &[u8], ours: Transport, theirs: &TransportSlice<'_>) {
    match (ours, theirs) {
        (Transport::Tcp(ours), TransportSlice::Tcp(theirs)) => {
            assert_eq!(
                (ours.src_port, ours.dst_port),
                (theirs.source_port(), theirs.destination_port())
            );
            assert_eq!(
                (ours.seq, ours.ack),
                (theirs.sequence_number(), theirs.acknowledgment_number())
            );
            assert_eq!(
                (ours.flags.0, ours.window),
                (theirs.slice()[13], theirs.window_size())
            );
            assert_eq!(
                usize::from(ours.payload_offset),
                offset_of(frame, theirs.payload())
            );
            assert_eq!(ours.payload_len as usize, theirs.payload().len());
        }
        (Transport::Udp(ours), TransportSlice::Udp(theirs)) => {
            assert_eq!(
                (ours.src_port, ours.dst_port),
                (theirs.source_port(), theirs.destination_port())
            );
            assert_eq!(
                usize::from(ours.payload_offset),
                offset_of(frame, theirs.payload())
            );
            assert_eq!(ours.payload_len as usize, theirs.payload().len());
        }
        (Transport::Icmp { kind, code }, TransportSlice::Icmpv4(theirs)) => {
            assert_eq!((kind, code), (theirs.type_u8(), theirs.code_u8()));
        }
        (Transport::Icmp { kind, code }, TransportSlice::Icmpv6(theirs)) => {
            assert_eq!((kind, code), (theirs.type_u8(), theirs.code_u8()));
        }
        (ours, theirs) => panic!("{ours:?} is not {theirs:?}"),
    }
}

/// smoltcp's opinion of a transport checksum.
fn smoltcp_verifies(frame: &[u8], meta: &FrameMeta) -> bool {
    let ip = meta.ip().expect("an IP packet");
    let octets = &frame[usize::from(ip.transport_offset)..ip.end as usize];
    let (src, dst) = (ip.src.into(), ip.dst.into());
    match (ip.transport, src, dst) {
        (Transport::Tcp(_), ..) => wire::TcpPacket::new_unchecked(octets).verify_checksum(&src, &dst),
        (Transport::Udp(_), ..) => wire::UdpPacket::new_unchecked(octets).verify_checksum(&src, &dst),
        (Transport::Icmp { .. }, wire::IpAddress::Ipv6(src), wire::IpAddress::Ipv6(dst)) => {
            wire::Icmpv6Packet::new_unchecked(octets).verify_checksum(&src, &dst)
        }
        (Transport::Icmp { .. }, ..) => wire::Icmpv4Packet::new_unchecked(octets).verify_checksum(),
        (Transport::Other, ..) => false,
    }
}

fn check_against_smoltcp(frame: &[u8], meta: &FrameMeta) {
    let ip = meta.ip().expect("an IP packet");
    let packet = &frame[usize::from(meta.network_offset)..];
    if ip.src.is_ipv4() {
        let theirs = wire::Ipv4Packet::new_checked(packet).expect("smoltcp reads it");
        let header_len = ip.transport_offset - meta.network_offset;
        assert_eq!(u16::from(theirs.header_len()), header_len);
        assert_eq!(
            u32::from(theirs.total_len()),
            ip.end - u32::from(meta.network_offset)
        );
        assert_eq!(
            (ip.src, ip.dst),
            (theirs.src_addr().into(), theirs.dst_addr().into())
        );
    } else {
        let theirs = wire::Ipv6Packet::new_checked(packet).expect("smoltcp reads it");
        assert_eq!(
            theirs.total_len(),
            ip.end as usize - usize::from(meta.network_offset)
        );
        assert_eq!(
            (ip.src, ip.dst),
            (theirs.src_addr().into(), theirs.dst_addr().into())
        );
    }
    let octets = &frame[usize::from(ip.transport_offset)..ip.end as usize];
    if let Transport::Tcp(ours) = ip.transport {
        let theirs = wire::TcpPacket::new_checked(octets).expect("smoltcp reads it");
        assert_eq!(theirs.seq_number().0, ours.seq.cast_signed());
        assert_eq!(theirs.payload().len(), ours.payload_len as usize);
        assert_eq!(theirs.window_len(), ours.window);
    }
    assert!(smoltcp_verifies(frame, meta) && checksum::verify_transport(frame, meta));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn valid_frames_mean_the_same_to_all(spec in specs(1600)) {
        let frame = spec.write();
        let meta = parse(&frame, frame.len()).expect("whole frame");
        check_against_etherparse(&frame, &meta);
        check_against_smoltcp(&frame, &meta);
    }

    #[test]
    fn a_prefix_of_192_octets_is_enough(spec in specs(1600)) {
        let frame = spec.write();
        let prefix = &frame[..frame.len().min(192)];
        prop_assert_eq!(parse(prefix, frame.len()), parse(&frame, frame.len()));
    }

    /// etherparse reads cut-off and damaged packets as far as it can, as `parse` does.
    #[test]
    fn damaged_frames_with_ports_have_the_same_ports(
        spec in specs(100),
        damage in proptest::collection::vec((12..120_usize, any::<u8>()), 1..4),
    ) {
        let mut frame = spec.write();
        for (at, value) in damage {
            if let Some(octet) = frame.get_mut(at) {
                *octet = value;
            }
        }
        let meta = parse(&frame, frame.len()).expect("whole Ethernet header");
        let lax = LaxSlicedPacket::from_ethernet(&frame).expect("whole Ethernet header");
        if let (Some(TcpMeta { src_port, seq, .. }), Some(TransportSlice::Tcp(theirs))) = (meta.tcp(), lax.transport) {
            prop_assert_eq!((*src_port, *seq), (theirs.source_port(), theirs.sequence_number()));
        }
    }

    #[test]
    fn a_damaged_transport_fails_for_both(spec in specs(300), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let mut frame = spec.write();
        let before = parse(&frame, frame.len()).expect("whole frame");
        let ip = *before.ip().expect("an IP packet");
        let start = usize::from(ip.transport_offset);
        frame[start + at.index(ip.end as usize - start)] ^= flip;
        let meta = parse(&frame, frame.len()).expect("whole frame");
        // A changed length may make it another packet; and 0 for a UDP checksum means none.
        let same_shape = meta.ip().is_some_and(|ip| match (ip.transport, spec.kind) {
            (Transport::Tcp(_), Kind::Tcp) | (Transport::Icmp { .. }, Kind::Icmp) => true,
            (Transport::Udp(udp), Kind::Udp) => udp.payload_len as usize == spec.payload.len()
                && frame[start + 4..start + 6] == ((udp.payload_len + 8) as u16).to_be_bytes()
                && frame[start + 6..start + 8] != [0, 0],
            _ => false,
        });
        if same_shape {
            prop_assert_eq!(checksum::verify_transport(&frame, &meta), smoltcp_verifies(&frame, &meta));
            prop_assert!(!checksum::verify_transport(&frame, &meta));
        }
    }

    #[test]
    fn sums_are_equal(data in proptest::collection::vec(any::<u8>(), 0..3000), cut in any::<prop::sample::Index>()) {
        let ours = checksum::internet(&data);
        prop_assert_eq!(ours, !wire::checksum::data(&data));
        prop_assert_eq!(ours, Sum16BitWords::new().add_slice(&data).ones_complement().to_be());
        let even = cut.index(data.len() + 1) & !1;
        let parts = checksum::sum(&data[..even]) + checksum::sum(&data[even..]);
        prop_assert_eq!(!checksum::fold(parts), ours);
    }

    #[test]
    fn updates_are_equal_to_summing_again(mut words in proptest::collection::vec(any::<u16>(), 2..40), new: u16) {
        let octets = |words: &[u16]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<_>>();
        words[0] |= 0x4000; // As in a real header, not all words are zero: 0 and 0xffff stay apart.
        let before = checksum::internet(&octets(&words));
        let old = std::mem::replace(&mut words[1], new);
        prop_assert_eq!(checksum::update(before, old, new), checksum::internet(&octets(&words)));
    }

    /// A partial checksum as Linux leaves it comes out as etherparse computes the full one.
    #[test]
    fn completed_checksums_are_etherparse_s(spec in specs(1600).prop_filter("not ICMP", |s| s.kind != Kind::Icmp)) {
        let spec = Spec { padding: 0, ..spec };
        let expected = spec.write();
        let meta = parse(&expected, expected.len()).expect("whole frame");
        let ip = meta.ip().expect("an IP packet");
        let offset = if spec.kind == Kind::Tcp { 16 } else { 6 };
        let field = usize::from(ip.transport_offset) + offset;
        let len = ip.end - u32::from(ip.transport_offset);
        let mut frame = expected.clone();
        let pseudo = checksum::fold(checksum::pseudo_header(ip.src, ip.dst, ip.protocol, len));
        frame[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        prop_assert_eq!(checksum::finish_partial(&mut frame, ip.transport_offset, offset as u16), Ok(()));
        if frame[field..field + 2] == [0xff, 0xff] {
            frame[field..field + 2].copy_from_slice(&expected[field..field + 2]);
        }
        prop_assert_eq!(frame, expected);
    }
}
