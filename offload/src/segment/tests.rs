use super::*;
use crate::checksum::verify_transport;
use crate::view::{Ipv4View, Ipv6View, TcpView, UdpView};
use crate::{TcpFlags, VlanTag, parse};

const TCP_CWR: u8 = 0x80;
const FLAGS: u8 = TCP_CWR | TcpFlags::FIN | TcpFlags::PSH | TcpFlags::ACK;

fn tcp4(payload: usize) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x46, 0]); // one word of options
    frame.extend(((24 + 20 + payload) as u16).to_be_bytes());
    frame.extend([0xff, 0xfe, 0x40, 0, 64, 6, 0xba, 0xad]);
    frame.extend([192, 0, 2, 1, 192, 0, 2, 2, 1, 1, 1, 0]);
    frame.extend([
        0, 80, 0, 81, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 5, 0x50, FLAGS, 0, 9, 0, 0, 0, 0,
    ]);
    frame.extend((0..payload).map(|n| n as u8));
    frame
}

fn udp6(payload: usize) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([0x81, 0, 0, 9, 0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(((8 + 8 + payload) as u16).to_be_bytes());
    frame.extend([60, 64]);
    frame.extend([0xfd; 32]);
    frame.extend([17, 0, 1, 4, 0, 0, 0, 0]); // destination options
    frame.extend([0, 80, 0, 81, 0, 0, 0, 0]);
    frame.extend((0..payload).map(|n| n as u8));
    frame
}

fn gso(kind: GsoKind, size: u16) -> Gso {
    Gso {
        kind,
        size,
        ecn: false,
    }
}

fn cut(frame: &[u8], gso: Gso) -> Vec<Vec<u8>> {
    let meta = parse(frame, frame.len()).expect("whole frame");
    let mut segmenter = Segmenter::new(frame, &meta, gso).expect("can be cut");
    let mut segments = Vec::new();
    while let Some(next) = segmenter.next_len() {
        let mut out = vec![0xee; next + 5];
        assert_eq!(segmenter.next_into(&mut out), Some(next));
        assert_eq!(out[next..], [0xee; 5], "nothing is written behind the segment");
        out.truncate(next);
        segments.push(out);
    }
    assert_eq!(segmenter.next_into(&mut [0; 2000]), None);
    segments
}

#[test]
fn tcp_segments_carry_on_from_each_other() {
    let frame = tcp4(2500);
    let segments = cut(&frame, gso(GsoKind::Tcp4, 1000));
    assert_eq!(
        segments.iter().map(Vec::len).collect::<Vec<_>>(),
        [1058, 1058, 558]
    );
    let expected = [
        (0xfffe_u16, 0xffff_ffff_u32, TCP_CWR | TcpFlags::ACK),
        (0xffff, 999, TcpFlags::ACK),
        (0, 1999, TcpFlags::FIN | TcpFlags::PSH | TcpFlags::ACK),
    ];
    for (segment, (id, seq, flags)) in segments.iter().zip(expected) {
        let meta = parse(segment, segment.len()).expect("whole segment");
        let ip = Ipv4View::new(&segment[14..]).expect("IPv4");
        let tcp = TcpView::new(ip.payload()).expect("TCP");
        assert_eq!((ip.id(), tcp.seq(), tcp.flags()), (id, seq, TcpFlags(flags)));
        assert_eq!(usize::from(ip.total_len()), segment.len() - 14);
        assert_eq!(checksum::internet(&segment[14..38]), 0);
        assert!(verify_transport(segment, &meta));
    }
    let payload: Vec<u8> = segments.iter().flat_map(|s| &s[58..]).copied().collect();
    assert_eq!(payload, frame[58..]);
}

#[test]
fn udp_datagrams_behind_a_tag_and_extension_headers() {
    let frame = udp6(700);
    let segments = cut(&frame, gso(GsoKind::Udp, 300));
    assert_eq!(segments.iter().map(Vec::len).collect::<Vec<_>>(), [374, 374, 174]);
    for segment in &segments {
        let meta = parse(segment, segment.len()).expect("whole segment");
        assert_eq!(meta.vlan.map(VlanTag::id), Some(9));
        assert_eq!(
            Ipv6View::new(&segment[18..]).map(|ip| usize::from(ip.payload_len())),
            Ok(segment.len() - 58)
        );
        assert_eq!(
            UdpView::new(&segment[66..]).map(|udp| usize::from(udp.length())),
            Ok(segment.len() - 66)
        );
        assert!(verify_transport(segment, &meta));
    }
}

#[test]
fn udp_checksums_of_zero_are_sent_as_ones() {
    let mut frame = udp6(4);
    frame[74..].fill(0);
    let first = cut(&frame, gso(GsoKind::Udp, 2)).swap_remove(0);
    // A payload equal to the checksum without it makes the sum come out as all ones.
    frame[74..76].copy_from_slice(&first[72..74]);
    let first = cut(&frame, gso(GsoKind::Udp, 2)).swap_remove(0);
    assert_eq!(first[72..74], [0xff, 0xff]);
}

#[test]
fn a_short_buffer_skips_nothing() {
    let frame = tcp4(1500);
    let meta = parse(&frame, frame.len()).expect("whole frame");
    let mut segmenter = Segmenter::new(&frame, &meta, gso(GsoKind::Tcp4, 1000)).expect("can be cut");
    assert_eq!((segmenter.segments(), segmenter.max_segment_len()), (2, 1058));
    assert_eq!(segmenter.next_into(&mut [0; 1057]), None);
    assert_eq!(segmenter.remaining(), 2);
    assert_eq!(segmenter.next_into(&mut [0; 1058]), Some(1058));
    assert_eq!(segmenter.next_into(&mut [0; 1058]), Some(558));
    assert_eq!(segmenter.remaining(), 0);
}

#[test]
fn padding_is_left_out() {
    let mut frame = tcp4(10);
    frame.resize(200, 0xaa);
    let segments = cut(&frame, gso(GsoKind::Tcp4, 8));
    assert_eq!(segments.iter().map(Vec::len).collect::<Vec<_>>(), [66, 60]);
}

#[test]
fn big_frames_with_ip_length_zero() {
    let mut frame = tcp4(1000);
    frame[16..18].copy_from_slice(&[0, 0]);
    frame.resize(200_058, 3);
    assert_eq!(cut(&frame, gso(GsoKind::Tcp4, 1448)).len(), 139);
}

#[test]
fn refusals() {
    let frame = tcp4(3000);
    let meta = parse(&frame, frame.len()).expect("whole frame");
    let new = |frame, gso| Segmenter::new(frame, &meta, gso).map(|s| s.segments());
    assert_eq!(new(&frame, gso(GsoKind::Tcp4, 0)), Err(SegmentError::Size));
    assert_eq!(
        new(&frame, gso(GsoKind::Tcp4, 1)),
        Err(SegmentError::TooMany(3000))
    );
    assert_eq!(new(&frame, gso(GsoKind::Tcp4, 2)), Ok(1500));
    for kind in [GsoKind::Tcp6, GsoKind::Udp] {
        assert_eq!(new(&frame, gso(kind, 100)), Err(SegmentError::Mismatch));
    }
    let truncated = SegmentError::Truncated { end: 3058, len: 3057 };
    assert_eq!(new(&frame[..3057], gso(GsoKind::Tcp4, 100)), Err(truncated));
    // Metadata of one frame with the octets of another.
    assert_eq!(
        new(&vec![0; 4000], gso(GsoKind::Tcp4, 100)),
        Err(SegmentError::Mismatch)
    );
    let mut big = tcp4(1000);
    big[16..18].copy_from_slice(&[0, 0]);
    big.resize(100_000, 3);
    let meta = parse(&big, big.len()).expect("whole frame");
    assert_eq!(
        Segmenter::new(&big, &meta, gso(GsoKind::Tcp4, 65_500)).err(),
        Some(SegmentError::TooLong(65_544))
    );
}
