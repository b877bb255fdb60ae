use core::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::parse;

#[test]
fn the_example_of_rfc_1071() {
    let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(fold(sum(&data)), 0xddf2);
    assert_eq!(internet(&data), !0xddf2);
}

#[test]
fn odd_lengths_are_padded_behind() {
    assert_eq!(sum(&[0x12]), 0x1200);
    assert_eq!(sum(&[0xff, 0xff, 0x12]), 0x1200);
    assert_eq!(sum(&[]), 0);
}

#[test]
fn copies_come_with_their_sum() {
    let data: Vec<u8> = (0..1999_u32).map(|n| (n * 37 % 251) as u8).collect();
    for len in [0, 1, 2, 63, 64, 65, 511, 512, 1448, 1999] {
        let mut copy = vec![0xee; len];
        assert_eq!(copy_and_sum(&mut copy, &data[..len]), sum(&data[..len]), "{len}");
        assert_eq!(copy, data[..len]);
    }
}

#[test]
#[should_panic(expected = "length of its source")]
fn copies_have_the_length_of_their_source() {
    copy_and_sum(&mut [0; 3], &[0; 4]);
}

#[test]
fn folding_carries_around() {
    assert_eq!(fold(u64::MAX), 0xffff);
    assert_eq!(fold(0x1_0000), 1);
    assert_eq!(fold(0xffff_0001), fold(0xffff + 1));
    assert_eq!(fold(0xffff_ffff_0000_0001), 1);
}

#[test]
fn pseudo_headers_are_the_sum_of_their_octets() {
    let (a, b) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 200));
    let octets = [&a.octets()[..], &b.octets(), &[0, 6, 0x05, 0xdc]].concat();
    assert_eq!(
        fold(pseudo_header(a.into(), b.into(), 6, 1500)),
        fold(sum(&octets))
    );
    let (a, b) = (
        Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 4, 0xffff, 6, 7, 8),
        Ipv6Addr::LOCALHOST,
    );
    let octets = [&a.octets()[..], &b.octets(), &[0, 1, 0x11, 0x70, 0, 0, 0, 58]].concat();
    assert_eq!(
        fold(pseudo_header(a.into(), b.into(), 58, 70_000)),
        fold(sum(&octets))
    );
}

#[test]
fn an_update_is_what_summing_again_gives() {
    // The example of RFC 1624, section 4, whose result must be 0x0000 and not 0xffff.
    assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    let mut header = [
        0x45, 0, 0, 40, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    let before = internet(&header);
    header[8] = 63;
    assert_eq!(update(before, 0x4006, 0x3f06), internet(&header));
}

#[test]
fn a_zero_result_is_stored_as_ones() {
    let mut frame = [9, 0xff, 0xff, 0, 0];
    assert_eq!(finish_partial(&mut frame, 1, 2), Ok(()));
    assert_eq!(frame, [9, 0xff, 0xff, 0xff, 0xff]);
}

#[test]
fn fields_outside_of_the_frame_are_refused() {
    for (start, offset) in [(0, 9), (9, 0), (11, 0), (u16::MAX, u16::MAX), (4, 5)] {
        let mut frame = [7; 10];
        let error = ChecksumError::OutOfRange {
            start,
            offset,
            frame_len: 10,
        };
        assert_eq!(finish_partial(&mut frame, start, offset), Err(error));
        assert_eq!(frame, [7; 10]);
    }
    assert_eq!(finish_partial(&mut [7; 10], 0, 8), Ok(()));
}

/// A UDP datagram over IPv4 with the payload "hi!".
fn udp_frame() -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend([192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 0, 2, 0, 11, 0, 0]);
    frame.extend(b"hi!");
    frame
}

#[test]
fn a_finished_partial_checksum_verifies() {
    let mut frame = udp_frame();
    let meta = parse(&frame, frame.len()).expect("whole frame");
    let ip = meta.ip().expect("IPv4");
    assert!(verify_transport(&frame, &meta), "0 stands for none");
    let pseudo = fold(pseudo_header(ip.src, ip.dst, 17, 11));
    frame[40..42].copy_from_slice(&pseudo.to_be_bytes());
    assert!(!verify_transport(&frame, &meta), "still partial");
    let offloads = Offloads {
        checksum: Checksum::Partial { start: 34, offset: 6 },
        gso: None,
    };
    assert_eq!(finish(&mut frame, &offloads), Ok(()));
    assert!(verify_transport(&frame, &meta));
    frame[44] ^= 1;
    assert!(!verify_transport(&frame, &meta));
    assert!(!verify_transport(&frame[..44], &meta), "cut off");
}

#[test]
fn udp_over_ipv6_needs_a_checksum() {
    let mut frame = vec![0; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
    frame.extend([0xfd; 32]);
    frame.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    let meta = parse(&frame, frame.len()).expect("whole frame");
    assert!(
        meta.ip()
            .is_some_and(|ip| matches!(ip.transport, Transport::Udp(_)))
    );
    assert!(!verify_transport(&frame, &meta));
}
