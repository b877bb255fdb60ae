use super::*;
use crate::checksum::{finish_partial, sum};
use crate::{TcpFlags, parse};

const ACK: u8 = TcpFlags::ACK;
const PSH: u8 = TcpFlags::PSH;
const FIN: u8 = TcpFlags::FIN;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// A TCP segment over IPv4 with right checksums, after a change of its headers.
fn segment(seq: u32, id: u16, flags: u8, payload: usize, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(((20 + 20 + payload) as u16).to_be_bytes());
    frame.extend(id.to_be_bytes());
    frame.extend([0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 0, 80, 0, 81]);
    frame.extend(seq.to_be_bytes());
    frame.extend([0, 0, 0, 5, 0x50, flags, 0, 9, 0, 0, 0, 0]);
    frame.extend((0..payload).map(|n| n as u8));
    change(&mut frame);
    let check = internet(&frame[14..34]);
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    let pseudo = fold(sum(&frame[26..34]) + 6 + (20 + payload) as u64);
    frame[50..52].copy_from_slice(&pseudo.to_be_bytes());
    finish_partial(&mut frame, 34, 16).expect("a TCP header");
    frame
}

fn plain(seq: u32, id: u16, flags: u8, payload: usize) -> Vec<u8> {
    segment(seq, id, flags, payload, |_| ())
}

/// How many segments each frame has that leaves, a flush at the end included.
fn merged(frames: &[Vec<u8>]) -> Vec<usize> {
    let mut coalescer = Coalescer::new(4);
    let mut counts = Vec::new();
    let mut out = |out: Coalesced<'_>| counts.push(out.parts.map_or(1, Parts::len));
    for frame in frames {
        let meta = parse(frame, frame.len()).expect("a frame");
        coalescer.push(frame, &meta, &Offloads::default(), &mut out);
    }
    coalescer.flush(&mut out);
    counts
}

#[test]
fn segments_in_order_become_a_large_send() {
    let frames = [
        plain(u32::MAX - 50, 0xffff, ACK, 100),
        plain(49, 0, ACK, 100),
        plain(149, 1, ACK | PSH, 60),
    ];
    let mut coalescer = Coalescer::new(1);
    let mut seen = 0;
    let mut out = |out: Coalesced<'_>| {
        seen += 1;
        assert_eq!(out.frame.len(), 54 + 260);
        assert_eq!(parse(out.frame, out.frame.len()), Ok(out.meta));
        assert_eq!(internet(&out.frame[14..34]), 0);
        let tcp = out.meta.tcp().expect("TCP");
        assert_eq!(
            (tcp.seq, tcp.flags.0, tcp.payload_len),
            (u32::MAX - 50, ACK | PSH, 260)
        );
        let gso = Gso {
            kind: GsoKind::Tcp4,
            size: 100,
            ecn: false,
        };
        assert_eq!(out.offloads.gso, Some(gso));
        let mut undo = out
            .parts
            .expect("merged")
            .undo(out.frame, &out.meta)
            .expect("its parts");
        let mut buffer = [0; 200];
        for frame in &frames {
            assert_eq!(undo.next_into(&mut buffer), Some(frame.len()));
            assert_eq!(buffer[..frame.len()], frame[..]);
        }
        assert_eq!(undo.next_into(&mut buffer), None);
    };
    for frame in &frames {
        let meta = parse(frame, frame.len()).expect("a frame");
        coalescer.push(frame, &meta, &Offloads::default(), &mut out);
    }
    assert_eq!((coalescer.held(), seen), (0, 1), "PSH ends it");
}

#[test]
fn what_ends_a_merged_frame() {
    let next = |flags, payload| {
        vec![
            plain(0, 0, ACK, 100),
            plain(100, 1, flags, payload),
            plain(200, 2, ACK, 100),
        ]
    };
    assert_eq!(merged(&next(ACK, 100)), [3]);
    assert_eq!(merged(&next(ACK | PSH, 100)), [2, 1]);
    assert_eq!(merged(&next(ACK | FIN, 100)), [2, 1]);
    assert_eq!(merged(&next(ACK, 99)), [2, 1], "a shorter one is the last");
    assert_eq!(merged(&next(ACK, 101)), [1, 1, 1], "a longer one starts anew");
    for flags in [ACK | TcpFlags::SYN, ACK | TcpFlags::RST, ACK | 0x20, 0] {
        assert_eq!(merged(&next(flags, 100)), [1, 1, 1], "{flags:#x}");
    }
    assert_eq!(merged(&next(ACK, 0)), [1, 1, 1], "no payload");
}

