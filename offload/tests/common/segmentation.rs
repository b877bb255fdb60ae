//! What must hold when any frame whatsoever is cut; shared with the fuzz target.

use offload::view::UdpView;
use offload::{
    FrameMeta, Gso, GsoKind, Segmenter, Transport, Tunnel, TunnelKind, checksum, parse, parse_inner,
};

/// Reads a request and a frame out of arbitrary octets and checks what comes of them.
///
/// # Panics
/// When an invariant does not hold.
pub(crate) fn play(input: &[u8]) {
    let Some(([kind, high, low, other], frame)) = input.split_first_chunk() else {
        return;
    };
    let kind = [GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp][usize::from(*kind) % 3];
    let gso = Gso {
        kind,
        size: u16::from_be_bytes([*high, *low]),
        ecn: *other & 1 == 1,
    };
    check(frame, gso);
    // Metadata of one frame with the octets of another must be refused or come to nothing worse than nonsense.
    let Ok(meta) = parse(frame, frame.len()) else {
        return;
    };
    let strange = frame.get(usize::from(*other)..).unwrap_or(&[]);
    let tunnel = parse_inner(frame, &meta);
    let wrong = [
        Segmenter::new(strange, &meta, gso).ok(),
        tunnel.and_then(|tunnel| Segmenter::tunnel(strange, &meta, &tunnel, gso).ok()),
    ];
    for segmenter in wrong.into_iter().flatten() {
        write(segmenter);
    }
}

/// Cuts `frame`, and what is in it if it is a tunnel, and judges the segments.
pub(crate) fn check(frame: &[u8], gso: Gso) {
    let Ok(meta) = parse(frame, frame.len()) else {
        return;
    };
    if let Ok(segmenter) = Segmenter::new(frame, &meta, gso) {
        let segments = write(segmenter);
        judge(frame, &meta, gso, &segments, |segment| {
            parse(segment, segment.len()).expect("a segment is a frame")
        });
    }
    let Some(tunnel) = parse_inner(frame, &meta) else {
        return;
    };
    check_tunnel(&tunnel, frame.len());
    if let Ok(segmenter) = Segmenter::tunnel(frame, &meta, &tunnel, gso) {
        let segments = write(segmenter);
        judge(frame, &tunnel.inner, gso, &segments, |segment| {
            let meta = parse(segment, segment.len()).expect("a segment is a frame");
            judge_outer(segment, &meta, tunnel.kind);
            let found = parse_inner(segment, &meta).expect("a segment is in the tunnel");
            assert_eq!(
                (found.kind, found.id, found.offset),
                (tunnel.kind, tunnel.id, tunnel.offset)
            );
            found.inner
        });
    }
}

fn check_tunnel(tunnel: &Tunnel, frame_len: usize) {
    let inner = &tunnel.inner;
    assert!(inner.frame_len as usize <= frame_len);
    super::invariants::check_offsets(inner, inner.frame_len as usize);
    assert!(tunnel.offset < inner.network_offset);
}

fn judge_outer(segment: &[u8], meta: &FrameMeta, kind: TunnelKind) {
    let ip = meta.ip().expect("a tunnel is in IP");
    assert_eq!(ip.end as usize, segment.len());
    if kind != TunnelKind::Gre {
        let udp = UdpView::new(&segment[usize::from(ip.transport_offset)..]).expect("UDP");
        assert!(udp.checksum() == 0 || checksum::verify_transport(segment, meta));
    }
}

/// Writes all segments, each of the length that was announced.
fn write(mut segmenter: Segmenter<'_>) -> Vec<Vec<u8>> {
    let total = segmenter.segments();
    assert!((1..=Segmenter::MAX_SEGMENTS).contains(&total));
    let mut segments = Vec::new();
    while let Some(len) = segmenter.next_len() {
        let mut out = vec![0xee; len + 1];
        assert!(len <= segmenter.max_segment_len());
        assert_eq!(segmenter.next_into(&mut out[..len - 1]), None, "too short");
        let Some(written) = segmenter.next_into(&mut out) else {
            panic!("segment {} of {total} was not written", segments.len());
        };
        assert_eq!((written, out.pop()), (len, Some(0xee)));
        segments.push(out);
    }
    assert_eq!((segments.len(), segmenter.remaining()), (total, 0));
    segments
}

/// Each segment's transport checksum is right, and together they have the frame's payload.
fn judge(frame: &[u8], meta: &FrameMeta, gso: Gso, segments: &[Vec<u8>], read: impl Fn(&[u8]) -> FrameMeta) {
    let mut payload = Vec::new();
    let start = payload_offset(meta);
    for (index, segment) in segments.iter().enumerate() {
        let meta = read(segment);
        assert!(checksum::verify_transport(segment, &meta), "segment {index}");
        assert_eq!(payload_offset(&meta), start);
        assert!(segment.len() - start <= usize::from(gso.size));
        payload.extend_from_slice(&segment[start..]);
    }
    let end = meta.ip().expect("what was cut is an IP packet").end as usize;
    assert_eq!(payload, frame[start..end]);
}

fn payload_offset(meta: &FrameMeta) -> usize {
    match meta.ip().map(|ip| ip.transport) {
        Some(Transport::Tcp(tcp)) => tcp.payload_offset.into(),
        Some(Transport::Udp(udp)) => udp.payload_offset.into(),
        other => panic!("{other:?} was cut"),
    }
}
