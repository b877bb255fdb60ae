//! Arbitrary traffic, passes of time and changes of filter: the filter contract and the bounds of memory.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../introspection/tests/common/contract.rs"]
mod contract;

fuzz_target!(|input: &[u8]| {
    let Some((kind, script)) = input.split_first() else {
        return;
    };
    contract::play(
        contract::Kind::ALL[usize::from(*kind) % contract::Kind::ALL.len()],
        script,
    );
});