#[test]
fn congestion_marks_are_kept() {
    let flags = |first, second| merged(&[plain(0, 0, first, 100), plain(100, 1, second, 100)]);
    assert_eq!(flags(ACK | CWR, ACK), [2], "CWR starts");
    assert_eq!(flags(ACK, ACK | CWR), [1, 1]);
    assert_eq!(flags(ACK | CWR, ACK | CWR), [1, 1]);
    assert_eq!(flags(ACK | ECE, ACK | ECE), [2]);
    assert_eq!(flags(ACK, ACK | ECE), [1, 1]);
    let marked = segment(100, 1, ACK, 100, |frame| frame[15] = 3);
    assert_eq!(merged(&[plain(0, 0, ACK, 100), marked]), [1, 1], "CE");
}

#[test]
fn headers_that_differ() {
    for at in [0, 6, 15, 22, 29, 33, 35, 37, 45, 49, 53] {
        let other = segment(100, 1, ACK, 100, |frame| frame[at] ^= 4);
        assert_eq!(merged(&[plain(0, 0, ACK, 100), other]), [1, 1], "{at}");
    }
    assert_eq!(merged(&[plain(0, 0, ACK, 100), plain(99, 1, ACK, 100)]), [1, 1]);
    let mut wrong = plain(100, 1, ACK, 100);
    wrong[80] ^= 1;
    assert_eq!(merged(&[plain(0, 0, ACK, 100), wrong]), [1, 1], "wrong checksum");
    let mut wrong = plain(100, 1, ACK, 100);
    wrong[24] ^= 1;
    assert_eq!(
        merged(&[plain(0, 0, ACK, 100), wrong]),
        [1, 1],
        "wrong header checksum"
    );
    let mut padded = plain(100, 1, ACK, 100);
    padded.push(0);
    assert_eq!(merged(&[plain(0, 0, ACK, 100), padded]), [1, 1]);
}

#[test]
fn identifications() {
    let ids = |ids: [u16; 3], df: bool| {
        let frames: Vec<_> = (0..3)
            .map(|n| {
                segment(n * 100, ids[n as usize], ACK, 100, |frame| {
                    frame[20] = if df { 0x40 } else { 0 };
                })
            })
            .collect();
        merged(&frames)
    };
    assert_eq!(ids([7, 8, 9], true), [3]);
    assert_eq!(ids([7, 8, 9], false), [3]);
    assert_eq!(ids([7, 7, 7], true), [3]);
    assert_eq!(ids([7, 7, 7], false), [1, 1, 1]);
    assert_eq!(ids([7, 8, 8], true), [2, 1]);
    assert_eq!(ids([7, 7, 8], true), [2, 1]);
    assert_eq!(ids([7, 9, 10], true), [1, 2]);
}

#[test]
fn bounds_of_one_frame() {
    let small: Vec<_> = (0..100).map(|n| plain(n * 10, n as u16, ACK, 10)).collect();
    assert_eq!(merged(&small), [Parts::MAX, 100 - Parts::MAX]);
    let large: Vec<_> = (0..10).map(|n| plain(n * 9000, n as u16, ACK, 9000)).collect();
    assert_eq!(merged(&large), [7, 3], "64 KiB");
}

#[test]
fn the_oldest_flow_makes_room() {
    let flow = |port: u8, seq, id| segment(seq, id, ACK, 100, |frame| frame[35] = port);
    let mut coalescer = Coalescer::new(2);
    let mut ports = Vec::new();
    let mut out = |out: Coalesced<'_>| {
        ports.push((
            out.meta.tcp().expect("TCP").src_port,
            out.parts.map_or(1, Parts::len),
        ));
    };
    for frame in [flow(1, 0, 0), flow(2, 0, 0), flow(1, 100, 1), flow(3, 0, 0)] {
        let meta = parse(&frame, frame.len()).expect("a frame");
        coalescer.push(&frame, &meta, &Offloads::default(), &mut out);
    }
    assert_eq!(coalescer.held(), 2);
    coalescer.flush(&mut out);
    assert_eq!(ports, [(1, 2), (2, 1), (3, 1)]);
}

#[test]
fn a_fragment_waits_behind_its_flow() {
    let fragment = segment(100, 1, ACK, 100, |frame| frame[21] = 9);
    let mut coalescer = Coalescer::new(2);
    let mut lens = Vec::new();
    let mut out = |out: Coalesced<'_>| lens.push(out.frame.len());
    for frame in [plain(0, 0, ACK, 50), fragment] {
        let meta = parse(&frame, frame.len()).expect("a frame");
        coalescer.push(&frame, &meta, &Offloads::default(), &mut out);
    }
    assert_eq!(lens, [104, 154]);
}

#[test]
fn metadata_of_another_frame_merges_nothing() {
    let (frame, other) = (plain(0, 0, ACK, 100), plain(0, 0, ACK, 90));
    let meta = parse(&other, other.len()).expect("a frame");
    let mut coalescer = Coalescer::new(2);
    let mut count = 0;
    for frame in [&frame[..], &frame[..20], &[]] {
        coalescer.push(frame, &meta, &Offloads::default(), &mut |out| {
            assert_eq!(out.frame, frame);
            count += 1;
        });
    }
    assert_eq!((count, coalescer.held()), (3, 0));
}
