//! What must hold when any traffic is coalesced; shared with the fuzz target.

use std::net::IpAddr;

use offload::coalesce::{Coalesced, Coalescer, MAX_LEN, Parts};
use offload::{Checksum, FrameMeta, Gso, Offloads, Segmenter, Transport, checksum, parse};

/// Octets of one step of a script.
const STEP: usize = 6;
const SIZES: [usize; 8] = [0, 1, 100, 536, 1448, 1448, 1448, 8948];

/// A frame and what is to be done to it.
type Frame = (Vec<u8>, Offloads);

/// Where a flow's sender stands.
#[derive(Clone, Copy, Debug, Default)]
struct Sender {
    seq: u32,
    id: u16,
    stamp: u32,
}

/// Plays a script of traffic, steps of six octets behind the number of flows, and checks what leaves the coalescer.
///
/// # Panics
/// When an invariant does not hold.
pub(crate) fn play(script: &[u8]) {
    let Some((flows, steps)) = script.split_first() else {
        return;
    };
    let mut coalescer = Coalescer::new(usize::from(flows % 6));
    let mut senders = [Sender::default(); 8];
    let (mut came, mut left) = (Vec::new(), Vec::new());
    for step in steps.as_chunks::<STEP>().0 {
        if step[0] == 0xff {
            coalescer.flush(&mut |out| undo(&out, &mut left));
            assert_eq!((coalescer.held(), came.len()), (0, left.len()));
            continue;
        }
        let (frame, offloads) = write(*step, &mut senders);
        let meta = parse(&frame, frame.len()).expect("an Ethernet header is there");
        coalescer.push(&frame, &meta, &offloads, &mut |out| undo(&out, &mut left));
        assert!(coalescer.held() <= usize::from(flows % 6).max(1));
        came.push((frame, offloads));
    }
    coalescer.flush(&mut |out| undo(&out, &mut left));
    assert_eq!(came.len(), left.len());
    compare(&came, &left);
}

/// Each flow's frames leave as they came, in their order and in that of those that may belong to it.
fn compare(came: &[Frame], left: &[Frame]) {
    let metas = |frames: &[Frame]| -> Vec<FrameMeta> {
        let read = |frame: &Frame| parse(&frame.0, frame.0.len()).expect("a frame");
        frames.iter().map(read).collect()
    };
    let (came_metas, left_metas) = (metas(came), metas(left));
    let mut flows: Vec<Option<Flow>> = came_metas.iter().map(flow).collect();
    flows.sort();
    flows.dedup();
    for of in flows {
        let pick = |frames: &[Frame], metas: &[FrameMeta]| -> Vec<Frame> {
            let belongs = |meta: &FrameMeta| flow(meta) == of || may_belong(meta, of);
            let pairs = frames.iter().zip(metas).filter(|(_, meta)| belongs(meta));
            pairs.map(|(frame, _)| frame.clone()).collect()
        };
        assert_eq!(pick(came, &came_metas), pick(left, &left_metas), "{of:?}");
    }
}

type Flow = (IpAddr, IpAddr, u16, u16);

fn flow(meta: &FrameMeta) -> Option<Flow> {
    let (ip, tcp) = meta.ip().zip(meta.tcp())?;
    Some((ip.src, ip.dst, tcp.src_port, tcp.dst_port))
}

fn may_belong(meta: &FrameMeta, flow: Option<Flow>) -> bool {
    meta.ip().zip(flow).is_some_and(|(ip, (src, dst, ..))| {
        ip.transport == Transport::Other && (ip.src, ip.dst) == (src, dst)
    })
}

/// Judges a frame that leaves, and takes it apart.
fn undo(out: &Coalesced<'_>, left: &mut Vec<Frame>) {
    assert_eq!(parse(out.frame, out.frame.len()), Ok(out.meta));
    let Some(parts) = out.parts else {
        left.push((out.frame.to_vec(), out.offloads));
        return;
    };
    assert!(out.frame.len() <= MAX_LEN && (2..=Parts::MAX).contains(&parts.len()));
    let gso = out.offloads.gso.expect("a merged frame is a large send");
    let vnet = out.offloads.to_header(&out.meta);
    assert_eq!(Offloads::from_header(&vnet, &out.meta), Ok(out.offloads));
    let mut whole = out.frame.to_vec();
    assert_eq!(offload::finish(&mut whole, &out.offloads), Ok(()));
    assert!(checksum::verify_transport(&whole, &out.meta));
    let start = left.len();
    let mut undo = parts.undo(out.frame, &out.meta).expect("parts of this frame");
    while let Some(len) = undo.next_len() {
        let mut frame = vec![0xee; len];
        assert_eq!(undo.next_into(&mut frame[..len - 1]), None, "too short");
        assert_eq!(undo.next_into(&mut frame), Some(len));
        left.push((frame, undo.offloads()));
    }
    assert_eq!(
        (left.len() - start, undo.next_into(&mut [0; 9000])),
        (parts.len(), None)
    );
    cut(out, gso, &left[start..]);
}

