//! A request to cut a frame, and the frame, as a hostile guest may write both; what tunnels carry is cut too.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../offload/tests/common/invariants.rs"]
#[allow(dead_code)] // One check of it is shared.
mod invariants;
#[path = "../../offload/tests/common/segmentation.rs"]
mod segmentation;

fuzz_target!(|input: &[u8]| segmentation::play(input));
