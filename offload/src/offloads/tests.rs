use super::*;
use crate::parse;

const VLAN: [u8; 4] = [0x81, 0, 0, 5];

/// An Ethernet frame of IPv4 (or, with `v6`, IPv6) with this transport header and 3000 octets of payload.
fn frame(v6: bool, tagged: bool, protocol: u8, transport: &[u8]) -> Vec<u8> {
    let len = (transport.len() + 3000) as u16;
    let mut frame = vec![2; 12];
    if tagged {
        frame.extend(VLAN);
    }
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(len.to_be_bytes());
        frame.extend([protocol, 64]);
        frame.extend([0xfd; 32]);
    } else {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((len + 20).to_be_bytes());
        frame.extend([0, 1, 0x40, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    }
    frame.extend(transport);
    frame.resize(frame.len() + 3000, 7);
    frame
}

fn meta(frame: &[u8]) -> FrameMeta {
    parse(frame, frame.len()).expect("whole frame")
}

fn tcp(v6: bool, tagged: bool) -> FrameMeta {
    let mut header = [0; 20];
    header[12] = 0x50;
    meta(&frame(v6, tagged, 6, &header))
}

fn udp(v6: bool) -> FrameMeta {
    meta(&frame(v6, false, 17, &[0; 8]))
}

fn header(gso_type: u8, gso_size: u16, csum_start: u16, csum_offset: u16) -> VnetHeader {
    VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type,
        gso_size,
        csum_start,
        csum_offset,
        ..VnetHeader::default()
    }
}

#[test]
fn what_linux_sends_is_read_and_written_back() {
    let cases = [
        (tcp(false, false), header(VnetHeader::GSO_TCPV4, 1448, 34, 16), 54),
        (
            tcp(false, true),
            header(VnetHeader::GSO_TCPV4 | 0x80, 1448, 38, 16),
            58,
        ),
        (tcp(true, false), header(VnetHeader::GSO_TCPV6, 1428, 54, 16), 74),
        (
            tcp(true, true),
            header(VnetHeader::GSO_TCPV6 | 0x80, 1428, 58, 16),
            78,
        ),
        (udp(false), header(VnetHeader::GSO_UDP_L4, 1400, 34, 6), 42),
        (udp(true), header(VnetHeader::GSO_UDP_L4, 1400, 54, 6), 62),
        (tcp(false, false), header(0, 0, 34, 16), 0),
        (udp(true), header(0, 0, 54, 6), 0),
    ];
    for (meta, mut header, hdr_len) in cases {
        header.hdr_len = 9; // a wrong hint
        let offloads = Offloads::from_header(&header, &meta).expect("a header as Linux sends it");
        assert_eq!(
            offloads.gso.map_or(0, |gso| gso.size),
            header.gso_size,
            "{header:?}"
        );
        header.hdr_len = hdr_len;
        assert_eq!(offloads.to_header(&meta), header);
    }
}

#[test]
fn flags_without_gso() {
    let meta = tcp(false, false);
    for (flags, checksum) in [
        (0, Checksum::Complete),
        (VnetHeader::DATA_VALID, Checksum::Valid),
        (0xf8, Checksum::Complete),
    ] {
        let header = VnetHeader {
            flags,
            ..VnetHeader::default()
        };
        let offloads = Offloads { checksum, gso: None };
        assert_eq!(Offloads::from_header(&header, &meta), Ok(offloads));
        assert_eq!(offloads.to_header(&meta).flags, flags & VnetHeader::DATA_VALID);
    }
}

#[test]
fn hostile_checksum_places_are_refused() {
    let range = |start, offset| Err(OffloadError::ChecksumRange { start, offset });
    let place = |start, offset| Err(OffloadError::ChecksumPlace { start, offset });
    let read = |meta: &FrameMeta, start, offset| Offloads::from_header(&header(0, 0, start, offset), meta);
    let meta = tcp(false, false); // 3054 octets
    assert_eq!(read(&meta, 3054, 0), range(3054, 0));
    assert_eq!(read(&meta, 34, 3019), range(34, 3019));
    assert_eq!(read(&meta, u16::MAX, u16::MAX), range(u16::MAX, u16::MAX));
    assert_eq!(read(&meta, 13, 2), range(13, 2));
    assert_eq!(read(&meta, 14, 36), place(14, 36)); // the right field, summed from the wrong place
    assert_eq!(read(&meta, 34, 0), place(34, 0)); // the source port
    assert_eq!(read(&meta, 34, 18), place(34, 18));
    assert_eq!(read(&meta, 60, 16), place(60, 16)); // TCP payload
    assert_eq!(read(&udp(false), 34, 4), place(34, 4));
    assert_eq!(
        read(&self::meta(&frame(false, false, 1, &[8; 8])), 34, 4),
        place(34, 4)
    );
    let mut arp = vec![2; 12];
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.resize(60, 0);
    assert_eq!(read(&self::meta(&arp), 20, 6), place(20, 6));
}