/// Cutting a merged frame gives segments with the payload of those that it was made of.
fn cut(out: &Coalesced<'_>, gso: Gso, undone: &[Frame]) {
    let mut segmenter = Segmenter::new(out.frame, &out.meta, gso).expect("a merged frame can be cut");
    assert_eq!(segmenter.segments(), undone.len());
    let payload = usize::from(out.meta.tcp().expect("TCP").payload_offset);
    for (frame, _) in undone {
        let mut segment = vec![0; frame.len()];
        assert_eq!(segmenter.next_into(&mut segment), Some(frame.len()));
        assert_eq!(segment[payload..], frame[payload..]);
        let meta = parse(&segment, segment.len()).expect("a frame");
        assert!(checksum::verify_transport(&segment, &meta));
        let (cut, was) = (meta.tcp(), parse(frame, frame.len()).expect("a frame"));
        assert_eq!(cut, was.tcp());
    }
}

/// One segment of a flow, usually the next one, and a departure from what is usual.
fn write(step: [u8; STEP], senders: &mut [Sender; 8]) -> Frame {
    let [flow, size, oddity, value, state, at] = step;
    let sender = &mut senders[usize::from(flow % 8)];
    let v6 = flow & 1 == 1;
    let size = SIZES[usize::from(size % 8)];
    if oddity == 1 {
        sender.seq = sender.seq.wrapping_add(value.into());
    }
    if oddity == 2 {
        sender.id = sender.id.wrapping_add(value.into());
    }
    if oddity == 3 {
        sender.stamp += 1;
    }
    let mut frame = headers(flow % 8, v6, size, *sender);
    frame.extend((0..size).map(|n| (n as u8).wrapping_mul(7) ^ value));
    sender.seq = sender.seq.wrapping_add(size as u32);
    sender.id = sender.id.wrapping_add(1);
    let network = 14;
    let transport = if v6 { 54 } else { 34 };
    match oddity {
        4..=11 => frame[transport + 13] ^= 1 << (oddity - 4),
        12 => frame[transport + 15] ^= value,
        13 => frame[transport + 11] ^= value,
        14 => frame[network + 1] ^= value & 0xf0,
        15 if !v6 => frame[network + 6] ^= 0x40,
        16 if !v6 => frame[network + 6] ^= 0x20,
        17 => frame[3] ^= value,
        _ => {}
    }
    let checksum = finish(&mut frame, v6, state);
    if oddity == 18 {
        let at = usize::from(at) % frame.len();
        frame[at] ^= value;
    }
    if oddity == 19 {
        frame.extend(vec![0; usize::from(value % 16)]);
    }
    (frame, Offloads { checksum, gso: None })
}

fn headers(flow: u8, v6: bool, size: usize, sender: Sender) -> Vec<u8> {
    let len = (32 + size) as u16;
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(len.to_be_bytes());
        frame.extend([6, 64]);
        frame.extend([0xfd; 32]);
    } else {
        let df = if flow & 2 == 2 { 0x40 } else { 0 };
        let id = if flow & 6 == 6 { 0 } else { sender.id };
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((len + 20).to_be_bytes());
        frame.extend(id.to_be_bytes());
        frame.extend([df, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    }
    frame.extend([0, 80, 1, flow & 4]);
    frame.extend(sender.seq.to_be_bytes());
    frame.extend([0, 0, 0, 9, 0x80, 0x10, 1, 0, 0, 0, 0, 0, 1, 1, 8, 10]);
    frame.extend(sender.stamp.to_be_bytes());
    frame.extend([0, 0, 0, 1]);
    frame
}

/// Puts the checksums right, or leaves the transport's partial.
fn finish(frame: &mut [u8], v6: bool, state: u8) -> Checksum {
    if !v6 {
        let check = checksum::internet(&frame[14..34]);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
    }
    let start: u16 = if v6 { 54 } else { 34 };
    let addresses = if v6 { &frame[22..54] } else { &frame[26..34] };
    let len = frame.len() - usize::from(start);
    let pseudo = checksum::fold(checksum::sum(addresses) + 6 + len as u64);
    let field = usize::from(start) + 16;
    frame[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
    if state & 3 == 3 {
        return Checksum::Partial { start, offset: 16 };
    }
    checksum::finish_partial(frame, start, 16).expect("a field in the frame");
    if state & 3 == 2 {
        Checksum::Valid
    } else {
        Checksum::Complete
    }
}
