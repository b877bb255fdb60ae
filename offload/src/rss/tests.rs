use core::net::{Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;

use super::*;
use crate::parse;

/// Destination, source, hash of the addresses, hash with ports.
type Vector = ((&'static str, u16), (&'static str, u16), u32, u32);

const V4: [Vector; 5] = [
    (
        ("161.142.100.80", 1766),
        ("66.9.149.187", 2794),
        0x323e_8fc2,
        0x51cc_c178,
    ),
    (
        ("65.69.140.83", 4739),
        ("199.92.111.2", 14230),
        0xd718_262a,
        0xc626_b0ea,
    ),
    (
        ("12.22.207.184", 38024),
        ("24.19.198.95", 12898),
        0xd2d0_a5de,
        0x5c2b_394a,
    ),
    (
        ("209.142.163.6", 2217),
        ("38.27.205.30", 48228),
        0x8298_9176,
        0xafc7_327f,
    ),
    (
        ("202.188.127.2", 1303),
        ("153.39.163.191", 44251),
        0x5d18_09c5,
        0x10e8_28a2,
    ),
];

const V6: [Vector; 3] = [
    (
        ("3ffe:2501:200:3::1", 1766),
        ("3ffe:2501:200:1fff::7", 2794),
        0x2cc1_8cd5,
        0x4020_7d3d,
    ),
    (
        ("ff02::1", 4739),
        ("3ffe:501:8::260:97ff:fe40:efab", 14230),
        0x0f0c_461c,
        0xdde5_1bbf,
    ),
    (
        ("fe80::200:f8ff:fe21:67cf", 38024),
        ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251),
        0x4b61_e985,
        0x02d1_feef,
    ),
];

/// What a vector's frames hash to: TCP, UDP, and TCP whose ports are not to be hashed.
fn hashes(vector: &Vector, v6: bool) -> [(u32, HashReport); 3] {
    let ((dst, to), (src, from), ..) = *vector;
    let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ip = || {
        if v6 {
            let address = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
            ethernet().ipv6(address(src), address(dst), 64)
        } else {
            let address = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
            ethernet().ipv4(address(src), address(dst), 64)
        }
    };
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    ip().tcp(from, to, 1, 1000).write(&mut tcp, b"payload").unwrap();
    ip().udp(from, to).write(&mut udp, b"payload").unwrap();
    let addresses = HashTypes(HashTypes::IPV4.0 | HashTypes::IPV6.0);
    [(&tcp, HashTypes::ALL), (&udp, HashTypes::ALL), (&tcp, addresses)].map(|(frame, types)| {
        Hasher::new(&Toeplitz::DEFAULT_KEY, types).hash(&parse(frame, frame.len()).unwrap(), frame)
    })
}

#[test]
fn published_vectors() {
    for (v6, vectors, reports) in [
        (
            false,
            &V4[..],
            [HashReport::Tcpv4, HashReport::Udpv4, HashReport::Ipv4],
        ),
        (
            true,
            &V6[..],
            [HashReport::Tcpv6, HashReport::Udpv6, HashReport::Ipv6],
        ),
    ] {
        for vector in vectors {
            let (_, _, addresses, ports) = *vector;
            let expected = [(ports, reports[0]), (ports, reports[1]), (addresses, reports[2])];
            assert_eq!(hashes(vector, v6), expected, "{vector:?}");
        }
    }
}

#[test]
fn fragments_and_frames_without_ip_have_no_ports() {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
        .udp(7, 9)
        .write(&mut frame, &[0; 40])
        .unwrap();
    let hasher = Hasher::new(&Toeplitz::DEFAULT_KEY, HashTypes::ALL);
    let hash = |frame: &[u8]| hasher.hash(&parse(frame, frame.len()).unwrap(), frame);
    let whole = hash(&frame);
    frame[20] = 0x20; // more fragments follow
    let first = hash(&frame);
    frame[20..22].copy_from_slice(&[0, 5]);
    let last = hash(&frame);
    assert_eq!((first, first.1), (last, HashReport::Ipv4));
    assert_ne!(first.0, whole.0);
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    assert_eq!(hash(&frame), (0, HashReport::None));
}

#[test]
fn tables_choose_by_the_low_bits() {
    let table = Indirection::new(vec![3, 1, 2, 0].into(), 7).unwrap();
    assert_eq!(table.queue(0xffff_fff5, HashReport::Tcpv4), 1);
    assert_eq!(table.queue(0xffff_fff5, HashReport::None), 7);
    assert_eq!(table.highest(), 7);
    for len in [0, 3, 12] {
        assert_eq!(Indirection::new(vec![0; len].into(), 0), Err(TableLength(len)));
    }
}
