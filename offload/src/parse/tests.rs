use core::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::{MacAddr, TcpFlags, VlanTag};

const ETHERNET: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

fn frame(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn ipv4_header(total: u16, flags_offset: u16, protocol: u8) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    header.extend([0, 7]);
    header.extend(flags_offset.to_be_bytes());
    header.extend([64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    header
}

fn ipv6_header(payload: u16, next: u8) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(payload.to_be_bytes());
    header.extend([next, 64]);
    header.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets());
    header.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).octets());
    header
}

fn tcp_header(flags: u8) -> Vec<u8> {
    vec![
        0, 80, 0x1f, 0x90, 0, 0, 0, 9, 0, 0, 0, 5, 0x50, flags, 0x20, 0, 0, 0, 0, 0,
    ]
}

fn parse_whole(frame: &[u8]) -> FrameMeta {
    let meta = parse(frame, frame.len()).expect("the Ethernet header is whole");
    let mut place = FrameMeta {
        vlan: Some(VlanTag(9)),
        network: Network::Arp,
        ..FrameMeta::NOTHING
    };
    assert_eq!(parse_into(&mut place, frame, frame.len()), Ok(()));
    assert_eq!(place, meta, "whatever stood there before");
    meta
}

#[test]
fn tcp_over_ipv4_with_padding() {
    let bytes = frame(&[
        &ETHERNET,
        &[8, 0],
        &ipv4_header(43, 0x4000, 6),
        &tcp_header(0x18),
        b"abc",
        &[0; 20],
    ]);
    let meta = parse_whole(&bytes);
    assert_eq!(meta.dst, MacAddr([2, 0, 0, 0, 0, 1]));
    assert_eq!(meta.src, MacAddr([2, 0, 0, 0, 0, 2]));
    assert_eq!(
        (meta.vlan, meta.ethertype, meta.network_offset),
        (None, 0x0800, 14)
    );
    let ip = meta.ip().expect("IPv4");
    assert_eq!(ip.src, IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    assert_eq!((ip.fragment, ip.transport_offset, ip.end), (false, 34, 57));
    assert_eq!(
        *meta.tcp().expect("TCP"),
        TcpMeta {
            src_port: 80,
            dst_port: 8080,
            seq: 9,
            ack: 5,
            flags: TcpFlags(0x18),
            window: 0x2000,
            payload_offset: 54,
            payload_len: 3,
        }
    );
}

#[test]
fn a_prefix_tells_the_same_as_the_whole_frame() {
    let headers = frame(&[&ETHERNET, &[8, 0], &ipv4_header(60_000, 0, 6), &tcp_header(0x10)]);
    let mut whole = headers.clone();
    whole.resize(60_014, 0xaa);
    assert_eq!(parse(&headers, whole.len()), Ok(parse_whole(&whole)));
    assert_eq!(parse_whole(&whole).tcp().map(|tcp| tcp.payload_len), Some(59_960));
}

#[test]
fn two_tags_are_passed_and_the_outer_one_is_kept() {
    let tags = [0x88, 0xa8, 0x20, 0x64, 0x81, 0, 0, 5];
    let meta = parse_whole(&frame(&[
        &ETHERNET,
        &tags,
        &[8, 0],
        &ipv4_header(28, 0, 17),
        &[0, 53, 0, 54, 0, 8, 0, 0],
    ]));
    assert_eq!(meta.vlan, Some(VlanTag(0x2064)));
    assert_eq!((meta.ethertype, meta.network_offset), (0x0800, 22));
    let udp = UdpMeta {
        src_port: 53,
        dst_port: 54,
        payload_offset: 50,
        payload_len: 0,
    };
    assert_eq!(meta.ip().map(|ip| ip.transport), Some(Transport::Udp(udp)));
}

#[test]
fn a_third_tag_and_a_cut_off_tag_are_other() {
    let meta = parse_whole(&frame(&[&ETHERNET, &[0x81, 0, 0, 1].repeat(3), &[8, 0]]));
    assert_eq!(
        (meta.ethertype, meta.network_offset, meta.network),
        (0x8100, 22, Network::Other)
    );
    let meta = parse_whole(&frame(&[&ETHERNET, &[0x81, 0, 0, 1, 8]]));
    assert_eq!(
        (meta.vlan, meta.network_offset, meta.network),
        (None, 14, Network::Other)
    );
}

#[test]
fn length_zero_is_the_rest_of_the_frame() {
    let headers = frame(&[&ETHERNET, &[8, 0], &ipv4_header(0, 0, 6), &tcp_header(0x10)]);
    let meta = parse(&headers, 100_054).expect("whole Ethernet header");
    assert_eq!(meta.tcp().map(|tcp| tcp.payload_len), Some(100_000));
    let headers = frame(&[&ETHERNET, &[0x86, 0xdd], &ipv6_header(0, 6), &tcp_header(0x10)]);
    let meta = parse(&headers, 100_074).expect("whole Ethernet header");
    assert_eq!(meta.tcp().map(|tcp| tcp.payload_len), Some(100_000));
    let nothing = frame(&[&ETHERNET, &[0x86, 0xdd], &ipv6_header(0, 59), &[0; 20]]);
    assert_eq!(parse_whole(&nothing).ip().map(|ip| ip.end), Some(54));
}

#[test]
fn impossible_ip_lengths_are_other() {
    for total in [19, 41, 65_535] {
        let bytes = frame(&[&ETHERNET, &[8, 0], &ipv4_header(total, 0, 6), &tcp_header(0)]);
        assert_eq!(parse_whole(&bytes).network, Network::Other, "{total}");
    }
    let bytes = frame(&[&ETHERNET, &[0x86, 0xdd], &ipv6_header(21, 6), &tcp_header(0)]);
    assert_eq!(parse_whole(&bytes).network, Network::Other);
}

#[test]
fn ipv4_fragments() {
    for (field, fragment, has_transport) in [
        (0x2000, true, true),
        (0x2001, true, false),
        (0x0001, true, false),
        (0x4000, false, true),
    ] {
        let bytes = frame(&[&ETHERNET, &[8, 0], &ipv4_header(40, field, 6), &tcp_header(0)]);
        let meta = parse_whole(&bytes);
        assert_eq!(meta.ip().map(|ip| ip.fragment), Some(fragment), "{field:#x}");
        assert_eq!(meta.tcp().is_some(), has_transport, "{field:#x}");
    }
}

#[test]
fn ipv6_extension_headers() {
    let chain: [&[u8]; 5] = [
        &[43, 0, 1, 4, 0, 0, 0, 0],             // hop-by-hop, padded
        &[60, 0, 0, 0, 0, 0, 0, 0],             // routing
        &[51, 0, 1, 4, 0, 0, 0, 0],             // destination options
        &[44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], // authentication, 12 octets
        &[6, 0, 0, 1, 0, 0, 0, 7],              // first fragment
    ];
    let bytes = frame(&[
        &ETHERNET,
        &[0x86, 0xdd],
        &ipv6_header(64, 0),
        &chain.concat(),
        &tcp_header(0x10),
    ]);
    let ip = *parse_whole(&bytes).ip().expect("IPv6");
    assert_eq!((ip.protocol, ip.fragment), (6, true));
    assert_eq!((ip.transport_offset, ip.end), (98, 118));
    assert!(matches!(ip.transport, Transport::Tcp(_)));
}

#[test]
fn ipv6_chain_stops_at_later_fragments_misplaced_and_too_many_headers() {
    let later = [60, 0, 0, 8, 0, 0, 0, 7];
    let bytes = frame(&[&ETHERNET, &[0x86, 0xdd], &ipv6_header(16, 44), &later, &[0; 8]]);
    let ip = *parse_whole(&bytes).ip().expect("IPv6");
    assert_eq!((ip.protocol, ip.fragment, ip.transport_offset), (60, true, 62));
    assert_eq!(ip.transport, Transport::Other);

    let misplaced = [[0, 0, 1, 4, 0, 0, 0, 0], [6, 0, 1, 4, 0, 0, 0, 0]].concat();
    let bytes = frame(&[
        &ETHERNET,
        &[0x86, 0xdd],
        &ipv6_header(36, 60),
        &misplaced,
        &tcp_header(0),
    ]);
    let ip = *parse_whole(&bytes).ip().expect("IPv6");
    assert_eq!((ip.protocol, ip.transport), (0, Transport::Other));

    let mut many = [60, 0, 1, 4, 0, 0, 0, 0].repeat(9);
    many[64] = 6;
    let bytes = frame(&[
        &ETHERNET,
        &[0x86, 0xdd],
        &ipv6_header(92, 60),
        &many,
        &tcp_header(0),
    ]);
    let ip = *parse_whole(&bytes).ip().expect("IPv6");
    assert_eq!((ip.protocol, ip.transport), (60, Transport::Other));
    assert_eq!(ip.transport_offset, 54 + 64);
}

#[test]
fn cut_off_and_malformed_transports_are_other() {
    let mut bad_offset = tcp_header(0);
    bad_offset[12] = 0x60; // 24 octets, four of them beyond the packet
    let bytes = frame(&[&ETHERNET, &[8, 0], &ipv4_header(40, 0, 6), &bad_offset, &[0; 9]]);
    assert_eq!(
        parse_whole(&bytes).ip().map(|ip| ip.transport),
        Some(Transport::Other)
    );
    let bytes = frame(&[&ETHERNET, &[8, 0], &ipv4_header(27, 0, 17), &[0; 30]]);
    assert_eq!(
        parse_whole(&bytes).ip().map(|ip| ip.transport),
        Some(Transport::Other)
    );
}

#[test]
fn udp_length_is_used_where_sane() {
    for (stated, payload) in [(8, 0), (10, 2), (0, 4), (7, 4), (13, 4)] {
        let udp = [0, 1, 0, 2, 0, stated, 0, 0, 9, 9, 9, 9];
        let bytes = frame(&[&ETHERNET, &[8, 0], &ipv4_header(32, 0, 17), &udp]);
        let Some(Transport::Udp(udp)) = parse_whole(&bytes).ip().map(|ip| ip.transport) else {
            panic!("UDP expected for length {stated}");
        };
        assert_eq!(udp.payload_len, payload, "{stated}");
    }
}

#[test]
fn icmp_belongs_to_its_ip_version() {
    for (number, expected) in [(1, Transport::Icmp { kind: 8, code: 1 }), (58, Transport::Other)] {
        let bytes = frame(&[
            &ETHERNET,
            &[8, 0],
            &ipv4_header(28, 0, number),
            &[8, 1, 0, 0, 0, 0, 0, 0],
        ]);
        assert_eq!(parse_whole(&bytes).ip().map(|ip| ip.transport), Some(expected));
    }
}

#[test]
fn only_lengths_are_errors() {
    assert_eq!(parse(&[0; 13], 60), Err(ParseError::TooShort(13)));
    let error = ParseError::Length {
        prefix: 20,
        frame_len: 19,
    };
    assert_eq!(parse(&[0; 20], 19), Err(error));
    assert_eq!(parse(&[0; 14], 14).map(|meta| meta.network), Ok(Network::Other));
}
