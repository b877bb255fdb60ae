//! Arbitrary and damaged input: nothing panics and all invariants hold.

mod common;

use common::{Kind, invariants, specs};
use offload::{VnetHeader, parse};
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
    let size = prop_oneof![1..100_u16, any::<u16>()];
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
}
