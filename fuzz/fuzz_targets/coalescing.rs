//! Traffic of several flows with every departure from the usual: merging it loses, changes and reorders nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../offload/tests/common/coalescing.rs"]
mod coalescing;

fuzz_target!(|script: &[u8]| coalescing::play(script));
