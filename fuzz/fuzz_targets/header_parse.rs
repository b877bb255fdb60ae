//! A frame and the virtio-net header that came with it, as a hostile guest may write both.
#![no_main]

use libfuzzer_sys::fuzz_target;
use offload::VnetHeader;

#[path = "../../offload/tests/common/invariants.rs"]
mod invariants;

fuzz_target!(|input: &[u8]| {
    let Some((vnet, rest)) = input.split_first_chunk::<{ VnetHeader::LEN }>() else {
        return;
    };
    let Some((more, frame)) = rest.split_first_chunk() else {
        return;
    };
    let vnet = VnetHeader::from_bytes(vnet);
    let more = usize::from(u16::from_le_bytes(*more));
    invariants::check_all(frame, frame.len(), &vnet);
    // The same octets as the start of a longer frame, and of one that is too short.
    invariants::check_all(frame, frame.len() + more, &vnet);
    invariants::check_all(frame, more, &vnet);
});
