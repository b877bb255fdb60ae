//! Segmentation inside of tunnels, judged by what the inner frame is cut into alone, and by sums word for word.

mod common;

use common::{Kind, specs};
use offload::view::{GreView, Ipv4View, Ipv6View};
use offload::{FrameMeta, Network, Segmenter, Tunnel, TunnelKind, checksum, parse, parse_inner};
use proptest::prelude::*;

/// What goes around a frame.
#[derive(Clone, Debug)]
struct Shell {
    kind: TunnelKind,
    v6: bool,
    /// The octets of VLAN tags.
    tags: &'static [u8],
    /// Whether the UDP datagram has a checksum, or GRE does.
    checksum: bool,
    key: Option<u32>,
    sequence: Option<u32>,
    /// Words of Geneve options.
    options: u8,
    /// Without the inner Ethernet header; not in VXLAN.
    bare: bool,
    id: u16,
}

fn shells() -> impl Strategy<Value = Shell> {
    let kind = prop_oneof![
        Just(TunnelKind::Vxlan),
        Just(TunnelKind::Geneve),
        Just(TunnelKind::Gre)
    ];
    (
        kind,
        any::<[bool; 4]>(),
        any::<[Option<u32>; 2]>(),
        0..64_u8,
        any::<u16>(),
    )
        .prop_map(
            |(kind, [v6, tagged, checksum, bare], [key, sequence], options, id)| Shell {
                kind,
                v6,
                tags: if tagged {
                    &[0x88, 0xa8, 0, 3, 0x81, 0, 0, 5]
                } else {
                    &[]
                },
                checksum,
                key,
                sequence,
                options,
                bare: bare && kind != TunnelKind::Vxlan,
                id,
            },
        )
}

impl Shell {
    /// The outer frame around `inner`; outer checksums are not right, but there if they should be.
    fn around(&self, inner: &[u8], network: usize, ethertype: u16) -> Vec<u8> {
        let (payload, protocol) = if self.bare {
            (&inner[network..], ethertype)
        } else {
            (inner, 0x6558)
        };
        let body = match self.kind {
            TunnelKind::Vxlan => self.udp(4789, &[8, 0, 0, 0, 0, 0, 42, 0], payload),
            TunnelKind::Geneve => {
                let mut header = vec![self.options, 0];
                header.extend(protocol.to_be_bytes());
                header.extend([0, 0, 42, 0]);
                header.extend((0..self.options).flat_map(|n| [n; 4]));
                self.udp(6081, &header, payload)
            }
            TunnelKind::Gre => [&self.gre(protocol)[..], payload].concat(),
        };
        self.ip(&body)
    }

    fn udp(&self, port: u16, header: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut datagram = vec![0xc0, 1];
        datagram.extend(port.to_be_bytes());
        datagram.extend(((8 + header.len() + payload.len()) as u16).to_be_bytes());
        datagram.extend([0, u8::from(self.checksum)]);
        datagram.extend([header, payload].concat());
        datagram
    }

    fn gre(&self, protocol: u16) -> Vec<u8> {
        let mut header = vec![0, 0];
        header.extend(protocol.to_be_bytes());
        if self.checksum {
            header[0] |= 0x80;
            header.extend([9; 4]);
        }
        if let Some(key) = self.key {
            header[0] |= 0x20;
            header.extend(key.to_be_bytes());
        }
        if let Some(sequence) = self.sequence {
            header[0] |= 0x10;
            header.extend(sequence.to_be_bytes());
        }
        if self.checksum {
            header[6..8].fill(0);
        }
        header
    }

    fn ip(&self, body: &[u8]) -> Vec<u8> {
        let protocol = if self.kind == TunnelKind::Gre { 47 } else { 17 };
        let mut frame = vec![4; 12];
        frame.extend(self.tags);
        if self.v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((body.len() as u16).to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend([0xfd; 32]);
        } else {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + body.len() as u16).to_be_bytes());
            frame.extend(self.id.to_be_bytes());
            frame.extend([0, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        }
        frame.extend(body);
        frame
    }

