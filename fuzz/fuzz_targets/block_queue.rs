//! Rings of a disk: descriptors, headers and data that a hostile driver writes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| vmm::fuzzing::block_queue(octets));
