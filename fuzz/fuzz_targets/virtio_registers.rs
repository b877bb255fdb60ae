//! Registers of a virtio device, in any order and width.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| vmm::fuzzing::virtio_registers(octets));