    /// Checks the headers around segment `index`.
    fn judge(&self, segment: &[u8], index: usize) {
        let meta = parse(segment, segment.len()).expect("a frame");
        let ip = meta.ip().expect("IP");
        assert_eq!(ip.end as usize, segment.len());
        let packet = &segment[usize::from(meta.network_offset)..];
        if self.v6 {
            let view = Ipv6View::new(packet).expect("IPv6");
            assert_eq!(usize::from(view.payload_len()), packet.len() - 40);
        } else {
            let view = Ipv4View::new(packet).expect("IPv4");
            assert_eq!(usize::from(view.total_len()), packet.len());
            assert_eq!(view.id(), self.id.wrapping_add(index as u16));
            assert_eq!(words(&packet[..20], 0), 0xffff);
        }
        let body = &segment[usize::from(ip.transport_offset)..];
        if self.kind == TunnelKind::Gre {
            let view = GreView::new(body).expect("GRE");
            assert_eq!(
                view.sequence(),
                self.sequence.map(|s| s.wrapping_add(index as u32))
            );
            assert!(!self.checksum || words(body, 0) == 0xffff);
            return;
        }
        assert_eq!(body[4..6], (body.len() as u16).to_be_bytes());
        if self.checksum {
            assert!(body[6..8] != [0, 0] && checksum::verify_transport(segment, &meta));
            let pseudo = checksum::pseudo_header(ip.src, ip.dst, 17, body.len() as u32);
            assert_eq!(words(body, pseudo), 0xffff);
        } else {
            assert_eq!(body[6..8], [0, 0]);
        }
    }
}

/// The folded sum of 16-bit words, and of `more`.
fn words(octets: &[u8], more: u64) -> u16 {
    let mut sum = more;
    for word in octets.chunks(2) {
        sum += u64::from(word[0]) << 8 | u64::from(*word.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

fn all(mut segmenter: Segmenter<'_>) -> Vec<Vec<u8>> {
    let mut segments = Vec::new();
    while let Some(len) = segmenter.next_len() {
        let mut out = vec![0xee; len];
        assert_eq!(segmenter.next_into(&mut out), Some(len));
        segments.push(out);
    }
    segments
}

fn found(shell: &Shell, inner: &[u8], meta: &FrameMeta) -> (Vec<u8>, FrameMeta, Tunnel) {
    let frame = shell.around(inner, meta.network_offset.into(), meta.ethertype);
    let outer = parse(&frame, frame.len()).expect("a frame");
    let tunnel = parse_inner(&frame, &outer).expect("a tunnel");
    (frame, outer, tunnel)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn segments_are_those_of_the_inner_frame(
        spec in specs(4000).prop_filter("not ICMP", |spec| spec.kind != Kind::Icmp),
        shell in shells(),
        size in 5..1500_u16,
    ) {
        let inner = spec.write();
        let meta = parse(&inner, inner.len()).expect("a frame");
        let (frame, outer, tunnel) = found(&shell, &inner, &meta);
        prop_assert_eq!(tunnel.kind, shell.kind);
        let gso = spec.gso(size);
        let alone = all(Segmenter::new(&inner, &meta, gso).expect("can be cut"));
        let segmenter = Segmenter::tunnel(&frame, &outer, &tunnel, gso).expect("can be cut");
        let longest = segmenter.max_segment_len();
        let cut = all(segmenter);
        prop_assert_eq!(cut.len(), alone.len());
        let start = usize::from(tunnel.inner.network_offset);
        for (index, (segment, alone)) in cut.iter().zip(&alone).enumerate() {
            let network = usize::from(meta.network_offset);
            prop_assert_eq!(&segment[start..], &alone[network..]);
            if !shell.bare {
                prop_assert_eq!(&segment[start - network..start], &alone[..network]);
            }
            prop_assert!(segment.len() <= longest);
            shell.judge(segment, index);
        }
    }

    #[test]
    fn the_inside_is_what_the_inner_frame_is(spec in specs(300), shell in shells()) {
        let inner = spec.write();
        let meta = parse(&inner, inner.len()).expect("a frame");
        let (frame, _, tunnel) = found(&shell, &inner, &meta);
        let moved = tunnel.inner.network_offset - meta.network_offset;
        prop_assert_eq!(tunnel.inner.frame_len as usize, frame.len());
        let (ip, alone) = (tunnel.inner.ip().expect("IP"), meta.ip().expect("IP"));
        prop_assert_eq!((ip.src, ip.dst, ip.protocol), (alone.src, alone.dst, alone.protocol));
        prop_assert_eq!(ip.transport_offset, alone.transport_offset + moved);
        prop_assert_eq!(ip.end, alone.end + u32::from(moved));
        prop_assert_eq!(matches!(tunnel.inner.network, Network::Ipv6(_)), spec.v6);
        if !shell.bare {
            prop_assert_eq!((tunnel.inner.dst, tunnel.inner.vlan), (meta.dst, meta.vlan));
        }
    }
}
