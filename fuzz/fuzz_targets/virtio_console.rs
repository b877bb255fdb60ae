//! Rings of a virtio console that a hostile driver writes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| vmm::fuzzing::virtio_console(octets));
