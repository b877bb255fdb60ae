//! What must hold for any input whatsoever; shared with the fuzz target.

use offload::view::{ArpView, EthernetView, IcmpView, Ipv4View, Ipv6View, TcpView, UdpView, VlanView};
use offload::{FrameMeta, Offloads, Segmenter, Transport, VnetHeader, checksum, parse};

/// Checks everything that this crate does with a frame that starts with `header`, is said to have `frame_len` octets and
/// comes with `vnet`.
///
/// # Panics
/// When an invariant does not hold.
pub(crate) fn check_all(header: &[u8], frame_len: usize, vnet: &VnetHeader) {
    check_views(header);
    let Ok(meta) = parse(header, frame_len) else {
        assert!(
            header.len() < EthernetView::LEN || frame_len < header.len() || frame_len > u32::MAX as usize
        );
        return;
    };
    check_offsets(&meta, frame_len);
    let whole = header.len() == frame_len;
    let Ok(offloads) = Offloads::from_header(vnet, &meta) else {
        return;
    };
    check_offloads(&offloads, &meta);
    if whole {
        check_finish(header, &meta, &offloads);
        check_segments(header, &meta, &offloads);
    }
}

/// Reads every field of every view, at every layer where one fits.
fn check_views(octets: &[u8]) {
    for start in [0, 14, 18, 34, 54] {
        let Some(octets) = octets.get(start..) else { return };
        if let Ok(view) = Ipv4View::new(octets) {
            assert_eq!(view.header_len() + view.payload().len(), octets.len());
        }
        if let Ok(view) = Ipv6View::new(octets) {
            let mut walk = view.extensions();
            assert!(walk.by_ref().count() <= 8);
            assert_eq!(walk.walked() + walk.rest().len(), view.payload().len());
        }
        if let Ok(view) = TcpView::new(octets) {
            assert!(view.options().count() <= 40);
            assert_eq!(view.header_len() + view.payload().len(), octets.len());
        }
        let fits = |len| octets.len() >= len;
        assert_eq!(UdpView::new(octets).is_ok(), fits(8));
        assert_eq!(
            IcmpView::new(octets).is_ok_and(|view| view.echo().is_some()),
            fits(8)
        );
        assert_eq!(VlanView::new(octets).is_ok(), fits(4));
        assert_eq!(EthernetView::new(octets).is_ok(), fits(14));
        if let Ok(view) = ArpView::new(octets) {
            assert_eq!(octets.get(24..28), Some(&view.target_ip().octets()[..]));
        }
    }
}

/// Offsets rise from layer to layer and end at the frame's end at the latest.
pub(crate) fn check_offsets(meta: &FrameMeta, frame_len: usize) {
    assert_eq!(meta.frame_len as usize, frame_len);
    assert!(usize::from(meta.network_offset) <= frame_len);
    let Some(ip) = meta.ip() else { return };
    assert!(ip.end as usize <= frame_len);
    assert!(u32::from(ip.transport_offset) <= ip.end);
    assert!(usize::from(ip.transport_offset) >= usize::from(meta.network_offset) + 20);
    assert_eq!(ip.src.is_ipv4(), ip.dst.is_ipv4());
    let (payload_offset, payload_len) = match ip.transport {
        Transport::Tcp(tcp) => (tcp.payload_offset, tcp.payload_len),
        Transport::Udp(udp) => (udp.payload_offset, udp.payload_len),
        Transport::Icmp { .. } | Transport::Other => return,
    };
    assert!(payload_offset >= ip.transport_offset + 8);
    assert!(u32::from(payload_offset) + payload_len <= ip.end);
}

fn check_offloads(offloads: &Offloads, meta: &FrameMeta) {
    let again = offloads.to_header(meta);
    assert_eq!(Offloads::from_header(&again, meta), Ok(*offloads));
    assert!(u32::from(again.hdr_len) <= meta.frame_len);
    assert!(offloads.max_segment_len(meta) <= meta.frame_len);
}

/// Completing an accepted checksum works and changes nothing that was parsed.
fn check_finish(frame: &[u8], meta: &FrameMeta, offloads: &Offloads) {
    let mut finished = frame.to_vec();
    assert_eq!(offload::finish(&mut finished, offloads), Ok(()));
    assert_eq!(parse(&finished, finished.len()), Ok(*meta));
    let changed = frame.iter().zip(&finished).filter(|(a, b)| a != b).count();
    assert!(changed <= 2);
}

/// Each segment is a whole frame with right checksums, none is longer than announced, and the payload is all there.
fn check_segments(frame: &[u8], meta: &FrameMeta, offloads: &Offloads) {
    let Some(gso) = offloads.gso else { return };
    let Ok(mut segmenter) = Segmenter::new(frame, meta, gso) else {
        return;
    };
    assert_eq!(
        segmenter.max_segment_len(),
        offloads.max_segment_len(meta) as usize
    );
    let mut out = vec![0; segmenter.max_segment_len()];
    let (mut count, mut payload) = (0, 0);
    let total = segmenter.segments();
    assert!((2..=Segmenter::MAX_SEGMENTS).contains(&total));
    while let Some(len) = segmenter.next_into(&mut out) {
        let segment = &out[..len];
        let cut = parse(segment, len).expect("a segment is a frame");
        assert!(
            checksum::verify_transport(segment, &cut),
            "segment {count} of {total}"
        );
        payload += match cut.ip().expect("a segment is an IP packet").transport {
            Transport::Tcp(tcp) => tcp.payload_len,
            Transport::Udp(udp) => udp.payload_len,
            other => panic!("a segment became {other:?}"),
        };
        count += 1;
    }
    assert_eq!((count, segmenter.remaining()), (total, 0));
    let ip = meta.ip().expect("what was cut is an IP packet");
    let headers = segmenter.max_segment_len() as u32 - u32::from(gso.size);
    assert_eq!(payload, ip.end - headers);
}