#[test]
fn tunnels_may_have_an_inner_partial_checksum() {
    let partial = |start, offset| {
        Ok(Offloads {
            checksum: Checksum::Partial { start, offset },
            gso: None,
        })
    };
    let vxlan = Offloads::from_header(&header(0, 0, 34 + 8 + 8 + 14 + 20, 16), &udp(false));
    assert_eq!(vxlan, partial(84, 16));
    let gre = meta(&frame(true, false, 47, &[0; 4]));
    assert_eq!(
        Offloads::from_header(&header(0, 0, 78, 16), &gre),
        partial(78, 16)
    );
    let mut fragment = frame(false, false, 47, &[0; 4]);
    fragment[20] = 0x20; // more fragments
    let refusal = OffloadError::ChecksumPlace {
        start: 78,
        offset: 16,
    };
    assert_eq!(
        Offloads::from_header(&header(0, 0, 78, 16), &meta(&fragment)),
        Err(refusal)
    );
}

#[test]
fn malformed_headers_cannot_be_mended_by_a_checksum() {
    let mut data_offset = frame(false, false, 6, &[0; 20]);
    let mut total_len = data_offset.clone();
    let mut fragment = data_offset.clone();
    total_len[16] = 0xff;
    fragment[21] = 9;
    data_offset[46] = 0x40;
    for (frame, start) in [
        (data_offset, 34),
        (total_len, 14),
        (total_len_of_ipv6(), 14),
        (fragment, 34),
    ] {
        let refusal = OffloadError::ChecksumPlace { start, offset: 12 };
        assert_eq!(
            Offloads::from_header(&header(0, 0, start, 12), &meta(&frame)),
            Err(refusal)
        );
    }
}

fn total_len_of_ipv6() -> Vec<u8> {
    let mut bytes = frame(true, false, 6, &[0; 20]);
    bytes[18] = 0xff;
    bytes
}

#[test]
fn hostile_gso_is_refused() {
    let read = |header, meta: &FrameMeta| Offloads::from_header(&header, meta);
    let meta = tcp(false, false);
    assert_eq!(
        read(header(VnetHeader::GSO_TCPV4, 0, 34, 16), &meta),
        Err(OffloadError::GsoSize)
    );
    for unknown in [2, 3, 0x80, 0x7f, 0xff] {
        assert_eq!(
            read(header(unknown, 1448, 34, 16), &meta),
            Err(OffloadError::UnknownGso(unknown))
        );
    }
    let mismatches = [
        (VnetHeader::GSO_TCPV6, meta),
        (VnetHeader::GSO_TCPV4, tcp(true, false)),
    ];
    for (kind, meta) in mismatches {
        let start = meta.ip().expect("IP").transport_offset;
        assert_eq!(
            read(header(kind, 1448, start, 16), &meta),
            Err(OffloadError::GsoMismatch)
        );
    }
    assert_eq!(
        read(header(VnetHeader::GSO_UDP_L4, 1448, 34, 16), &meta),
        Err(OffloadError::GsoMismatch)
    );
    assert_eq!(
        read(header(VnetHeader::GSO_TCPV4, 1448, 34, 6), &udp(false)),
        Err(OffloadError::GsoMismatch)
    );
    // 3000 octets of payload.
    assert_eq!(
        read(header(VnetHeader::GSO_TCPV4, 1, 34, 16), &meta),
        Err(OffloadError::GsoSegments(3000))
    );
    assert!(read(header(VnetHeader::GSO_TCPV4, 2, 34, 16), &meta).is_ok());
    let mut without = header(VnetHeader::GSO_TCPV4, 1448, 34, 16);
    without.flags = 0;
    assert_eq!(read(without, &meta), Err(OffloadError::GsoWithoutChecksum));
    assert_eq!(
        read(header(VnetHeader::GSO_UDP_L4, 1448, 84, 16), &udp(false)),
        Err(OffloadError::GsoWithoutChecksum)
    );
}

#[test]
fn gso_of_fragments_is_refused() {
    let mut bytes = frame(false, false, 17, &[0; 8]);
    bytes[20] = 0x20; // more fragments
    assert_eq!(
        Offloads::from_header(&header(VnetHeader::GSO_UDP_L4, 1400, 34, 6), &meta(&bytes)),
        Err(OffloadError::GsoMismatch)
    );
}

#[test]
fn a_single_segment_goes_without_gso() {
    let meta = tcp(false, false); // 3000 octets of payload
    for (size, kept) in [(2999, true), (3000, false), (u16::MAX, false)] {
        let offloads = Offloads::from_header(&header(VnetHeader::GSO_TCPV4, size, 34, 16), &meta);
        assert_eq!(offloads.map(|o| o.gso.is_some()), Ok(kept), "{size}");
    }
}

#[test]
fn longest_segment() {
    let meta = tcp(false, true);
    let offloads = Offloads::from_header(&header(VnetHeader::GSO_TCPV4, 1448, 38, 16), &meta).expect("fits");
    assert_eq!(offloads.max_segment_len(&meta), 58 + 1448);
    assert_eq!(Offloads::default().max_segment_len(&meta), 3058);
}
