//! Arbitrary and damaged input: nothing panics and all invariants hold.

mod common;

use common::{Kind, invariants, segmentation, specs};
use offload::{Network, VnetHeader, parse};
use proptest::collection::vec;
use proptest::prelude::*;

fn vnet_headers() -> impl Strategy<Value = VnetHeader> {
    let gso = prop_oneof![Just(0), Just(1), Just(4), Just(5), Just(0x81), any::<u8>()];
    let start = prop_oneof![
        Just(34_u16),
        Just(38),
        Just(54),
        Just(58),
        0..200_u16,
        any::<u16>()
    ];
    let offset = prop_oneof![Just(16_u16), Just(6), Just(2), 0..60_u16, any::<u16>()];
    let size = prop_oneof![Just(0), Just(1), Just(u16::MAX), 1..100_u16, any::<u16>()];
    (0..4_u8, gso, start, offset, size, any::<u16>()).prop_map(
        |(flags, gso_type, csum_start, csum_offset, gso_size, hdr_len)| VnetHeader {
            flags,
            gso_type,
            hdr_len,
            gso_size,
            csum_start,
            csum_offset,
            num_buffers: 0,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_octets(header in vec(any::<u8>(), 0..250), more in 0..100_000_usize, vnet in vnet_headers()) {
        invariants::check_all(&header, header.len(), &vnet);
        invariants::check_all(&header, header.len() + more, &vnet);
        invariants::check_all(&header, more, &vnet);
    }

    #[test]
    fn damaged_frames(
        spec in specs(400),
        damage in vec((12..130_usize, any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        aimed: bool,
        mut vnet in vnet_headers(),
    ) {
        let mut frame = spec.write();
        if let (true, Some(ip)) = (aimed, parse(&frame, frame.len()).ok().and_then(|meta| meta.ip().copied())) {
            vnet.csum_start = ip.transport_offset;
            vnet.csum_offset = if spec.kind == Kind::Tcp { 16 } else { 6 };
        }
        for (at, value) in damage {
            if let Some(octet) = frame.get_mut(at) {
                *octet = value;
            }
        }
        invariants::check_all(&frame, frame.len(), &vnet);
        let prefix = &frame[..cut.index(frame.len() + 1)];
        invariants::check_all(prefix, frame.len(), &vnet);
        invariants::check_all(prefix, prefix.len(), &vnet);
    }

    #[test]
    fn arbitrary_octets_are_cut(input in vec(any::<u8>(), 0..300)) {
        segmentation::play(&input);
    }

    #[test]
    fn damaged_frames_are_cut(
        spec in specs(400),
        request in any::<[u8; 3]>(),
        size in prop_oneof![Just(0), Just(1), 2..100_u16, any::<u16>()],
        damage in vec((12..130_usize, any::<u8>()), 0..3),
    ) {
        let mut input = vec![request[0]];
        input.extend(size.to_be_bytes());
        input.push(request[1]);
        let mut frame = spec.write();
        for (at, value) in damage {
            if let Some(octet) = frame.get_mut(at) {
                *octet = value;
            }
        }
        input.extend(frame);
        segmentation::play(&input);
    }
}

#[test]
fn tags_to_the_end_hide_everything() {
    let mut frame = vec![2; 12];
    for tag in [[0x81, 0, 0, 1], [0x88, 0xa8, 0, 2]].iter().cycle().take(500) {
        frame.extend(tag);
        let meta = parse(&frame, frame.len()).ok();
        assert!(meta.is_none_or(|meta| meta.network == Network::Other));
        for gso_type in [0, 1, 4, 5] {
            let vnet = VnetHeader {
                flags: 1,
                gso_type,
                gso_size: 1,
                csum_start: 22,
                ..VnetHeader::default()
            };
            invariants::check_all(&frame, frame.len(), &vnet);
        }
    }
}

#[test]
fn tags_are_passed_in_either_order() {
    for (outer, inner) in [(0x88a8_u16, 0x8100_u16), (0x8100, 0x88a8), (0x8100, 0x8100)] {
        let mut frame = vec![2; 12];
        frame.extend(outer.to_be_bytes());
        frame.extend([0, 5]);
        frame.extend(inner.to_be_bytes());
        frame.extend([
            0, 6, 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
        ]);
        frame.extend([0, 1, 0, 2, 0, 8, 0, 0]);
        let meta = parse(&frame, frame.len()).expect("a frame");
        assert_eq!(
            (meta.vlan.map(offload::VlanTag::id), meta.network_offset),
            (Some(5), 22)
        );
        assert!(meta.ip().is_some_and(|ip| ip.transport_offset == 42));
    }
}
